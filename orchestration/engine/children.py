"""Child runs: those that `workflow` nodes start. They are created, watched, and cancelled with what waits for them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.definition.expressions import render
from omium.orchestration.engine import scopes, starting
from omium.orchestration.engine.stopping import HELD
from omium.orchestration.engine.writing import ENGINE
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, Principal, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import RunState, RunStatus
from omium.orchestration.ports import RunQuery, RunRow, Store, Write

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.engine.execution import Execution

CreateChild: TypeAlias = Callable[[RunState, NodeId, RunId, str, Any], Awaitable[None]]

_log = logging.getLogger(__name__)
_RETRY_S = 1.0
_MANY = 100_000


class Children:
    """The child runs of the runs that this process owns."""

    def __init__(self, engine: Engine, create: CreateChild) -> None:
        self._engine = engine
        self._create = create
        self._waiting: dict[RunId, RunId] = {}  # child -> the run here that waits for it

    # --- starting -------------------------------------------------------------------------------------------------

    async def start(self, run: Execution, node_id: NodeId, child: RunId, workflow: str, inputs: Any) -> None:
        """Create the run of a `workflow` node, which its parent's log already names. The parent is kept meanwhile, and
        counts this in `creating`: if the child is refused, that has to be written."""
        try:
            await self._start(run, node_id, child, workflow, inputs)
        finally:
            run.creating -= 1
        await run.rest()

    async def _start(self, run: Execution, node_id: NodeId, child: RunId, workflow: str, inputs: Any) -> None:
        wait = {"kind": "child", "run": child}
        run.children[child] = node_id
        self.watch(child, run)
        crash_point("child.named")
        while True:
            try:
                await self._create(run.folded, node_id, child, workflow, inputs)
                break
            except OmiumError as error:
                if error.code != "storage_unavailable":
                    run.children.pop(child, None)
                    self.unwatch(child)
                    await run.fail_waiting(node_id, wait, error)  # unless it waits for it no longer
                    return
                _log.warning("run %s cannot be created, trying again: %s", child, error)
                await anyio.sleep(_RETRY_S)

    async def start_again(self, run: Execution, node_id: NodeId, child: RunId) -> None:
        """The child was named and never created: a crash came between, or it is just being created."""
        node = run.structure.node_def(node_id)
        program = run.program.node(node)
        scope, _ = await scopes.build(run, node_id, program.names, program.every)
        inputs = starting.given(run, node_id, render(node.input, scope))
        run.creating += 1
        self._engine.spawn(self.start, run, node_id, child, str(node.use), inputs)

    # --- watching -------------------------------------------------------------------------------------------------

    def watch(self, child: RunId, run: Execution) -> None:
        """Have the run told when its child has ended."""
        self._waiting[child] = run.run_id

    def unwatch(self, child: RunId) -> None:
        self._waiting.pop(child, None)

    def forget(self, run: Execution) -> None:
        """The run is no longer owned here."""
        for child in run.children:
            if self._waiting.get(child) == run.run_id:
                del self._waiting[child]

    def watched(self) -> list[RunId]:
        return list(self._waiting)

    def has_ended(self, child: RunId, parent: RunId | None) -> None:
        """Tell whoever waits: `parent` as the child's own log has it, if that is at hand. A parent that nobody owns is
        claimed."""
        waiting = self._waiting.pop(child, None)
        execution = self._engine.owned(waiting or parent)
        if execution is not None:
            if execution.is_resting:
                execution.nudge()  # it is just being given up: somebody is to take it again at once
            self._engine.spawn(execution.on_child, child)
        if parent is not None or waiting is None:
            self._engine.spawn(self._wake, child, parent)

    async def _wake(self, child: RunId, parent: RunId | None) -> None:
        store = self._engine.store
        if parent is None:
            row = await store.run(child)
            parent = row.caller_run if row is not None else None
        if parent is not None:
            await store.wake([parent], self._engine.clock.now_us())
            self._engine.look()

    # --- ending ---------------------------------------------------------------------------------------------------

    async def cancel(self, child: RunId, reason: str) -> None:
        """Cancel a child run that no node waits for any more, and everything below it. One that is not created yet will
        not be."""
        try:
            await cancel_with_children(self._engine.store, child, ENGINE, reason)
        except OmiumError as error:
            if error.code != "not_found":
                raise

    async def settle(self, run: Execution) -> None:
        """Cancel the children that no node of the run waits for any more: it has ended, or was reset. Let go on those
        that were held because it was perhaps to be taken back, once it is not: whoever held them may have died since.
        """
        state = run.folded
        waited = {node.wait["run"] for node in state.nodes.values() if node.wait is not None and "run" in node.wait}
        goes_on = not state.setbacks and not _is_held(state)
        for row in await self._engine.store.runs(RunQuery(caller=state.run_id, limit=_MANY)):
            if row.ended_at is None and row.id not in waited:
                await self.cancel(row.id, f"its parent {state.run_id} no longer waits for it")
            elif goes_on and row.ended_at is None:
                await self._let_go_on(run, row)

    async def _let_go_on(self, run: Execution, child: RunRow) -> None:
        """Have the child go on if it is held. What is held below it goes on with it: its owner sees to that, as this
        one does, and where somebody has paused the child, this one."""
        store = self._engine.store
        if _is_held(child):
            await run.commit([c.EndUndoing(0)])  # writes nothing, and is refused to one that does not own the run
            try:
                await store.write(Write(child.id, [c.ResumeRun()], ENGINE))
            except OmiumError as error:
                if error.code != "not_allowed":  # somebody was faster
                    raise
        elif child.status == RunStatus.PAUSED and not (await store.state(child.id)).setbacks:
            for below in await store.runs(RunQuery(caller=child.id, limit=_MANY)):
                if below.ended_at is None:
                    await self._let_go_on(run, below)


def _is_held(run: RunState | RunRow) -> bool:
    return (run.status, run.reason) == (RunStatus.PAUSED, HELD)


async def cancel_with_children(store: Store, run_id: RunId, actor: Principal, reason: str | None) -> None:
    """Cancel a run, and then what it started; one that has ended already stays as it is."""
    try:
        await store.write(Write(run_id, [c.CancelRun(reason)], actor))
    except OmiumError as error:
        if error.code != "not_allowed":
            raise
    await cancel_below(store, run_id, actor)


async def cancel_below(store: Store, run_id: RunId, actor: Principal) -> None:
    """Cancel what a run that has ended had started."""
    for row in await store.runs(RunQuery(caller=run_id, limit=_MANY)):
        if row.ended_at is None:
            await cancel_with_children(store, row.id, actor, f"its parent {run_id} was cancelled")
