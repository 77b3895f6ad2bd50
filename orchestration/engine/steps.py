"""The steps of a run: execute an attempt, commit its end, close a container, recover what another owner left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from omium.orchestration.definition.address import child, container_of, indexed
from omium.orchestration.definition.expressions import holds, render
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.definition.plan import parse_plan
from omium.orchestration.engine import gates, scopes, starting
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.board import Outcome
from omium.orchestration.engine.failures import backoff_s, describe, may_retry
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NodeStatus
from omium.orchestration.ports import Done

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution, Turn


class Ended:
    """How an attempt ended: with a result, or with an error. Neither means that it was stopped from outside."""

    __slots__ = ("done", "error", "ms")

    def __init__(self, done: Done | None, error: BaseException | None, ms: float) -> None:
        self.done = done
        self.error = error
        self.ms = ms


async def execute(run: Execution, attempt: NodeAttempt) -> Ended:
    """Run the node's code. Whatever it raises is the attempt's failure; only a cancellation from above goes through."""
    began = time.perf_counter()
    done: Done | None = None
    failure: BaseException | None = attempt.error
    try:
        if failure is None and not attempt.cancelled:
            with anyio.CancelScope() as attempt.scope:
                done = await _bounded(run, attempt)
    except Exception as error:  # the boundary between the engine and code that it does not know
        failure = error
    finally:
        attempt.over()
    return Ended(done, failure, round((time.perf_counter() - began) * 1000, 3))


async def _bounded(run: Execution, attempt: NodeAttempt) -> Done:
    node = attempt.node
    executor = run.engine.executor(node)
    await run.engine.prepare(run, attempt)
    if node.timeout_s is None:
        done = await executor.run(node.use or "", attempt.inputs, attempt)
    else:
        scope = anyio.CancelScope(deadline=anyio.current_time() + node.timeout_s)
        with scope:
            done = await executor.run(node.use or "", attempt.inputs, attempt)
        if scope.cancelled_caught:
            raise OmiumError("timeout", f"node {attempt.node_id} was stopped after {node.timeout_s:g} s.")
    if node.output_schema is not None:
        starting.check_schema(node.output_schema, done.output, f"the output of {attempt.node_id}")
    for condition in node.expects:
        if not holds(condition, {**attempt.vars, "output": done.output}):
            raise OmiumError("precondition_failed", f"{attempt.node_id} expects {condition!r}, which does not hold.")
    return done


async def finish(run: Execution, turn: Turn, attempt: NodeAttempt, ended: Ended) -> None:
    """Turn the end of an attempt into commands, and free its slots."""
    node_id = attempt.node_id
    if ended.done is None and ended.error is None:
        run.drop_attempt(node_id)  # stopped: whoever stopped it has said, or says, what becomes of it
        run.nudge()
        return
    turn.commands += attempt.take_pending()
    error = ended.error
    if error is None:
        assert ended.done is not None
        try:
            await _complete(run, turn, attempt, ended.done, ended.ms)
        except OmiumError as refused:  # the value cannot be stored, the plan is not valid, the tree cannot be captured
            error = refused
    if error is not None:
        _fail(run, turn, attempt, error)
    run.drop_attempt(node_id)


async def _complete(run: Execution, turn: Turn, attempt: NodeAttempt, done: Done, ms: float) -> None:
    node_id, node = attempt.node_id, attempt.node
    tree = await run.engine.workspaces.capture(run, attempt) if node.workspace == "write" else None
    if node.expands:
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
            attempt.key,
            tree,
            done.usage,
            ms,
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
    run.structure.add_plan(node_id, nodes)
    stored = starting.keep(run, turn, plan)
    turn.commands.append(c.ExpandNode(node_id, attempt.generation, len(nodes), plan=stored.digest))
    run.board.open_scope(node_id)


def _fail(run: Execution, turn: Turn, attempt: NodeAttempt, error: BaseException) -> None:
    node_id, node, state = attempt.node_id, attempt.node, run.folded.node(attempt.node_id)
    told = describe(error)
    failures = state.failures + 1
    if may_retry(node.retry, told["category"], failures):
        now = run.engine.clock.now_us()
        due_at = now + int(backoff_s(node.retry, failures, run.engine.rng) * 1e6)
        turn.commands.append(c.FailAttempt(node_id, attempt.generation, attempt.attempt, told, retry_at=due_at))
        run.parked[node_id] = "backoff"
        run.engine.at(due_at, run)
        return
    if run.program.workflow.approvals == "on_error":
        # Asked in the attempt's own place: the node is still running, and what is decided goes on from there.
        spec, now = gates.error_gate(node_id, told), run.engine.clock.now_us()
        about = {"error": {name: told[name] for name in told if name != "traceback"}}
        turn.commands.append(gates.request(node_id, attempt.generation, spec, {}, now, kind="error", details=about))
        run.parked[node_id] = "approval"
        return
    retries = node.retry.max_attempts > 1
    turn.commands.append(c.FailAttempt(node_id, attempt.generation, attempt.attempt, told, retries=retries))
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
    items, keys = await run.items_of(container)
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
    stack = [node_id]
    found = node_id
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
    error = known.error if known is not None and known.error is not None else {"category": "unknown", "message": ""}
    told = {name: value for name, value in error.items() if name != "traceback"}
    return {"node": found, **told}


async def _close_run(run: Execution, turn: Turn) -> None:
    if run.closed:
        return
    run.closed = True
    broken = _broken_leaf(run, None)
    if broken is not None:
        turn.commands.append(c.FailRun(_caused(run, broken)))
        return
    workflow = run.program.workflow
    try:
        if workflow.outputs is not None:
            names, every = run.program.names(workflow.outputs)
            scope, _ = await scopes.build(run, None, names, every)
            value = render(workflow.outputs, scope)
        else:
            value = await _outputs(run, None, run.structure.scope(None).leaves())
        encoded = starting.keep(run, turn, value)
    except OmiumError as error:
        turn.commands.append(c.FailRun(describe(error)))
        return
    turn.commands.append(c.CompleteRun(encoded.digest, encoded.size))


# --- taking over ----------------------------------------------------------------------------------------------------


async def recover(run: Execution) -> None:
    """Settle every node that the last owner left in flight, by its effects: run again, ask, or fail."""
    state = run.folded
    in_flight = [node_id for node_id, node in state.nodes.items() if node.in_flight]
    if not in_flight:
        return
    again: list[NodeId] = []
    commands: list[c.Command] = []
    now = run.engine.clock.now_us()
    for node_id in in_flight:
        node, definition = state.nodes[node_id], run.structure.node_def(node_id)
        unsettled = [e for e in state.effects.values() if e.node == node_id and e.outcome in (None, "unknown")]
        unsettled = [e for e in unsettled if e.generation == node.generation]
        policies = {effect.on_unknown for effect in unsettled}
        if definition.on_unknown in ("ask", "fail") and definition.kind == "function" and not unsettled:
            policies = {definition.on_unknown}
        if "fail" in policies:
            told = {"category": "unknown", "type": "omium", "message": "its outcome is unknown after a crash"}
            commands.append(c.FailAttempt(node_id, node.generation, node.attempt, told))
        elif "ask" in policies:
            calls = [effect.call for effect in unsettled]
            spec = gates.unknown_gate(node_id, calls)
            about = {"calls": calls}
            commands.append(
                gates.request(node_id, node.generation, spec, {}, now, kind="unknown_effect", details=about)
            )
        else:
            again.append(node_id)
    commands.insert(0, c.RecoverRun(run.fence, tuple(again)))
    await run.commit(commands)


async def restore_workspace(run: Execution) -> None:
    """Bring the files to where a history operation left the run, before anything starts; repeats an unfinished one."""
    tree = run.folded.restoring
    if tree is not None:
        await run.engine.workspaces.finish_restore(run.run_id, tree)


async def open_boards(run: Execution) -> None:
    """Count again what is open: the run, and every container that waits for its children, outermost first."""
    board, state = run.board, run.folded
    board.restore(state)
    waiting = [
        node_id
        for node_id, node in state.nodes.items()
        if node.status is NodeStatus.RUNNING and node.wait is not None and node.wait["kind"] == "children"
    ]
    plans = [node_id for node_id, node in state.nodes.items() if node.expansion and "plan" in node.expansion]
    for node_id in sorted(plans, key=_depth):
        await _reopen_plan(run, node_id)
    board.open_scope(None)
    for node_id in sorted(waiting, key=_depth):
        node, definition = state.nodes[node_id], run.structure.node_def(node_id)
        expanded = not node_id.endswith("]")
        expansion = node.expansion or {}
        if "plan" in expansion or (definition.kind == "group" and not _loops(definition, expanded)):
            board.open_scope(node_id)
        elif definition.for_each is not None and expanded:
            items, keys = await run.items_of(node_id)
            children = [indexed(node_id, key) for key in (keys if keys is not None else range(len(items)))]
            stop_early = definition.for_each.on_failure == "fail"
            board.open_fan(node_id, children, definition.for_each.max_parallel, stop_early)
        else:
            board.open_fan(node_id, [indexed(node_id, int(expansion.get("count", 1)) - 1)], 1, True)


def _loops(node: NodeDef, expanded: bool) -> bool:
    return expanded and (node.for_each is not None or node.repeat is not None)


def _depth(node_id: NodeId) -> int:
    depth, at = 0, container_of(node_id)
    while at is not None:
        depth, at = depth + 1, container_of(at)
    return depth


async def _reopen_plan(run: Execution, node_id: NodeId) -> None:
    expansion = run.folded.nodes[node_id].expansion
    assert expansion is not None
    plan = await run.engine.values.load(expansion["plan"])
    definition = run.structure.node_def(node_id)
    agent = definition.use if definition.kind == "agent" else None
    readable = run.structure.readable(node_id)
    nodes = parse_plan(plan, inputs=run.program.workflow.inputs, readable=readable, agent=agent)
    run.structure.add_plan(node_id, nodes)
