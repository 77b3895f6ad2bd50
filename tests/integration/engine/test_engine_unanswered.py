"""Calls that failed, or that nobody answered: what makes them again, and who is asked first."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Allowed, Call
from tests.integration.engine.test_engine_calls import FLOW, POLICY, Outside, start
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio


async def _unanswered(out: Outside, attempt: Attempt, tool: str, table: str) -> Any:
    """A call that goes out, and the first time gets no answer."""

    async def action(allowed: Allowed) -> Any:
        out.made.append(allowed.arguments)
        if len(out.made) == 1:
            raise OmiumError("timeout", "nothing came back.", sent=True, unclear=True)
        return "fine"

    return await attempt.call(Call("one", "tool", tool, {"table": table}, server="db"), action, kind="tool")


@pytest.mark.parametrize("choice", ["retry", "skip", "abort"])
@pytest.mark.parametrize("tool", ["plain", "write"])
async def test_a_call_that_nobody_answered_is_made_again_only_if_a_person_says_so(
    tmp_path: Path, tool: str, choice: str
) -> None:
    out = Outside()
    flow = FLOW.replace("use: work,", "use: work, retry: {max_attempts: 3, initial: 0s},")
    async with world(tmp_path, flow, functions={"work": partial(_unanswered, out)}, policy=POLICY) as w:
        run = await start(w, tool)
        if tool == "write":
            await w.approve(run)
        await w.until(run, lambda state: any(one.scope == "unknown_effect" for one in state.approvals.values()))
        assert len(out.made) == 1
        (effect,) = await w.machine.store.effects(run)
        assert effect.outcome == "unknown"
        (asked,) = [one for one in await w.core.list_approvals(ME, run_id=run) if one.scope == "unknown_effect"]
        assert "nothing came back" in asked.question and "crash" not in asked.question
        await w.core.decide(ME, asked.id, choice, assurance="elicited")
        await w.finished(run, "failed" if choice == "abort" else "completed")
        assert len(out.made) == (2 if choice == "retry" else 1)
        (effect,) = await w.machine.store.effects(run)
        assert effect.outcome == ("done" if choice == "retry" else "unknown")


async def test_a_call_that_nobody_answered_is_retried_where_policy_says_that_it_is_harmless(tmp_path: Path) -> None:
    out = Outside()
    flow = FLOW.replace("use: work,", "use: work, retry: {max_attempts: 3, initial: 0s},")
    async with world(tmp_path, flow, functions={"work": partial(_unanswered, out)}, policy=POLICY) as w:
        run = await start(w, "read")
        await w.finished(run)
        assert len(out.made) == 2


async def test_a_call_that_nobody_answered_fails_where_it_would_not_be_made_again(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": partial(_unanswered, out)}, policy=POLICY) as w:
        run = await start(w, "plain")
        await w.finished(run, "failed")
        (effect,) = await w.machine.store.effects(run)
        assert (effect.outcome, len(out.made)) == ("unknown", 1)


async def test_a_node_that_may_not_repeat_fails_without_asking(tmp_path: Path) -> None:
    out = Outside()
    flow = FLOW.replace("use: work,", "use: work, on_unknown: fail, retry: {max_attempts: 3, initial: 0s},")
    async with world(tmp_path, flow, functions={"work": partial(_unanswered, out)}, policy=POLICY) as w:
        run = await start(w, "plain")
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["category"] == "timeout"
        assert len(out.made) == 1


async def test_work_that_goes_on_after_a_call_that_nobody_answered_does_not_make_it_again(tmp_path: Path) -> None:
    out = Outside()

    async def stubborn(attempt: Attempt, tool: str, table: str) -> Any:
        for _ in range(3):
            try:
                return await _unanswered(out, attempt, tool, table)
            except OmiumError as error:
                out.told.append(error.code)
        return "gave up"

    async with world(tmp_path, FLOW, functions={"work": stubborn}, policy=POLICY) as w:
        run = await start(w, "plain")
        assert (await w.finished(run)).output == {"work": "gave up"}
        assert (len(out.made), out.told) == (1, ["timeout", "tool_failed", "tool_failed"])


async def test_a_failed_call_needs_another_decision(tmp_path: Path) -> None:
    out = Outside()

    async def flaky(attempt: Attempt, tool: str, table: str) -> Any:
        async def action(allowed: Allowed) -> Any:
            out.made.append(allowed.arguments)
            if len(out.made) == 1:
                raise OmiumError("tool_failed", "the server said no.")
            return "fine"

        return await attempt.call(Call("one", "tool", tool, {"table": table}, server="db"), action, kind="tool")

    flow = FLOW.replace("use: work,", "use: work, retry: {max_attempts: 3, initial: 0s},")
    async with world(tmp_path, flow, functions={"work": flaky}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.approve(run)
        await w.until(run, lambda state: len(state.approvals) == 2)  # the retry does not make it by itself
        assert len(out.made) == 1
        await w.approve(run)
        await w.finished(run)
        assert len(out.made) == 2
