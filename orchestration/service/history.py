"""Checkpoints, going back, branching, playing again, comparing: the verbs of history."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from omium.orchestration.definition.model import FailureRule
from omium.orchestration.engine.children import cancel_below
from omium.orchestration.engine.programs import Program
from omium.orchestration.engine.setbacks import Back as TakenBack
from omium.orchestration.errors import OmiumError
from omium.orchestration.history import adopting, automatic, branching, checkpoints, plans, playing, rollback
from omium.orchestration.history.adopting import Adopted
from omium.orchestration.history.behind import stop_below
from omium.orchestration.history.branching import Fork
from omium.orchestration.history.comparing import compare
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.overrides import check_form
from omium.orchestration.history.plans import Draft
from omium.orchestration.history.positions import find, parse, parse_run
from omium.orchestration.history.recorded import instances
from omium.orchestration.history.replaying import replay
from omium.orchestration.history.reset import readers
from omium.orchestration.history.rollback import Back
from omium.orchestration.ids import Digest, EffectId, Fence, NodeId, RunId, Seq, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.courses import is_overtaken, name_taken
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import apply
from omium.orchestration.log.state import RUN_TERMINAL, RunState, RunStatus
from omium.orchestration.ports import IdempotencyKey, NewBlob, RunQuery, RunRow, Write, Written
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading, node_views, row_of, run_view, view_at
from omium.orchestration.service.views import (
    BranchView,
    Caller,
    CheckpointPage,
    CheckpointView,
    ClosedView,
    ComparisonView,
    HistoryResult,
    PlanView,
    ReplayView,
    Reuse,
    RunView,
)
from omium.orchestration.values import Encoded, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.ports import Clock

_TRIES = 5
_BRANCHES = 1_000  # of one run, in a tree


class HistoryService(Reading):
    """Part of the core. What executes here (files, compensations) needs the engine; without one it is left to whoever
    executes the run next, and the answer says so."""

    if TYPE_CHECKING:
        engine: Engine | None
        clock: Clock

        def idempotency(
            self, caller: Caller, operation: str, key: str | None, arguments: Sequence[Any], result: Mapping[str, Any]
        ) -> IdempotencyKey | None: ...

        def policy_now(self) -> Encoded | None: ...

        def agents_now(self) -> Encoded | None: ...

    _standing: Ground | None = None

    @property
    def _ground(self) -> Ground:
        """One for all calls, made anew once the engine of this process is there."""
        if self._standing is None or self._standing.engine is not self.engine:
            self._standing = Ground(
                self.store,
                self.clock,
                self.programs,
                self.structure,
                self.engine,
                policy_now=self.policy_now,
                agents_now=self.agents_now,
            )
        return self._standing

    async def take_back(
        self,
        state: RunState,
        fence: Fence,
        node_id: NodeId,
        rule: FailureRule,
        setback: Mapping[str, Any],
        agreed: frozenset[EffectId],
    ) -> TakenBack | None:
        """For the engine: how a run goes back by a rule of its workflow. See `engine.setbacks.TakeBack`."""
        return await automatic.take_back(self._ground, state, fence, node_id, rule, setback, agreed)

    async def finish_undoing(self, run_id: RunId, fence: Fence) -> None:
        """For the engine: see `engine.setbacks.Undo`."""
        await rollback.finish_undoing(self._ground, run_id, fence)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    async def checkpoint(
        self,
        caller: Caller,
        run_id: RunId,
        label: str,
        *,
        at: str | int | None = None,
        note: str | None = None,
        requires: Sequence[str] = (),
        expects: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> CheckpointView:
        """Give a position (the present one, unless given) a name.

        requires: conditions (CEL over `inputs`, `nodes`, `run`) without which nothing is recorded; expects:
        conditions on what was recorded: when one does not hold, the checkpoint is kept, marked as not valid, and
        cannot be gone back to. Raises `precondition_failed` for both, `integrity` when a value that the run would go
        on with cannot be read, `conflict` when the label is taken, `invalid_argument` and `not_found`."""
        roles.check(caller, "checkpoint")
        row = await self.row(caller, run_id)
        arguments = [run_id, label, at, note, list(requires), list(expects)]
        key = self.idempotency(caller, "checkpoint", idempotency_key, arguments, {"run": run_id, "label": label})
        if await self._earlier(key) is not None:
            return await checkpoints.named(self._ground, row, label)
        seq = row.seq if at is None else await find(self.store, row, parse(at, run_id), self.store.state)
        await checkpoints.create(self._ground, caller, row, label, seq, note, requires, expects, key)
        return await checkpoints.named(self._ground, row, label)

    async def list_checkpoints(
        self, caller: Caller, run_id: RunId, *, before: int | None = None, limit: int = 50
    ) -> CheckpointPage:
        """The positions that the run can go back to, newest first. `before`: what the page before gave as `next`."""
        roles.check(caller, "list_checkpoints")
        await self.row(caller, run_id)
        if not 1 <= limit <= 500:
            raise OmiumError("invalid_argument", f"a page has 1 to 500 checkpoints, not {limit}.")
        return await checkpoints.page(self._ground, run_id, None if before is None else Seq(before), limit)

    # --- rollback -------------------------------------------------------------------------------------------------

    async def preview_rollback(self, caller: Caller, run_id: RunId, to: str | int) -> PlanView:
        """What `rollback` would do, with a token for doing just that."""
        roles.check(caller, "preview_rollback")
        row = await self.row(caller, run_id)
        seq = await find(self.store, row, parse(to, run_id), self.store.state)
        planned = await rollback.plan_rollback(self._ground, run_id, seq, preview=True)
        return await self._preview(caller, planned.draft)

    async def rollback(
        self,
        caller: Caller,
        run_id: RunId,
        to: str | int,
        *,
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> HistoryResult:
        """Take a run back: state and files as of a position; it lands in `paused`. Nothing is lost: the way forward
        is a rollback to a later position.

        Raises `invalid_argument`, `not_found` and `not_allowed` for the position, `integrity` (with the nearest one
        that is whole), `precondition_failed` for a checkpoint that is not valid, `plan_required`, `plan_expired`."""
        roles.check(caller, "rollback")
        row = await self.row(caller, run_id)
        result = {"run": run_id, "to": str(to), "generation": row.generation}
        key = self.idempotency(caller, "rollback", idempotency_key, [run_id, str(to), reason], result)
        earlier = await self._earlier(key)
        if earlier is not None:
            return await self._land(caller, run_id, await self._rolled_back(run_id, int(earlier["generation"])))
        place = parse(to, run_id)
        seq, label = await find(self.store, row, place, self.store.state), place.name if place.kind == "label" else None
        for attempt in range(1, _TRIES + 1):
            planned = await rollback.plan_rollback(self._ground, run_id, seq, preview=False)
            if plan_token is None and planned.draft.unsafe:
                seen = await rollback.plan_rollback(self._ground, run_id, seq, preview=True)
                raise plans.required(await self._preview(caller, seen.draft))
            agents, blobs = self._agents_for(planned.now)
            command = planned.command(reason, label, agents)
            try:
                async with self._redeemed(caller, planned.draft, plan_token):
                    write = Write(run_id, [command], caller.principal, None, blobs, None, key, below=planned.below)
                    written = await self.store.write(write)
                break
            except OmiumError as error:
                if not is_overtaken(error) or attempt == _TRIES:
                    raise
        if written.replayed is not None:
            return await self._land(
                caller, run_id, await self._rolled_back(run_id, int(written.replayed["generation"]))
            )
        return await self._land(caller, run_id, written.events[-1], planned)

    async def _rolled_back(self, run_id: RunId, generation: int) -> Event:
        """The first rollback of a run after it was in this generation."""
        after = Seq(0)
        while page := await self.store.events(run_id, after, 2_000):
            for event in page:
                if event.type is EventType.RUN_ROLLED_BACK and event.data["generation"] > generation:
                    return event
            after = page[-1].seq
        raise OmiumError("internal", f"run {run_id} has no rollback after generation {generation}.")

    async def _land(
        self,
        caller: Caller,
        run_id: RunId,
        event: Event,
        planned: Back | None = None,
    ) -> HistoryResult:
        landed = await rollback.land(self._ground, run_id, event, caller.principal, planned)
        changed, removed, added = landed.files
        return HistoryResult(
            operation="rollback",
            run=await self.get_run(caller, run_id),
            reset=landed.reset,
            files_changed=changed,
            files_removed=removed,
            files_added=added,
            undone=[deed.view() for deed in landed.deeds if deed.compensated == "done"],
            not_undone=[deed.view() for deed in landed.deeds if deed.compensated != "done"],
            notes=landed.notes,
        )

    # --- branches -------------------------------------------------------------------------------------------------

    async def preview_branch(
        self, caller: Caller, run_id: RunId, at: str | int | None = None, overrides: Mapping[str, Any] | None = None
    ) -> PlanView:
        """What a branch would run again of what its parent has run, with a token for just that."""
        roles.check(caller, "preview_branch")
        changed = check_form(overrides)
        fork = await self._fork(await self.row(caller, run_id), at, changed)
        return await self._preview(caller, await branching.draft_fork(self._ground, fork, changed))

    async def branch(
        self,
        caller: Caller,
        run_id: RunId,
        at: str | int | None = None,
        *,
        name: str,
        hypothesis: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        start: bool = True,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> HistoryResult:
        """A new run that begins with what this one had at a position (the present one, unless given), or, with
        `before:<node>`, with everything but that node and what depends on it. The parent stays as it is.

        With `start` False it is a draft, which `resume` starts. Raises `conflict` when the parent has a branch of this
        name, and what `preview_branch` raises."""
        roles.check(caller, "branch")
        branching.check_name(name)
        branching.check_hypothesis(hypothesis)
        changed = check_form(overrides)
        row = await self.row(caller, run_id)
        child = RunId(new_id("run", self.clock.now_us() // 1000))
        arguments = [run_id, None if at is None else str(at), name, hypothesis, changed, start]
        key = self.idempotency(caller, "branch", idempotency_key, arguments, {"run": child})
        earlier = await self._earlier(key)
        for attempt in range(1, _TRIES + 1):
            fork = await self._fork(row, at, changed)
            draft = None if earlier is not None else await self._draft_of(fork, changed, plan_token)
            if draft is not None and plan_token is None and draft.unsafe:
                raise plans.required(await self._preview(caller, draft))
            try:
                async with self._redeemed(caller, draft, plan_token):
                    return await self._branch(caller, fork, child, name, hypothesis, start, key, earlier, "branch")
            except OmiumError as error:
                if not is_overtaken(error) or attempt == _TRIES:
                    raise
            row = await self.row(caller, run_id)
        raise AssertionError("the last attempt returns or raises")

    async def _fork(self, row: RunRow, at: str | int | None, overrides: Mapping[str, Any]) -> Fork:
        place = None if at is None else parse(at, row.id, before=True)
        if place is None or place.kind == "before":
            return await branching.plan_fork(self._ground, row, row.seq, place, overrides)
        seq = await find(self.store, row, place, self.store.state)
        return await branching.plan_fork(self._ground, row, seq, None, overrides)

    async def _draft_of(self, fork: Fork, overrides: Mapping[str, Any], token: str | None) -> Draft | None:
        """What has to be looked at of a branch; None when nothing has to."""
        if token is not None or await branching.may_repeat(self._ground, fork):
            return await branching.draft_fork(self._ground, fork, overrides)
        return None

    async def _branch(
        self,
        caller: Caller,
        fork: Fork,
        child: RunId,
        name: str,
        hypothesis: str | None,
        start: bool,
        key: IdempotencyKey | None,
        earlier: Mapping[str, Any] | None,
        operation: str,
    ) -> HistoryResult:
        if earlier is None:
            child, noted = await branching.note(self._ground, caller, fork, child, name, hypothesis, key)
            earlier = noted.replayed
        child = child if earlier is None else RunId(earlier["run"])
        if earlier is not None and await self.store.run(child) is not None:
            view = await self.get_run(caller, child)
        else:  # a repeat of a request that was cut off in between finishes it, unless its name was given away
            noted_for = (await self.store.state(fork.parent.id)).branches if earlier is not None else {name: child}
            if child not in noted_for.values():
                raise name_taken(fork.parent.id, name, noted_for.get(name))
            view = _created_view(
                child, await branching.create(self._ground, caller, fork, child, name, hypothesis, start)
            )
        return HistoryResult(operation=operation, run=view, reset=fork.again)

    async def branch_tree(self, caller: Caller, run_id: RunId) -> BranchView:
        """The whole tree of branches that a run belongs to, from the run that is no branch."""
        roles.check(caller, "branch_tree")
        row = await self.row(caller, run_id)
        while row.parent_run is not None:
            above = await self.store.run(row.parent_run)
            if above is None or not caller.may_see(above.project, above.owner):
                break
            row = above
        return await self._tree(caller, row, 0)

    async def _tree(self, caller: Caller, row: RunRow, depth: int) -> BranchView:
        query = RunQuery(projects=(row.project,), owner=caller.only, parent=row.id, limit=_BRANCHES)
        branches = await self.store.runs(query)
        children = [await self._tree(caller, one, depth + 1) for one in reversed(branches)]
        return BranchView(run_view(row), depth, children)

    async def close_branch(
        self,
        caller: Caller,
        run_id: RunId,
        status: Literal["adopted", "abandoned"],
        reason: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> ClosedView:
        """Say what became of a branch. One that is adopted has completed: its parent's log takes over what it gave,
        with where that came from, and the parent's workspace gets its files, if both have one. What was cut off in
        between is finished by adopting it again. One that is abandoned while it goes on is cancelled.

        Raises `not_allowed` when the run is no branch, is closed, or has not completed, and when the parent works on
        the files that would be exchanged; `conflict` when another branch of the same parent was adopted;
        `unsupported` when this process cannot exchange files."""
        roles.check(caller, "close_branch")
        if status not in ("adopted", "abandoned"):
            raise OmiumError("invalid_argument", f"{status!r} is not what becomes of a branch.", "adopted or abandoned")
        row = await self.row(caller, run_id)
        key = self.idempotency(caller, "close_branch", idempotency_key, [run_id, status, reason], {"run": run_id})
        done = await self._earlier(key) is not None
        adopted: Adopted | None = None
        if status == "adopted" and row.parent_run is not None:
            adopted = await adopting.adopt(self._ground, caller, row, reason, done)
            done = done or row.closed == "adopted"
        if not done:
            if status == "abandoned" and row.parent_run is not None and row.closed is None:
                await self._end(caller, row)
            command = c.CloseBranch(status, reason, row.parent_run if status == "adopted" else None)
            await self.store.write(Write(run_id, [command], caller.principal, idempotency=key))
        run = await self.get_run(caller, run_id)
        return ClosedView(run) if adopted is None else ClosedView(run, adopted.files, adopted.back_to, adopted.notes)

    async def _end(self, caller: Caller, row: RunRow) -> None:
        """Cancel a run that goes on, and all below it."""
        if RunStatus(row.status) in RUN_TERMINAL | {RunStatus.DRAFT}:
            return
        try:
            await self.store.write(Write(row.id, [c.CancelRun("abandoned")], caller.principal))
        except OmiumError as error:
            if error.code != "not_allowed":  # it has ended meanwhile
                raise
        await cancel_below(self.store, row.id, caller.principal)

    # --- playing again --------------------------------------------------------------------------------------------

    async def preview_play_from(
        self,
        caller: Caller,
        run_id: RunId,
        node: str,
        overrides: Mapping[str, Any] | None = None,
        reuse: Reuse = "none",
    ) -> PlanView:
        """What `play_from_node` would do, with a token for doing just that."""
        roles.check(caller, "preview_play_from")
        await self.row(caller, run_id)
        planned = await playing.plan_play(
            self._ground, run_id, NodeId(node), check_form(overrides), _reuse(reuse), preview=True
        )
        return await self._preview(caller, planned.draft)

    async def play_from_node(
        self,
        caller: Caller,
        run_id: RunId,
        node: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        reuse: Reuse = "none",
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> HistoryResult:
        """Run a node and everything that depends on it again; the rest keeps its results. A run that has completed or
        was cancelled stays as it is and gets a child run. With `reuse` "unchanged" only what has changed is executed.

        Raises `not_found` (the node), `invalid_argument` and `forbidden` (the overrides), `integrity`, `plan_required`,
        `plan_expired`, `not_allowed`."""
        roles.check(caller, "play_from_node")
        changed, how = check_form(overrides), _reuse(reuse)
        row = await self.row(caller, run_id)
        child = RunId(new_id("run", self.clock.now_us() // 1000))
        arguments = [run_id, node, changed, how, reason]
        result = {"in_place": {"run": run_id}, "child": {"run": child}}
        key = self.idempotency(caller, "play_from_node", idempotency_key, arguments, {})
        earlier = await self._earlier(key)
        if earlier is not None and earlier["run"] == run_id:
            return await self._played(caller, run_id, earlier["reset"])
        for attempt in range(1, _TRIES + 1):
            # A plan is held against what it showed, which is without the calls of what is taken over as it is.
            exact = plan_token is not None and how == "unchanged"
            planned = await playing.plan_play(self._ground, run_id, NodeId(node), changed, how, preview=exact)
            if earlier is None and plan_token is None and planned.draft.unsafe:
                seen = await playing.plan_play(self._ground, run_id, NodeId(node), changed, how, preview=True)
                if seen.draft.unsafe:  # what is taken over as it is repeats nothing
                    raise plans.required(await self._preview(caller, seen.draft))
            draft = planned.draft if earlier is None else None
            in_place = planned.draft.in_place
            told = _with_result(key, {**result["in_place" if in_place else "child"], "reset": planned.reset.nodes})
            try:
                async with self._redeemed(caller, draft, plan_token):
                    if in_place:
                        return await self._play(caller, planned, node, reason, told)
                    fork, name = await self._fork_of(row, planned), _play_name(node, child)
                    return await self._branch(caller, fork, child, name, reason, True, told, earlier, "play_from_node")
            except OmiumError as error:
                row = await self.row(caller, run_id)
                # One that has ended just now gets a child; one that has gone on is looked at again.
                ended = in_place and row.status in playing.IN_A_CHILD and plan_token is None
                if not (is_overtaken(error) or (error.code == "not_allowed" and ended)) or attempt == _TRIES:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _play(
        self, caller: Caller, planned: playing.Play, node: str, reason: str | None, key: IdempotencyKey | None
    ) -> HistoryResult:
        run_id, listed = planned.draft.run_id, encode(list(planned.reset.listed))
        agents, blobs = self._agents_for(planned.state)
        command = c.PlayFrom(
            NodeId(node),
            listed.digest,
            planned.reset.listed,
            planned.overrides,
            planned.reuse,
            reason,
            planned.tree,
            agents,
            planned.state.generation,
            planned.state.seq,
            readers(planned.structure, planned.state),
        )
        blobs = [NewBlob(listed), *blobs]
        write = Write(run_id, [command], caller.principal, blobs=blobs, idempotency=key, below=planned.below)
        written = await self.store.write(write)
        if written.replayed is not None:
            return await self._played(caller, run_id, written.replayed["reset"])
        await stop_below(self._ground, run_id, planned.reset.nodes, caller.principal)
        return await self._played(caller, run_id, planned.reset.nodes)

    def _agents_for(self, state: RunState) -> tuple[Digest | None, list[NewBlob]]:
        """Whoever has a run go another way means the agents of now, which may have been mended meanwhile."""
        agents = self.agents_now() if state.agents is not None else None
        return (None, []) if agents is None else (agents.digest, [NewBlob(agents)])

    async def _played(self, caller: Caller, run_id: RunId, reset: Sequence[NodeId]) -> HistoryResult:
        return HistoryResult(operation="play_from_node", run=await self.get_run(caller, run_id), reset=tuple(reset))

    async def _fork_of(self, row: RunRow, planned: playing.Play) -> Fork:
        created = (await self.store.events(row.id, limit=1))[0]
        overrides = planned.overrides
        inputs = None
        if "inputs" in overrides:
            inputs = (await self._ground.recorded(planned.state)).inputs | overrides["inputs"]
        return Fork(
            row, created, planned.state.seq, planned.below.known, planned.reset.listed, planned.reset.nodes,
            planned.tree, overrides or None, inputs, planned.reuse,
        )  # fmt: skip

    # --- looking at histories -------------------------------------------------------------------------------------

    async def compare(self, caller: Caller, a: str, b: str) -> ComparisonView:
        """Two runs, or positions of runs (`<run>@<seq>`), side by side."""
        roles.check(caller, "compare")
        sides, views = [], []
        for text in (a, b):
            run_id, seq = parse_run(text)
            row = await self.row(caller, run_id)
            state = await self.store.state(run_id, None if seq is None else await self._checked(row, seq))
            structure = await self.structure(state)
            shown = {one.id: one for one in node_views(state, structure)}
            sides.append((state, structure, instances(structure, state), shown))
            views.append(view_at(state, structure))
        return await compare(self._ground, views[0], views[1], sides[0], sides[1])

    async def run_at(self, caller: Caller, run_id: RunId, at: str | int) -> tuple[RunView, RunState]:
        """A run as it stood at a position, with its nodes, and the fold of its log up to there. What is `allowed` is
        what was allowed then. Raises `not_found` and `invalid_argument` for the position."""
        roles.check(caller, "run_at")
        row = await self.row(caller, run_id)
        state = await self.store.state(run_id, await find(self.store, row, parse(at, row.id), self.store.state))
        structure = await self.structure(state)
        return view_at(state, structure, node_views(state, structure)), state

    async def _checked(self, row: RunRow, seq: Seq) -> Seq:
        return await find(self.store, row, parse(seq, row.id), self.store.state)

    async def replay(self, caller: Caller, run_id: RunId) -> ReplayView:
        """Feed the run's recorded results to its definition as it is registered now (to its own, when none of that name
        is), without effects: the first thing that comes out differently, if anything does."""
        roles.check(caller, "replay")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        await self.structure(state)
        current = self.catalog.workflows.get(state.workflow)
        own = self.programs.get(state.definition)
        assert own is not None, "the structure was made from it"
        return await replay(self._ground, state, own if current is None else Program(current))

    # --- shared ---------------------------------------------------------------------------------------------------

    async def _earlier(self, key: IdempotencyKey | None) -> Mapping[str, Any] | None:
        """What an earlier request with this key got. Raises `conflict` when that had other arguments."""
        found = await self.store.recall(key.scope, key.key) if key is not None else None
        if found is None or key is None:
            return None
        if found[0] != key.arguments:
            raise OmiumError(
                "conflict",
                f"the idempotency key {key.key!r} was used with other arguments.",
                "Use a new key for a new request.",
            )
        return found[1]

    async def _preview(self, caller: Caller, draft: Draft) -> PlanView:
        return await plans.issue(self.store, self.clock, caller, draft)

    @asynccontextmanager
    async def _redeemed(self, caller: Caller, draft: Draft | None, token: str | None) -> AsyncIterator[None]:
        """The operation of the block uses the token up, if one was given and there is something to carry out."""
        if token is None or draft is None:
            yield
            return
        async with plans.redeemed(self.store, self.clock, caller, token, draft):
            yield


def _created_view(run_id: RunId, written: Written) -> RunView:
    """A new branch as it stands, without reading anything: what it inherits is not counted."""
    state = RunState(run_id)
    for event in written.events:
        state = apply(state, event)
    return run_view(row_of(state), state=state)


def _with_result(key: IdempotencyKey | None, result: Mapping[str, Any]) -> IdempotencyKey | None:
    return None if key is None else IdempotencyKey(key.scope, key.key, key.arguments, result)


def _play_name(node: str, child: RunId) -> str:
    plain = "".join(one if one.isalnum() or one in "_-." else "-" for one in node)[:60].strip("-.")
    return f"play-{plain}-{child[-8:]}"


def _reuse(reuse: str) -> Reuse:
    if reuse not in ("none", "unchanged"):
        raise OmiumError("invalid_argument", f"{reuse!r} is no way to reuse results.", "none or unchanged")
    return "unchanged" if reuse == "unchanged" else "none"
