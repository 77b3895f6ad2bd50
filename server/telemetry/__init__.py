"""Traces of runs for OpenTelemetry, made of what is committed.

ids.py        Ids that follow from those of a run, so that every process, and every log line, agrees on them.
tracing.py    Spans run, node, attempt and call, with the semantic conventions for generative AI.
exporting.py  Where they go: OTLP over HTTP, as `telemetry:` in `omium.yaml` says. Needs the extra `otel`.
"""
