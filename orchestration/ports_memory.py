"""What a caller wants to be remembered beyond a run: decisions, failures, what helped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from omium.orchestration.ids import Principal, ProjectId

MemoryKind = Literal["note", "decision", "failure", "remedy", "session", "state"]
MEMORY_KINDS: Final[tuple[MemoryKind, ...]] = get_args(MemoryKind)
Outcome = Literal["worked", "failed"]


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One memory of a principal. scope and key name it: what is remembered under them again takes its place. scope:
    `project`, or a part of it such as `epic:search`. outcome: whether what it tells of worked, if that is known. at:
    when it was remembered last, in microseconds."""

    project: ProjectId
    owner: Principal
    scope: str
    key: str
    kind: MemoryKind
    text: str
    tags: tuple[str, ...]
    outcome: Outcome | None
    at: int


@dataclass(frozen=True, slots=True)
class MemoryQuery:
    """Which memories of a principal. Every condition that is given has to hold: all of the `tags`, and `text` somewhere
    in key, text or tags, whatever the case."""

    project: ProjectId
    owner: Principal
    scope: str | None = None
    key: str | None = None
    kind: MemoryKind | None = None
    tags: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many memories a query finds in all, and of how many it is known that they worked, or failed."""

    found: int
    worked: int
    failed: int


class Memories(Protocol):
    """Part of the store."""

    async def put_memory(self, row: MemoryRow, most: int) -> bool:
        """Store it, in the place of the one of the same project, owner, scope and key. False, and nothing is stored,
        when it would be a new one and the owner has `most` in this project."""

    async def memories(self, query: MemoryQuery, *, offset: int, limit: int) -> list[MemoryRow]:
        """Newest first."""

    async def tally_memories(self, query: MemoryQuery) -> Tally: ...

    async def forget_memories(self, query: MemoryQuery) -> int:
        """Delete them; how many there were."""
