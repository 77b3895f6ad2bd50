"""The page of a run: why it failed, its graph and nodes, its timeline, events, calls and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId
from omium.orchestration.log.state import RUN_TERMINAL, RunStatus
from omium.orchestration.service.reading import or_why
from omium.orchestration.service.timeline import Interval, NodeTimeline
from omium.orchestration.service.views import NodeView, RunView
from omium.server.dashboard import show
from omium.server.dashboard.graph import draw
from omium.server.dashboard.look import HEADERS
from omium.server.dashboard.operating import DECISIONS, told
from omium.server.dashboard.runs import can, steer
from omium.server.dashboard.site import Page
from omium.server.http.failures import JSON, PRIVATE
from omium.tools.desk import committed

DRAWN: Final = 300  # boxes up to which a drawing is part of the page; beyond, a script draws what is in sight
ROWS: Final = 100  # nodes in a table
EVENTS: Final = 100
_READ_WHOLE: Final = 256 * 1024  # bytes of a value that is read to show its beginning
_URGENT: Final = {"failed": 0, "waiting_approval": 1, "running": 2, "paused": 3}


async def detailed(page: Page) -> RunView:
    return await page.core.get_run(page.caller, page.run_id, detail=True)


async def frame(page: Page, run: RunView, view: str) -> dict[str, Any]:
    """What all views of a run show: its head, its failure, its questions."""
    return {
        "run": run,
        "view": view,
        "live": RunStatus(run.status) not in RUN_TERMINAL,
        "waiting": len(await page.core.list_approvals(page.caller)),
        "failures": show.why_failed(run) if run.status == "failed" else [],
        "can": {action: can(action, run) for action in ("pause", "resume", "cancel")},
    }


# --- graph and nodes ----------------------------------------------------------------------------------------------


async def run_page(page: Page) -> Response:
    """The graph, with a node beside it when the address names one."""
    run = await detailed(page)
    opened = frozenset(page.request.query_params.getlist("open")[:40])
    drawing = draw(run.nodes, opened)
    chosen = page.query.get("node")
    panel = await node_panel(page, run, chosen) if chosen else None
    data = {
        **await frame(page, run, "graph"),
        "drawing": drawing if len(drawing.boxes) <= DRAWN else None,
        "boxes": len(drawing.boxes),
        "table": table_of(page, run),
        "chosen": chosen,
        "panel": panel,
        "url": page.url_with,
        "opened": opened,
        "output": None if run.output is None else show.shown(run.output),
        "no_output": run.no_output,
    }
    return page.show("run.html", data)


@dataclass(frozen=True, slots=True)
class Table:
    """Some of the nodes, those first that want looking at."""

    rows: Sequence[NodeView]
    of: int
    at: int
    text: str
    status: str

    @property
    def more(self) -> int | None:
        end = self.at + len(self.rows)
        return end if end < self.of else None


def table_of(page: Page, run: RunView) -> Table:
    """The nodes as a table, narrowed to what the address says."""
    text, status = page.query.get("find", "")[:200].strip(), page.query.get("state", "")
    found = [
        node
        for node in run.nodes
        if (not status or node.status == status) and (not text or text.lower() in node.id.lower())
    ]
    found.sort(key=lambda node: _URGENT.get(node.status, 9))
    given = page.query.get("from", "0")
    at = int(given) if given.isdecimal() and len(given) < 7 else 0
    return Table(found[at : at + ROWS], len(found), at, text, status)


async def graph_data(page: Page) -> Response:
    """The drawing for a script."""
    run = await detailed(page)
    opened = frozenset(page.request.query_params.getlist("open")[:40])
    return JSON({"seq": run.seq, "status": run.status, **draw(run.nodes, opened).as_json()})


async def node_panel(page: Page, run: RunView, node: str) -> dict[str, Any] | None:
    """All about one node; None when the run has no such node (any more)."""
    try:
        detail = await page.core.node_detail(page.caller, run.id, node)
    except OmiumError as error:
        if error.code != "not_found":
            raise
        return None
    view = detail.node
    output, no_output = None, None
    if view.output is not None and view.output_size <= _READ_WHOLE:
        value, no_output = await or_why(page.core.node_output(page.caller, run.id, view.id))
        output = show.shown(value) if no_output is None else None
    return {
        "node": view,
        "definition": detail.definition,
        "inputs": None if detail.no_inputs is not None else show.shown(detail.inputs),
        "no_inputs": detail.no_inputs,
        "output": output,
        "no_output": no_output,
        "attempts": detail.attempts,
        "progress": detail.progress,
        "effects": detail.effects,
        "questions": [
            one
            for one in await page.core.list_approvals(page.caller, run_id=run.id, pending=False)
            if one.node == view.id
        ],
        "inside": _inside(run, view.id),
        "dependents": [one.id for one in run.nodes if view.id in one.needs][:20],
    }


def _inside(run: RunView, node: NodeId) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for one in run.nodes:
        if one.id.startswith((f"{node}.", f"{node}[")):
            found[one.status] = found.get(one.status, 0) + 1
    return found


async def output(page: Page) -> Response:
    """A value as a whole, as text that no browser takes for anything else: the output of a node, of the run, or an
    artifact."""
    core, run_id = page.core, page.run_id
    node, name = page.query.get("node"), page.query.get("artifact")
    if node is not None:
        value = await core.node_output(page.caller, run_id, node)
    elif name is not None:
        value = await core.artifact(page.caller, run_id, name)
    else:
        value = await core.run_output(page.caller, run_id)
    found, kind = show.whole(value)
    return plain(found.encode(), f"output.{'txt' if kind == 'text' else 'json'}", "download" in page.query)


def plain(content: bytes, name: str, download: bool, media: str = "text/plain; charset=utf-8") -> Response:
    """Content that is shown as text and never run, or kept as a file under a name of ours."""
    headers = {**HEADERS, **PRIVATE, "content-security-policy": "sandbox; default-src 'none'"}
    if download:
        headers["content-disposition"] = f'attachment; filename="{name}"'
    return Response(content, headers=headers, media_type=media)


# --- timeline -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A node's times: (what it did, left and width in thousandths of the whole, how long it took)."""

    node: NodeTimeline
    parts: Sequence[tuple[str, float, float, str]]
    failing: bool


async def timeline_page(page: Page) -> Response:
    run = await detailed(page)
    found = await page.core.timeline(page.caller, run.id)
    timed = [one for one in found.nodes if one.intervals]
    start = min((one.intervals[0].start for one in timed), default=found.as_of)
    end = max((one.intervals[-1].end for one in timed), default=found.as_of)
    given = page.query.get("from", "0")
    at = int(given) if given.isdecimal() and len(given) < 7 else 0
    failing = set(found.failing)
    timed.sort(key=lambda one: one.intervals[0].start)
    rows = [
        Bar(one, [_part(part, start, end) for part in one.intervals], one.id in failing)
        for one in timed[at : at + ROWS]
    ]
    data = {
        **await frame(page, run, "timeline"),
        "rows": rows,
        "of": len(timed),
        "at": at,
        "more": at + ROWS if at + ROWS < len(timed) else None,
        "start": start,
        "end": end,
        "url": page.url_with,
        "ticks": [start + (end - start) * tick // 4 for tick in range(5)],
    }
    return page.show("timeline.html", data)


def _part(part: Interval, start: int, end: int) -> tuple[str, float, float, str]:
    span = max(1, end - start)
    left = (part.start - start) * 1000 / span
    return part.doing, left, max(2.0, (part.end - part.start) * 1000 / span), show.took(part.start, part.end, part.end)


# --- events, calls, files, audit ----------------------------------------------------------------------------------


async def events_page(page: Page) -> Response:
    """The log, newest page first; a script adds what comes."""
    run = await detailed(page)
    given = page.query.get("before", "")
    before = int(given) if given.isdecimal() and len(given) < 13 else run.seq + 1
    after = max(0, min(before, run.seq + 1) - 1 - EVENTS)
    found = await page.core.events(page.caller, run.id, after=after, limit=EVENTS)
    data = {
        **await frame(page, run, "events"),
        "events": [one for one in reversed(found) if one.seq < before],
        "older": after + 1 if after else None,
        "newest": before > run.seq,
        "url": page.url_with,
    }
    return page.show("events.html", data)


async def effects_page(page: Page) -> Response:
    run = await detailed(page)
    found = await page.core.effects(page.caller, run.id)
    given = page.query.get("from", "0")
    at = int(given) if given.isdecimal() and len(given) < 7 else 0
    costly = sorted(
        (node for node in run.nodes if node.usage), key=lambda node: -float((node.usage or {}).get("cost_usd") or 0)
    )
    data = {
        **await frame(page, run, "calls"),
        "effects": found[at : at + ROWS],
        "of": len(found),
        "at": at,
        "more": at + ROWS if at + ROWS < len(found) else None,
        "costly": costly[:20],
        "decisions": told(await page.core.decisions(page.caller, run_id=run.id, limit=DECISIONS)),
        "url": page.url_with,
    }
    return page.show("calls.html", data)


async def files_page(page: Page) -> Response:
    run = await detailed(page)
    found = await page.core.artifacts(page.caller, run.id)
    return page.show("files.html", {**await frame(page, run, "files"), "found": found})


async def file_content(page: Page) -> Response:
    """A file of a run, now or as of a position. Shown as text when it is one; anything else is kept as a file."""
    path, at = page.query.get("path", ""), page.query.get("at")
    if at is None:
        _, content = await page.core.file(page.caller, page.run_id, path)
    else:
        _, content = await page.core.file_at(page.caller, page.run_id, at, path)
    name = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in path.rpartition("/")[2])
    try:
        shown = content.decode("utf-8")
    except UnicodeDecodeError:
        return plain(content, name or "file", True, "application/octet-stream")
    if "download" in page.query:
        return plain(content, name or "file", True, "application/octet-stream")
    return plain(show.whole(shown)[0].encode(), name or "file", False)


async def audit_page(page: Page) -> Response:
    run = await detailed(page)
    found = await page.core.audit(page.caller, run.id)
    return page.show("audit.html", {**await frame(page, run, "audit"), "found": found})


# --- steering -----------------------------------------------------------------------------------------------------

_SAID: Final = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}


async def steered(page: Page) -> Response:
    action, reason = page.field("action"), page.field("reason", 2_000) or None
    if action not in _SAID:
        raise OmiumError("invalid_argument", f"{action[:40]!r} cannot be done to a run.")
    await committed(steer(page, action, page.run_id, reason, page.key))
    return page.go(show.run_url(page.run_id), _SAID[action])


async def signalled(page: Page) -> Response:
    name = page.field("name", 200).strip()
    payload = parse_json(page.field("payload", 64_000), "the payload", None)
    await committed(page.core.signal(page.caller, page.run_id, name, payload, idempotency_key=page.key))
    return page.go(show.run_url(page.run_id), "signalled")


def parse_json(given: str, what: str, empty: Any) -> Any:
    """JSON that somebody has typed. Raises `invalid_argument`."""
    import json

    if not given.strip():
        return empty
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise OmiumError(
            "invalid_argument", f"{what} is not JSON: {str(error)[:200]}.", "Go back and mend it."
        ) from None
