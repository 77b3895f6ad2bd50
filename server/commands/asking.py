"""Deciding where a run is followed: its questions are put to whoever sits at the terminal.

What is typed there is worth what `omium approve` is worth without a credential: `elicited`. A gate that wants more says
so and stays open, and so does one that is answered with an empty line; anybody may decide it elsewhere meanwhile.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import anyio
import click

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId
from omium.server.commands.answering import in_words, typed
from omium.server.commands.console import safe

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import ApprovalView, Caller, EventView
    from omium.server.commands.live import Shown

_OVER = frozenset({"approval.decided", "approval.expired"})
_WITHDRAWN = frozenset({"run.rolled_back", "run.played_from", "run.cancelled"})


class Asking:
    """Asks one question after the other, each as long as it is open."""

    def __init__(self, core: Core, caller: Caller, shown: Shown, tasks: TaskGroup) -> None:
        self._core = core
        self._caller = caller
        self._shown = shown
        self._tasks = tasks
        self._one = anyio.Lock()
        self._open: dict[str, anyio.CancelScope] = {}

    def hear(self, event: EventView) -> None:
        approval = str(event.data.get("approval") or "")
        if event.type == "approval.requested":
            self._open[approval] = anyio.CancelScope()
            self._tasks.start_soon(self._ask, ApprovalId(approval))
        elif approval in self._open and event.type in _OVER:
            self._open.pop(approval).cancel()
        elif event.type in _WITHDRAWN:
            for scope in self._open.values():
                scope.cancel()
            self._open.clear()

    async def _ask(self, approval_id: ApprovalId) -> None:
        scope = self._open.get(approval_id)
        if scope is None:
            return
        with scope:
            async with self._one:
                view = await self._core.get_approval(self._caller, approval_id)
                if view.status != "pending":
                    return
                with self._shown.aside():
                    try:
                        await self._until_decided(view)
                    finally:
                        if scope.cancel_called:
                            click.echo(err=True)  # it was decided elsewhere: what comes next has a line of its own

    async def _until_decided(self, view: ApprovalView) -> None:
        for name, item in (view.details or {}).items():
            shown = item if isinstance(item, str) else None
            if shown:
                click.echo(f"  {safe(name)}: {safe(shown, lines=True)}", err=True)
        options = "your answer" if in_words(view.options) else f"{' | '.join(map(safe, view.options))}, and why"
        while True:
            click.echo(f"  {options}; Enter leaves it open> ", nl=False, err=True)
            said = await _line()
            if not said.strip():
                return
            answer = typed(said, view.options)
            if answer is None:
                click.echo(f"  {safe(said.split()[0])!r} is not offered.", err=True)
                continue
            choice, feedback = answer
            try:
                await self._core.decide(self._caller, view.id, choice, feedback=feedback or None, assurance="elicited")
            except OmiumError as error:
                click.echo(f"  {safe(error.message)} {safe(error.hint)}".rstrip(), err=True)
            return


async def _line() -> str:
    """A line from the terminal; "" at its end. Nothing is read before there is a line, so that a question that is
    decided elsewhere takes nothing of what is typed next."""
    fd = sys.stdin.fileno()
    await anyio.wait_readable(fd)
    return os.read(fd, 64 * 1024).decode("utf-8", "replace")
