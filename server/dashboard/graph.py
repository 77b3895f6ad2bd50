"""Where the nodes of a run are drawn: in layers, each below all that it needs.

What a container has expanded into stands between it and what comes after it; a large container is drawn as one box that
counts what is inside, until it is opened. A layer with many nodes becomes several rows. Everything is linear in nodes
and edges but for sorting within layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any, Final

from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import NodeId
from omium.orchestration.service.timeline import failing_path
from omium.orchestration.service.views import NodeView

WIDTH: Final = 190.0  # of a box, as the gaps below in pixels at zoom 1
HEIGHT: Final = 46.0
ACROSS: Final = 22.0
DOWN: Final = 34.0
FOLD: Final = 24  # nodes directly inside a container from which on it is drawn as one
_ROW: Final = 8  # nodes in a row before a layer becomes several
_SWEEPS: Final = 2


@dataclass(slots=True)
class Box:
    """A node with the place of its upper left corner. inside: nodes below it by status, when they are not drawn."""

    node: NodeView
    x: float = 0.0
    y: float = 0.0
    inside: Mapping[str, int] = field(default_factory=dict)
    folds: bool = False  # it was opened, and can be folded again
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes in the order in which they may start, and lines between them by their places in that list."""

    boxes: Sequence[Box]
    lines: Sequence[tuple[int, int, bool]]  # from, to, whether it is on the way to the failure
    width: float
    height: float

    def curve(self, one: tuple[int, int, bool]) -> str:
        """A line as the data of an SVG path."""
        a, b = self.boxes[one[0]], self.boxes[one[1]]
        x1, y1, x2, y2 = a.x + WIDTH / 2, a.y + HEIGHT, b.x + WIDTH / 2, b.y
        bend = max(12.0, (y2 - y1) / 2)
        return f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"

    def as_json(self) -> dict[str, Any]:
        """For a script: boxes as [id, kind, status, x, y, attempt, nodes inside, on the way to the failure]."""
        return {
            "width": self.width,
            "height": self.height,
            "box": [WIDTH, HEIGHT],
            "nodes": [
                [
                    box.node.id, box.node.kind, box.node.status, round(box.x), round(box.y), box.node.attempt,
                    sum(box.inside.values()), int(box.failing),
                ]
                for box in self.boxes
            ],
            "lines": [[a, b, int(bad)] for a, b, bad in self.lines],
        }  # fmt: skip


def draw(nodes: Sequence[NodeView], opened: Collection[str] = ()) -> Drawing:
    """The drawing of a run's nodes. opened: containers that are drawn with what is inside, however much it is."""
    known = {node.id: node for node in nodes}
    inside: dict[NodeId | None, list[NodeId]] = {}
    for node in nodes:
        above = container_of(node.id)
        inside.setdefault(above if above in known else None, []).append(node.id)
    folded = {one for one, below in inside.items() if one is not None and len(below) > FOLD and one not in opened}
    seen = _visible(inside, folded)
    places = {node_id: place for place, node_id in enumerate(seen)}
    edges = _edges(known, inside, folded, places)
    counted = _counted(known, folded)
    path = failing_path(nodes)
    failing = {one for one in path if one in places}
    boxes = [
        Box(
            known[one],
            inside=counted.get(one, {}),
            folds=one in opened and len(inside.get(one, ())) > FOLD,
            failing=one in failing,
        )
        for one in seen
    ]
    width, height = _place(boxes, edges)
    lines = [(a, b, boxes[a].failing and boxes[b].failing) for a, b in edges]
    return Drawing(boxes, lines, width, height)


def _visible(inside: Mapping[NodeId | None, list[NodeId]], folded: Collection[NodeId | None]) -> list[NodeId]:
    found: list[NodeId] = []
    waiting = list(reversed(inside.get(None, [])))
    while waiting:
        one = waiting.pop()
        found.append(one)
        if one not in folded:
            waiting += reversed(inside.get(one, []))
    return found


def _counted(known: Mapping[NodeId, NodeView], folded: Collection[NodeId | None]) -> dict[NodeId, dict[str, int]]:
    """Nodes by status within each container that is drawn as one."""
    found: dict[NodeId, Counter[str]] = {}
    if not folded:
        return {}
    for node in known.values():
        above = container_of(node.id)
        while above is not None:
            if above in folded:
                found.setdefault(above, Counter())[node.status] += 1
            above = container_of(above)
    return {one: dict(counts) for one, counts in found.items()}


def _edges(
    known: Mapping[NodeId, NodeView],
    inside: Mapping[NodeId | None, list[NodeId]],
    folded: Collection[NodeId | None],
    places: Mapping[NodeId, int],
) -> list[tuple[int, int]]:
    needs = {one: [] if one.endswith("]") else [n for n in known[one].needs if n in places] for one in places}
    needed = {need for all_of in needs.values() for need in all_of}
    lasts: dict[NodeId, list[NodeId]] = {}

    def last_of(one: NodeId) -> list[NodeId]:
        """What has to end for a node to have ended: the last ones of what is drawn inside it."""
        if one not in lasts:
            below = [] if one in folded else [child for child in inside.get(one, ()) if child not in needed]
            lasts[one] = [last for child in below for last in last_of(child)] or [one]
        return lasts[one]

    edges: dict[tuple[int, int], None] = {}
    for one, before in needs.items():
        above = container_of(one)
        if not before and above is not None and above in places:
            edges[places[above], places[one]] = None
        for need in before:
            for last in last_of(need):
                edges[places[last], places[one]] = None
    return list(edges)


def _place(boxes: Sequence[Box], edges: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Give each box its place; the size of the whole."""
    befores: list[list[int]] = [[] for _ in boxes]
    afters: list[list[int]] = [[] for _ in boxes]
    for a, b in edges:
        befores[b].append(a)
        afters[a].append(b)
    layers = _layers(befores, afters)
    order = [0.0] * len(boxes)
    for layer in layers:
        for column, one in enumerate(layer):
            order[one] = column - len(layer) / 2
    for _ in range(_SWEEPS):
        for beside, rows in ((befores, layers), (afters, layers[::-1])):
            for layer in rows:
                _sort(layer, beside, order)
    widest, y = 0.0, DOWN / 2
    rows_of: list[list[int]] = []
    for layer in layers:
        columns = len(layer) if len(layer) <= _ROW else max(_ROW, ceil(sqrt(len(layer)) * 1.5))
        rows_of += [layer[at : at + columns] for at in range(0, len(layer), columns)]
    for row in rows_of:
        widest = max(widest, len(row) * (WIDTH + ACROSS) + ACROSS)
    for row in rows_of:
        x = (widest - len(row) * (WIDTH + ACROSS) + ACROSS) / 2
        for one in row:
            boxes[one].x, boxes[one].y = x, y
            x += WIDTH + ACROSS
        y += HEIGHT + DOWN
    return widest, y


def _layers(befores: Sequence[Sequence[int]], afters: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each node one below the lowest that it needs. What stands in a circle, which no run has, comes last."""
    left = [len(all_of) for all_of in befores]
    layer = [one for one, count in enumerate(left) if not count]
    found: list[list[int]] = []
    placed = 0
    while layer:
        found.append(layer)
        placed += len(layer)
        below: list[int] = []
        for one in layer:
            for after in afters[one]:
                left[after] -= 1
                if not left[after]:
                    below.append(after)
        layer = sorted(below)
    if placed < len(left):
        found.append([one for one, count in enumerate(left) if count])
    return found


def _sort(layer: list[int], beside: Sequence[Iterable[int]], order: list[float]) -> None:
    """Bring nodes below (or above) the middle of what they are joined to; those joined to nothing stay about there."""
    middle: dict[int, float] = {}
    for one in layer:
        joined = [order[other] for other in beside[one]]
        middle[one] = sum(joined) / len(joined) if joined else order[one]
    layer.sort(key=lambda one: middle[one])
    for column, one in enumerate(layer):
        order[one] = column - len(layer) / 2
