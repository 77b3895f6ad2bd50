"""When each node of a run did what, told from its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import NodeId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.service.views import NodeView

# queued: it could go on, and nobody has taken it up yet. children: what it has expanded into is at work. inherited:
# it was done by the run that this one branched from.
Doing: TypeAlias = Literal["queued", "running", "waiting", "children", "approval", "backoff", "paused", "inherited"]
_BEGINS: Final[dict[EventType, Doing]] = {
    EventType.NODE_STARTED: "running",
    EventType.NODE_RETRY_STARTED: "running",
    EventType.NODE_WAITING: "waiting",
    EventType.NODE_EXPANDED: "children",
    EventType.NODE_ATTEMPT_FAILED: "queued",
    EventType.NODE_RETRY_BACKOFF: "backoff",
    EventType.APPROVAL_REQUESTED: "approval",
}
_ENDS: Final = frozenset(
    {EventType.NODE_COMPLETED, EventType.NODE_REUSED, EventType.NODE_FAILED, EventType.NODE_SKIPPED}
)

_LIVE: Final = frozenset({"pending", "running", "paused", "waiting_approval"})


@dataclass(frozen=True, slots=True)
class Interval:
    """Microseconds UTC; `open`: it goes on, and `end` is the time of the question."""

    doing: Doing
    start: int
    end: int
    open: bool = False


@dataclass(frozen=True, slots=True)
class NodeTimeline:
    """`duration_us` is the sum of the intervals, each of which begins where the one before it ends."""

    id: NodeId
    status: str
    attempts: int
    intervals: Sequence[Interval]

    @property
    def duration_us(self) -> int:
        return self.intervals[-1].end - self.intervals[0].start if self.intervals else 0


class Recorder:
    """Hears the events of one run, in order."""

    def __init__(self) -> None:
        self._marks: dict[NodeId, list[tuple[int, Doing]]] = {}  # when a node began to do something
        self._ended: dict[NodeId, int] = {}
        self._generation: dict[NodeId, int] = {}
        self._asked: dict[str, NodeId] = {}

    def hear(self, event: Event) -> None:
        kind, data = event.type, event.data
        if kind in (EventType.RUN_FAILED, EventType.RUN_CANCELLED):
            for node in self._marks:
                self._ended.setdefault(node, event.at)
        elif kind in (EventType.APPROVAL_DECIDED, EventType.APPROVAL_EXPIRED):
            asked = self._asked.get(data["approval"])
            if asked is not None and asked not in self._ended:
                self._marks[asked].append((event.at, "queued"))
        elif data.get("node") is not None and (kind in _BEGINS or kind in _ENDS or kind is EventType.NODE_INTERRUPTED):
            self._node(event, NodeId(data["node"]))

    def _node(self, event: Event, node: NodeId) -> None:
        kind, generation = event.type, int(event.data["generation"])
        if self._generation.get(node) != generation or (node in self._ended and kind not in _ENDS):
            self._generation[node] = generation
            self._marks[node] = []
            self._ended.pop(node, None)
        marks = self._marks[node]
        if kind is EventType.APPROVAL_REQUESTED:
            self._asked[event.data["approval"]] = node
        if kind in _ENDS:
            if not marks:
                marks.append((event.at, "queued"))
            self._ended[node] = event.at
        elif kind is EventType.NODE_INTERRUPTED:
            marks.append((event.at, "paused" if event.data["reason"] == "paused" else "queued"))
        else:
            marks.append((event.at, _BEGINS[kind]))

    def of(self, node: NodeView, now: int) -> NodeTimeline:
        """The intervals of a node as it stands now."""
        return NodeTimeline(node.id, node.status, node.attempt, self._intervals(node, now))

    def _intervals(self, node: NodeView, now: int) -> list[Interval]:
        marks = self._marks.get(node.id)
        if not marks or self._generation[node.id] != node.generation:
            if node.started_at is None or node.ended_at is None:
                return []
            return [Interval("inherited", node.started_at, node.ended_at)]
        ended = None if node.status in _LIVE else self._ended.get(node.id)
        last = max(marks[-1][0], now) if ended is None else max(marks[-1][0], ended)
        ends = [at for at, _ in marks[1:]] + [last]
        found = [
            Interval(doing, start, end, open=ended is None and at == len(marks) - 1)
            for at, ((start, doing), end) in enumerate(zip(marks, ends, strict=True))
        ]
        return [one for one in found if one.end > one.start or one.open] or found[-1:]


def failing_path(nodes: Sequence[NodeView]) -> list[NodeId]:
    """The nodes on the way to the first failure: backwards from it, always to what had been awaited longest, and out of
    containers to what those awaited."""
    known = {node.id: node for node in nodes}
    failed = [node for node in nodes if node.status == "failed"]
    holding = {above for node in failed for above in _above(node.id)}
    causes = [node for node in failed if node.id not in holding]
    if not causes:
        return []
    at: NodeView | None = min(causes, key=lambda node: node.ended_at or 0)
    path: list[NodeId] = []
    while at is not None and at.id not in path:
        path.append(at.id)
        before = [known[one] for one in at.needs if one in known and known[one].started_at is not None]
        outside = container_of(at.id)
        if before:
            at = max(before, key=lambda node: node.ended_at or 0)
        else:
            at = known.get(outside) if outside is not None else None
    return path[::-1]


def _above(node: NodeId) -> list[NodeId]:
    found: list[NodeId] = []
    above = container_of(node)
    while above is not None:
        found.append(above)
        above = container_of(above)
    return found
