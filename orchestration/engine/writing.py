"""What the owner of a run writes: in order, also when the store cannot be written for a while.

Several writes of a run may be under way at once, and a later one may follow from an earlier one: a node starts because
another has ended. While the store makes them, it keeps their order. When it cannot make one, it makes none of those
that were submitted before this was heard (`Write.faults`); here they line up, and are tried again first come first.
One whose answer was lost may be in the log already. The store is told what that would be (`Write.tried`) and gives it,
so that nothing is noted twice, and no node is taken for interrupted whose code waits here for the word of its start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.ids import Principal
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.state import RUN_TERMINAL, RunStatus
from omium.orchestration.ports import NewBlob, Write

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution

_log = logging.getLogger(__name__)

ENGINE = Principal("engine")
REFUSED = frozenset({"conflict", "not_allowed", "not_found", "already_decided"})
PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # between tries of a database that is away


class Writing:
    """The writes of one execution, which is given to each, so that the two are no circle."""

    def __init__(self) -> None:
        self._faults = 0  # of how many writes it was heard that the store could not make them
        self._line: _Line | None = None  # those writes, while they are tried again

    async def write(self, run: Execution, commands: Sequence[c.Command], blobs: Sequence[NewBlob]) -> None:
        """See `Execution.commit`."""
        tried: Sequence[Event] = ()
        if self._line is None:
            try:
                return await self._submit(run, commands, blobs, tried)
            except OmiumError as error:
                if not _is_worth_waiting(run, error):
                    raise
                tried = _perhaps(error, tried)
        line = self._line = self._line or _Line()
        line.length += 1
        try:
            async with line.lock:
                await self._in_turn(run, line, commands, blobs, tried)
        finally:
            line.length -= 1
            if not line.length and self._line is line:
                self._line = None

    def call(self) -> None:
        """Try at once what waits: something has become of the run meanwhile."""
        if self._line is not None:
            self._line.called.set()

    async def _submit(
        self, run: Execution, commands: Sequence[c.Command], blobs: Sequence[NewBlob], tried: Sequence[Event]
    ) -> None:
        faults = self._faults
        write = Write(run.run_id, commands, ENGINE, fence=run.fence, blobs=blobs, faults=faults, tried=tried)
        try:
            await run.engine.store.write(write)
        except Exception:
            self._faults = max(self._faults, faults + 1)
            raise

    async def _in_turn(
        self,
        run: Execution,
        line: _Line,
        commands: Sequence[c.Command],
        blobs: Sequence[NewBlob],
        tried: Sequence[Event],
    ) -> None:
        pause = PAUSE_S
        while True:
            if line.broken is not None:  # what this may follow from will not be written here
                raise line.broken
            try:
                return await self._submit(run, commands, blobs, tried)
            except OmiumError as error:
                if error.code in REFUSED:
                    raise
                if not _is_worth_waiting(run, error):
                    line.broken = error
                    raise
                tried = _perhaps(error, tried)
                _log.warning("run %s cannot be written, trying again: %s", run.run_id, error)
            except Exception:
                line.broken = OmiumError("storage_unavailable", "what the run has written before could not be stored.")
                raise
            with anyio.move_on_after(pause):
                await line.called.wait()
            line.called = anyio.Event()
            pause = min(pause * 2, MAX_PAUSE_S)
            # What it came to is wanted by nobody, and whoever is at work is to be stopped; unless this is that end.
            if not tried and await _has_ended(run):
                raise OmiumError("not_allowed", f"run {run.run_id} has ended.")


def _is_worth_waiting(run: Execution, error: OmiumError) -> bool:
    return error.code == "storage_unavailable" and run.stopping is None


def _perhaps(error: OmiumError, before: Sequence[Event]) -> Sequence[Event]:
    """What may be in the log by now, of a write that has been tried."""
    return error.events if isinstance(error, Unheard) else before


async def _has_ended(run: Execution) -> bool:
    try:
        row = await run.engine.store.run(run.run_id)
    except OmiumError:
        return False
    return row is None or RunStatus(row.status) in RUN_TERMINAL


class _Line:
    """Writes that wait for a store which cannot make them. broken: why the first of them was given up, and with it all
    that came after; called: there is no more need to wait."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()  # first come, first served
        self.length = 0
        self.broken: OmiumError | None = None
        self.called = anyio.Event()
