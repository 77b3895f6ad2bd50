"""The graph of a run for people and programs: JSON, Mermaid and DOT.

A node has two names that never change while the run lives: its `id` (`fan[3].test`) and a `key` made from that, which
any format takes for an identifier. Every label is escaped so that no text of a node can end it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import NodeId
from omium.orchestration.service.views import NodeView
from omium.tools.present import line

DRAWN: Final = 400  # nodes of a drawing; of more, the insides of containers are left out

# Fill, line: each status has its own shape of line too, for whoever does not see colours.
_STYLES: Final[dict[str, tuple[str, str, str]]] = {
    "pending": ("#f5f5f5", "#9e9e9e", "dashed"),
    "running": ("#e3f2fd", "#1565c0", "bold"),
    "paused": ("#fff8e1", "#f9a825", "dashed"),
    "waiting_approval": ("#fff3e0", "#ef6c00", "bold"),
    "completed": ("#e8f5e9", "#2e7d32", "solid"),
    "failed": ("#ffebee", "#c62828", "bold"),
    "skipped": ("#fafafa", "#bdbdbd", "dotted"),
    "cancelled": ("#eceff1", "#546e7a", "dotted"),
}


@dataclass(frozen=True, slots=True)
class Edge:
    """`inside`: the first contains the second; otherwise the second waits for the first."""

    source: NodeId
    target: NodeId
    inside: bool


def key_of(node: str) -> str:
    """An identifier for a node id, the same in every run and process."""
    return f"n{hashlib.sha256(node.encode()).hexdigest()[:12]}"


def edges(nodes: Sequence[NodeView]) -> list[Edge]:
    known = {node.id for node in nodes}
    found: list[Edge] = []
    for node in nodes:
        found += [Edge(need, node.id, False) for need in node.needs if need in known]
        outside = container_of(node.id)
        if outside is not None and outside in known and not node.needs:
            found.append(Edge(outside, node.id, True))
    return found


def node_entry(node: NodeView, failing: bool) -> dict[str, Any]:
    """A node in the JSON form."""
    told = {
        "id": node.id,
        "key": key_of(node.id),
        "kind": node.kind,
        "use": node.use,
        "status": node.status,
        "container": container_of(node.id),
        "attempt": node.attempt or None,
        "reason": node.reason,
        "approval": node.approval,
        "failing": failing or None,
    }
    return {key: item for key, item in told.items() if item is not None}


def edge_entry(edge: Edge) -> dict[str, Any]:
    return {"from": edge.source, "to": edge.target, "kind": "contains" if edge.inside else "needs"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn of a run: all of it, or containers with a summary instead of their insides."""

    nodes: Sequence[NodeView]
    summaries: dict[NodeId, str]
    edges: Sequence[Edge]


def drawing(nodes: Sequence[NodeView]) -> Drawing:
    if len(nodes) <= DRAWN:
        return Drawing(nodes, {}, edges(nodes))
    top = [node for node in nodes if container_of(node.id) is None]
    inside: dict[NodeId, Counter[str]] = {}
    for node in nodes:
        above = container_of(node.id)
        while above is not None:
            inside.setdefault(above, Counter())[node.status] += 1
            above = container_of(above)
    summaries = {
        node.id: ", ".join(f"{count} {status}" for status, count in sorted(inside[node.id].items()))
        for node in top
        if node.id in inside
    }
    return Drawing(top, summaries, edges(top))


def mermaid(nodes: Sequence[NodeView], failing: Sequence[NodeId] = ()) -> str:
    """A Mermaid flowchart."""
    return "\n".join(_mermaid(drawing(nodes), set(failing))) + "\n"


def _mermaid(shown: Drawing, failing: set[NodeId]) -> Iterator[str]:
    yield "flowchart TD"
    for node in shown.nodes:
        label = "<br/>".join(_mermaid_text(one) for one in _label(node, shown.summaries))
        yield f'  {key_of(node.id)}["{label}"]:::{node.status}'
    for edge in shown.edges:
        arrow = "-.->" if edge.inside else "==>" if {edge.source, edge.target} <= failing else "-->"
        yield f"  {key_of(edge.source)} {arrow} {key_of(edge.target)}"
    for status in sorted({node.status for node in shown.nodes}):
        fill, stroke, pen = _STYLES[status]
        width = "3px" if pen == "bold" else "1px"
        dashes = {"dashed": ",stroke-dasharray:5 5", "dotted": ",stroke-dasharray:2 2"}.get(pen, "")
        yield f"  classDef {status} fill:{fill},stroke:{stroke},color:#212121,stroke-width:{width}{dashes}"


def _label(node: NodeView, summaries: dict[NodeId, str]) -> list[str]:
    """The lines of a node's label: the status stands there in words, not only in colours."""
    what = f"{node.kind}: {node.use}" if node.use else node.kind
    found = [line(node.id, 160), f"{line(what, 160)} - {node.status}"]
    return [*found, summaries[node.id]] if node.id in summaries else found


def _mermaid_text(text: str) -> str:
    """As entities, which is what Mermaid has instead of escapes: a label can neither end nor mark anything up."""
    return re.sub(r"[^A-Za-z0-9 _.,:=+/()\[\]-]", lambda match: f"#{ord(match.group())};", text)


def dot(nodes: Sequence[NodeView], failing: Sequence[NodeId] = ()) -> str:
    """A graph in the DOT language."""
    return "\n".join(_dot(drawing(nodes), set(failing))) + "\n"


def _dot(shown: Drawing, failing: set[NodeId]) -> Iterator[str]:
    yield "digraph run {"
    yield '  node [shape=box, fontname="sans-serif", fontcolor="#212121"];'
    for node in shown.nodes:
        fill, stroke, pen = _STYLES[node.status]
        label = "\\n".join(_dot_text(one) for one in _label(node, shown.summaries))
        yield f'  {key_of(node.id)} [label="{label}", style="filled,{pen}", fillcolor="{fill}", color="{stroke}"];'
    for edge in shown.edges:
        marked = {edge.source, edge.target} <= failing and not edge.inside
        style = (
            ' [style=dotted, arrowhead="odot"]' if edge.inside else ' [color="#c62828", penwidth=3]' if marked else ""
        )
        yield f"  {key_of(edge.source)} -> {key_of(edge.target)}{style};"
    yield "}"


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
