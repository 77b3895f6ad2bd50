"""The core as its surfaces see it: every verb of Omium, for a caller, over one store.

MCP tools, the command line and the Python client are thin layers over this class. A verb persists, answers and ends: no
run ever lives in a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from omium.orchestration.definition.hashing import definition_hash
from omium.orchestration.definition.json_schema import validate_inputs
from omium.orchestration.definition.model import NodeDef, WorkflowDef
from omium.orchestration.definition.phases import up_to
from omium.orchestration.definition.schema import to_document
from omium.orchestration.engine.children import cancel_below
from omium.orchestration.engine.engine import Engine
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetsNow, no_budgets
from omium.orchestration.ids import NodeId, Principal, RunId, is_id, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.fold import apply
from omium.orchestration.log.state import RUN_TERMINAL, RunState, RunStatus
from omium.orchestration.ports import Clock, IdempotencyKey, NewBlob, RunQuery, RunRow, Store, SystemClock, Write
from omium.orchestration.ports_agents import AgentsNow, AgentSource, needs_agents
from omium.orchestration.ports_workspace import check_source
from omium.orchestration.service import roles
from omium.orchestration.service.agents import AgentService
from omium.orchestration.service.approvals import ApprovalService
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.epics import EpicService
from omium.orchestration.service.external import ExternalService
from omium.orchestration.service.failing import FailureService
from omium.orchestration.service.figures import FiguresService
from omium.orchestration.service.gates import GateService
from omium.orchestration.service.history import HistoryService
from omium.orchestration.service.inspecting import InspectionService
from omium.orchestration.service.memory import MemoryService
from omium.orchestration.service.nodes import NodeService
from omium.orchestration.service.reading import Reading, row_of, run_view
from omium.orchestration.service.recounting import RecountService
from omium.orchestration.service.refusals import RefusalLog
from omium.orchestration.service.simulating import SimulationService
from omium.orchestration.service.views import Caller, RunView
from omium.orchestration.service.watching import STATUS_CHANGES, watching
from omium.orchestration.values import Encoded, digest_of, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.setbacks import TakeBack, Undo
    from omium.orchestration.gates.policy import Policy, PolicySource

MAX_DEADLINE_S = 10 * 366 * 86_400
_SETTLED = RUN_TERMINAL | {RunStatus.WAITING_APPROVAL, RunStatus.PAUSED, RunStatus.DRAFT}
_PAUSED, _CANCELLED = frozenset({RunStatus.PAUSED}), frozenset({RunStatus.CANCELLED})
_GOING = frozenset({RunStatus.EXECUTING, RunStatus.PLANNING})
MAX_QUEUED = 100_000
MAX_TITLE = 200
MAX_DEPTH = 16  # runs that start runs that start runs


def _check_title(title: str) -> None:
    """Raises `invalid_argument` for what is no line that can be shown and stored."""
    try:
        title.encode()
    except UnicodeEncodeError:
        raise OmiumError("invalid_argument", "the title is not UTF-8.", "Give it as text.") from None
    if len(title) > MAX_TITLE or len(title.splitlines()) > 1:
        told = f"{len(title)} characters in {len(title.splitlines())} line(s)"
        raise OmiumError("invalid_argument", f"a title is one line of up to {MAX_TITLE} characters, not {told}.")


class RunService(Reading):
    """Starting runs and steering them."""

    if TYPE_CHECKING:
        take_back: TakeBack  # of the history service
        finish_undoing: Undo

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        engine: Engine | None = None,
        clock: Clock | None = None,
        policies: PolicySource | None = None,
        agents: AgentSource | None = None,
        budgets: BudgetsNow = no_budgets,
        longest_s: float | None = None,
    ) -> None:
        """longest_s: no run takes longer: one without a deadline, or with a later one, gets this one."""
        super().__init__(store, catalog)
        self.longest_s = longest_s
        self.engine = engine
        self.clock = clock or SystemClock()
        self.policies = policies
        self.agents = agents
        self.budgets_now = budgets
        self.refusals = RefusalLog(store, self.clock)
        self._policy: tuple[Policy, Encoded] | None = None  # the present version, with its document
        # By name, since a registered one changes rarely: its document, and whether it can come to name agents.
        self._documents: dict[str, tuple[WorkflowDef, Encoded, bool]] = {}

    def bind(self, engine: Engine) -> None:
        """Give the core the engine of this process, which was built with this core's callbacks."""
        self.engine = engine
        self.programs = engine.programs
        engine.take_back, engine.undo = self.take_back, self.finish_undoing

    def at_hand(self, row: RunRow) -> RunState | None:
        return self.engine.state_at(row.id, row.seq) if self.engine is not None else None

    # --- starting -------------------------------------------------------------------------------------------------

    async def run_workflow(
        self,
        caller: Caller,
        workflow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        title: str = "",
        priority: int = 0,
        workspace: str | None = None,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        start: bool = True,
        phases: Sequence[str] | None = None,
    ) -> RunView:
        """Create a run of a registered workflow and answer at once. With `start` False it stays a draft. phases: only
        these nodes of its top level and what they need.

        Raises `not_found` (workflow, with the nearest names), `invalid_argument` (inputs, each problem with its path),
        `not_registered` (workspace), `queue_full`, `conflict` (the idempotency key was used with other arguments)."""
        roles.check(caller, "run_workflow")
        _check_title(title)
        definition = self._definition(workflow)
        if phases is not None:
            definition = up_to(definition, phases)
        given = validate_inputs(definition, dict(inputs or {}))
        if workspace is not None and workspace not in self.catalog.workspaces:
            known = ", ".join(sorted(self.catalog.workspaces)) or "none"
            raise OmiumError("not_registered", f"the workspace {workspace!r} is not declared.", f"Declared: {known}.")
        if workspace is not None and self.engine is not None:
            check_source(workspace, self.catalog.workspaces[workspace])
        if not -1000 <= priority <= 1000:
            raise OmiumError("invalid_argument", f"the priority {priority} is not between -1000 and 1000.")
        if deadline_s is not None and not 0 < deadline_s <= MAX_DEADLINE_S:  # which is also what is no number
            raise OmiumError(
                "invalid_argument",
                f"a deadline of {deadline_s} s is not between 0 and {MAX_DEADLINE_S:,} s, which is ten years.",
            )
        given_s = (deadline_s if deadline_s is not None else definition.deadline_s, self.longest_s)
        seconds = min((one for one in given_s if one is not None), default=None)
        now = self.clock.now_us()
        run_id = RunId(new_id("run", now // 1000))
        create = self._creation(definition, given)
        command = c.CreateRun(
            definition=create.document.digest,
            workflow=definition.name,
            inputs=create.inputs.digest,
            project=caller.project,
            title=title,
            priority=priority,
            deadline_at=None if seconds is None else now + int(seconds * 1e6),
            session=caller.session,
            workspace=workspace,
            policy=create.policy.digest if create.policy is not None else None,
            agents=create.agents.digest if create.agents is not None else None,
        )
        arguments = [definition.name, create.inputs.digest, title, priority, workspace, deadline_s, start]
        arguments += [sorted(phases)] if phases is not None else []
        key = self.idempotency(caller, "run_workflow", idempotency_key, arguments, {"run": run_id})
        if key is None:
            await self._check_room(caller)
        created = await self._create(caller.principal, run_id, command, create, start, key)
        if isinstance(created, RunState):
            return run_view(row_of(created), state=created)
        return await self.view_of(await self.row(caller, RunId(created["run"])))

    def policy_now(self) -> Encoded | None:
        """The policy that a run of now keeps; None where the project declares none."""
        if self.policies is None:
            return None
        policy = self.policies.current()
        if self._policy is None or self._policy[0].digest != policy.digest:
            self._policy = policy, encode(policy.document)
        return self._policy[1]

    def agents_now(self) -> Encoded | None:
        """The agents that a run of now keeps; None where there are none, or where they cannot change."""
        return self.present_agents().document

    def present_agents(self) -> AgentsNow:
        """The agents as they stand, which is what the catalogue has from then on."""
        if self.agents is None:
            return AgentsNow(None, self.catalog.agents)
        now = self.agents.current()
        if now.specs is not self.catalog.agents:
            self.catalog = replace(self.catalog, agents=now.specs)
        return now

    def _creation(self, definition: WorkflowDef, given: dict[str, Any]) -> _Creation:
        known = self._documents.get(definition.name)
        if known is None or known[0] is not definition:
            document, of_agents = encode(to_document(definition)), needs_agents(definition.nodes)
            known = self._documents[definition.name] = (definition, document, of_agents)
        agents = self.agents_now() if known[2] else None
        return _Creation(definition, known[1], given, self.policy_now(), agents)

    def _definition(self, workflow: str) -> WorkflowDef:
        found = self.catalog.workflows.get(workflow)
        if found is None:
            raise self.unknown_workflow(workflow)
        return found

    async def _check_room(self, caller: Caller) -> None:
        """Back-pressure: a queue that grows without bound helps nobody."""
        if self.engine is None or self.engine.busy < self.engine.config.runs:
            return
        waiting = await self.store.queued([caller.project], self.clock.now_us())
        if waiting >= MAX_QUEUED:
            raise OmiumError(
                "queue_full",
                f"{waiting} runs wait to be executed.",
                "Try again later, or start more workers.",
                retry_after_s=30,
            )

    async def _create(
        self,
        actor: Principal,
        run_id: RunId,
        command: c.CreateRun,
        creation: _Creation,
        start: bool,
        key: IdempotencyKey | None = None,
    ) -> RunState | Mapping[str, Any]:
        """Write the run, and have it executed here when there is room. Its state, which may be the engine's: to be read
        before the next await; or what an earlier request got."""
        engine = self.engine
        claim = engine.worker if engine is not None and start and engine.reserve(run_id, command.project) else None
        commands: list[c.Command] = [command]
        if start:
            commands += [c.PlanRun(), c.StartRun()]
        named = (creation.document, creation.inputs, creation.policy, creation.agents)
        blobs = [NewBlob(one) for one in named if one is not None]
        above = RunId(command.caller["run"]) if command.caller is not None else None
        write = Write(run_id, commands, actor, blobs=blobs, claim=claim, idempotency=key, awaited_by=above)
        # Whoever asked may go away meanwhile: a run that is written as ours has to be taken up all the same.
        with anyio.CancelScope(shield=True):
            try:
                written = await self.store.write(write)
                if written.replayed is not None:
                    return written.replayed
                state = _folded(run_id, written.events)
                if engine is not None and written.fence is not None:
                    engine.adopt_new(state, written.fence, creation.definition, creation.given)
                elif engine is not None:
                    engine.look()
            finally:
                if engine is not None and claim is not None:
                    engine.unreserve(run_id)
        return state

    async def create_child(self, parent: RunState, node_id: NodeId, child: RunId, workflow: str, inputs: Any) -> None:
        """Create the run of a `workflow` node. Raises like `run_workflow`, and `not_allowed` when the node
        does not wait for it any more; a child that exists is left alone."""
        definition = self._definition(workflow)
        if not isinstance(inputs, dict):
            raise OmiumError(
                "invalid_argument", f"node {node_id} gives its child {type(inputs).__name__}, not an object."
            )
        depth = int((parent.caller or {}).get("depth", 0)) + 1
        if depth > MAX_DEPTH:
            raise OmiumError("invalid_argument", f"runs that start runs: {MAX_DEPTH} levels are allowed.")
        creation = self._creation(definition, validate_inputs(definition, inputs))
        if parent.agents is not None:  # whose part it is: what changed since is not for it
            creation.agents = None
        command = c.CreateRun(
            definition=creation.document.digest,
            workflow=definition.name,
            inputs=creation.inputs.digest,
            project=parent.project,
            title=f"{parent.title or parent.workflow} / {node_id}",
            priority=parent.priority,
            caller={
                "run": parent.run_id,
                "node": node_id,
                "generation": parent.node(node_id).generation,
                "depth": depth,
            },
            session=parent.session,
            policy=parent.policy,  # what its parent may not do, it may not do either
            agents=parent.agents or (creation.agents.digest if creation.agents is not None else None),
            owner=parent.owner,
        )
        try:
            await self._create(Principal("engine"), child, command, creation, True)
        except OmiumError as error:
            if error.code != "conflict":
                raise

    # --- steering -------------------------------------------------------------------------------------------------

    async def pause(
        self,
        caller: Caller,
        run_id: RunId,
        *,
        reason: str | None = None,
        interrupt: bool = False,
        idempotency_key: str | None = None,
    ) -> RunView:
        """No new node starts; one in flight finishes, or is stopped with `interrupt` where its definition allows."""
        roles.check(caller, "pause")
        command = c.PauseRun(reason, interrupt)
        there = _PAUSED if not interrupt else frozenset()  # a pause that interrupts is more than one that does not
        return await self._steer(caller, run_id, "pause", command, [reason, interrupt], idempotency_key, there=there)

    async def resume(
        self, caller: Caller, run_id: RunId, *, reason: str | None = None, idempotency_key: str | None = None
    ) -> RunView:
        """Go on after a pause or a rollback; a draft is started."""
        roles.check(caller, "resume")
        row = await self.row(caller, run_id)
        if row.status == RunStatus.DRAFT:
            plan, start = c.PlanRun(), c.StartRun()
            return await self._steer(caller, run_id, "resume", plan, [reason], idempotency_key, start, there=_GOING)
        command = c.ResumeRun(reason)
        return await self._steer(caller, run_id, "resume", command, [reason], idempotency_key, there=_GOING)

    async def cancel(
        self, caller: Caller, run_id: RunId, *, reason: str | None = None, idempotency_key: str | None = None
    ) -> RunView:
        """End the run and all below it: nodes in flight are killed, pending approvals and child runs cancelled."""
        roles.check(caller, "cancel")
        command = c.CancelRun(reason)
        view = await self._steer(caller, run_id, "cancel", command, [reason], idempotency_key, there=_CANCELLED)
        await cancel_below(self.store, run_id, caller.principal)
        return view

    async def signal(
        self, caller: Caller, run_id: RunId, name: str, payload: Any = None, *, idempotency_key: str | None = None
    ) -> RunView:
        """Send a signal to the nodes that wait, or will wait, for one of this name; one signal wakes one node."""
        roles.check(caller, "signal")
        await self.row(caller, run_id)
        encoded = encode(payload)
        arguments = [run_id, name, encoded.digest]
        key = self.idempotency(caller, "signal", idempotency_key, arguments, {"run": run_id})
        command = c.Signal(name, encoded.digest, encoded.size)
        write = Write(run_id, [command], caller.principal, blobs=(NewBlob(encoded),), idempotency=key)
        await self.store.write(write)
        return await self.get_run(caller, run_id)

    async def _steer(
        self,
        caller: Caller,
        run_id: RunId,
        verb: str,
        command: c.Command,
        arguments: Sequence[Any],
        idempotency_key: str | None,
        *more: c.Command,
        there: frozenset[RunStatus] = frozenset(),
    ) -> RunView:
        """Have a run steered. One that is `there` already is left alone: whoever repeats a request gets the state."""
        row = await self.row(caller, run_id)
        if RunStatus(row.status) in there:
            return await self.view_of(row)
        # One scope for all of them: a key is of one request, and what that asks for is an argument.
        key = self.idempotency(caller, "control_run", idempotency_key, [verb, run_id, *arguments], {"run": run_id})
        try:
            await self.store.write(Write(run_id, [command, *more], caller.principal, idempotency=key))
        except OmiumError as error:
            row = await self.row(caller, run_id)  # somebody may have asked for the same since the look
            if error.code != "not_allowed" or RunStatus(row.status) not in there:
                raise
            return await self.view_of(row)
        return await self.get_run(caller, run_id)

    async def wait(self, caller: Caller, run_id: RunId, seconds: float, *, detail: bool = False) -> RunView:
        """The run once it has ended, waits for a decision or is paused; or as it stands after `seconds`."""
        roles.check(caller, "wait")
        with watching(self.store, run_id, STATUS_CHANGES) as watch:
            with anyio.move_on_after(seconds):
                row = await self.row(caller, run_id)
                while RunStatus(row.status) not in _SETTLED:
                    await watch.wait()
                    row = await self.row(caller, run_id)
                return await self.view_of(row, detail=detail)
        return await self.get_run(caller, run_id, detail=detail)

    # --- shared -----------------------------------------------------------------------------------------------------

    def idempotency(
        self, caller: Caller, operation: str, key: str | None, arguments: Sequence[Any], result: Mapping[str, Any]
    ) -> IdempotencyKey | None:
        """The key of a request, scoped to its project, caller and operation."""
        if key is None:
            return None
        if not 1 <= len(key) <= 200 or "\0" in key:
            raise OmiumError("invalid_argument", "an idempotency key has 1 to 200 characters, and no NUL.")
        scope = f"{caller.project}\0{caller.principal}\0{operation}"
        return IdempotencyKey(scope, key, digest_of(list(arguments)), result)

    async def find_run(self, caller: Caller, text: str) -> RunId:
        """The run that a person means: a whole id, the end or the beginning of one that is unique, or "last", which is
        the newest that no other run has started."""
        roles.check(caller, "find_run")
        if is_id(text, "run"):
            return (await self.row(caller, RunId(text))).id
        projects = (caller.project,)
        if text == "last":
            found = await self.store.runs(RunQuery(projects=projects, owner=caller.only, top=True, limit=1))
        elif len(text) >= 4:
            wanted = text.removeprefix("run_").upper()
            candidates = await self.store.runs(RunQuery(projects=projects, owner=caller.only, text=wanted, limit=50))
            found = [row for row in candidates if row.id[4:].startswith(wanted) or row.id.endswith(wanted)]
        else:
            found = []
        if len(found) == 1:
            return found[0].id
        what = "is not unique" if found else "is no run"
        ids = ", ".join(row.id for row in found[:5])
        raise OmiumError("not_found", f"{text!r} {what}.", f"Did you mean one of {ids}?" if ids else "List the runs.")

    async def row(self, caller: Caller, run_id: RunId) -> RunRow:
        """The run's row, if the caller may know of it."""
        roles.check(caller, "row")
        found = await self.store.run(run_id)
        if found is None or not caller.may_see(found.project, found.owner):
            raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
        return found


def _folded(run_id: RunId, events: Sequence[Event]) -> RunState:
    state = RunState(run_id)
    for event in events:
        state = apply(state, event)
    return state


class _Creation:
    """A definition and inputs, encoded once."""

    def __init__(
        self,
        definition: WorkflowDef,
        document: Encoded,
        given: dict[str, Any],
        policy: Encoded | None = None,
        agents: Encoded | None = None,
    ) -> None:
        self.definition = definition
        self.given = given
        self.document = document
        self.inputs: Encoded = encode(given)
        self.policy = policy
        self.agents = agents


class Core(
    AgentService,
    EpicService,
    MemoryService,
    HistoryService,
    InspectionService,
    NodeService,
    RecountService,
    FailureService,
    FiguresService,
    ApprovalService,
    GateService,
    SimulationService,
    ExternalService,
    RunService,
):
    """Every verb."""

    def check_names(self, nodes: Sequence[NodeDef]) -> None:
        """Refuse the steps of a plan that name anything unregistered, or say what this version does not do."""
        self.catalog.check_steps(tuple(nodes))


__all__ = ["Core", "RunService", "definition_hash"]
