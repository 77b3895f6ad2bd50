"""What every history operation stands on: the store, definitions, values, files, and the run's claim."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeGuard

import anyio

from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.engine.engine import Engine
from omium.orchestration.engine.files import RunFiles
from omium.orchestration.engine.programs import Programs
from omium.orchestration.engine.values import ValueCache
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.recorded import Recorded, read_next, record
from omium.orchestration.ids import Fence, RunId, Seq
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import Clock, Executor, Store
from omium.orchestration.values import Encoded

CLAIM_WAIT_S = 10.0
_KEEP = 8  # structures
_TRIES = 20  # checkpoints that are tried for one that can be gone back to


def _has_plan(expansion: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    return expansion is not None and "plan" in expansion


class Ground:
    """`structure_of` gives where a run's nodes stand, with its plans; afterwards `programs` has the definition."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        programs: Programs,
        structure_of: Callable[[RunState], Awaitable[Structure]],
        engine: Engine | None,
        claim_wait_s: float = CLAIM_WAIT_S,
        policy_now: Callable[[], Encoded | None] = lambda: None,
        agents_now: Callable[[], Encoded | None] = lambda: None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.engine = engine
        self.values = engine.values if engine is not None else ValueCache(store)
        self._programs = programs
        self._structure_of = structure_of
        self._structures: OrderedDict[tuple[Any, ...], Structure] = OrderedDict()
        self._claim_wait_s = claim_wait_s
        self.policy_now = policy_now  # what a run that is created now keeps
        self.agents_now = agents_now

    @property
    def files(self) -> RunFiles | None:
        return self.engine.workspaces if self.engine is not None else None

    @property
    def executors(self) -> Callable[[NodeDef], Executor] | None:
        return self.engine.executor if self.engine is not None else None

    @property
    def is_stopping(self) -> bool:
        """Whether this worker gives everything up (see `Engine.is_stopping`)."""
        return self.engine is not None and self.engine.is_stopping

    async def state(self, run_id: RunId, upto: Seq | None = None) -> RunState:
        return await self.store.state(run_id, upto)

    async def structure(self, state: RunState) -> Structure:
        """Where the nodes of the run stand; not to be changed. One operation asks for it again and again, and that of a
        large definition takes its time."""
        plans = [
            (node_id, node.expansion["plan"]) for node_id, node in state.nodes.items() if _has_plan(node.expansion)
        ]
        key = (state.definition, *sorted(plans))
        found = self._structures.get(key)
        if found is None or self._programs.get(state.definition) is None:
            found = self._structures[key] = await self._structure_of(state)
        self._structures.move_to_end(key)
        if len(self._structures) > _KEEP:
            self._structures.popitem(last=False)
        return found

    async def recorded(self, state: RunState) -> Recorded:
        """The run as it was, with its own definition. Raises what loading a value raises."""
        structure = await self.structure(state)
        program = self._programs.get(state.definition)
        assert program is not None, "the structure was made from it"
        return await record(state, structure, program, self.values, self.executors)

    # --- can it be gone back to ---------------------------------------------------------------------------------

    async def check_loadable(self, state: RunState) -> Recorded:
        """Read everything that the run reads when it goes on from this state, straight from the store. Raises
        `integrity` and names the nearest older checkpoint from which it can."""
        try:
            recorded = await self.recorded(state)
            await self._read_all(recorded)
            return recorded
        except OmiumError as error:
            if error.code not in ("integrity", "not_found"):
                raise
            nearest = await self._nearest_valid(state)
            hint = f"The nearest position that is whole: {nearest}." if nearest else "No older position is whole."
            raise OmiumError(
                "integrity",
                f"run {state.run_id} cannot go on from position {state.seq}: {error.message}",
                hint,
                position=state.seq,
                nearest=nearest,
            ) from error

    async def _read_all(self, recorded: Recorded) -> None:
        for digest, what in read_next(recorded).items():
            try:
                await self.store.value(digest)
            except OmiumError as error:
                raise OmiumError(
                    error.code, f"{what} cannot be read: {error.message}", error.hint, digest=digest
                ) from error

    async def _nearest_valid(self, state: RunState) -> Seq | None:
        before = state.seq
        for _ in range(_TRIES):
            page = await self.store.checkpoints(state.run_id, before, 1)
            if not page:
                return None
            before = page[0].seq
            try:
                await self._read_all(await self.recorded(await self.state(state.run_id, before)))
                return before
            except OmiumError as error:
                if error.code not in ("integrity", "not_found"):
                    raise
        return None

    # --- files --------------------------------------------------------------------------------------------------

    async def check_files(self, tree: str | None) -> None:
        """Nothing is undone for the sake of a position whose files are gone. Raises `workspace`."""
        if tree is None or self.files is None or not self.files.available:
            return
        try:
            await self.files.files(tree)
        except OmiumError as error:
            if error.code not in ("not_found", "integrity"):
                raise
            raise OmiumError(
                "workspace",
                f"the files of that position are not here: {error.message}",
                "They are in OMIUM_HOME/workspaces of the machine that made them, and in its backups. Bring them here.",
                tree=tree,
            ) from error

    async def changed_files(self, a: str | None, b: str | None, patch_limit: int = 0) -> list[Mapping[str, Any]]:
        """What differs between two captured trees; nothing when one of them is not there."""
        if a is None or b is None or a == b or self.files is None:
            return []
        try:
            changes = await self.files.diff(a, b, patch_limit=patch_limit)
        except OmiumError as error:
            if error.code in ("unsupported", "not_found"):
                return []  # no workspaces here, or the tree was dropped with the run that made it
            raise
        told: list[Mapping[str, Any]] = []
        for one in changes:
            sizes = {"old_size": one.old_size, "new_size": one.new_size}
            patch = {"patch": one.patch} if patch_limit else {}
            told.append({"path": one.path, "status": one.status, **sizes, **patch})
        return told

    # --- the claim ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self, run_id: RunId) -> AsyncIterator[Fence | None]:
        """Own a run that its owner is giving up, so that nobody starts anything meanwhile; None when it could not be
        had in time or before this worker stops, or when this process executes nothing and so owns nothing."""
        if self.engine is None:
            yield None
            return
        self.engine.keep(run_id)
        try:
            fence = await self._take(self.engine, run_id)
            try:
                yield fence
            finally:
                if fence is not None:
                    with anyio.CancelScope(shield=True):
                        await self._give_back(run_id, fence)
        finally:
            self.engine.let_go(run_id)

    async def _take(self, engine: Engine, run_id: RunId) -> Fence | None:
        until = self.clock.monotonic() + self._claim_wait_s
        pause = 0.002
        while True:
            with anyio.CancelScope(shield=True):  # a claim that was taken and not heard of would be nobody's
                fence = await self.store.take(engine.worker, run_id)
            if fence is not None or engine.is_stopping or self.clock.monotonic() >= until:
                return fence
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.05)

    async def _give_back(self, run_id: RunId, fence: Fence) -> None:
        """Release the run; one that was resumed meanwhile is due at once."""
        last: Seq | None = None
        while True:
            row = await self.store.run(run_id)
            if row is None or row.seq == last:
                return  # the claim was lost: somebody else owns it now
            last = row.seq
            wake_at = None if (await self.state(run_id)).sleeps else self.clock.now_us()
            if await self.store.release(run_id, fence, row.seq, wake_at):
                if wake_at is not None and self.engine is not None:
                    self.engine.look()
                return
