"""Looking at runs: views made from rows and folds."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import replace

from omium.orchestration.definition.address import container_of
from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.hashing import definition_hash
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.definition.plan import parse_plan
from omium.orchestration.engine.programs import Programs
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.recorded import expansions, expected
from omium.orchestration.ids import ApprovalId, Digest, NodeId, RunId, Seq, is_id
from omium.orchestration.log.events import EventType
from omium.orchestration.log.rows import RUN_COLUMNS, run_row
from omium.orchestration.log.state import NODE_TERMINAL, RUN_TERMINAL, NodeState, NodeStatus, RunState, RunStatus
from omium.orchestration.log.transitions import allowed
from omium.orchestration.ports import ApprovalRow, RunQuery, RunRow, Store
from omium.orchestration.service import roles
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.views import ApprovalView, Caller, EventView, NodeView, RunPage, RunView, WorkflowView
from omium.orchestration.service.watching import watching
from omium.orchestration.values import Value

_FOLDED_IN_LISTS = 5_000  # events
_SHARES = 10_000
_CONSEQUENCES = {
    "node": "The run goes on from this question with the decision as its output; a rejection fails the node.",
    "step": "Approving starts the node; rejecting fails it; skipping leaves it out.",
    "error": "Retry runs the node again; skip goes on without it; abort fails it.",
    "unknown_effect": "Retry calls again, though it may have happened; skip leaves the node out; abort fails it.",
    "plan": "Approving carries out the plan, modify another one; retry plans again; rejecting fails the node.",
    "call": "Approving lets exactly this call be made, once; rejecting has it refused, and the node told.",
    "question": "The work goes on from here with the answer; rejecting fails the node.",
}
_GOES_BACK = "Rollback takes the whole run back, calls that are listed may then happen again. "


class Reading:
    """The read side of the core."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store = store
        self.catalog = catalog
        self.programs = Programs()
        self._shares: dict[RunId, tuple[int, float]] = {}  # progress of listed runs, at a position of their logs

    async def row(self, caller: Caller, run_id: RunId) -> RunRow:
        raise AssertionError("provided by RunService")

    # --- workflows ------------------------------------------------------------------------------------------------

    async def list_workflows(self, caller: Caller) -> list[WorkflowView]:
        """The registered workflows, by name."""
        roles.check(caller, "list_workflows")
        return [_workflow(w, self.catalog.source_of(name)) for name, w in sorted(self.catalog.workflows.items())]

    async def get_workflow(self, caller: Caller, name: str) -> tuple[WorkflowView, WorkflowDef]:
        roles.check(caller, "get_workflow")
        found = self.catalog.workflows.get(name)
        if found is None:
            raise self.unknown_workflow(name)
        return _workflow(found, self.catalog.source_of(name)), found

    def unknown_workflow(self, name: str) -> OmiumError:
        near = difflib.get_close_matches(name, list(self.catalog.workflows), n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "List the workflows to see what is registered."
        return OmiumError("not_found", f"there is no workflow {name!r}.", hint)

    # --- runs -----------------------------------------------------------------------------------------------------

    async def get_run(self, caller: Caller, run_id: RunId, *, detail: bool = False) -> RunView:
        """A run as it stands; with `detail` its nodes, output and pending approvals."""
        roles.check(caller, "get_run")
        return await self.view_of(await self.row(caller, run_id), detail=detail)

    async def view_of(self, row: RunRow, *, detail: bool = False) -> RunView:
        """The run of a row that was just read."""
        state = self.at_hand(row)
        structure = await self.structure(state) if state is not None else None
        if state is None or structure is None or state.seq != row.seq:  # it went on meanwhile
            state = await self.store.state(row.id)
            structure = await self.structure(state)
        counted = _counted(state, structure)
        nodes = node_views(state, structure) if detail else ()
        pending = await self.store.approvals(run_id=row.id) if detail or row.status == "waiting_approval" else []
        output, no_output = None, None
        if detail and state.output is not None:
            output, no_output = await or_why(self._output(state.output, f"run {row.id}"))
        started = await self.store.started_by([row.id]) if detail else {}
        view = run_view(
            row,
            state=state,
            nodes=nodes,
            counted=counted,
            ahead=_unbegun(state, structure),
            output=output,
            no_output=no_output,
            approvals=[await self.approval_view(one, row) for one in pending],
        )
        return replace(view, children=started[row.id]) if started else view

    def at_hand(self, row: RunRow) -> RunState | None:
        """The run at the row's position, if this process knows it without reading. It changes with the next await."""
        return None

    async def list_runs(
        self,
        caller: Caller,
        *,
        statuses: Sequence[str] = (),
        workflow: str | None = None,
        text: str | None = None,
        parent: RunId | None = None,
        session: str | None = None,
        children: bool = False,
        before: RunId | None = None,
        limit: int = 50,
    ) -> RunPage:
        """Newest first, without the runs that other runs have started unless `children` asks for them.

        Raises `invalid_argument` for an unknown status, a limit outside 1 to 500, a `before` that is no run's id and a
        text that no run can hold."""
        roles.check(caller, "list_runs")
        unknown = [status for status in statuses if status not in set(RunStatus)]
        if unknown:
            known = ", ".join(RunStatus)
            raise OmiumError("invalid_argument", f"{unknown[0]!r} is no status of a run.", f"Statuses: {known}.")
        if not 1 <= limit <= 500:
            raise OmiumError("invalid_argument", f"a page has 1 to 500 runs, not {limit}.")
        if before is not None and not is_id(before, "run"):
            raise OmiumError("invalid_argument", f"{before!r} is no place to go on from.", "The last page names it.")
        if any("\0" in wanted for wanted in (workflow, text, session) if wanted):
            raise OmiumError("invalid_argument", "a filter holds a NUL character, which nothing here has.")
        query = RunQuery(
            projects=(caller.project,),
            owner=caller.only,
            statuses=tuple(statuses),
            workflow=workflow,
            text=text,
            parent=parent,
            session=session,
            top=not children,
            before=before,
            limit=limit + 1,
        )
        rows = await self.store.runs(query)
        hidden = not rows and query.top and bool(await self.store.runs(replace(query, top=False, limit=1)))
        more, rows = len(rows) > limit, rows[:limit]
        started = await self.store.started_by([row.id for row in rows])
        views = [
            replace(run_view(row), children=started.get(row.id, 0), progress=await self._progress(row)) for row in rows
        ]
        return RunPage(views, rows[-1].id if more else None, hidden)

    async def _progress(self, row: RunRow) -> float:
        """What `get_run` says, for a list: a run that stands still is folded once. Of one with a very long log it is
        only estimated, from what its row has counted."""
        if row.status == RunStatus.COMPLETED:
            return 1.0
        known = self._shares.get(row.id)
        if known is not None and known[0] == row.seq:
            return known[1]
        state = self.at_hand(row)
        if state is None and row.seq > _FOLDED_IN_LISTS:
            program = self.programs.get(row.definition)
            return min(0.99, row.completed_nodes / len(program.structure().children_of(None))) if program else 0.0
        try:
            state = state or await self.store.state(row.id)
            structure = await self.structure(state)
            counted, ahead = _counted(state, structure), _unbegun(state, structure)
        except OmiumError:  # a damaged run is listed all the same
            return 0.0
        share = run_view(row, counted=counted, ahead=ahead).progress
        if len(self._shares) >= _SHARES:
            self._shares.clear()
        self._shares[row.id] = state.seq, share
        return share

    async def structure(self, state: RunState) -> Structure:
        """Where the nodes of a run stand, with the plans that have expanded."""
        program = self.programs.get(state.definition)
        if program is None:
            document = await self.store.value(state.definition)
            try:
                program = self.programs.put(state.definition, document)
            except ValueError as error:  # it was valid to whoever stored it
                raise OmiumError(
                    "unsupported",
                    f"the definition of run {state.run_id} means nothing to this version of Omium.",
                    "A newer one has stored it: use that.",
                ) from error
        structure = program.structure()
        plans = [n for n, node in state.nodes.items() if node.expansion is not None and "plan" in node.expansion]
        for node_id in sorted(plans, key=len):  # a container's address is shorter than what is inside it
            expansion = state.nodes[node_id].expansion or {}
            definition = structure.node_def(node_id)
            nodes = parse_plan(
                await self.store.value(expansion["plan"]),
                inputs=structure.workflow.inputs,
                readable=structure.readable(node_id),
                agent=definition.use if definition.kind == "agent" else None,
            )
            structure.add_plan(node_id, nodes)
        return structure

    async def events(self, caller: Caller, run_id: RunId, *, after: int = 0, limit: int = 200) -> list[EventView]:
        """Events after a position, in order."""
        roles.check(caller, "events")
        await self.row(caller, run_id)
        found = await self.store.events(run_id, Seq(after), limit)
        return [EventView(e.seq, e.type.value, e.at, e.actor, e.data, e.hash.hex()) for e in found]

    async def follow(self, caller: Caller, run_id: RunId, *, after: int = 0) -> AsyncIterator[EventView]:
        """Events as they come, from `after` on; ends when the run has ended and everything was given."""
        roles.check(caller, "follow")
        while True:
            row = await self.row(caller, run_id)
            page = await self.events(caller, run_id, after=after)
            for event in page:
                after = event.seq
                yield event
            if page:
                continue
            if RunStatus(row.status) in RUN_TERMINAL and row.seq <= after:
                return
            # No task may outlive a step of a generator, which its reader can abandon: each wait has a watch of its own.
            with watching(self.store, run_id) as watch:
                while (await self.row(caller, run_id)).seq <= after:
                    await watch.wait()

    async def node_output(self, caller: Caller, run_id: RunId, node: str) -> Value:
        """What a node gave. Raises `not_found` when it has given nothing (yet), when that was erased, or when there is
        no such node, with the nearest ids; `integrity` when it is damaged."""
        roles.check(caller, "node_output")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        found = state.nodes.get(NodeId(node))
        if found is not None and found.output is not None:
            return await self._output(found.output, f"node {node!r} of run {run_id}")
        known = {str(one): shown_status(state, of).value for one, of in nodes_of(state, await self.structure(state))}
        if node not in known:
            near = difflib.get_close_matches(node, list(known), n=3) or list(known)[:5]
            raise OmiumError(
                "not_found",
                f"run {run_id} has no node {node[:200]!r}.",
                f"Did you mean {', '.join(near)}?" if near else "",
                what="node",
            )
        hint = "Wait until it has completed." if known[node] in ("pending", "running") else ""
        raise OmiumError(
            "not_found", f"node {node!r} of run {run_id} has no output: it is {known[node]}.", hint, what="output"
        )

    async def run_output(self, caller: Caller, run_id: RunId) -> Value:
        """What a run gave. Raises `not_found` when it has given nothing (yet) or when that was erased, and `integrity`
        when it is damaged."""
        roles.check(caller, "run_output")
        row = await self.row(caller, run_id)
        if row.output is None:
            raise OmiumError("not_found", f"run {run_id} has no output: it is {row.status}.", what="output")
        return await self._output(row.output, f"run {run_id}")

    async def _output(self, digest: Digest, whose: str) -> Value:
        try:
            return await self.store.value(digest)
        except OmiumError as error:
            if error.code != "not_found":
                raise
            told = f"the output of {whose} is not stored any more: it was erased."
            raise OmiumError("not_found", told, what="output", digest=digest) from error

    async def artifact(self, caller: Caller, run_id: RunId, name: str) -> Value:
        """The newest artifact of this name."""
        roles.check(caller, "artifact")
        await self.row(caller, run_id)
        digest: Digest | None = None
        for event in await self.store.events(run_id, limit=1_000_000):
            if event.type is EventType.ARTIFACT_SAVED and event.data["name"] == name:
                digest = event.data["digest"]
        if digest is None:
            raise OmiumError("not_found", f"run {run_id} has no artifact {name!r}.")
        return await self.store.value(digest)

    # --- approvals ------------------------------------------------------------------------------------------------

    async def approval_view(self, row: ApprovalRow, run: RunRow, *, whole: bool = False) -> ApprovalView:
        """`whole`: raise `integrity` or `not_found` where what is asked about cannot be shown."""
        details, arguments = row.details, None
        if row.scope in ("call", "plan", "unknown_effect") and details is not None and "arguments" in details:
            digest = Digest(details["arguments"])
            arguments = await (self.store.value(digest) if whole else self._content(digest))
            details = {**details, "arguments": arguments}  # what is stored names it only
        return ApprovalView(
            id=row.id,
            run_id=row.run_id,
            workflow=run.workflow,
            node=row.node,
            scope=row.scope,
            status=row.status,
            question=row.question,
            options=row.options,
            min_assurance=row.min_assurance,
            requested_at=row.requested_at,
            expires_at=row.expires_at,
            decision=row.decision,
            decided_by=row.decided_by,
            assurance=row.assurance,
            feedback=row.feedback,
            decided_at=row.decided_at,
            details=details,
            arguments=arguments,
            consequence=(_GOES_BACK if "rollback" in row.options else "") + _CONSEQUENCES.get(row.scope, ""),
        )

    async def _content(self, digest: Digest) -> Value:
        """What is shown beside something else: None once it is erased, or damaged, which `verify` says."""
        return (await or_why(self.store.value(digest)))[0]

    async def list_approvals(
        self, caller: Caller, *, run_id: RunId | None = None, pending: bool = True
    ) -> list[ApprovalView]:
        """Oldest first."""
        roles.check(caller, "list_approvals")
        if run_id is not None:
            await self.row(caller, run_id)
        rows = await self.store.approvals(projects=[caller.project], owner=caller.only, run_id=run_id, pending=pending)
        runs: dict[RunId, RunRow] = {}
        for row in rows:
            if row.run_id not in runs:
                runs[row.run_id] = await self.row(caller, row.run_id)
        return [await self.approval_view(row, runs[row.run_id]) for row in rows]

    async def get_approval(self, caller: Caller, approval_id: ApprovalId) -> ApprovalView:
        roles.check(caller, "get_approval")
        row = await self.store.approval(approval_id)
        run = await self.store.run(row.run_id) if row is not None else None
        if row is None or run is None or not caller.may_see(run.project, run.owner):
            raise OmiumError("not_found", f"there is no approval {approval_id}.", "List the approvals that wait.")
        return await self.approval_view(row, run, whole=row.status == "pending")


async def or_why(reading: Awaitable[Value]) -> tuple[Value, str | None]:
    """A content to be shown beside other things, or why it cannot be: it was erased, or it is damaged."""
    try:
        return await reading, None
    except OmiumError as error:
        if error.code not in ("not_found", "integrity"):
            raise
        return None, error.message


def _workflow(definition: WorkflowDef, source: str | None) -> WorkflowView:
    return WorkflowView(
        definition.name,
        definition.description,
        definition_hash(definition),
        definition.inputs,
        len(definition.nodes),
        source,
    )


def shown_status(state: RunState, node: NodeState) -> NodeStatus:
    """A node that nothing happened to ends with its run."""
    if node.status in NODE_TERMINAL or state.status not in RUN_TERMINAL:
        return node.status
    return NodeStatus.CANCELLED


def nodes_of(state: RunState, structure: Structure) -> list[tuple[NodeId, NodeState]]:
    """Every node that there is: those of the definition and of what has expanded, containers before their insides."""
    found: list[tuple[NodeId, NodeState]] = []
    inside: dict[NodeId | None, list[NodeId]] = {}
    for node_id in state.nodes:
        inside.setdefault(container_of(node_id), []).append(node_id)

    todo = [*structure.children_of(None)][::-1]
    while todo:
        node_id = todo.pop()
        node = state.node(node_id)
        found.append((node_id, node))
        if node.expansion is None:
            continue
        if _is_expanded(structure, node_id, node):
            insides: Iterable[NodeId] = expansions(node_id, node.expansion, inside.get(node_id, ()))
        else:
            insides = structure.children_of(node_id)
        todo += [*insides][::-1]
    return found


def _is_expanded(structure: Structure, node_id: NodeId, node: NodeState) -> bool:
    """Whether there are several of a node that has expanded, and not what a plan or a group names."""
    definition = structure.node_def(node_id)
    whole = not node_id.endswith("]") and bool(definition.for_each or definition.repeat)
    return whole or not ("plan" in (node.expansion or {}) or definition.kind == "group")


def node_views(state: RunState, structure: Structure) -> list[NodeView]:
    """`nodes_of`, as they are shown."""
    return [_node_view(state, structure, node_id, node) for node_id, node in nodes_of(state, structure)]


def _node_view(state: RunState, structure: Structure, node_id: NodeId, node: NodeState) -> NodeView:
    definition = structure.node_def(node_id)
    return NodeView(
        id=node_id,
        kind=definition.kind,
        status=shown_status(state, node).value,
        generation=node.generation,
        attempt=node.attempt,
        failures=node.failures,
        started_at=node.started_at,
        ended_at=node.ended_at,
        needs=structure.needs_of(node_id),
        use=definition.use,
        output=node.output,
        output_size=node.size,
        error=node.error,
        reason=node.reason,
        wait=node.wait,
        due_at=node.due_at,
        approval=node.approval,
        reused_from=node.reused_from,
        usage=node.usage,
    )


def _counted(state: RunState, structure: Structure) -> list[tuple[str, str, str | None]]:
    return [(one, shown_status(state, node).value, node.reason) for one, node in nodes_of(state, structure)]


def _unbegun(state: RunState, structure: Structure) -> int:
    """How many expansions are known of nodes that are under way, and have not come to anything yet."""
    if all(node.expansion is None for node in state.nodes.values()):
        return 0
    found = nodes_of(state, structure)
    there = {node_id for node_id, _ in found}
    return sum(
        one not in there
        for node_id, node in found
        if node.expansion is not None and node.status not in NODE_TERMINAL and _is_expanded(structure, node_id, node)
        for one in expected(node_id, node.expansion)
    )


def was_done(status: str, reason: str | None) -> bool:
    """Whether a node has come to its end by itself, and not because its run or a node before it did."""
    return status in ("completed", "failed") or (status == "skipped" and reason != "upstream_failed")


def row_of(state: RunState) -> RunRow:
    """The row that a store has, or will have, of this state."""
    values = dict(zip(RUN_COLUMNS, run_row(state), strict=True))
    return RunRow(**{**values, "error": state.error})


def view_at(state: RunState, structure: Structure, nodes: Sequence[NodeView] = ()) -> RunView:
    """The view of a state, whatever its run has come to since."""
    counted, ahead = _counted(state, structure), _unbegun(state, structure)
    return run_view(row_of(state), state=state, nodes=nodes, counted=counted, ahead=ahead)


def run_view(
    row: RunRow,
    *,
    state: RunState | None = None,
    nodes: Sequence[NodeView] = (),
    counted: Sequence[tuple[str, str, str | None]] = (),
    ahead: int = 0,
    output: Value = None,
    no_output: str | None = None,
    approvals: Sequence[ApprovalView] = (),
) -> RunView:
    """The view of a row, with what a fold adds to it. `counted`: all nodes with the status that is shown, and why;
    `ahead`: how many more are known to come."""
    counts = Counter(status for _, status, _ in counted)
    done = sum(was_done(status, reason) for _, status, reason in counted)
    whole = row.status == RunStatus.COMPLETED
    return RunView(
        id=row.id,
        project=row.project,
        owner=row.owner,
        workflow=row.workflow,
        title=row.title,
        status=row.status,
        reason=row.reason,
        definition=row.definition,
        generation=row.generation,
        seq=row.seq,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        cost_usd=row.cost_usd,
        tokens=row.tokens,
        allowed=allowed(RunStatus(row.status)),
        error=row.error,
        output=output,
        output_digest=row.output,
        no_output=no_output,
        parent_run=row.parent_run,
        parent_seq=row.parent_seq,
        parent_before=(state.parent or {}).get("before") if state is not None else None,
        branch=row.branch,
        hypothesis=row.hypothesis,
        closed=row.closed,
        caller_run=row.caller_run,
        caller_node=row.caller_node,
        session=row.session,
        workspace=state.workspace if state is not None else None,
        progress=1.0 if whole else done / (len(counted) + ahead) if counted else 0.0,
        counts=dict(counts),
        current=[NodeId(node_id) for node_id, status, _ in counted if status == "running"],
        nodes=nodes,
        approvals=approvals,
    )
