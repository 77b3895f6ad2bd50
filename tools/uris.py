"""The names of resources: `omium://...`, read and written in one place.

A name inside a URI (a node, a workflow, a file) is percent-encoded as a whole: the node `fan[3].test` of a run is
`omium://runs/run_.../nodes/fan%5B3%5D.test`. Names of files are bytes, so those that are no UTF-8 can be named too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from omium.orchestration.ids import RunId, is_id

SCHEME: Final = "omium://"
WORKFLOWS: Final = "omium://workflows"
RUNS: Final = "omium://runs"
APPROVALS: Final = "omium://approvals"

Kind: TypeAlias = Literal[
    "workflows", "workflow", "runs", "approvals", "audit", "run", "graph", "graph.mmd", "graph.dot", "events",
    "timeline", "checkpoints", "branches", "node", "artifacts", "artifact",
]  # fmt: skip
_PARTS: Final[Mapping[str, Kind]] = {
    "graph": "graph", "graph.mmd": "graph.mmd", "graph.dot": "graph.dot", "events": "events", "timeline": "timeline",
    "checkpoints": "checkpoints", "branches": "branches", "artifacts": "artifacts",
}  # fmt: skip
# What may stand behind the question mark: where a page starts.
_CURSORS: Final[Mapping[Kind, str]] = {
    "runs": "before", "approvals": "after", "events": "after", "checkpoints": "before", "graph": "after",
    "timeline": "after", "run": "offset", "node": "offset", "artifact": "offset", "artifacts": "after",
}  # fmt: skip
_NUMBERS: Final = frozenset({"events", "checkpoints", "run", "node", "artifact"})  # their cursors are positions
_LONGEST: Final = 16_384


@dataclass(frozen=True, slots=True)
class Ref:
    """What a URI names. `cursor` is where the page starts, as it stands in the URI; `name` that of a workflow, a node
    or an artifact."""

    kind: Kind
    uri: str
    run_id: RunId = RunId("")
    name: str = ""
    cursor: str | None = None

    @property
    def position(self) -> int:
        """The cursor as a number; 0 is the beginning."""
        return int(self.cursor or 0)


def parse(uri: str) -> Ref | None:
    """What this names, or None: not ours, not well formed, or nothing that there could be."""
    if not uri.startswith(SCHEME) or len(uri) > _LONGEST or "#" in uri:
        return None
    path, questioned, query = uri[len(SCHEME) :].partition("?")
    segments = path.split("/")
    match segments:
        case ["workflows"]:
            found = Ref("workflows", uri)
        case ["workflows", name]:
            found = Ref("workflow", uri, name=_text(name))
        case ["runs"]:
            found = Ref("runs", uri)
        case ["approvals"]:
            found = Ref("approvals", uri)
        case ["audit", run]:
            found = Ref("audit", uri, RunId(run))
        case ["runs", run]:
            found = Ref("run", uri, RunId(run))
        case ["runs", run, part] if part in _PARTS:
            found = Ref(_PARTS[part], uri, RunId(run))
        case ["runs", run, "nodes", node]:
            found = Ref("node", uri, RunId(run), _text(node))
        case ["runs", run, "artifacts", *names]:
            found = Ref("artifact", uri, RunId(run), os.fsdecode(unquote_to_bytes("/".join(names))))
        case _:
            return None
    if (found.run_id and not is_id(found.run_id, "run")) or (found.kind in ("workflow", "node", "artifact")) > bool(
        found.name
    ):
        return None
    return _with_cursor(found, query) if questioned else found


def _text(segment: str) -> str:
    """A percent-encoded name; empty, which nothing is called, when it is no UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return ""


def _with_cursor(ref: Ref, query: str) -> Ref | None:
    key, _, value = query.partition("=")
    if _CURSORS.get(ref.kind) != key:
        return None
    cursor = _text(value)
    if not cursor or (ref.kind in _NUMBERS and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16)):
        return None
    return Ref(ref.kind, ref.uri, ref.run_id, ref.name, cursor)


def next_page(ref: Ref, cursor: str | int) -> str:
    """The URI of the same resource from `cursor` on."""
    return f"{ref.uri.partition('?')[0]}?{_CURSORS[ref.kind]}={quote(str(cursor), safe='')}"


def workflow_uri(name: str) -> str:
    return f"{WORKFLOWS}/{quote(name, safe='')}"


def run_uri(run_id: str, part: str = "") -> str:
    return f"{RUNS}/{run_id}/{part}" if part else f"{RUNS}/{run_id}"


def node_uri(run_id: str, node: str) -> str:
    return f"{RUNS}/{run_id}/nodes/{quote(node, safe='')}"


def artifact_uri(run_id: str, name: str) -> str:
    return f"{RUNS}/{run_id}/artifacts/{quote(os.fsencode(name), safe='/')}"


def audit_uri(run_id: str) -> str:
    return f"omium://audit/{run_id}"


@dataclass(frozen=True, slots=True)
class Template:
    """A family of resources, as clients are shown it (RFC 6570)."""

    kind: Kind
    template: str
    title: str
    description: str
    mime_type: str = "application/json"
    variables: Mapping[str, str] = field(default_factory=dict)  # what a variable is: completion goes by it


_RUN: Final = {"id": "run"}

TEMPLATES: Final[tuple[Template, ...]] = (
    Template(
        "workflow",
        "omium://workflows/{name}",
        "Workflow",
        "The definition of a registered workflow, and the JSON Schema of its inputs.",
        variables={"name": "workflow"},
    ),
    Template(
        "run",
        "omium://runs/{id}{?offset}",
        "Run",
        "A run as it stands: status, what it takes now, nodes, approvals, and its output; a very long one in pieces.",
        variables=_RUN,
    ),
    Template(
        "graph",
        "omium://runs/{id}/graph{?after}",
        "Graph",
        "Nodes and edges with their states. A node's `id` and `key` never change.",
        variables={**_RUN, "after": "node"},
    ),
    Template(
        "graph.mmd",
        "omium://runs/{id}/graph.mmd",
        "Graph (Mermaid)",
        "The graph as a Mermaid flowchart, styled by status. Of a large run without the insides of fan-outs.",
        "text/vnd.mermaid",
        _RUN,
    ),
    Template(
        "graph.dot",
        "omium://runs/{id}/graph.dot",
        "Graph (DOT)",
        "The graph for Graphviz, styled by status. Of a large run without the insides of fan-outs.",
        "text/vnd.graphviz",
        _RUN,
    ),
    Template(
        "events",
        "omium://runs/{id}/events{?after}",
        "Events",
        "The log of a run in pages, from behind position `after`; `next` is the URI of the next page. A page that has "
        "a `next` never changes.",
        variables=_RUN,
    ),
    Template(
        "timeline",
        "omium://runs/{id}/timeline{?after}",
        "Timeline",
        "What each node did when: intervals (running, waiting, backoff, approval, paused, queued) that add up to its "
        "duration, and the path of a failure.",
        variables={**_RUN, "after": "node"},
    ),
    Template(
        "checkpoints",
        "omium://runs/{id}/checkpoints{?before}",
        "Checkpoints",
        "The positions that the run can go back to, newest first.",
        variables={**_RUN, "before": "checkpoint"},
    ),
    Template(
        "branches",
        "omium://runs/{id}/branches",
        "Branches",
        "The whole tree of branches that the run belongs to, with hypotheses and outcomes.",
        variables=_RUN,
    ),
    Template(
        "node",
        "omium://runs/{id}/nodes/{node}{?offset}",
        "Node",
        "One node with its attempts, calls and output; a very long one in pieces. Percent-encode the id: fan%5B3%5D.",
        variables={**_RUN, "node": "node"},
    ),
    Template(
        "artifacts",
        "omium://runs/{id}/artifacts{?after}",
        "Artifacts",
        "The named values that a run has saved, and the files of its workspace as they were last captured.",
        variables=_RUN,
    ),
    Template(
        "artifact",
        "omium://runs/{id}/artifacts/{name}{?offset}",
        "Artifact",
        "A saved value (JSON) or else a file; a long file in pieces of bytes.",
        "application/octet-stream",
        {**_RUN, "name": "artifact"},
    ),
    Template(
        "audit",
        "omium://audit/{run}",
        "Audit trail",
        "Whether the log's hash chain holds, its head, and who decided, steered and changed what.",
        variables={"run": "run"},
    ),
)

STATIC: Final[tuple[Template, ...]] = (
    Template("workflows", WORKFLOWS, "Workflows", "The registered workflows."),
    Template("approvals", APPROVALS, "Approvals", "Questions that wait for a decision, oldest first."),
    Template("runs", RUNS, "Recent runs", "Runs, newest first, in pages."),
)
