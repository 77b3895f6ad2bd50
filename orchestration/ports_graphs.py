"""Checkpoints of graphs of another framework: threads of them, in namespaces, and writes that came after each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from omium.orchestration.ids import ProjectId


class Packed(NamedTuple):
    """What a serializer made of a value: which kind of bytes, and the bytes."""

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class GraphRow:
    """One checkpoint. ids of a thread grow with time. run: what made it, for whoever deletes by that. document and
    metadata: as the framework's serializer packed them. at: microseconds."""

    project: ProjectId
    thread: str
    ns: str
    id: str
    parent: str | None
    run: str | None
    document: Packed
    metadata: Packed
    at: int


@dataclass(frozen=True, slots=True)
class GraphWrite:
    """One write of a task to a channel, after a checkpoint. idx: its place in the task's writes; below 0 for those that
    there is one of."""

    task: str
    idx: int
    path: str
    channel: str
    value: Packed


@dataclass(frozen=True, slots=True)
class GraphQuery:
    """Which checkpoints; what is None matches all. before: ids below it. after: the last that was seen of a list
    that is read in parts, as (id, thread, ns)."""

    project: ProjectId
    thread: str | None = None
    ns: str | None = None
    id: str | None = None
    before: str | None = None
    after: tuple[str, str, str] | None = None


class Graphs(Protocol):
    """Part of the store."""

    async def put_graph(self, row: GraphRow) -> None:
        """In the place of one with the same project, thread, namespace and id."""

    async def put_graph_writes(
        self, project: ProjectId, thread: str, ns: str, checkpoint: str, writes: Sequence[GraphWrite]
    ) -> None:
        """Writes with an `idx` below 0 replace what is there; others leave it."""

    async def graphs(self, query: GraphQuery, limit: int) -> list[GraphRow]:
        """Newest first."""

    async def graph_writes(
        self, project: ProjectId, thread: str, ns: str, checkpoints: Sequence[str]
    ) -> Mapping[str, list[GraphWrite]]:
        """By checkpoint, in the order of (path, task, idx)."""

    async def drop_graphs(
        self, project: ProjectId, *, thread: str | None = None, run: str | None = None, ids: Sequence[str] | None = None
    ) -> None:
        """Delete the checkpoints to which all that is given applies, with their writes. A thread that is given alone
        loses its writes that have no checkpoint too."""

    async def copy_graph(self, project: ProjectId, source: str, target: str) -> None:
        """All checkpoints and writes of a thread into another; what is there already stays."""
