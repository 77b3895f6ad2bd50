"""docs/rest.md, from the table of endpoints and its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from omium.server.http import models as m
from omium.server.http.app import ENDPOINTS
from omium.server.http.failures import STATUS
from omium.server.http.rest import Endpoint

INTRODUCTION = """\
What `omium-mcp serve --transport http` offers beside MCP, for programs that speak plain HTTP. The same core, the same
callers, the same runs; [transports](transports.md) says how it is started and who may come. `GET /api/v1/openapi.json`
is this page for programs.

- A body is JSON and is declared as such: `Content-Type: application/json`. Nothing unknown may stand in it.
- Answers have the shape of the command line's `--json`: times are RFC 3339 in UTC, costs US dollars, sizes bytes.
- An error is `{"error": {"code", "message", "hint", "data"}}`. The code is the contract.
- `Idempotency-Key: <1 to 200 characters>` makes a repeat harmless: the same key with the same body gets what the first
  request got, across restarts.
- A wait is bounded to 45 s. Ending a request ends the wait and nothing else.
"""

EVENTS = """\
## Events

`GET /api/v1/runs/{run_id}/events` gives the run's log in three ways.

- **Pages**: `?after=` is a position, `next` of the answer the one to ask with next.
- **Server-sent events**, with `Accept: text/event-stream`: each event with its position as `id` and itself as `data`; a
  comment `: seq=... at=...` every 15 s; at last an event named `end`, when the run has ended and everything was sent.
  `Last-Event-ID` goes on behind that position, and is answered with 204 when nothing is left to come. An `error` event
  says why the feed ends early, such as a credential that was revoked.
- **WebSocket**, at the same path with `/ws?after=`: messages `{"type": "event", "event"}`,
  `{"type": "heartbeat", "seq", "at"}` and `{"type": "end", "seq", "status"}`, then close code 1000. 1012 says that the
  server ends: come back with your cursor. What is refused is refused with an HTTP status.

Nothing is buffered for a slow reader: the log is read as fast as it reads. One that reads nothing for 30 s is dropped,
and misses nothing when it comes back with its cursor.

```sh
curl -N -H 'Accept: text/event-stream' http://127.0.0.1:8765/api/v1/runs/<run id>/events
```
"""


STATUSES = """\
429 and 503 come with `Retry-After`, 401 with `WWW-Authenticate`. A decision by a plain request is worth what the
caller's credential is worth: an approver who did not ask for the run decides as a `separate_identity`; everybody else's
counts as `none` ([decisions](guarantees.md#decisions)).
"""
_WORDS = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}


def rest_page(note: str) -> str:
    return "\n".join(_lines(note)) + "\n"


def _lines(note: str) -> Iterator[str]:
    yield from ("# REST", "", note, "", INTRODUCTION.rstrip(), "")
    yield from ("```sh", "curl -H 'Content-Type: application/json' \\")
    yield """  -d '{"workflow": "hello", "inputs": {"names": ["Ada"]}}' http://127.0.0.1:8765/api/v1/runs"""
    yield "curl 'http://127.0.0.1:8765/api/v1/runs/<run id>?wait_seconds=45&detail=true'"
    yield from ("```", "", "## Verbs", "")
    for one in ENDPOINTS:
        yield from _endpoint(one)
    yield from ("## Answers", "", "| answer | fields |", "|---|---|")
    answers = [m.Node, *dict.fromkeys(one.answer for one in ENDPOINTS)]
    for answer in sorted({*answers, m.Event, m.Workflow}, key=lambda one: one.__name__):
        yield f"| {answer.__name__} | {', '.join(f'`{name}`' for name in answer.model_fields)} |"
    yield from ("", EVENTS.rstrip(), "", "## Statuses", "", "| status | codes |", "|---|---|")
    for status in sorted(set(STATUS.values())):
        codes = ", ".join(f"`{code}`" for code, its in STATUS.items() if its == status)
        yield f"| {status} | {codes} |"
    yield from ("", STATUSES.rstrip())


def _endpoint(one: Endpoint) -> Iterator[str]:
    yield from (f"### `{one.method} {one.path}`", "", one.summary, "")
    rows = [*_rows(one.query, "query"), *(_rows(one.body, "body") if one.body is not None else ())]
    if one.keyed:
        rows.append("| `Idempotency-Key` | header | text | |")
    if rows:
        yield from ("| name | in | type | meaning |", "|---|---|---|---|", *rows, "")
    yield from (f"{one.status}: [{one.answer.__name__}](#answers).", "")


def _rows(model: type[BaseModel], place: str) -> Iterator[str]:
    schema = model.model_json_schema()
    for name, part in schema.get("properties", {}).items():
        needed = " (required)" if name in schema.get("required", ()) else ""
        yield f"| `{name}`{needed} | {place} | {_type(part)} | {part.get('description', '')} |"


def _type(part: dict[str, Any]) -> str:
    choices = [one for one in part.get("anyOf", [part]) if one.get("type") != "null"]
    said = choices[0]
    if "enum" in said:
        return " \\| ".join(f"`{one}`" for one in said["enum"])
    if said.get("type") == "array":
        return f"list of {_type(said['items'])}"
    words = _WORDS.get(said["type"], said["type"])
    low = said.get("minimum", said.get("exclusiveMinimum"))
    bounds = f", {low:g} to {said['maximum']:g}" if low is not None and "maximum" in said else ""
    default = part.get("default")
    return f"{words}{bounds}" + (f", `{default}` unless given" if isinstance(default, int | float) and default else "")
