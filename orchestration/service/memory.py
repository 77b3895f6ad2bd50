"""What is remembered beyond a run. A memory is its principal's alone: nobody else in the project finds it, whatever
they may see of its runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock, Store
from omium.orchestration.ports_memory import (
    MEMORY_KINDS,
    MemoryKind,
    MemoryQuery,
    MemoryRow,
    Outcome,
    Tally,
)
from omium.orchestration.service import roles
from omium.orchestration.service.views import Caller

PROJECT_SCOPE: Final = "project"
MAX_TEXT: Final = 4_000  # characters
MAX_TAGS: Final = 16
MAX_MEMORIES: Final = 20_000  # of one principal in a project
_PAGE: Final = 200
_SCOPE: Final = re.compile(r"\A(project|(epic|agent):[A-Za-z0-9_.@-]{1,100})\Z")
_NAME: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.:@/+=-]{0,119}\Z")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class MemoryPage:
    """memories: newest first; tally: over all that the query finds; next: the `offset` of the next page."""

    memories: Sequence[MemoryRow]
    tally: Tally
    next: int | None


class MemoryService:
    """Part of the core."""

    if TYPE_CHECKING:
        store: Store
        clock: Clock

    async def remember(
        self,
        caller: Caller,
        key: str,
        text: str,
        *,
        scope: str = PROJECT_SCOPE,
        kind: MemoryKind = "note",
        tags: Sequence[str] = (),
        outcome: Outcome | None = None,
    ) -> MemoryRow:
        """Remember a text under a key, in the place of what the caller remembered there before; the same again changes
        nothing but its time. Raises `invalid_argument`, and `not_allowed` when the caller remembers too much."""
        roles.check(caller, "remember")
        _check_scope(scope)
        _check_name("key", key)
        _check_kind(kind)
        _check_tags(tags)
        if outcome not in (None, "worked", "failed"):
            raise OmiumError("invalid_argument", f"{outcome!r:.60} is no outcome.", "Outcomes: worked, failed.")
        if len(text) > MAX_TEXT or _UNSTORABLE.search(text):
            raise OmiumError("invalid_argument", f"a memory is a text of up to {MAX_TEXT:,} characters, not this.")
        row = MemoryRow(
            caller.project, caller.principal, scope, key, kind, text,
            tuple(dict.fromkeys(tags)), outcome, self.clock.now_us(),
        )  # fmt: skip
        if not await self.store.put_memory(row, MAX_MEMORIES):
            raise OmiumError(
                "not_allowed",
                f"{caller.principal} remembers {MAX_MEMORIES:,} things in this project already.",
                "Forget some first.",
            )
        return row

    async def recall(
        self,
        caller: Caller,
        text: str = "",
        *,
        scope: str | None = None,
        key: str | None = None,
        kind: MemoryKind | None = None,
        tags: Sequence[str] = (),
        offset: int = 0,
        limit: int = 20,
    ) -> MemoryPage:
        """The caller's own memories with all of these tags and this text somewhere in key, text or tags, whatever the
        case. Raises `invalid_argument`."""
        roles.check(caller, "recall")
        query = _query(caller, text, scope, key, kind, tags)
        if not 1 <= limit <= _PAGE or not 0 <= offset <= MAX_MEMORIES:
            raise OmiumError("invalid_argument", f"a page has 1 to {_PAGE} memories, from 0 to {MAX_MEMORIES:,}.")
        found = await self.store.memories(query, offset=offset, limit=limit + 1)
        tally = await self.store.tally_memories(query)
        return MemoryPage(found[:limit], tally, offset + limit if len(found) > limit else None)

    async def forget(self, caller: Caller, scope: str, *, key: str | None = None) -> int:
        """Delete one of the caller's memories, or all of a scope; how many there were. Raises `invalid_argument`."""
        roles.check(caller, "forget")
        return await self.store.forget_memories(_query(caller, "", scope, key, None, ()))


def _query(
    caller: Caller, text: str, scope: str | None, key: str | None, kind: MemoryKind | None, tags: Sequence[str]
) -> MemoryQuery:
    if scope is not None:
        _check_scope(scope)
    if key is not None:
        _check_name("key", key)
    if kind is not None:
        _check_kind(kind)
    _check_tags(tags)
    if len(text) > 200 or _UNSTORABLE.search(text):
        raise OmiumError("invalid_argument", "what is searched for is a text of up to 200 characters.")
    return MemoryQuery(caller.project, caller.principal, scope, key, kind, tuple(tags), text)


def _check_scope(scope: str) -> None:
    if not _SCOPE.match(scope):
        raise OmiumError(
            "invalid_argument", f"{scope!r:.120} is no scope.", "Scopes: project, epic:<name>, agent:<name>."
        )


def _check_kind(kind: str) -> None:
    if kind not in MEMORY_KINDS:
        raise OmiumError("invalid_argument", f"{kind!r:.60} is no kind.", f"Kinds: {', '.join(MEMORY_KINDS)}.")


def _check_tags(tags: Sequence[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise OmiumError("invalid_argument", f"{len(tags)} tags are too many; at most {MAX_TAGS}.")
    for tag in tags:
        _check_name("tag", tag)


def _check_name(what: str, name: str) -> None:
    if not _NAME.match(name):
        raise OmiumError(
            "invalid_argument", f"{name!r:.150} is no {what}: 1 to 120 of letters, digits and _ . : @ / + = - are."
        )
