"""Memories of principals, on either database.

`words` has what is searched, casefolded here, since the two databases differ in what they take for the same letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.sql.elements import ColumnElement

from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports_memory import MemoryQuery, MemoryRow, Tally
from omium.storage import schema as t

if TYPE_CHECKING:
    from omium.storage.maintenance.tables import Keeper, Tables

_COLUMNS: Final = ("project", "owner", "scope", "key", "kind", "text", "tags", "outcome", "at", "words")
_CHANGED: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[4:])
_PUT: Final = (
    f"INSERT INTO memories ({', '.join(_COLUMNS)}) SELECT {{values}}"  # noqa: S608 - names of columns are ours
    " WHERE (SELECT count(*) FROM memories WHERE project = {project} AND owner = {owner}"
    " AND NOT (scope = {scope} AND key = {key})) < {most}"
    f" ON CONFLICT (project, owner, scope, key) DO UPDATE SET {_CHANGED}"
)
SQLITE_PUT: Final = _PUT.format(
    values=", ".join(f"?{place}" for place in range(1, 11)), project="?1", owner="?2", scope="?3", key="?4", most="?11"
)
PG_PUT: Final = (
    _PUT.format(
        values=", ".join(f"${place}::{'int8' if place == 9 else 'text'}" for place in range(1, 11)),
        project="$1", owner="$2", scope="$3", key="$4", most="$11",
    )
    + " RETURNING 1"
)  # fmt: skip
_FORGET: Final = "DELETE FROM memories WHERE project = :project AND owner = :owner AND scope = :scope AND key = :key"
_ESCAPE: Final = "!"


def as_row(memory: MemoryRow) -> tuple[Any, ...]:
    """The values of the columns."""
    words = "\n".join((memory.key, memory.text, *memory.tags)).casefold()
    return (
        memory.project, memory.owner, memory.scope, memory.key, memory.kind, memory.text,
        _joined(memory.tags), memory.outcome, memory.at, words,
    )  # fmt: skip


def _joined(tags: Sequence[str]) -> str:
    """Each tag in a line of its own, with a line feed on both sides, so that a whole tag can be looked for."""
    return "\n" + "".join(f"{tag}\n" for tag in tags)


def _literally(text: str) -> str:
    """A pattern that finds this text and nothing else, wherever it stands."""
    for special in (_ESCAPE, "%", "_"):
        text = text.replace(special, _ESCAPE + special)
    return f"%{text}%"


def _conditions(query: MemoryQuery) -> list[ColumnElement[bool]]:
    c = t.memories.c
    held: list[ColumnElement[bool]] = [c.project == query.project, c.owner == query.owner]
    for column, wanted in ((c.scope, query.scope), (c.key, query.key), (c.kind, query.kind)):
        if wanted is not None:
            held.append(column == wanted)
    if query.text:
        held.append(c.words.like(_literally(query.text.casefold()), escape=_ESCAPE))
    held += [c.tags.like(_literally(f"\n{tag}\n"), escape=_ESCAPE) for tag in query.tags]
    return held


def _memory(row: Sequence[Any]) -> MemoryRow:
    project, owner, scope, key, kind, text, tags, outcome, at, _ = row
    return MemoryRow(
        ProjectId(project), Principal(owner), scope, key, kind, text, tuple(tags.split("\n")[1:-1]), outcome, at
    )


class MemoryReads:
    """Part of a store: everything but `put_memory`."""

    if TYPE_CHECKING:

        async def _all(self, statement: Select[Any]) -> Sequence[Any]: ...

        def _keeper(self) -> Keeper: ...

    async def memories(self, query: MemoryQuery, *, offset: int, limit: int) -> list[MemoryRow]:
        c = t.memories.c
        found = select(*(c[name] for name in _COLUMNS)).where(*_conditions(query))
        found = found.order_by(c.at.desc(), c.scope, c.key).offset(offset).limit(limit)
        return [_memory(row) for row in await self._all(found)]

    async def tally_memories(self, query: MemoryQuery) -> Tally:
        outcome = t.memories.c.outcome
        counted = select(outcome, func.count()).where(*_conditions(query)).group_by(outcome)
        numbers = {row[0]: int(row[1]) for row in await self._all(counted)}
        return Tally(sum(numbers.values()), numbers.get("worked", 0), numbers.get("failed", 0))

    async def forget_memories(self, query: MemoryQuery) -> int:
        """With a keeper, which overwrites what it deletes: a memory may be personal."""
        found = [(row.scope, row.key) for row in await self.memories(query, offset=0, limit=1_000_000)]
        project, owner = query.project, query.owner

        def work(tables: Tables) -> int:
            return sum(tables.run(_FORGET, project=project, owner=owner, scope=scope, key=key) for scope, key in found)

        return await self._keeper().write(work) if found else 0
