"""An export as JSONL or CSV.

JSONL is the whole: with it, and the chain's key if there is one, anybody can verify the export (`checking`). Each line
is an event, or the proof of a log behind its events; the last line has the digest of all lines before it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from omium.server.audit.records import Proof, Record

FORM: Final = "omium.audit.v1"
COLUMNS: Final = ("record", "log", "seq", "time", "type", "actor", "data", "prev_hash", "hash", "problem")
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")


def jsonl(found: Iterable[Record | Proof], keyed: bool) -> Iterator[bytes]:
    """keyed: whether the chain is an HMAC."""
    digest = hashlib.sha256()
    logs = 0

    def line(value: dict[str, Any]) -> bytes:
        text = orjson.dumps(value) + b"\n"
        digest.update(text)
        return text

    yield line({"record": "begin", "form": FORM, "algorithm": "hmac-sha256" if keyed else "sha256"})
    for one in found:
        if isinstance(one, Proof):
            logs += 1
            yield line(
                {"record": "proof", "log": one.log, "events": one.events, "head": one.head, "problems": one.problems}
            )
            continue
        yield line(
            {
                "record": "event",
                "log": one.log,
                "seq": one.seq,
                "type": one.type,
                "at": one.at,
                "time": one.time,
                "actor": one.actor,
                "data": one.value(),
                "prev_hash": one.prev_hash,
                "hash": one.hash,
            }
        )
    yield orjson.dumps({"record": "end", "logs": logs, "sha256": digest.hexdigest()}) + b"\n"


def csv_rows(found: Iterable[Record | Proof]) -> Iterator[bytes]:
    """For spreadsheets. What could be a formula there gets an apostrophe before it."""
    yield csv_row(COLUMNS)
    for one in found:
        if isinstance(one, Proof):
            problems = "; ".join(one.problems)
            yield csv_row(("proof", one.log, one.events, "", "", "", "", "", one.head, problems))
        else:
            data = one.data.decode("utf-8", "backslashreplace")
            yield csv_row(
                (
                    "event", one.log, one.seq, one.time, one.type, one.actor, data, one.prev_hash, one.hash,
                    one.problem or "",
                )
            )  # fmt: skip


def csv_row(values: Iterable[Any]) -> bytes:
    """One line of CSV. What a spreadsheet could take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
