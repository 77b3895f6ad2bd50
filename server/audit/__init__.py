"""The audit trail as files for others: what happened, and the proof that nothing of it was changed.

records.py   The records of an export: events, and for each log its proof.
writing.py   JSONL and CSV.
report.py    PDF, for people. Needs the extra `pdf`.
checking.py  Verifying an exported JSONL without the database.
"""
