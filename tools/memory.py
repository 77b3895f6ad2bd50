"""Tools that remember for the caller: decisions, failures, what helped. Nobody else's memories are found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_memory import MemoryKind, MemoryRow, Outcome
from omium.tools.desk import Ctx, committed, desk_of
from omium.tools.models import Answer, Line, ValueOut
from omium.tools.present import fit, line, value_text, when
from omium.tools.show import value_out

ScopeArg = Annotated[str, Field(description="project, epic:<name> or agent:<name>", max_length=120)]
AnyScope = Annotated[str | None, Field(description="Only of this scope; all, unless given", max_length=120)]
TagsArg = Annotated[list[str] | None, Field(max_length=16)]
_ROOM = 8_000  # characters of JSON that a memory may take, so that an answer holds one whole
_SHOWN = 1_200  # in a list


class MemoryOut(Answer):
    scope: str
    key: str
    kind: str
    text: ValueOut
    tags: list[Line] | None = None
    outcome: str | None = None
    at: str | None = None


class MemoriesOut(Answer):
    """`found`, `worked` and `failed` count everything that matches, not only what is shown."""

    memories: list[MemoryOut]
    found: int
    worked: int
    failed: int
    success_rate: float | None = None
    next_offset: int | None = None


class ForgottenOut(Answer):
    forgotten: int


async def remember(
    ctx: Ctx,
    key: Annotated[str, Field(description="Names it within its scope", min_length=1, max_length=120)],
    text: Annotated[str, Field(max_length=4_000)],
    scope: ScopeArg = "project",
    kind: MemoryKind = "note",
    tags: TagsArg = None,
    outcome: Annotated[Outcome | None, Field(description="Whether what it tells of worked")] = None,
) -> MemoryOut:
    """Remember a text for later, also after restarts. The same scope and key again replaces it. Never secrets."""
    core, caller = desk_of(ctx)
    if len(value_text(text)) > _ROOM:
        raise OmiumError("invalid_argument", f"written as JSON the text has more than {_ROOM:,} characters.")
    work = core.remember(caller, key, text, scope=scope, kind=kind, tags=tags or (), outcome=outcome)
    return _memory_out(await committed(work))


async def recall(
    ctx: Ctx,
    text: Annotated[str | None, Field(description="In key, text or tags", max_length=200)] = None,
    scope: AnyScope = None,
    key: Annotated[str | None, Field(description="Exactly this one", max_length=120)] = None,
    kind: MemoryKind | None = None,
    tags: Annotated[list[str] | None, Field(description="All of these", max_length=16)] = None,
    offset: Annotated[int, Field(description="Next page: next_offset", ge=0, le=20_000)] = 0,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> MemoriesOut:
    """Find what this caller remembered, newest first, and how often it worked. A long text is cut unless its key is
    given. Changes nothing."""
    core, caller = desk_of(ctx)
    page = await core.recall(
        caller, text or "", scope=scope, key=key, kind=kind, tags=tags or (), offset=offset, limit=limit
    )
    shown = fit(_memory_out(one, _SHOWN if key is None or scope is None else _ROOM) for one in page.memories)
    known = page.tally.worked + page.tally.failed
    cut = len(shown) < len(page.memories)
    return MemoriesOut(
        memories=shown,
        found=page.tally.found,
        worked=page.tally.worked,
        failed=page.tally.failed,
        success_rate=round(page.tally.worked / known, 3) if known else None,
        next_offset=offset + len(shown) if cut else page.next,
    )


async def forget(
    ctx: Ctx,
    scope: ScopeArg,
    key: Annotated[str | None, Field(description="One; the whole scope, unless given", max_length=120)] = None,
) -> ForgottenOut:
    """Delete one memory of the caller, or all of a scope, for good."""
    core, caller = desk_of(ctx)
    return ForgottenOut(forgotten=await committed(core.forget(caller, scope, key=key)))


def _memory_out(row: MemoryRow, limit: int = _ROOM) -> MemoryOut:
    return MemoryOut(
        scope=row.scope,
        key=row.key,
        kind=row.kind,
        text=value_out(row.text, limit=limit),
        tags=[line(tag) for tag in row.tags] or None,
        outcome=row.outcome,
        at=when(row.at),
    )
