"""The ledger: a call that is known to have happened is not made again; one that is not known follows its policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.engine.attempt import effect_id
from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, NewBlob, Write
from omium.orchestration.values import encode
from tests.integration.engine.worlds import ME, Function, World, all_events, eventually, world

pytestmark = pytest.mark.anyio


class Outside:
    """What the calls of a test change; `hold` lets none of them come back."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.reached = anyio.Event()
        self.back = anyio.Event()

    def call(self, name: str, hold: bool = False) -> Callable[[], Awaitable[Any]]:
        async def act() -> Any:
            self.done.append(name)
            if hold:
                self.reached.set()
                await self.back.wait()
            return {"did": name}

        return act


def flow(more: str = "") -> str:
    return f"""
name: act
nodes:
- {{id: a, kind: function, use: act{more}}}
- {{id: b, kind: function, use: echo, needs: a}}
"""


def acting(act: Callable[[Attempt], Awaitable[Any]]) -> dict[str, Function]:
    return {"act": act}


async def test_a_call_is_noted_before_it_is_made_and_settled_after(tmp_path: Path) -> None:
    outside = Outside()

    async def act(attempt: Attempt) -> Any:
        return await attempt.effect("mail", outside.call("mail"), kind="email", detail={"to": "ada"})

    async with world(tmp_path, flow(), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        log = await w.log(run)
        assert [kind for kind in log if kind.startswith("effect")] == ["effect.intended", "effect.settled"]
        (effect,) = await w.machine.store.effects(run)
        assert (effect.call, effect.kind, effect.outcome, effect.detail) == ("mail", "email", "done", {"to": "ada"})
        assert effect.id == effect_id(run, "a", 0, "mail")
        assert effect.result is not None and await w.machine.store.value(effect.result) == {"did": "mail"}


async def test_a_call_that_is_known_is_not_made_again_by_the_next_attempt(tmp_path: Path) -> None:
    outside = Outside()

    async def act(attempt: Attempt) -> Any:
        first = await attempt.effect("one", outside.call("one"), kind="x")
        if attempt.attempt == 1:
            raise ConnectionError("refused")
        return [first, await attempt.effect("two", outside.call("two"), kind="x")]

    more = ", retry: {max_attempts: 2, initial: 0}"
    async with world(tmp_path, flow(more), functions=acting(act)) as w:
        await w.finished(await w.run("act"))
    assert outside.done == ["one", "two"]


async def test_a_call_that_failed_is_recorded_and_made_again(tmp_path: Path) -> None:
    tries: list[int] = []

    async def act(attempt: Attempt) -> Any:
        async def call() -> int:
            tries.append(attempt.attempt)
            if len(tries) == 1:
                raise ConnectionError("refused")
            return 1

        return await attempt.effect("one", call, kind="x")

    more = ", retry: {max_attempts: 2, initial: 0}"
    async with world(tmp_path, flow(more), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        settled = [event.data for event in await w.events(run) if event.type == "effect.settled"]
        assert [one["outcome"] for one in settled] == ["failed", "done"]
        assert settled[0]["error"] == {"type": "ConnectionError", "message": "refused"}
    assert tries == [1, 2]


async def test_a_call_that_was_surely_not_sent_is_noted_as_such(tmp_path: Path) -> None:
    async def act(attempt: Attempt) -> Any:
        async def call() -> int:
            raise OmiumError("forbidden", "policy says no.", sent=False)

        return await attempt.effect("one", call, kind="x")

    async with world(tmp_path, flow(), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run, "failed")
        (effect,) = await w.machine.store.effects(run)
        assert effect.outcome == "not_sent"


async def test_each_generation_has_effects_of_its_own(tmp_path: Path) -> None:
    outside = Outside()

    async def act(attempt: Attempt) -> Any:
        return await attempt.effect("one", outside.call(f"g{attempt.generation}"), kind="x")

    async with world(tmp_path, flow(), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        to = next(event.seq for event in await w.events(run) if event.type == "run.started")
        await w.machine.store.write(Write(run, [c.RollBack(to), c.ResumeRun()], "user:me"))  # type: ignore[arg-type]
        await w.until(run, lambda s: s.generation == 1 and s.ended_at)
        assert outside.done == ["g0", "g1"]
        assert len({effect.id for effect in await w.machine.store.effects(run)}) == 2


async def crash_in_the_middle(w: World, outside: Outside) -> Any:
    run = await w.run("act")
    with anyio.fail_after(20):
        await outside.reached.wait()
    await w.crash(w.machine)
    outside.back.set()
    await w.start()
    return run


def calling(outside: Outside, **more: Any) -> dict[str, Function]:
    async def act(attempt: Attempt) -> Any:
        known = await attempt.effect("known", outside.call("known"), kind="x", **more)
        held = not outside.reached.is_set()
        return [known, await attempt.effect("unknown", outside.call("unknown", held), kind="x", **more)]

    return acting(act)


async def test_after_a_crash_a_function_makes_its_unsettled_call_again_and_no_other(tmp_path: Path) -> None:
    outside = Outside()
    async with world(tmp_path, flow(), functions=calling(outside)) as w:
        run = await crash_in_the_middle(w, outside)
        view = await w.finished(run)
        assert outside.done == ["known", "unknown", "unknown"]
        assert view.nodes[0].attempt == 2
        assert "run.recovered" in await w.log(run)


@pytest.mark.parametrize("by_node", [True, False])
async def test_with_ask_somebody_says_whether_the_call_is_made_again(tmp_path: Path, by_node: bool) -> None:
    outside = Outside()
    functions = calling(outside, **({} if by_node else {"on_unknown": "ask"}))
    async with world(tmp_path, flow(", on_unknown: ask" if by_node else ""), functions=functions) as w:
        run = await crash_in_the_middle(w, outside)
        await w.status(run, "waiting_approval")
        (approval,) = [a for a in (await w.machine.store.state(run)).approvals.values() if a.decision is None]
        assert approval.scope == "unknown_effect" and "unknown" in approval.question
        lost = len(approval.details["calls"]) if approval.details else 0
        assert ("the calls " if lost > 1 else "the call ") in approval.question
        assert outside.done == ["known", "unknown"]
        await w.approve(run, "retry")
        await w.finished(run)
        assert outside.done == ["known", "unknown", "unknown"]


@pytest.mark.parametrize(("decision", "status"), [("skip", "skipped"), ("abort", "failed")])
async def test_with_ask_it_may_also_be_left(tmp_path: Path, decision: str, status: str) -> None:
    outside = Outside()
    async with world(tmp_path, flow(", on_unknown: ask"), functions=calling(outside)) as w:
        run = await crash_in_the_middle(w, outside)
        await w.approve(run, decision)
        await w.finished(run, None)
        assert (await w.nodes(run))["a"] == status
        assert outside.done == ["known", "unknown"]


async def test_with_fail_the_node_has_failed(tmp_path: Path) -> None:
    outside = Outside()
    async with world(tmp_path, flow(", on_unknown: fail"), functions=calling(outside)) as w:
        run = await crash_in_the_middle(w, outside)
        view = await w.finished(run, "failed")
        assert view.error is not None and "unknown" in view.error["message"]
        assert outside.done == ["known", "unknown"]


async def test_a_call_that_a_time_out_cut_off_is_not_simply_made_again(tmp_path: Path) -> None:
    outside = Outside()
    more = ", on_unknown: ask, timeout: 50ms, retry: {max_attempts: 5, initial: 0}"
    async with world(tmp_path, flow(more), functions=calling(outside)) as w:
        run = await w.run("act")
        await w.status(run, "waiting_approval")
        assert outside.done == ["known", "unknown"]
        outside.back.set()
        await w.approve(run, "retry")
        await w.finished(run)
        assert outside.done == ["known", "unknown", "unknown"]


async def test_a_call_that_a_pause_cut_off_is_asked_about(tmp_path: Path) -> None:
    outside = Outside()
    more = ", on_unknown: ask, on_pause: interrupt"
    async with world(tmp_path, flow(more), functions=calling(outside)) as w:
        run = await w.run("act")
        await outside.reached.wait()
        await w.core.pause(ME, run, interrupt=True)
        await w.until(run, lambda s: s.node("a").status == "waiting_approval")
        outside.back.set()
        await w.approve(run, "abort")
        await w.idle()


async def test_a_settlement_that_comes_late_is_taken_and_the_call_not_repeated(tmp_path: Path) -> None:
    outside = Outside()
    async with world(tmp_path, flow(", on_unknown: ask"), functions=calling(outside)) as w:
        run = await crash_in_the_middle(w, outside)
        await w.status(run, "waiting_approval")
        identity = effect_id(run, "a", 0, "unknown")
        settle = c.SettleEffect(identity, "done", *await stored(w, "late"))
        await w.machine.store.write(Write(run, [settle], "user:me"))  # type: ignore[arg-type]
        again = await w.machine.store.write(Write(run, [settle], "user:me"))  # type: ignore[arg-type]
        assert not again.events  # by one who was not told that it was taken
        other = c.SettleEffect(identity, "done", *await stored(w, "another"))
        with pytest.raises(OmiumError) as twice:
            await w.machine.store.write(Write(run, [other], "user:me"))  # type: ignore[arg-type]
        assert twice.value.code == "conflict"
        await w.approve(run, "retry")
        await w.finished(run)
        assert await w.core.store.value((await w.machine.store.state(run)).node("a").output) == [  # type: ignore[arg-type]
            {"did": "known"}, "late",
        ]  # fmt: skip
        assert outside.done == ["known", "unknown"]


async def stored(w: World, value: Any) -> tuple[Any, int]:
    encoded = encode(value)
    await w.machine.store.put([NewBlob(encoded)])
    return encoded.digest, encoded.size


async def test_intents_and_settlements_asked_for_one_by_one(tmp_path: Path) -> None:
    asked: list[Any] = []

    async def act(attempt: Attempt) -> Any:
        asked.append(await attempt.ask("effect_intent", {"key": "k"}))
        if attempt.attempt == 1:
            await attempt.ask("effect_settle", {"key": "k", "ok": True, "result": 5})
            bad = {"key": "bad", "ok": False, "error_type": "E", "message": "m"}
            await attempt.ask("effect_intent", {"key": "bad"})
            await attempt.ask("effect_settle", bad)
            raise ConnectionError("again")
        return 1

    more = ", retry: {max_attempts: 2, initial: 0}"
    async with world(tmp_path, flow(more), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        assert {e.call: e.outcome for e in await w.machine.store.effects(run)} == {"k": "done", "bad": "failed"}
    assert asked == [{"known": False}, {"known": True, "result": 5}]


async def test_notes_and_artifacts_of_a_node(tmp_path: Path) -> None:
    async def act(attempt: Attempt) -> Any:
        await attempt.ask("progress", {"text": "half way" + "!" * 5000})
        await attempt.ask("artifact", {"name": "report", "value": {"a": 1}})
        with pytest.raises(OmiumError) as wrong:
            await attempt.ask("coffee", None)
        assert wrong.value.code == "invalid_argument"
        return 1

    async with world(tmp_path, flow(), functions=acting(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        note = next(event for event in await w.events(run) if event.type == "node.progress")
        assert note.data["text"].startswith("half way!") and len(note.data["text"]) == 2000
        assert await w.core.artifact(ME, run, "report") == {"a": 1}


# --- draws ----------------------------------------------------------------------------------------------------------


async def test_what_a_node_drew_it_draws_again_after_a_crash(tmp_path: Path) -> None:
    outside = Outside()
    drawn: list[list[Any]] = []

    async def act(attempt: Attempt) -> Any:
        draws = [await attempt.ask(kind, None) for kind in ("now", "random", "uuid", "random")]
        drawn.append(draws)
        await attempt.effect("one", outside.call("one", len(drawn) == 1), kind="x")
        return str(draws)

    async with world(tmp_path, flow(), functions=acting(act)) as w:
        run = await w.run("act")
        await outside.reached.wait()
        await w.crash(w.machine)
        w.clock.advance(1000)
        outside.back.set()
        await w.start()
        await w.finished(run)
        events = await all_events(w.machine.store, run)
        assert [event.data["call"] for event in events if event.type == "value.drawn"] == [
            "now#1", "random#2", "uuid#3", "random#4",
        ]  # fmt: skip
    first, second = drawn
    assert first == second
    assert isinstance(first[0], datetime) and first[0].tzinfo is not None
    assert 0 <= first[1] < 1 and first[1] != first[3]


async def test_a_new_attempt_after_a_failure_draws_anew(tmp_path: Path) -> None:
    drawn: list[Any] = []

    async def act(attempt: Attempt) -> Any:
        drawn.append(await attempt.ask("uuid", None))
        if attempt.attempt == 1:
            raise ConnectionError("again")
        return 1

    async with world(tmp_path, flow(", retry: {max_attempts: 2, initial: 0}"), functions=acting(act)) as w:
        await w.finished(await w.run("act"))
    assert len(set(drawn)) == 2


async def test_an_effect_that_is_over_when_the_cancellation_comes_is_settled(tmp_path: Path) -> None:
    outside = Outside()

    async def act(attempt: Attempt) -> Any:
        await attempt.effect("one", outside.call("one"), kind="x")
        outside.reached.set()
        await anyio.sleep_forever()

    async with world(tmp_path, flow(", on_pause: interrupt"), functions=acting(act)) as w:
        run = await w.run("act")
        await outside.reached.wait()
        await w.core.pause(ME, run, interrupt=True)
        await w.until(run, lambda s: s.node("a").status == "paused")
        await w.core.cancel(ME, run)
        await w.idle()
        await eventually(lambda: w.running == 0)
        (effect,) = await w.machine.store.effects(run)
        assert effect.outcome == "done"
