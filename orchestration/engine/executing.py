"""Running the code of one attempt, as long as it may take, until it has a result or an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from omium.orchestration.definition.expressions import holds
from omium.orchestration.definition.voting import used
from omium.orchestration.engine import starting
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Done

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution


class Ended:
    """How an attempt ended: with a result, or with an error. Neither means that it was stopped from outside."""

    __slots__ = ("done", "error", "ms")

    def __init__(self, done: Done | None = None, error: BaseException | None = None, ms: float = 0.0) -> None:
        self.done = done
        self.error = error
        self.ms = ms


async def execute(run: Execution, attempt: NodeAttempt, scope: anyio.CancelScope) -> Ended:
    """Run the node's code in `scope`, which `attempt.cancel` cancels meanwhile. Whatever the code raises is the
    attempt's failure; only a cancellation goes through, after which the scope has to be left."""
    began = time.perf_counter()
    done: Done | None = None
    failure: BaseException | None = attempt.error
    try:
        if failure is None and not attempt.cancelled:
            attempt.scope = scope
            done = await _bounded(run, attempt)
            attempt.succeeded = True
    except Exception as error:  # the boundary between the engine and code that it does not know
        failure = error
    except BaseException as error:
        if attempt.asked is None or isinstance(error, anyio.get_cancelled_exc_class()):
            raise
        # It stopped to ask a person; what it was wrapped in on its way here does not matter.
    finally:
        if attempt.recording:
            await attempt.wait_until_recorded()
        attempt.over()
    try:
        return Ended(done, failure, int((time.perf_counter() - began) * 1e6) / 1000)
    finally:
        failure = None  # its traceback holds this frame: a circle, which would keep all that the code had in hand


async def _bounded(run: Execution, attempt: NodeAttempt) -> Done:
    node, executor = attempt.node, attempt.executor
    assert executor is not None, "an attempt that cannot begin has an error"
    known = run.folded.nodes.get(attempt.node_id)
    again = attempt.attempt > 1 or (known is not None and known.restored)
    if again or node.kind != "function" or run.folded.approvals:  # there is nothing for the others
        await run.engine.prepare(run, attempt)
    limit, too_late = (None, None) if node.timeout_s is None and not node.budget else _limit(run, attempt)
    if limit is None or too_late is None:
        done = await executor.run(used(node), attempt.inputs, attempt)
    elif limit <= 0:
        raise too_late()
    else:
        scope = anyio.CancelScope(deadline=anyio.current_time() + limit)
        try:
            with scope:
                done = await executor.run(used(node), attempt.inputs, attempt)
        except Exception as error:
            if scope.cancel_called:  # what a stopped executor complains of is not the reason
                raise too_late() from error
            raise
        if scope.cancelled_caught:
            raise too_late()
    if node.output_schema is not None:
        starting.check_schema(node.output_schema, done.output, f"the output of {attempt.node_id}")
    for condition in node.expects:
        if not holds(condition, {**attempt.vars, "output": done.output}):
            raise OmiumError("precondition_failed", f"{attempt.node_id} expects {condition!r}, which does not hold.")
    return done


def _limit(run: Execution, attempt: NodeAttempt) -> tuple[float | None, Callable[[], OmiumError] | None]:
    """How many seconds the attempt may take, and what makes the error that it has failed of after them: the node's
    time-out, or what is left of the time that its budget gives all attempts together."""
    node, stopped = attempt.node, f"node {attempt.node_id} was stopped"
    seconds = (node.budget or {}).get("seconds")
    if seconds is not None:
        left = seconds - run.folded.node(attempt.node_id).worked_us / 1e6
        if node.timeout_s is None or left < node.timeout_s:
            told = f"{stopped}: its budget of {seconds:g} s is used up."
            return left, partial(OmiumError, "budget_exceeded", told, "Give the node a larger budget.")
    if node.timeout_s is None:
        return None, None
    return node.timeout_s, partial(OmiumError, "timeout", f"{stopped} after {node.timeout_s:g} s.")
