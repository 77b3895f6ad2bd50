"""Failures: tried again by category, later and later, and told to whoever tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.ports import Attempt
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio


def retry(use: str = "flaky", more: str = "{max_attempts: 3, initial: 0, jitter: 0}", given: str = "{}") -> str:
    return f"""
name: retry
nodes:
- {{id: a, kind: function, use: {use}, with: {given}, retry: {more}}}
"""


async def test_fail_fail_ok_has_exactly_these_events(tmp_path: Path) -> None:
    async with world(tmp_path, retry()) as w:
        run = await w.run("retry")
        view = await w.finished(run)
        assert await w.log(run, "a") == [
            "node.started",
            "node.attempt_failed", "node.retry_backoff", "node.retry_started",
            "node.attempt_failed", "node.retry_backoff", "node.retry_started",
            "node.completed", "node.retry_succeeded",
        ]  # fmt: skip
        assert view.output == {"a": 3}
        assert (view.nodes[0].attempt, view.nodes[0].failures) == (3, 2)


async def test_failing_to_the_end_has_exactly_these_events(tmp_path: Path) -> None:
    async with world(tmp_path, retry(given="{failures: 9}")) as w:
        run = await w.run("retry")
        await w.finished(run, "failed")
        assert await w.log(run, "a") == [
            "node.started",
            "node.attempt_failed", "node.retry_backoff", "node.retry_started",
            "node.attempt_failed", "node.retry_backoff", "node.retry_started",
            "node.attempt_failed", "node.retry_exhausted", "node.failed",
        ]  # fmt: skip
        exhausted = next(e for e in await w.events(run) if e.type == "node.retry_exhausted")
        assert (exhausted.data["attempt"], exhausted.data["category"]) == (3, "connection_error")


async def test_without_retries_a_failure_is_one_and_nothing_is_exhausted(tmp_path: Path) -> None:
    async with world(tmp_path, "{name: once, nodes: [{id: a, kind: function, use: flaky}]}") as w:
        run = await w.run("once")
        await w.finished(run, "failed")
        assert await w.log(run, "a") == ["node.started", "node.attempt_failed", "node.failed"]


async def test_what_cannot_help_is_not_tried_again(tmp_path: Path) -> None:
    async def forbidden(attempt: Attempt) -> Any:
        raise PermissionError("no")

    async with world(tmp_path, retry("forbidden"), functions={"forbidden": forbidden}) as w:
        view = await w.finished(await w.run("retry"), "failed")
        assert view.error is not None and view.error["category"] == "permission_error"
        assert w.called() == ["a"]


async def test_a_policy_may_name_the_categories_that_it_repeats(tmp_path: Path) -> None:
    more = "{max_attempts: 3, initial: 0, on: [value_error]}"
    async with world(tmp_path, retry("boom", more), retry("flaky", more).replace("name: retry", "name: other")) as w:
        await w.finished(await w.run("retry"), "failed")
        assert w.called() == ["a", "a", "a"]
        w.calls.clear()
        await w.finished(await w.run("other"), "failed")
        assert w.called() == ["a"]


BACKOFF = "{max_attempts: 3, initial: 100, factor: 3, max: 1h, jitter: 0}"


async def test_the_time_of_the_next_attempt_is_stored_and_kept(tmp_path: Path) -> None:
    async with world(tmp_path, retry(more=BACKOFF)) as w:
        run = await w.run("retry")
        state = await w.until(run, lambda s: s.nodes and s.node("a").due_at)
        failed = next(e.at for e in await w.events(run) if e.type == "node.attempt_failed")
        assert 0 <= failed + 100_000_000 - state.node("a").due_at < 1000
        await w.idle()  # nobody owns a run that has nothing to do for so long
        w.advance(99)
        await w.idle()
        assert w.called() == ["a"]
        w.advance(1)
        state = await w.until(run, lambda s: s.node("a").failures == 2)
        assert state.node("a").due_at - w.clock.now_us() == pytest.approx(300_000_000, abs=1e6)
        w.advance(300)
        await w.finished(run)


async def test_a_backoff_survives_a_restart_and_is_neither_reset_nor_skipped(tmp_path: Path) -> None:
    async with world(tmp_path, retry(more=BACKOFF)) as w:
        run = await w.run("retry")
        before = (await w.until(run, lambda s: s.nodes and s.node("a").due_at)).node("a").due_at
        await w.crash(w.machine)
        w.clock.advance(50)
        await w.start()
        assert (await w.machine.store.state(run)).node("a").due_at == before
        await w.given_up_until(before)  # once it has been taken over
        w.advance(49)
        await w.idle()
        assert len(w.calls) == 1
        w.advance(1)
        await w.until(run, lambda s: s.node("a").failures == 2)
        w.advance(300)
        await w.finished(run)
        assert len(w.calls) == 3


async def test_backoffs_that_are_due_soon_are_waited_for_while_something_else_runs(tmp_path: Path) -> None:
    flow = """
name: both
nodes:
- {id: a, kind: function, use: flaky, retry: {max_attempts: 3, initial: 1, jitter: 0}}
- {id: long, kind: function, use: hold, with: {name: long}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("both")
        await w.entered("long")
        await w.until(run, lambda s: s.node("a").failures == 1)
        w.advance(1)
        await w.until(run, lambda s: s.node("a").failures == 2)
        w.advance(2)
        await w.until(run, lambda s: s.node("a").status == "completed")
        w.let_go("long")
        await w.finished(run)


async def test_the_next_attempt_is_told_how_the_last_ones_failed(tmp_path: Path) -> None:
    told: list[list[str]] = []

    async def learning(attempt: Attempt) -> int:
        told.append([str(failure["message"]) for failure in attempt.guidance.failures])
        if attempt.attempt < 6:
            raise ConnectionError(f"no {attempt.attempt}")
        return attempt.attempt

    flow = retry("learning", "{max_attempts: 9, initial: 0, jitter: 0}")
    async with world(tmp_path, flow, functions={"learning": learning}) as w:
        await w.finished(await w.run("retry"))
    assert told == [
        [], ["no 1"], ["no 1", "no 2"], ["no 1", "no 2", "no 3"], ["no 2", "no 3", "no 4"], ["no 3", "no 4", "no 5"],
    ]  # fmt: skip


async def test_what_an_attempt_is_told_survives_a_crash(tmp_path: Path) -> None:
    told: list[list[str]] = []

    async def learning(attempt: Attempt) -> int:
        told.append([str(failure["message"]) for failure in attempt.guidance.failures])
        raise ConnectionError(f"no {attempt.attempt}")

    flow = retry("learning", "{max_attempts: 3, initial: 60, max: 1h, jitter: 0}")
    async with world(tmp_path, flow, functions={"learning": learning}) as w:
        run = await w.run("retry")
        await w.until(run, lambda s: s.nodes and s.node("a").failures == 1)
        await w.crash(w.machine)
        await w.start()
        w.advance(60)
        await w.until(run, lambda s: s.node("a").failures == 2)
        w.advance(120)
        await w.finished(run, "failed")
    assert told == [[], ["no 1"], ["no 1", "no 2"]]


async def test_a_failure_inside_a_task_group_is_of_the_category_of_what_failed(tmp_path: Path) -> None:
    async def grouped(attempt: Attempt) -> None:
        async def fail() -> None:
            raise PermissionError("no")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    async with world(tmp_path, retry("grouped"), functions={"grouped": grouped}) as w:
        view = await w.finished(await w.run("retry"), "failed")
        assert view.error is not None
        assert (view.error["category"], view.error["message"]) == ("permission_error", "no")


async def test_each_instance_of_a_fan_out_has_its_own_retries(tmp_path: Path) -> None:
    flow = """
name: fan
nodes:
- id: f
  kind: function
  use: flaky
  for_each: [0, 1, 2]
  with: {failures: "${{ item }}"}
  retry: {max_attempts: 3, initial: 0}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("fan"))
        assert view.output == {"f": [1, 2, 3]}
        assert (await w.core.get_run(ME, view.id)).counts == {"completed": 4}


async def test_nodes_that_are_tried_again_together_read_the_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself would make as many copies of it as there are nodes."""
    flow = """
name: wide
nodes:
- id: a
  kind: function
  use: flaky
  for_each: "${{ inputs.items }}"
  with: {failures: 1}
  retry: {max_attempts: 2, initial: 0}
"""
    async with world(tmp_path, flow) as w:
        store, pages = w.machine.store, 0
        events = store.events

        async def counted(*args: Any) -> Any:
            nonlocal pages
            pages += 1
            return await events(*args)

        monkeypatch.setattr(store, "events", counted)
        run = await w.run("wide", {"items": list(range(60))})
        state = await w.until(run, lambda state: state.ended_at is not None)
        assert (state.status, pages < 10) == ("completed", True), pages
