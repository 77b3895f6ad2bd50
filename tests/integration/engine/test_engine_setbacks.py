"""Rules about nodes that have failed for good: the run goes back by itself, ends, or asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt, Write
from omium.server.commands.live import Nodes, told
from tests.integration.engine.worlds import ME, World, world

pytestmark = pytest.mark.anyio


def flow(rule: str, nodes: str, **more: Any) -> str:
    return f"name: w\non_failure:\n{rule}\nnodes:\n{nodes}"


BACK = "  - {do: rollback, max: 2}"
TWO = """
  - {id: a, kind: function, use: echo, with: {value: 1}}
  - {id: b, kind: function, use: shaky, with: {value: "${{ nodes.a.output }}"}, needs: a}
"""


class Shaky:
    """A function that fails as often as it is told, whatever attempt or generation it is called in."""

    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.left = failures
        self.error = error

    async def __call__(self, attempt: Attempt, value: Any = None) -> Any:
        if self.left:
            self.left -= 1
            raise self.error("refused")
        return value


async def rolled_back(world: World, run: Any) -> list[Event]:
    return [event for event in await world.events(run) if event.type is E.RUN_ROLLED_BACK]


async def test_a_node_that_fails_twice_completes_after_two_automatic_rollbacks(tmp_path: Path) -> None:
    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": Shaky(2)}) as w:
        run = await w.run("w")
        await w.finished(run)
        back = await rolled_back(w, run)
        assert [(e.actor, e.data["trigger"], e.data["cause"], e.data["rule"], e.data["category"]) for e in back] == [
            ("engine", "automatic", "b", 0, "connection_error")
        ] * 2
        assert [e.data["generation"] for e in back] == [1, 2]
        assert w.called("a") == ["a"], "what came before the last checkpoint stands"
        assert len(w.called("b")) == 3


async def test_one_that_fails_for_ever_waits_for_a_person_after_the_last_rollback(tmp_path: Path) -> None:
    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": Shaky(99)}) as w:
        run = await w.run("w")
        await w.status(run, "waiting_approval")
        assert len(await rolled_back(w, run)) == 2
        [asked] = await w.core.list_approvals(ME, run_id=run)
        assert (asked.node, asked.options) == ("b", ["rollback", "retry", "skip", "abort"])
        assert "2 times" in asked.question
        await w.approve(run, "abort")
        await w.finished(run, "failed")


async def test_a_person_may_have_the_run_taken_back_once_more(tmp_path: Path) -> None:
    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": Shaky(3)}) as w:
        run = await w.run("w")
        await w.approve(run, "rollback")
        await w.finished(run)
        back = await rolled_back(w, run)
        assert [e.data["trigger"] for e in back] == ["automatic", "automatic", "decided"]
        assert back[-1].data["approval"].startswith("apr_")


async def test_rollbacks_stay_counted_over_restarts_and_over_rollbacks_by_people(tmp_path: Path) -> None:
    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": Shaky(99)}) as w:
        run = await w.run("w")
        await w.status(run, "waiting_approval")
        await w.crash(w.machine)
        await w.start()
        await w.core.rollback(ME, run, "start")
        await w.core.resume(ME, run)
        await w.status(run, "waiting_approval")
        assert [e.data.get("trigger") for e in await rolled_back(w, run)] == ["automatic", "automatic", None]


async def test_retries_come_first(tmp_path: Path) -> None:
    nodes = "- {id: a, kind: function, use: shaky, retry: {max_attempts: 2, initial: 0}}"
    async with world(tmp_path, flow(BACK, nodes), functions={"shaky": Shaky(3)}) as w:
        run = await w.run("w")
        await w.finished(run)
        assert [(call.generation, call.attempt) for call in w.calls] == [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert "node.retry_exhausted" in await w.log(run, "a")


@pytest.mark.parametrize(
    ("rules", "status", "asked"),
    [
        ("  - {do: ask, categories: [connection_error]}", "waiting_approval", ["retry", "skip", "abort"]),
        ("  - {do: ask, categories: [timeout]}", "failed", None),
        ("  - {do: ask, nodes: [a]}", "failed", None),
        ("  - {do: ask, nodes: ['?']}", "waiting_approval", ["retry", "skip", "abort"]),
        ("  - {do: fail, nodes: [b]}\n  - {do: ask}", "failed", None),
        ("  {do: ask}", "waiting_approval", ["retry", "skip", "abort"]),
        ("  {do: rollback, to: never made}", "waiting_approval", ["retry", "skip", "abort"]),
    ],
)
async def test_the_first_rule_that_fits_counts(tmp_path: Path, rules: str, status: str, asked: Any) -> None:
    async with world(tmp_path, flow(rules, TWO), functions={"shaky": Shaky(99)}) as w:
        run = await w.run("w")
        await w.status(run, status)
        found = await w.core.list_approvals(ME, run_id=run)
        assert [one.options for one in found] == ([] if asked is None else [asked])
        assert not await rolled_back(w, run)


async def test_abort_fails_the_run_at_once_whatever_else_is_under_way(tmp_path: Path) -> None:
    nodes = TWO + "  - {id: c, kind: function, use: hold, with: {name: c}}\n"
    shaky = Shaky(99)
    async with world(tmp_path, flow("  - {do: abort}", nodes), functions={"shaky": shaky}) as w:
        run = await w.run("w")
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["node"] == "b"
        assert await w.nodes(run) == {"a": "completed", "b": "failed", "c": "cancelled"}


@pytest.mark.parametrize(("to", "repeated"), [("start", 2), ("node:a", 1), ("previous", 1)])
async def test_where_it_goes_back_to(tmp_path: Path, to: str, repeated: int) -> None:
    rule = f"  - {{do: rollback, to: '{to}'}}"
    async with world(tmp_path, flow(rule, TWO), functions={"shaky": Shaky(1)}) as w:
        run = await w.run("w")
        await w.finished(run)
        assert len(w.called("a")) == repeated


async def test_a_label_is_a_place_to_go_back_to(tmp_path: Path) -> None:
    nodes = (
        TWO.replace("needs: a}", "needs: h}") + "  - {id: h, kind: function, use: hold, with: {name: h}, needs: a}\n"
    )
    async with world(tmp_path, flow("  - {do: rollback, to: ready}", nodes), functions={"shaky": Shaky(1)}) as w:
        run = await w.run("w")
        await w.entered("h")
        await w.core.checkpoint(ME, run, "ready", at="node:a")
        w.let_go("h")
        await w.finished(run)
        [back] = await rolled_back(w, run)
        assert back.data["label"] == "ready"
        assert (len(w.called("a")), len(w.called("h"))) == (1, 2)


async def test_an_invalid_checkpoint_is_passed_over(tmp_path: Path) -> None:
    nodes = (
        TWO.replace("needs: a}", "needs: h}") + "  - {id: h, kind: function, use: hold, with: {name: h}, needs: a}\n"
    )
    async with world(tmp_path, flow(BACK, nodes), functions={"shaky": Shaky(1)}) as w:
        run = await w.run("w")
        await w.entered("h")
        with pytest.raises(OmiumError):
            await w.core.checkpoint(ME, run, "broken", expects=["1 == 2"])
        w.let_go("h")
        await w.finished(run)
        [back] = await rolled_back(w, run)
        assert (await w.events(run))[back.data["to"] - 1].data["node"] == "h"


async def test_what_else_is_in_flight_is_stopped_first_and_runs_again(tmp_path: Path) -> None:
    entered, stopped = anyio.Event(), []

    async def slow(attempt: Attempt) -> str:
        if attempt.generation:
            return "done"
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(attempt.node_id)
        raise AssertionError

    async def shaky(attempt: Attempt, value: Any = None) -> Any:
        await entered.wait()
        if not attempt.generation:
            raise ConnectionError("refused")
        assert stopped == ["c"]
        return value

    nodes = TWO + "  - {id: c, kind: function, use: slow}\n"
    async with world(tmp_path, flow(BACK, nodes), functions={"shaky": shaky, "slow": slow}) as w:
        run = await w.run("w")
        assert (await w.finished(run)).output == {"b": 1, "c": "done"}


async def test_two_that_fail_together_are_one_rollback(tmp_path: Path) -> None:
    both = anyio.Event()
    begun: list[str] = []

    async def together(attempt: Attempt) -> str:
        if attempt.generation:
            return "fine"
        begun.append(attempt.node_id)
        if len(begun) == 2:
            both.set()
        await both.wait()
        raise ConnectionError("refused")

    nodes = "  - {id: a, kind: function, use: together}\n  - {id: b, kind: function, use: together}\n"
    async with world(tmp_path, flow(BACK, nodes), functions={"together": together}) as w:
        run = await w.run("w")
        await w.finished(run)
        assert len(await rolled_back(w, run)) == 1


async def test_a_paused_run_is_taken_back_when_it_goes_on(tmp_path: Path) -> None:
    ready, go = anyio.Event(), anyio.Event()

    async def shaky(attempt: Attempt, value: Any = None) -> Any:
        if attempt.generation:
            return value
        ready.set()
        await go.wait()
        raise ConnectionError("refused")

    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": shaky}) as w:
        run = await w.run("w")
        await ready.wait()
        await w.core.pause(ME, run)
        go.set()
        await w.until(run, lambda state: state.setbacks)
        await w.idle()
        assert not await rolled_back(w, run)
        await w.core.resume(ME, run)
        await w.finished(run)
        assert len(await rolled_back(w, run)) == 1


async def test_a_person_who_goes_back_meanwhile_has_the_last_word(tmp_path: Path) -> None:
    ready, go = anyio.Event(), anyio.Event()

    async def shaky(attempt: Attempt, value: Any = None) -> Any:
        if attempt.generation:
            return value
        ready.set()
        await go.wait()
        raise ConnectionError("refused")

    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": shaky}) as w:
        run = await w.run("w")
        await ready.wait()
        await w.core.pause(ME, run)
        go.set()
        await w.until(run, lambda state: state.setbacks)
        await w.core.rollback(ME, run, "start")
        await w.core.resume(ME, run)
        await w.finished(run)
        assert [e.data.get("trigger") for e in await rolled_back(w, run)] == [None]


# --- effects ------------------------------------------------------------------------------------------------------

PAYS = """
  - {id: pay, kind: function, use: pays}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: pay}
"""


class Till:
    """Pays and pays back; `broken`: what it cannot pay back."""

    def __init__(self, *, broken: int = 0) -> None:
        self.broken = broken
        self.done: list[str] = []

    async def pays(self, attempt: Attempt) -> str:
        async def pay() -> str:
            self.done.append("paid")
            return "receipt"

        return str(await attempt.effect("pay", pay, kind="effect"))

    async def back(self, attempt: Attempt, **told: Any) -> None:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("no connection")
        self.done.append("back")


async def test_what_can_be_undone_is_undone_before_it_happens_again(tmp_path: Path) -> None:
    till = Till()
    rule = "  - {do: rollback, to: start, max: 2}"
    nodes = PAYS.replace("use: pays", "use: pays, compensate: back")
    functions = {"shaky": Shaky(2), "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await w.finished(run)
        told = await w.core.rollbacks(ME, run)
        assert [(one.trigger, one.outcome, one.compensated) for one in told] == [("automatic", "done", {"done": 1})] * 2
        assert [one.reason for one in told] == [
            f"b failed (connection_error): automatic rollback {nth} of 2" for nth in (1, 2)
        ]
    assert till.done == ["paid", "back", "paid", "back", "paid"]


@pytest.mark.parametrize(("choice", "paid"), [("rollback", 2), ("retry", 1)])
async def test_what_nothing_undoes_is_not_repeated_before_a_person_says_so(
    tmp_path: Path, choice: str, paid: int
) -> None:
    till, rule = Till(), "  - {do: rollback, to: start, max: 2}"
    async with world(tmp_path, flow(rule, PAYS), functions={"shaky": Shaky(1), "pays": till.pays}) as w:
        run = await w.run("w")
        await w.status(run, "waiting_approval")
        assert not await rolled_back(w, run)
        state = await w.machine.store.state(run)
        [asked] = state.approvals.values()
        assert asked.options == ["rollback", "retry", "skip", "abort"]
        assert asked.question.endswith("would repeat what nothing undoes: pay (pay).")
        [effect] = (asked.details or {})["effects"]
        assert (effect["node"], effect["call"], effect["outcome"], effect["undone"]) == ("pay", "pay", "done", "no")
        await w.approve(run, choice)
        await w.finished(run)
    assert till.done == ["paid"] * paid


async def test_what_lies_before_the_checkpoint_stands_against_nothing(tmp_path: Path) -> None:
    till = Till()
    async with world(tmp_path, flow(BACK, PAYS), functions={"shaky": Shaky(2), "pays": till.pays}) as w:
        run = await w.run("w")
        await w.finished(run)
        assert len(await rolled_back(w, run)) == 2
    assert till.done == ["paid"]


async def test_an_undoing_that_fails_is_a_question_and_only_going_back_or_ending_is_left(tmp_path: Path) -> None:
    till = Till(broken=1)
    rule = "  - {do: rollback, to: start, max: 2}"
    nodes = """
  - {id: pay, kind: function, use: pays, compensate: back}
  - {id: more, kind: function, use: pays, compensate: fine, needs: pay}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: more}
"""

    async def fine(attempt: Attempt, **told: Any) -> None:
        till.done.append("fine")

    functions = {"shaky": Shaky(1), "pays": till.pays, "back": till.back, "fine": fine}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await w.status(run, "waiting_approval")
        assert not await rolled_back(w, run)
        [asked] = await w.core.list_approvals(ME, run_id=run)
        assert asked.options == ["rollback", "abort"]
        await w.approve(run, "rollback")
        await w.finished(run)
    assert till.done == ["paid", "paid", "fine", "back", "paid", "paid"]


async def test_a_second_question_lists_what_was_agreed_to_before(tmp_path: Path) -> None:
    """One call that nothing undoes, and one of which the undoing fails: two questions, and no third."""
    till = Till(broken=9)
    rule = "  - {do: rollback, to: start, max: 2}"
    nodes = """
  - {id: pay, kind: function, use: pays}
  - {id: more, kind: function, use: pays, compensate: back, needs: pay}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: more}
"""
    functions = {"shaky": Shaky(1), "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await w.approve(run, "rollback")
        await w.approve(run, "rollback")
        await w.finished(run)
        asked = (await w.machine.store.state(run)).approvals.values()
        listed = [[one["node"] for one in (each.details or {})["effects"]] for each in asked]
        assert listed == [["pay"], ["pay", "more"]]
    assert till.done == ["paid"] * 4


async def test_what_a_sub_run_did_counts_too(tmp_path: Path) -> None:
    till, rule = Till(), "  - {do: rollback, to: start}"
    below = "{name: below, nodes: [{id: pay, kind: function, use: pays}]}"
    nodes = """
  - {id: sub, kind: workflow, use: below}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: sub}
"""
    async with world(tmp_path, flow(rule, nodes), below, functions={"shaky": Shaky(1), "pays": till.pays}) as w:
        run = await w.run("w")
        await w.status(run, "waiting_approval")
        assert not await rolled_back(w, run)
        await w.approve(run, "abort")
        await w.finished(run, "failed")
    assert till.done == ["paid"]


async def test_what_a_sub_run_did_is_undone_before_it_happens_again(tmp_path: Path) -> None:
    till, rule = Till(), "  - {do: rollback, to: start}"
    below = "{name: below, nodes: [{id: pay, kind: function, use: pays, compensate: back}]}"
    nodes = """
  - {id: sub, kind: workflow, use: below}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: sub}
"""
    functions = {"shaky": Shaky(1), "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), below, functions=functions) as w:
        await w.finished(await w.run("w"))
    assert till.done == ["paid", "back", "paid"]


# --- crashes ------------------------------------------------------------------------------------------------------


def of_setback(write: Write, at: str) -> bool:
    """Whether a write is the one that a test dies before or after."""
    kinds = {
        "failure": lambda one: isinstance(one, c.FailAttempt) and one.rule is not None,
        "undoing": lambda one: isinstance(one, c.NoteCompensation) and one.outcome == "started",
        "undone": lambda one: isinstance(one, c.NoteCompensation) and one.outcome == "done",
        "rollback": lambda one: isinstance(one, c.RollBack),
        "question": lambda one: isinstance(one, c.RequestApproval),
    }
    return any(kinds[at](one) for one in write.commands)


async def die_before(world: World, at: str, nth: int = 1) -> None:
    """The machine is gone before its nth write of this sort; another takes its place."""
    here, seen = anyio.Event(), 0
    store = world.machine.store

    async def before(write: Write) -> None:
        nonlocal seen
        seen += of_setback(write, at)
        if seen == nth and of_setback(write, at):
            store.cut = True
            here.set()

    store.before_write = before
    with anyio.fail_after(20):
        await here.wait()
    await world.crash(world.machine)
    await world.start()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("at", ["failure", "undoing", "rollback"])
async def test_another_machine_finishes_what_a_dead_one_began(tmp_path: Path, at: str, nth: int) -> None:
    till, rule = Till(), "  - {do: rollback, to: start, max: 2}"
    nodes = PAYS.replace("use: pays", "use: pays, compensate: back")

    async def shaky(attempt: Attempt, value: Any = None) -> Any:
        if attempt.generation < 2:
            raise ConnectionError("refused")
        return value

    functions = {"shaky": shaky, "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await die_before(w, at, nth)
        await w.finished(run)
        assert [e.data["trigger"] for e in await rolled_back(w, run)] == ["automatic", "automatic"]
    assert till.done == ["paid", "back", "paid", "back", "paid"]


async def test_an_undoing_that_was_cut_off_is_not_known_to_have_happened_and_a_person_is_asked(tmp_path: Path) -> None:
    till, rule = Till(), "  - {do: rollback, to: start, max: 2}"
    nodes = PAYS.replace("use: pays", "use: pays, compensate: back")
    functions = {"shaky": Shaky(1), "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await die_before(w, "undone")
        await w.status(run, "waiting_approval")
        [asked] = (await w.machine.store.state(run)).approvals.values()
        assert [one["undone"] for one in (asked.details or {})["effects"]] == ["unknown"]
        await w.approve(run, "rollback")
        await w.finished(run)
    assert till.done == ["paid", "back", "paid"]


async def test_what_was_undone_before_the_crash_leaves_no_way_but_back(tmp_path: Path) -> None:
    till, rule = Till(), "  - {do: rollback, to: start, max: 2}"
    nodes = """
  - {id: pay, kind: function, use: pays, compensate: back}
  - {id: more, kind: function, use: pays, compensate: back, needs: pay}
  - {id: b, kind: function, use: shaky, with: {value: 1}, needs: more}
"""
    functions = {"shaky": Shaky(1), "pays": till.pays, "back": till.back}
    async with world(tmp_path, flow(rule, nodes), functions=functions) as w:
        run = await w.run("w")
        await die_before(w, "undone", 2)  # `more` is undone, `pay` is being undone
        await w.status(run, "waiting_approval")
        [asked] = await w.core.list_approvals(ME, run_id=run)
        assert asked.options == ["rollback", "abort"]
        await w.approve(run, "rollback")
        await w.finished(run)
    assert till.done == ["paid", "paid", "back", "back", "paid", "paid"]


async def test_a_question_that_was_not_written_is_asked_by_the_next_machine(tmp_path: Path) -> None:
    till, rule = Till(), "  - {do: rollback, to: start, max: 2}"
    async with world(tmp_path, flow(rule, PAYS), functions={"shaky": Shaky(1), "pays": till.pays}) as w:
        run = await w.run("w")
        await die_before(w, "question")
        await w.approve(run, "rollback")
        await w.finished(run)
    assert till.done == ["paid", "paid"]


# --- what is shown ------------------------------------------------------------------------------------------------


async def test_a_dry_run_shows_what_a_failure_leads_to(tmp_path: Path) -> None:
    rules = """
  - {do: abort, categories: [timeout, api_error], nodes: [a]}
  - {do: rollback, nodes: [b], to: start, max: 2}
  - {do: ask}
"""
    async with world(tmp_path, flow(rules, TWO), functions={"shaky": Shaky(0)}) as w:
        shown = await w.core.simulate(ME, "w")
        assert [(one.node, one.note) for one in shown.order] == [
            ("a", "on timeout or api_error: the run fails, on any failure: asks"),
            ("b", "on any failure: back to start up to 2 times, then asks, on any failure: asks"),
        ]


async def test_the_history_of_the_run_and_its_progress_tell_of_it(tmp_path: Path) -> None:
    async with world(tmp_path, flow(BACK, TWO), functions={"shaky": Shaky(1)}) as w:
        run = await w.run("w")
        await w.finished(run)
        deeds = [one for one in (await w.core.audit(ME, run)).deeds if one.kind == "run.rolled_back"]
        assert [(one.actor, one.data["trigger"], one.data["cause"]) for one in deeds] == [("engine", "automatic", "b")]
        nodes, lines = Nodes(), []
        for event in await w.core.events(ME, run, limit=1000):
            lines += [line for _, line in told(event, nodes)]
            nodes.take(event)
        assert any(line.startswith("b  attempt 1 failed: refused") for line in lines)
        assert "rolled back: b failed (connection_error): automatic rollback 1 of 2" in lines
        assert (nodes.running, nodes.tried) == ({}, {})
