"""What stands in the resources of a run: the documents that are read, each bounded, with the URI of its next part."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, is_id
from omium.orchestration.ports import EffectRow
from omium.orchestration.service.nodes import AttemptView
from omium.orchestration.service.reading import or_why
from omium.orchestration.service.views import ApprovalView, BranchView, Caller, NodeView, RunView
from omium.orchestration.values import Value
from omium.tools import graph, uris
from omium.tools.present import json_text, line, value_text, when
from omium.tools.uris import Ref

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

PIECE: Final = 256 * 1024  # characters of a value, or a document's list, that are given at once
FILE_PIECE: Final = 1024 * 1024  # bytes of a file
_NODES: Final = 500  # of a page
_EVENTS: Final = 200
_TRIED: Final = 50  # attempts of a node, the newest
_CALLS: Final = 200  # of a node, the newest
_LINES: Final = 200  # nodes that a run's own document shows
_DEEDS: Final = 500
_BRANCHES: Final = 1_000
DAY_MS: Final = 86_400_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """A resource as it is given. ttl_ms: how long a client may keep it; 0 where it may change at any moment."""

    content: str | bytes
    mime_type: str = "application/json"
    ttl_ms: int = 0
    scope: Literal["public", "private"] = "private"
    meta: Mapping[str, Any] = field(default_factory=dict)


def document(tree: Mapping[str, Any], **said: Any) -> Page:
    """A JSON document without what is not there."""
    return Page(json_text({key: item for key, item in tree.items() if item is not None}), **said)


def missing(ref: Ref) -> OmiumError:
    return OmiumError("not_found", f"there is no {line(ref.uri)}.")


def output_of(value: Value, ref: Ref) -> dict[str, Any]:
    """A value as part of a document: whole, or the piece of its JSON text that starts at the URI's offset."""
    text = value_text(value)
    if ref.cursor is None and len(text) <= PIECE:
        return {"output": orjson.Fragment(text), "output_size": len(text)}
    start = ref.position
    if start >= len(text) and start:
        raise missing(ref)
    end = start + PIECE
    following = {"next": uris.next_page(ref, end)} if end < len(text) else {}
    return {"output_text": text[start:end], "output_offset": start, "output_size": len(text), **following}


def given(value: Value, missing: str | None, ref: Ref) -> dict[str, Any]:
    """The same, or why it is not there."""
    return output_of(value, ref) if missing is None else {"no_output": missing}


def page_of(items: Sequence[T], name: Callable[[T], str], ref: Ref, limit: int) -> tuple[Sequence[T], str | None]:
    """The items behind the URI's cursor, and the URI of those that follow. Raises `not_found` for a cursor that names
    no item."""
    start = 0
    if ref.cursor is not None:
        found = next((at for at, one in enumerate(items) if name(one) == ref.cursor), None)
        if found is None:
            raise missing(ref)
        start = found + 1
    end = start + limit
    return items[start:end], uris.next_page(ref, name(items[end - 1])) if end < len(items) else None


# --- a run -----------------------------------------------------------------------------------------------------------


def run_entry(run: RunView) -> dict[str, Any]:
    """A line of a list of runs."""
    told = {
        "uri": uris.run_uri(run.id),
        "run_id": run.id,
        "workflow": run.workflow,
        "title": run.title or None,
        "status": run.status,
        "created_at": when(run.created_at),
        "ended_at": when(run.ended_at),
        "branch": run.branch,
        "hypothesis": run.hypothesis,
        "parent": f"{run.parent_run}@{run.parent_seq}" if run.parent_run is not None else None,
    }
    return {key: item for key, item in told.items() if item is not None}


async def run(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.get_run(caller, ref.run_id, detail=True)
    parts = ("graph", "graph.mmd", "graph.dot", "timeline", "events", "checkpoints", "branches", "artifacts")
    return document(
        {
            **run_entry(view),
            "reason": view.reason,
            "allowed": list(view.allowed),
            "seq": view.seq,
            "generation": view.generation,
            "started_at": when(view.started_at),
            "updated_at": when(view.updated_at),
            "cost_usd": round(view.cost_usd, 6),
            "tokens": view.tokens,
            "progress": round(view.progress, 3),
            "counts": dict(view.counts),
            "error": dict(view.error) if view.error else None,
            "workspace": view.workspace,
            "approvals": [approval_entry(one) for one in view.approvals] or None,
            "nodes": [node_line(view.id, node) for node in view.nodes[:_LINES]],
            "nodes_in_all": len(view.nodes),
            "parts": {part: uris.run_uri(view.id, part) for part in parts} | {"audit": uris.audit_uri(view.id)},
            **(given(view.output, view.no_output, ref) if view.output_digest is not None else {}),
        }
    )


def node_line(run_id: RunId, node: NodeView) -> dict[str, Any]:
    return {"id": node.id, "status": node.status, "kind": node.kind, "uri": uris.node_uri(run_id, node.id)}


async def graph_page(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.get_run(caller, ref.run_id, detail=True)
    failing = await _failing(core, caller, view)
    if ref.kind == "graph.mmd":
        return Page(graph.mermaid(view.nodes, failing), "text/vnd.mermaid")
    if ref.kind == "graph.dot":
        return Page(graph.dot(view.nodes, failing), "text/vnd.graphviz")
    nodes, following = page_of(view.nodes, lambda node: node.id, ref, _NODES)
    shown = {node.id for node in nodes}
    return document(
        {
            "run_id": view.id,
            "status": view.status,
            "seq": view.seq,
            "nodes": [graph.node_entry(node, node.id in failing) for node in nodes],
            "edges": [graph.edge_entry(edge) for edge in graph.edges(view.nodes) if edge.target in shown],
            "next": following,
        }
    )


async def _failing(core: Core, caller: Caller, view: RunView) -> Sequence[NodeId]:
    if not view.counts.get("failed"):
        return ()
    return (await core.timeline(caller, view.id)).failing


async def node(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.get_run(caller, ref.run_id, detail=True)
    found = next((one for one in view.nodes if one.id == ref.name), None)
    if found is None:
        raise missing(ref)
    output = {}
    if found.output is not None:
        output = given(*await or_why(core.node_output(caller, ref.run_id, ref.name)), ref)
    detail = await core.node_detail(caller, ref.run_id, ref.name)
    return document(
        {
            "run_id": view.id,
            "id": found.id,
            "key": graph.key_of(found.id),
            "kind": found.kind,
            "use": found.use,
            "status": found.status,
            "needs": list(found.needs),
            "generation": found.generation,
            "attempt": found.attempt,
            "started_at": when(found.started_at),
            "ended_at": when(found.ended_at),
            "reason": found.reason,
            "error": dict(found.error) if found.error else None,
            "waits_for": dict(found.wait) if found.wait else None,
            "approval": found.approval,
            "reused_from": found.reused_from,
            "usage": dict(found.usage) if found.usage else None,
            "output_digest": found.output,
            "attempts": [_attempt(one) for one in detail.attempts[-_TRIED:]],
            "attempts_in_all": len(detail.attempts),
            "calls": [_call(one) for one in detail.effects[-_CALLS:]],
            "calls_in_all": len(detail.effects),
            **output,
        }
    )


def _attempt(one: AttemptView) -> dict[str, Any]:
    error = one.error or {}
    return {
        "generation": one.generation,
        "attempt": one.attempt,
        "started_at_us": one.started_at,
        "ended_at_us": one.ended_at,
        "outcome": one.outcome,
        "reason": one.reason,
        "again_at_us": one.again_at,
        "error": {name: error[name] for name in ("category", "code", "type", "message") if name in error} or None,
    }


def _call(one: EffectRow) -> dict[str, Any]:
    """What the ledger says of a call; what it gave, and what it was given, are named by digests at most."""
    return {
        "generation": one.generation,
        "attempt": one.attempt,
        "call": one.call,
        "kind": one.kind,
        "outcome": one.outcome or "unsettled",
        "result_digest": one.result,
        "approval": one.approval,
        "error": (one.error or {}).get("category"),
    }


async def events(core: Core, caller: Caller, ref: Ref) -> Page:
    row = await core.row(caller, ref.run_id)
    if ref.position > row.seq:
        raise missing(ref)
    shown: list[dict[str, Any]] = []
    room = PIECE
    for one in await core.events(caller, ref.run_id, after=ref.position, limit=_EVENTS):
        room -= len(orjson.dumps(one.data)) + 200
        if room < 0 and shown:
            break
        shown.append(
            {
                "seq": one.seq,
                "at": when(one.at),
                "at_us": one.at,
                "type": one.type,
                "actor": one.actor,
                "data": dict(one.data),
                "hash": one.hash,
            }
        )
    last = shown[-1]["seq"] if shown else ref.position
    following = uris.next_page(ref, last) if last < row.seq else None
    # What the log says once it says for ever; only the last page still grows.
    return document(
        {"run_id": ref.run_id, "status": row.status, "events": shown, "next": following},
        ttl_ms=DAY_MS if following is not None else 0,
    )


async def timeline(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.timeline(caller, ref.run_id)
    failing = set(view.failing)
    nodes, following = page_of(view.nodes, lambda one: one.id, ref, _NODES)
    ended = (await core.row(caller, ref.run_id)).ended_at
    return document(
        {
            "run_id": view.run_id,
            "seq": view.seq,
            "as_of_us": view.as_of,
            "started_at_us": view.started_at,
            "ended_at_us": ended,
            "failing_path": list(view.failing) or None,
            "nodes": [
                {
                    "id": one.id,
                    "status": one.status,
                    "attempts": one.attempts,
                    "duration_us": one.duration_us,
                    "failing": one.id in failing,
                    "intervals": [
                        {"doing": part.doing, "start_us": part.start, "end_us": part.end}
                        | ({"open": True} if part.open else {})
                        for part in one.intervals
                    ],
                }
                for one in nodes
            ],
            "next": following,
        }
    )


async def checkpoints(core: Core, caller: Caller, ref: Ref) -> Page:
    page = await core.list_checkpoints(caller, ref.run_id, before=ref.position or None, limit=100)
    shown = [
        {
            "position": one.position,
            "seq": one.seq,
            "at": when(one.at),
            "kind": one.kind,
            "node": one.node,
            "label": one.label,
            "note": one.note,
            "superseded": one.superseded,
            "valid": one.valid,
        }
        for one in page.checkpoints
    ]
    following = uris.next_page(ref, page.next) if page.next is not None else None
    return document({"run_id": ref.run_id, "checkpoints": shown, "next": following})


async def branches(core: Core, caller: Caller, ref: Ref) -> Page:
    tree = await core.branch_tree(caller, ref.run_id)
    left = _BRANCHES

    def walk(one: BranchView) -> dict[str, Any]:
        nonlocal left
        left -= 1
        told = {**run_entry(one.run), "closed": one.run.closed, "this": one.run.id == ref.run_id}
        inside = [walk(child) for child in one.children if left > 0]
        return {**told, "branches": inside}

    root = walk(tree)
    return document({"run_id": ref.run_id, "tree": root, "cut_after": _BRANCHES if left <= 0 else None})


# --- artifacts -------------------------------------------------------------------------------------------------------

# What a host could take for a page or a program of ours is given as the text that it is.
_AS_TEXT: Final = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml", "text/javascript"})


async def artifacts(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.artifacts(caller, ref.run_id)
    found: list[dict[str, Any]] = [
        {
            "name": one.name,
            "kind": "value",
            "node": one.node,
            "saved_at": when(one.at),
            "size": one.size,
            "media_type": one.media_type,
            "uri": uris.artifact_uri(ref.run_id, one.name),
        }
        for one in view.values
    ]
    names = {one["name"] for one in found}
    for file in view.files or ():
        name = os.fsencode(file.path).decode("utf-8", "backslashreplace")
        if file.path not in names:
            uri = uris.artifact_uri(ref.run_id, file.path)
            found.append({"name": name, "kind": file.kind, "size": file.size, "digest": file.digest, "uri": uri})
    shown, following = page_of(found, lambda one: str(one["name"]), ref, _NODES)
    return document(
        {
            "run_id": ref.run_id,
            "artifacts": list(shown),
            "in_all": len(found),
            "files": "not to be seen from this process" if view.files is None else None,
            "next": following,
        }
    )


async def artifact(core: Core, caller: Caller, ref: Ref) -> Page:
    try:
        value = await core.artifact(caller, ref.run_id, ref.name)
    except OmiumError as error:
        if error.code != "not_found":
            raise
        entry, content = await core.file(caller, ref.run_id, ref.name)
        guessed = "text/plain" if entry.kind == "link" else mimetypes.guess_type(ref.name)[0]
        return _piece(content, ref, guessed)
    return _piece(value_text(value).encode(), ref, "application/json")


def _piece(content: bytes, ref: Ref, mime_type: str | None) -> Page:
    """All of it, as text if it is text; or the bytes from the URI's offset on, with the URI of those that follow."""
    if len(content) <= FILE_PIECE and ref.cursor is None:
        text = _text_of(content)
        if text is not None:
            return Page(text, "text/plain" if mime_type is None or mime_type in _AS_TEXT else mime_type)
        return Page(content, mime_type or "application/octet-stream")
    start, end = ref.position, ref.position + FILE_PIECE
    if start >= len(content) and start:
        raise missing(ref)
    meta: dict[str, Any] = {"omium/size": len(content), "omium/offset": start}
    if end < len(content):
        meta["omium/next"] = uris.next_page(ref, end)
    return Page(content[start:end], "application/octet-stream", meta=meta)


def _text_of(content: bytes) -> str | None:
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


# --- lists, workflows, approvals, audit ------------------------------------------------------------------------------


async def runs(core: Core, caller: Caller, ref: Ref) -> Page:
    if ref.cursor is not None and not is_id(ref.cursor, "run"):
        raise missing(ref)
    page = await core.list_runs(caller, before=RunId(ref.cursor) if ref.cursor is not None else None, limit=50)
    following = uris.next_page(ref, page.next) if page.next is not None else None
    return document({"runs": [run_entry(one) for one in page.runs], "next": following})


async def workflows(core: Core, caller: Caller, ref: Ref) -> Page:
    found = [
        {
            "name": one.name,
            "description": one.description,
            "nodes": one.nodes,
            "definition": one.definition,
            "uri": uris.workflow_uri(one.name),
        }
        for one in await core.list_workflows(caller)
    ]
    return document({"workflows": found}, ttl_ms=60_000)


async def workflow(core: Core, caller: Caller, ref: Ref) -> Page:
    from omium.orchestration.definition.schema import to_document

    view, definition = await core.get_workflow(caller, ref.name)
    return document(
        {
            "name": view.name,
            "description": view.description or None,
            "definition": view.definition,
            "inputs": dict(view.inputs) if view.inputs else {},
            "document": to_document(definition),
        },
        ttl_ms=60_000,
    )


def approval_entry(view: ApprovalView) -> dict[str, Any]:
    told = {
        "approval_id": view.id,
        "run_id": view.run_id,
        "workflow": view.workflow,
        "node": view.node,
        "scope": view.scope,
        "status": view.status,
        "question": view.question,
        "options": list(view.options),
        "min_assurance": view.min_assurance,
        "requested_at": when(view.requested_at),
        "expires_at": when(view.expires_at),
        "consequence": view.consequence or None,
        "details": orjson.Fragment(value_text(dict(view.details))) if view.details else None,
    }
    return {key: item for key, item in told.items() if item is not None}


async def approvals(core: Core, caller: Caller, ref: Ref) -> Page:
    views = await core.list_approvals(caller)
    rest, _ = page_of(views, lambda one: one.id, ref, len(views) or 1)
    shown: list[dict[str, Any]] = []
    room = PIECE
    for view in rest:
        entry = approval_entry(view)
        room -= len(orjson.dumps(entry))
        if room < 0 and shown:
            break
        shown.append(entry)
    following = uris.next_page(ref, shown[-1]["approval_id"]) if len(shown) < len(rest) else None
    return document({"approvals": shown, "next": following})


async def audit(core: Core, caller: Caller, ref: Ref) -> Page:
    view = await core.audit(caller, ref.run_id)
    asked = {one.data["approval"]: one.data for one in view.deeds if one.kind == "approval.requested"}
    decisions = [
        {
            "seq": one.seq,
            "at": when(one.at),
            "approval_id": one.data["approval"],
            "node": asked.get(one.data["approval"], {}).get("node"),
            "question": asked.get(one.data["approval"], {}).get("question"),
            "decision": one.data["decision"],
            "by": one.data["by"],
            "assurance": one.data["assurance"],
            "feedback": one.data.get("feedback"),
        }
        for one in view.deeds
        if one.kind == "approval.decided"
    ]
    deeds = [
        {"seq": one.seq, "at": when(one.at), "actor": one.actor, "type": one.kind, "data": dict(one.data)}
        for one in view.deeds
    ]
    return document(
        {
            "run_id": view.run_id,
            "chain": "whole" if view.sound else "broken",
            "seq": view.seq,
            "head": view.head,
            "breaks": [{"seq": one.seq, "problem": one.problem} for one in view.breaks],
            "decisions": decisions[-_DEEDS:],
            "deeds": deeds[-_DEEDS:],
            "deeds_in_all": len(deeds),
            "events": uris.run_uri(view.run_id, "events"),
        }
    )
