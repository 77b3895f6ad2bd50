"""From "its upstreams have ended" to "it is started": edges, conditions, gates, slots, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omium.orchestration.definition.address import indexed, key_text
from omium.orchestration.definition.expressions import evaluate, holds, render
from omium.orchestration.definition.model import MAX_NODES, ApprovalSpec, NodeDef
from omium.orchestration.definition.voting import used
from omium.orchestration.engine import gates, scopes
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.board import Outcome
from omium.orchestration.engine.inputs import node_key, resolve
from omium.orchestration.engine.limits import ALL, Limit
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, NodeId, RunId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NodeStatus, Reusable
from omium.orchestration.ports import NewBlob
from omium.orchestration.ports_agents import NamesAgents
from omium.orchestration.values import Encoded, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution
    from omium.orchestration.engine.turn import Turn

SLOTTED = frozenset({"function", "agent", "tool", "cli", "consensus"})  # kinds that somebody executes
REUSABLE = frozenset({"function", "agent", "cli", "consensus"})  # never approvals, waits, or calls to the outside
_OF_AGENTS = frozenset({"agent", "consensus"})
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_STOPPED = frozenset({"owner_lost", "handover", "paused", "rollback"})  # reasons of an interruption


async def admit(run: Execution, turn: Turn, node_id: NodeId, alone: bool) -> bool:
    """Decide what becomes of a node whose upstreams have all ended; whether it has its slots, and is to be started.
    `alone`: no other node has come here with it, so that it need not queue for slots that are free."""
    if node_id in run.attempts or node_id in run.tickets or node_id in run.parked:
        return False
    state = run.folded.node(node_id)
    if state.status not in (NodeStatus.PENDING, NodeStatus.PAUSED):
        return False  # it waits for its insides, a decision, a time: after building again, it is looked at apart
    node = run.structure.node_def(node_id)
    program = run.program.node(node)
    try:
        scope: dict[str, Any] = {}
        if not program.plain:
            scope, _ = await scopes.build(run, node_id, program.names, program.every)
        if not node_id.endswith("]"):  # an expansion's edges and conditions are those of the whole
            verdict = skip_verdict(run, node_id, node, scope)
            if verdict is not None:
                skip(run, turn, node_id, *verdict)
                return False
        if program.ungated and not run.folded.overrides and state.due_at is None:
            return _take_slots(run, node_id, node, alone)  # as most nodes are
        if "output" in overridden(run, node_id):
            _give(run, turn, node_id, overridden(run, node_id)["output"])
        elif node.for_each is not None and not node_id.endswith("]"):
            await _fan_out(run, turn, node_id, node, scope)
        elif node.repeat is not None and not node_id.endswith("]"):
            begin(run, turn, node_id)
            turn.commands.append(c.ExpandNode(node_id, state.generation, 1))
            run.board.open_fan(node_id, [indexed(node_id, 0)], 1, True)
        else:
            await _admit_single(run, turn, node_id, node, scope)
    except OmiumError as error:
        _unless_away(error)
        _fail_to_begin(run, turn, node_id, error)
    return False


def _unless_away(error: OmiumError) -> None:
    """A database that is away is no fault of the node's: the run is given up, and taken up again later."""
    if error.code == "storage_unavailable":
        raise error


def skip_verdict(
    run: Execution, node_id: NodeId, node: NodeDef, scope: Mapping[str, Any]
) -> tuple[str, NodeId | None] | None:
    """Why the node is skipped: (reason, the node to blame); None when it is not."""
    skipped: NodeId | None = None
    conditional = False
    for need in node.needs:
        conditional = conditional or need.when is not None
        upstream = run.structure.resolve(node_id, need.node)
        assert upstream is not None, "validated on loading"
        outcome = run.board.outcomes[upstream]
        if outcome.status is not NodeStatus.COMPLETED and not need.optional:
            if outcome.status is NodeStatus.FAILED or outcome.reason == "upstream_failed":
                return "upstream_failed", upstream  # whatever else was skipped: the failure must show at the end
            skipped = skipped or upstream
    if skipped is not None:
        return "upstream_skipped", skipped
    if conditional and not any(need.when is None or holds(need.when, scope) for need in node.needs):
        return "condition", None
    if node.when is not None and not holds(node.when, scope):
        return "condition", None
    return None


def overridden(run: Execution, node_id: NodeId) -> Mapping[str, Any]:
    """What a branch or a replay changed in a node: `{"with": ...}`, `{"output": ...}`, or nothing."""
    overrides = run.folded.overrides
    return (overrides.get("nodes", _NOTHING).get(node_id) or _NOTHING) if overrides else _NOTHING


def _give(run: Execution, turn: Turn, node_id: NodeId, value: Any) -> None:
    """Complete a node with an output that was given for it, without executing it."""
    begin(run, turn, node_id)
    stored = keep(run, turn, value)
    generation = run.folded.node(node_id).generation
    turn.commands.append(c.CompleteNode(node_id, generation, stored.digest, stored.size))
    run.note(node_id, Outcome(NodeStatus.COMPLETED, stored.digest, stored.size))


def given(run: Execution, node_id: NodeId, rendered: Any) -> Any:
    """A rendered input, or the form of it that enters the key, with what was overridden in it. That is data: what looks
    like a template in it is none."""
    changed = overridden(run, node_id).get("with")
    return rendered if changed is None else {**rendered, **changed}


def skip(
    run: Execution,
    turn: Turn,
    node_id: NodeId,
    reason: str,
    cause: NodeId | None = None,
    approval: ApprovalId | None = None,
) -> None:
    generation = run.folded.node(node_id).generation
    turn.commands.append(c.SkipNode(node_id, generation, reason, cause, approval))
    run.note(node_id, Outcome(NodeStatus.SKIPPED, reason=reason))


def begin(run: Execution, turn: Turn, node_id: NodeId, approval: ApprovalId | None = None) -> None:
    """Start a node that takes no slot: a container, a wait, a sub-run."""
    turn.commands.append(c.StartNode(node_id, run.folded.node(node_id).generation, approval=approval))


def _fail_to_begin(
    run: Execution, turn: Turn, node_id: NodeId, error: OmiumError, approval: ApprovalId | None = None
) -> None:
    """The node's own template or condition is at fault: it fails without having run."""
    from omium.orchestration.engine.failures import describe

    state = run.folded.node(node_id)
    begin(run, turn, node_id, approval)
    told = describe(error)
    turn.commands.append(c.FailAttempt(node_id, state.generation, state.attempt + 1, told))
    run.note(node_id, Outcome(NodeStatus.FAILED, error=told))


async def _fan_out(run: Execution, turn: Turn, node_id: NodeId, node: NodeDef, scope: Mapping[str, Any]) -> None:
    assert node.for_each is not None
    items = render(node.for_each.items, scope)
    if not isinstance(items, list):
        raise OmiumError("expression_error", f"for_each of {node_id} needs a list, not {type(items).__name__}.")
    if len(items) > MAX_NODES:
        raise OmiumError(
            "invalid_value", f"for_each of {node_id} has {len(items)} items; at most {MAX_NODES} are allowed."
        )
    keys: tuple[str, ...] | None = None
    if node.for_each.key is not None:
        expression = node.for_each.key
        keys = tuple(
            key_text(evaluate(expression, {**scope, "item": item, "index": place})) for place, item in enumerate(items)
        )
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise OmiumError("invalid_value", f"for_each of {node_id} has the key {twice!r} twice.")
    stored = keep(run, turn, items)
    begin(run, turn, node_id)
    generation = run.folded.node(node_id).generation
    turn.commands.append(c.ExpandNode(node_id, generation, len(items), items=stored.digest, keys=keys))
    run.recall.keep_items(node_id, items, keys)
    children = [indexed(node_id, key) for key in (keys if keys is not None else range(len(items)))]
    run.board.open_fan(node_id, children, node.for_each.max_parallel, node.for_each.on_failure == "fail")


async def _admit_single(run: Execution, turn: Turn, node_id: NodeId, node: NodeDef, scope: dict[str, Any]) -> None:
    """A node that is not a fan-out or a loop as a whole: wait for its time and its gate, then go on."""
    state = run.folded.node(node_id)
    now = run.engine.clock.now_us()
    if state.due_at is not None and state.due_at > now:
        run.parked[node_id] = "backoff"
        turn.wake(state.due_at)
        return
    if node.kind == "approval":
        assert node.approval is not None
        _ask(run, turn, gates.request(node_id, state.generation, node.approval, scope, now, kind="node", binding=None))
        return
    gate = await _gate(run, node_id, node, scope) if not state.attempt else None
    if gate is not None:
        inputs = given(run, node_id, resolve(node.input, scope, {})[0])
        binding = keep(run, turn, {"node": node_id, "use": node.use, "input": inputs}).digest
        _ask(run, turn, gates.request(node_id, state.generation, gate, scope, now, kind="step", binding=binding))
        return
    await _proceed(run, turn, node_id, node, scope)


async def _gate(run: Execution, node_id: NodeId, node: NodeDef, scope: dict[str, Any]) -> ApprovalSpec | None:
    names, every = run.program.conditions
    if names or every:
        program = run.program.node(node)
        scope, _ = await scopes.build(run, node_id, {*names, *program.names}, every or program.every)
    return gates.step_gate(run.program.workflow, node, scope)


async def _proceed(
    run: Execution,
    turn: Turn,
    node_id: NodeId,
    node: NodeDef,
    scope: dict[str, Any],
    approval: ApprovalId | None = None,
) -> None:
    """Nothing stands before the node any more."""
    if node.kind == "group":
        begin(run, turn, node_id, approval)
        turn.commands.append(c.ExpandNode(node_id, run.folded.node(node_id).generation, len(node.body)))
        run.board.open_scope(node_id)
    elif node.kind == "wait":
        _wait(run, turn, node_id, node, scope, approval)
    elif node.kind == "workflow":
        _sub_run(run, turn, node_id, node, scope, approval)
    else:
        queue(run, node_id, node)


async def go_on(run: Execution, turn: Turn, node_id: NodeId) -> None:
    """A parked node goes on: its backoff is over, or its gate was approved."""
    run.parked.pop(node_id, None)
    node = run.structure.node_def(node_id)
    if node.kind in SLOTTED:
        queue(run, node_id, node)
        return
    approval = approved(run, node_id)
    try:
        program = run.program.node(node)
        scope, _ = await scopes.build(run, node_id, program.names, program.every)
        await _proceed(run, turn, node_id, node, scope, approval)
    except OmiumError as error:
        _unless_away(error)
        _fail_to_begin(run, turn, node_id, error, approval)


def _ask(run: Execution, turn: Turn, request: c.RequestApproval) -> None:
    assert request.node is not None
    turn.commands.append(request)
    run.parked[request.node] = "approval"
    turn.wake(request.expires_at)


def queue(run: Execution, node_id: NodeId, node: NodeDef) -> None:
    """Have a node wait for its slots."""
    place, limits, priority = (run, node_id), _limits(run, node), _priority(run, node)
    run.tickets[node_id] = run.engine.queue.put(place, limits, priority)


def _take_slots(run: Execution, node_id: NodeId, node: NodeDef, alone: bool) -> bool:
    """Give a node its slots at once, if it is alone and they are free; otherwise have it wait for them."""
    ticket = run.engine.queue.at_once((run, node_id), _limits(run, node), _priority(run, node)) if alone else None
    if ticket is None:
        queue(run, node_id, node)
        return False
    run.tickets[node_id] = ticket
    return True


def _limits(run: Execution, node: NodeDef) -> list[tuple[Limit, int]]:
    limits = [(run.width, 1), *run.engine.limits_of(node)]
    if node.workspace != "none":
        limits.append((run.workspace, ALL if node.workspace == "write" else 1))
    return limits


def _priority(run: Execution, node: NodeDef) -> int:
    return run.folded.priority * 1000 + node.priority


def _wait(
    run: Execution,
    turn: Turn,
    node_id: NodeId,
    node: NodeDef,
    scope: Mapping[str, Any],
    approval: ApprovalId | None = None,
) -> None:
    from datetime import datetime

    assert node.wait is not None
    generation = run.folded.node(node_id).generation
    now = run.engine.clock.now_us()
    if node.wait.signal is not None:
        begin(run, turn, node_id, approval)
        turn.commands.append(c.WaitNode(node_id, generation, signal=node.wait.signal))
        run.parked[node_id] = "signal"
        if run.folded.signals.get(node.wait.signal):
            turn.wake(now)
        return
    if node.wait.until is not None:
        text = render(node.wait.until, scope)
        try:
            moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
            if moment.tzinfo is None:
                raise ValueError("it has no offset from UTC")
        except ValueError as error:
            raise OmiumError(
                "expression_error", f"{node_id} waits until {text!r}, which is no time: {error}."
            ) from error
        due_at = int(moment.timestamp() * 1e6)
    else:
        seconds = render(node.wait.seconds, scope)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 10 * 366 * 86400:
            raise OmiumError("expression_error", f"{node_id} waits for {seconds!r}, which is no number of seconds.")
        due_at = now + int(seconds * 1e6)
    begin(run, turn, node_id, approval)
    turn.commands.append(c.WaitNode(node_id, generation, due_at=due_at))
    run.parked[node_id] = "timer"
    turn.wake(due_at)


def _sub_run(
    run: Execution,
    turn: Turn,
    node_id: NodeId,
    node: NodeDef,
    scope: Mapping[str, Any],
    approval: ApprovalId | None = None,
) -> None:
    """Start a child run; its id is durable before it is created, so that a crash in between creates no second one."""
    now = run.engine.clock.now_us()
    child = RunId(new_id("run", now // 1000))
    inputs = given(run, node_id, render(node.input, scope))
    begin(run, turn, node_id, approval)
    turn.commands.append(c.WaitNode(node_id, run.folded.node(node_id).generation, child=child))
    turn.children.append((node_id, child, str(node.use), inputs))
    run.parked[node_id] = "child"
    if node.timeout_s is not None:
        turn.wake(now + int(node.timeout_s * 1e6))


async def start(run: Execution, turn: Turn, node_id: NodeId) -> None:
    """Start a node that has its slots: settle its inputs and its key; reuse a result if the run says so."""
    node = run.structure.node_def(node_id)
    state = run.folded.node(node_id)
    attempt = NodeAttempt(run, node_id, node, state.generation, state.attempt + 1)
    stopped = state.reason in _STOPPED or state.status is NodeStatus.WAITING_APPROVAL
    attempt.resumed = stopped and state.attempt > 0
    try:
        await _prepare(run, attempt, node)
    except OmiumError as error:
        _unless_away(error)
        attempt.error = error
    key = attempt.key
    if key is not None and run.folded.reuse == "unchanged" and node.kind in REUSABLE and not node.expands:
        kept = _put_aside(run, node_id, key)
        if kept is not None and state.status is NodeStatus.PENDING:
            if kept.tree is not None:
                await run.engine.workspaces.bring_to(run.run_id, kept.tree)
                run.tree_ahead = kept.tree
            turn.commands.append(c.ReuseNode(node_id, state.generation, key, kept.node))
            run.drop_attempt(node_id)
            run.note(node_id, Outcome(NodeStatus.COMPLETED, kept.output, kept.size))
            return
    run.attempts[node_id] = attempt
    approval = approved(run, node_id) if state.approval is not None else None
    turn.commands.append(c.StartNode(node_id, state.generation, key, attempt.tree, approval, attempt.agent))
    turn.started.append(node_id)


def _put_aside(run: Execution, node_id: NodeId, key: str) -> Reusable | None:
    """The result with this key that a node takes over: the one that it had itself, else the latest of another.

    A round of a loop takes its own only. A loop goes round because what is asked again may be answered otherwise: with
    the result of another round it would end early, or never."""
    results = run.folded.reusable.get(key, {})
    around = (node_id, *run.structure.containers(node_id))
    if node_id in results or any(run.structure.node_def(one).repeat is not None for one in around):
        return results.get(node_id)
    return next(reversed(results.values()), None)


def approved(run: Execution, node_id: NodeId) -> ApprovalId | None:
    """The decision that this start uses up."""
    state = run.folded.node(node_id)
    if state.status is not NodeStatus.WAITING_APPROVAL or state.approval is None:
        return None
    return state.approval


async def _prepare(run: Execution, attempt: NodeAttempt, node: NodeDef) -> None:
    engine, keeps = run.engine, run.folded.agents is not None
    executor = attempt.executor = await engine.executor_of(run.folded, node) if keeps else engine.executor(node)
    if node.kind in _OF_AGENTS and isinstance(executor, NamesAgents):
        attempt.agent = executor.named(used(node))
    program = run.program.node(node)
    scope, outputs = await scopes.build(run, attempt.node_id, program.names, program.every)
    inputs, form = resolve(node.input, scope, outputs)
    if run.folded.overrides:
        inputs, form = given(run, attempt.node_id, inputs), given(run, attempt.node_id, form)
    attempt.vars = {**scope, "input": inputs}
    attempt.inputs = inputs
    for condition in node.requires:
        if not holds(condition, attempt.vars):
            raise OmiumError("precondition_failed", f"{attempt.node_id} requires {condition!r}, which does not hold.")
    if node.input_schema is not None:
        check_schema(node.input_schema, inputs, f"the input of {attempt.node_id}")
    attempt.base = _largest(run, attempt.node_id, outputs)
    if node.workspace != "none":
        attempt.tree = await run.engine.workspaces.start_tree(run, attempt)
    code = executor.digest(used(node))
    # What the branch or the replay changed is part of the inputs already; the tree is there for those who read it.
    attempt.key = node_key(program.hash, code, form, attempt.tree)


def _largest(run: Execution, node_id: NodeId, outputs: Mapping[str, Digest]) -> Digest:
    """What a node gives will resemble the largest of what it has read; a first node reads what the run was given."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    largest, found = -1, run.folded.inputs
    for name, digest in outputs.items():
        instance = run.structure.resolve(node_id, name)
        outcome = run.board.outcomes.get(instance) if instance is not None else None
        if outcome is not None and outcome.size > largest:
            largest, found = outcome.size, digest
    return found


def check_schema(schema: dict[str, Any], value: Any, what: str) -> None:
    from omium.orchestration.definition.json_schema import value_problems

    problems = value_problems(schema, value)
    if problems:
        raise OmiumError(
            "precondition_failed",
            f"{what} does not fit its schema: {problems[0]}",
            problems=[str(problem) for problem in problems[:20]],
        )


def keep(run: Execution, turn: Turn, value: Any, base: Digest | None = None) -> Encoded:
    """Have a value stored with the turn, and at hand for whoever reads it next."""
    encoded = encode(value)
    turn.blobs.append(NewBlob(encoded, base))
    if not run.engine.values.put(encoded.digest, value, encoded.size):
        turn.held.append(run.engine.values.hold(encoded.digest, value))
    return encoded
