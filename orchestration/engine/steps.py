"""The steps of a run: commit the end of an attempt, close a container, recover what another owner left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from omium.orchestration.definition.address import child, container_of, indexed
from omium.orchestration.definition.expressions import holds, render
from omium.orchestration.definition.model import Assurance, NodeDef
from omium.orchestration.definition.plan import parse_plan
from omium.orchestration.engine import gates, scopes, setbacks, starting
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.board import Outcome
from omium.orchestration.engine.executing import Ended
from omium.orchestration.engine.failures import backoff_s, describe, may_retry, without_traceback
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, EffectId, NodeId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import EffectState, NodeStatus, called

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution
    from omium.orchestration.engine.turn import Turn


_ASSURANCES = get_args(Assurance)  # the weakest first


async def finish(run: Execution, turn: Turn, attempt: NodeAttempt, ended: Ended) -> None:
    """Turn the end of an attempt into commands, and free its slots."""
    node_id = attempt.node_id
    if ended.done is None and ended.error is None and attempt.asked is None:
        run.drop_attempt(node_id)  # stopped: whoever stopped it has said, or says, what becomes of it
        run.nudge()
        return
    pending, named = attempt.take_pending()
    turn.commands += pending
    if ended.done is not None:
        turn.commands += attempt.take_open()
    turn.blobs += named
    error = attempt.unclear or ended.error
    try:
        if attempt.asked is not None and attempt.unclear is None:
            error = None  # whatever it ended with after it had stopped to ask
            await _suspend(run, turn, attempt, attempt.asked)
        elif error is None:
            await _complete(run, turn, attempt, ended)
    except OmiumError as refused:  # the value cannot be stored, the plan is not valid, the tree cannot be captured
        error = refused
    if error is not None:
        _fail(run, turn, attempt, error)
    run.drop_attempt(node_id)


async def _suspend(run: Execution, turn: Turn, attempt: NodeAttempt, request: c.RequestApproval) -> None:
    """The work stands still until a person has decided; a writer's files, as they are, are what it goes on with. A call
    that was cut off beside the one that asks comes first: the question comes up again, the call must not."""
    unknown = _unknown(run, attempt.node_id)
    if unknown is not None:
        told = {"category": "unknown", "type": "omium", "message": f"{attempt.node_id} {gates.STOPPED}"}
        if unknown.policy == "fail":
            raise OmiumError("process_failed", f"{told['message']}, and whether that happened is unknown.")
        request = unknown.request(run, attempt.node_id, told, gates.STOPPED)
    if attempt.node.workspace == "write":
        tree = await run.engine.workspaces.capture(run, attempt)
        turn.commands.append(c.CaptureWorkspace(tree, "suspended", attempt.node_id))
        run.tree_ahead = tree
    turn.commands.append(request)
    run.parked[attempt.node_id] = "approval"
    turn.wake(request.expires_at)


async def _complete(run: Execution, turn: Turn, attempt: NodeAttempt, ended: Ended) -> None:
    node_id, node, done = attempt.node_id, attempt.node, ended.done
    assert done is not None
    tree = await run.engine.workspaces.capture(run, attempt) if node.workspace == "write" else None
    run.tree_ahead = tree or run.tree_ahead
    if node.expands:
        if tree is not None:
            turn.commands.append(c.CaptureWorkspace(tree, "planned", node_id))
        await _expand_plan(run, turn, attempt, done.output)
        return
    encoded = starting.keep(run, turn, done.output, attempt.base)
    turn.commands.append(
        c.CompleteNode(
            node_id,
            attempt.generation,
            encoded.digest,
            encoded.size,
            attempt.attempt,
            None,  # the key stands in the event of the start
            tree,
            done.usage,
            ended.ms,
        )
    )
    run.note(node_id, Outcome(NodeStatus.COMPLETED, encoded.digest, encoded.size))


async def _expand_plan(run: Execution, turn: Turn, attempt: NodeAttempt, plan: Any) -> None:
    """The node's output is a plan: its steps become nodes inside it, and it completes when they have."""
    node_id = attempt.node_id
    nodes = parse_plan(
        plan,
        inputs=run.program.workflow.inputs,
        readable=run.structure.readable(node_id),
        agent=attempt.node.use if attempt.node.kind == "agent" else None,
    )
    run.engine.check_names(nodes)
    stored = starting.keep(run, turn, plan)
    if run.program.workflow.approvals in ("after_planning", "manual"):
        spec, about = gates.plan_gate(node_id, len(nodes)), {"arguments": stored.digest}
        now = run.engine.clock.now_us()
        request = gates.request(node_id, attempt.generation, spec, {}, now, kind="plan", details=about)
        turn.commands.append(request)
        run.parked[node_id] = "approval"
        turn.wake(request.expires_at)
        return
    _open_plan(run, turn, node_id, nodes, stored.digest)


def _open_plan(run: Execution, turn: Turn, node_id: NodeId, nodes: tuple[NodeDef, ...], plan: Digest) -> None:
    run.structure.add_plan(node_id, nodes)
    run.plans[node_id] = plan
    turn.commands.append(c.ExpandNode(node_id, _generation(run, node_id), len(nodes), plan=plan))
    run.board.open_scope(node_id)


async def carry_out_plan(run: Execution, turn: Turn, node_id: NodeId, plan: Digest, approval: ApprovalId) -> None:
    """A person said yes to a plan, or gave another one: its steps become nodes. One that is not valid here fails the
    node, as if it had been planned so."""
    starting.begin(run, turn, node_id, approval)
    try:
        nodes = parse_plan(
            await run.engine.values.load(plan),
            inputs=run.program.workflow.inputs,
            readable=run.structure.readable(node_id),
            agent=_planner(run, node_id),
        )
        run.engine.check_names(nodes)
    except OmiumError as error:
        if error.code == "storage_unavailable":
            raise
        state, told = run.folded.node(node_id), describe(error)
        turn.commands.append(c.FailAttempt(node_id, state.generation, state.attempt + 1, told))
        run.note(node_id, Outcome(NodeStatus.FAILED, error=told))
        return
    run.parked.pop(node_id, None)
    _open_plan(run, turn, node_id, nodes, plan)


def _planner(run: Execution, node_id: NodeId) -> str | None:
    """The agent that takes the steps which name nobody."""
    definition = run.structure.node_def(node_id)
    return definition.use if definition.kind == "agent" else None


def _fail(run: Execution, turn: Turn, attempt: NodeAttempt, error: BaseException) -> None:
    told = describe(error)
    unknown = _unknown(run, attempt.node_id)
    if attempt.unclear is not None or (unknown is not None and unknown.policy == "fail"):
        turn.commands.append(c.FailAttempt(attempt.node_id, attempt.generation, attempt.attempt, told))
        run.note(attempt.node_id, Outcome(NodeStatus.FAILED, error=told))
    elif unknown is not None and _asks(run, attempt, unknown, told):  # whether it is made again no retry policy says
        setbacks.ask_instead(run, turn, attempt.node_id, told, unknown.request(run, attempt.node_id, told))
    else:
        failed(run, turn, attempt.node_id, told)


def _asks(run: Execution, attempt: NodeAttempt, unknown: _Unknown, told: dict[str, Any]) -> bool:
    """Whether a person is asked about calls of a failed attempt that may have happened: about one that was cut off,
    and about one that nobody answered where it would be made again, or where the node says so. Without that a server
    that does not answer fails the call, and nothing waits for anybody."""
    node, failures = attempt.node, run.folded.node(attempt.node_id).failures + 1
    cut_off = any(effect.outcome is None for effect in unknown.effects)
    return cut_off or node.on_unknown == "ask" or may_retry(node.retry, told["category"], failures)


def failed(run: Execution, turn: Turn, node_id: NodeId, told: dict[str, Any]) -> None:
    """The present attempt of a node has failed: it is tried again, or somebody is asked, or it is over."""
    node, state = run.structure.node_def(node_id), run.folded.node(node_id)
    generation, attempt, failures = state.generation, state.attempt, state.failures + 1
    now = run.engine.clock.now_us()
    if may_retry(node.retry, told["category"], failures):
        due_at = now + int(backoff_s(node.retry, failures, run.engine.rng) * 1e6)
        turn.commands.append(c.FailAttempt(node_id, generation, attempt, told, retry_at=due_at))
        run.parked[node_id] = "backoff"
        turn.wake(due_at)
        return
    if setbacks.follow_rule(run, turn, node_id, told):
        return
    retries = node.retry.max_attempts > 1
    turn.commands.append(c.FailAttempt(node_id, generation, attempt, told, retries=retries))
    run.note(node_id, Outcome(NodeStatus.FAILED, error=told))


# --- containers ---------------------------------------------------------------------------------------------------


async def close(run: Execution, turn: Turn, container: NodeId | None) -> None:
    """Everything inside has ended: so does the container, or the run."""
    if container is None:
        await _close_run(run, turn)
        return
    node = run.structure.node_def(container)
    expanded = not container.endswith("]")
    try:
        if node.for_each is not None and expanded:
            await _close_fan(run, turn, container, node)
        elif node.repeat is not None and expanded:
            await _close_loop(run, turn, container, node)
        else:
            await _close_scope(run, turn, container, node)
    except OmiumError as error:
        if error.code == "storage_unavailable":
            raise  # no fault of the node's: the run is given up, and taken up again later
        _fail_container(run, turn, container, describe(error))


def _generation(run: Execution, node_id: NodeId) -> int:
    return run.folded.node(node_id).generation


def _complete_container(run: Execution, turn: Turn, container: NodeId, value: Any) -> None:
    encoded = starting.keep(run, turn, value)
    turn.commands.append(c.CompleteNode(container, _generation(run, container), encoded.digest, encoded.size))
    run.note(container, Outcome(NodeStatus.COMPLETED, encoded.digest, encoded.size))


def _fail_container(run: Execution, turn: Turn, container: NodeId, error: dict[str, Any]) -> None:
    turn.commands.append(c.FailNode(container, _generation(run, container), error))
    run.note(container, Outcome(NodeStatus.FAILED, error=error))


async def _close_fan(run: Execution, turn: Turn, container: NodeId, node: NodeDef) -> None:
    assert node.for_each is not None
    items, keys, _ = await run.recall.items_of(container)
    children = [indexed(container, key) for key in (keys if keys is not None else range(len(items)))]
    failed = [one for one in children if (known := run.board.outcomes.get(one)) and known.status is NodeStatus.FAILED]
    if failed and node.for_each.on_failure == "fail":
        _fail_container(run, turn, container, _caused(run, failed[0]))
        return
    outputs = run.board.collect(children)
    values = [None if digest is None else await run.engine.values.load(digest) for digest in outputs]
    _complete_container(run, turn, container, values)


async def _close_loop(run: Execution, turn: Turn, container: NodeId, node: NodeDef) -> None:
    assert node.repeat is not None
    last = int((run.board.last_of(container) or f"{container}[0]")[len(container) + 1 : -1])
    latest = indexed(container, last)
    outcome = run.board.outcomes[latest]
    if outcome.status is not NodeStatus.COMPLETED or outcome.output is None:
        _fail_container(run, turn, container, _caused(run, latest))
        return
    output = await run.engine.values.load(outcome.output)
    program = run.program.node(node)
    scope, _ = await scopes.build(run, latest, program.names, program.every)
    done = holds(node.repeat.until, {**scope, "output": output, "iteration": last})
    if done or last + 1 >= node.repeat.max:
        turn.commands.append(c.CompleteNode(container, _generation(run, container), outcome.output, outcome.size))
        run.note(container, Outcome(NodeStatus.COMPLETED, outcome.output, outcome.size))
        return
    turn.commands.append(c.ExpandNode(container, _generation(run, container), 1, first=last + 1))
    run.board.open_fan(container, [indexed(container, last + 1)], 1, True)


async def _close_scope(run: Execution, turn: Turn, container: NodeId, node: NodeDef) -> None:
    broken = _broken_leaf(run, container)
    if broken is not None:
        _fail_container(run, turn, container, _caused(run, broken))
        return
    if node.output is not None and node.kind == "group":
        inside = child(container, node.body[0].id)
        names, every = run.program.names(node.output)
        scope, _ = await scopes.build(run, inside, names, every)
        _complete_container(run, turn, container, render(node.output, scope))
        return
    _complete_container(run, turn, container, await _outputs(run, container, run.structure.scope(container).nodes))


async def _outputs(run: Execution, container: NodeId | None, names: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        outcome = run.board.outcomes.get(child(container, name))
        if outcome is not None and outcome.output is not None:
            found[name] = await run.engine.values.load(outcome.output)
    return found


def _largest(run: Execution, container: NodeId | None, names: Iterable[str]) -> Digest | None:
    """The largest output among these nodes: what is made of them resembles it, and is stored as a patch against it."""
    outcomes = [run.board.outcomes.get(child(container, name)) for name in names]
    sizes = [(one.size, one.output) for one in outcomes if one is not None and one.output is not None]
    return max(sizes)[1] if sizes else None


def _broken_leaf(run: Execution, container: NodeId | None) -> NodeId | None:
    """A last node that failed, or was skipped because something before it failed: it makes its container fail."""
    for name in run.structure.scope(container).leaves():
        node_id = child(container, name)
        outcome = run.board.outcomes[node_id]
        if outcome.status is NodeStatus.FAILED or outcome.reason == "upstream_failed":
            return node_id
    return None


def _caused(run: Execution, node_id: NodeId) -> dict[str, Any]:
    """The error of a container or a run: the first node that really failed, going upstream from a broken one."""
    seen: set[NodeId] = set()
    stack, found = [node_id], node_id
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        outcome = run.board.outcomes.get(at)
        if outcome is not None and outcome.status is NodeStatus.FAILED:
            found = at
            break
        stack += [up for up in run.structure.needs_of(at) if up in run.board.outcomes]
    known = run.board.outcomes.get(found)
    error = (known.error if known is not None else None) or {"category": "unknown", "message": ""}
    return {"node": found, **without_traceback(dict(error))}


async def _close_run(run: Execution, turn: Turn) -> None:
    if run.closed:
        return
    run.closed = True
    if (broken := _broken_leaf(run, None)) is not None:
        turn.commands.append(c.FailRun(_caused(run, broken), run.folded.generation))
        return
    workflow = run.program.workflow
    try:
        if workflow.outputs is not None:
            names, every = run.program.names(workflow.outputs)
            scope, read = await scopes.build(run, None, names, every)
            value = render(workflow.outputs, scope)
            base = _largest(run, None, read)
        else:
            leaves = run.structure.scope(None).leaves()
            value, base = await _outputs(run, None, leaves), _largest(run, None, leaves)
        encoded = starting.keep(run, turn, value, base)
    except OmiumError as error:
        if error.code == "storage_unavailable":
            run.closed = False
            raise
        turn.commands.append(c.FailRun(describe(error), run.folded.generation))
        return
    turn.commands.append(c.CompleteRun(encoded.digest, encoded.size, run.folded.generation))


# --- taking over ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unknown:
    """What is to be done about a node of which it is not known whether its calls happened."""

    policy: Literal["ask", "fail"]
    effects: Sequence[EffectState]

    def request(self, run: Execution, node_id: NodeId, told: dict[str, Any], why: str = "") -> c.RequestApproval:
        names = [called(effect.call, effect.detail) for effect in self.effects]
        about: dict[str, Any] = {"calls": names, "error": without_traceback(told)}
        asked = [str(effect.detail["asked"]) for effect in self.effects if effect.detail and "asked" in effect.detail]
        if len(asked) == 1:
            about["arguments"] = asked[0]
        rested_on = [
            run.folded.approvals.get(effect.approval) for effect in self.effects if effect.approval is not None
        ]
        needed = [one.min_assurance for one in rested_on if one is not None]
        minimum = max(("elicited", *needed), key=_ASSURANCES.index)
        crashed = told["category"] == "unknown"
        why = why or ("was interrupted by a crash" if crashed else f"has failed ({told['message'].rstrip('.')})")
        spec = gates.unknown_gate(node_id, names, cast(Assurance, minimum), why)
        now = run.engine.clock.now_us()
        generation = run.folded.node(node_id).generation
        return gates.request(node_id, generation, spec, {}, now, kind="unknown_effect", details=about)


def unsettled_effects(run: Execution, node_id: NodeId) -> dict[EffectId, EffectState]:
    """The calls of a node that may have happened, and about which something has to be done before it runs again.

    One that was cut off is not settled; one that nobody answered is settled as unknown. An agent has been told of the
    latter, and goes on from there without making it again."""
    node = run.folded.node(node_id)
    told = run.structure.node_def(node_id).kind in ("agent", "consensus")
    return {
        identity: effect
        for identity, effect in run.folded.effects.items()
        if (effect.node, effect.generation) == (node_id, node.generation)
        and (effect.outcome is None or (effect.outcome == "unknown" and not told))
    }


def _unknown(run: Execution, node_id: NodeId, cut_off: bool = False) -> _Unknown | None:
    """None when the node may simply run again. `cut_off`: it was stopped in the middle, so that a function whose
    definition says so is asked about even if it has no call in the ledger."""
    definition, unsettled = run.structure.node_def(node_id), list(unsettled_effects(run, node_id).values())
    policies = {effect.on_unknown for effect in unsettled}
    if cut_off and not unsettled and definition.kind == "function" and definition.on_unknown is not None:
        policies = {definition.on_unknown}
    for policy in ("fail", "ask"):
        if policy in policies:
            return _Unknown(policy, unsettled)
    return None


def settle(run: Execution, nodes: Sequence[NodeId], reason: str) -> tuple[list[c.Command], int | None]:
    """What becomes of nodes in flight that nobody runs any more, by their effects: they run again, somebody is asked,
    or they have failed. `reason`: `owner_lost` after a crash, `handover`, `rollback`, `paused`. Also when the first
    question expires, microseconds."""
    crashed = reason == "owner_lost"
    again: list[NodeId] = []
    commands: list[c.Command] = []
    expires: int | None = None
    for node_id in nodes:
        unknown = _unknown(run, node_id, cut_off=True)
        if unknown is None:
            again.append(node_id)
            continue
        told = {
            "category": "unknown",
            "type": "omium",
            "message": f"{node_id} was interrupted ({reason}), and its outcome is unknown",
        }
        if unknown.policy == "ask":
            request = unknown.request(run, node_id, told)
            commands.append(request)
            expires = request.expires_at if expires is None else min(expires, request.expires_at)
        else:
            node = run.folded.node(node_id)
            commands.append(c.FailAttempt(node_id, node.generation, node.attempt, told))
    if crashed:
        return [c.RecoverRun(run.fence, tuple(again)), *commands], expires
    for node_id in again:
        node = run.folded.node(node_id)
        commands.append(c.InterruptNode(node_id, node.generation, node.attempt, reason))
    return commands, expires


async def restore_workspace(run: Execution) -> None:
    """Bring the files to where a history operation left the run, before anything starts; repeats an unfinished one.

    Raises `workspace` when they are not there: the run cannot go on, however often it is tried."""
    tree = run.folded.restoring
    if tree is None:
        return
    try:
        await run.engine.workspaces.finish_restore(run.run_id, tree, run.fence)
    except OmiumError as error:
        if error.code != "not_found":
            raise
        raise OmiumError("workspace", f"the run's files cannot be put back: {error.message}", error.hint) from error


async def open_boards(run: Execution) -> None:
    """Count again what is open: the run, and every container that waits for its children, outermost first."""
    board, state = run.board, run.folded
    board.restore(state)
    waiting = [
        node_id
        for node_id, node in state.nodes.items()
        if node.status is NodeStatus.RUNNING and node.wait is not None and node.wait["kind"] == "children"
    ]
    board.open_scope(None)
    for node_id in sorted(waiting, key=_depth):
        node, definition = state.nodes[node_id], run.structure.node_def(node_id)
        expanded = not node_id.endswith("]")
        expansion = node.expansion or {}
        if "plan" in expansion or (definition.kind == "group" and not _loops(definition, expanded)):
            board.open_scope(node_id)
        elif definition.for_each is not None and expanded:
            items, keys, _ = await run.recall.items_of(node_id)
            children = [indexed(node_id, key) for key in (keys if keys is not None else range(len(items)))]
            stop_early = definition.for_each.on_failure == "fail"
            ahead = frozenset(one for one in children if state.node(one).status in _UNDER_WAY)
            board.open_fan(node_id, children, definition.for_each.max_parallel, stop_early, ahead)
        else:
            board.open_fan(node_id, [indexed(node_id, int(expansion.get("count", 1)) - 1)], 1, True)


_UNDER_WAY = frozenset({NodeStatus.RUNNING, NodeStatus.WAITING_APPROVAL})


def _loops(node: NodeDef, expanded: bool) -> bool:
    return expanded and (node.for_each is not None or node.repeat is not None)


def _depth(node_id: NodeId) -> int:
    depth, at = 0, container_of(node_id)
    while at is not None:
        depth, at = depth + 1, container_of(at)
    return depth


async def reopen_plans(run: Execution) -> None:
    """Put the plans that have expanded into the structure, outermost first: without them their steps mean nothing."""
    expanded = {
        n: node.expansion["plan"] for n, node in run.folded.nodes.items() if node.expansion and "plan" in node.expansion
    }
    for node_id in sorted(expanded, key=_depth):
        if run.plans.get(node_id) != expanded[node_id]:
            await _reopen_plan(run, node_id, expanded[node_id])


async def _reopen_plan(run: Execution, node_id: NodeId, digest: Digest) -> None:
    plan = await run.engine.values.load(digest)
    definition = run.structure.node_def(node_id)
    agent = definition.use if definition.kind == "agent" else None
    readable = run.structure.readable(node_id)
    nodes = parse_plan(plan, inputs=run.program.workflow.inputs, readable=readable, agent=agent)
    run.structure.add_plan(node_id, nodes)
    run.plans[node_id] = digest
