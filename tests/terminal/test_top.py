"""`omium top` by its keys: deciding, what others decide, runs, processes, alerts, the log, and hostile text."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from textual.widgets import Input, TextArea

from omium.clients.processes.listing import ProcessView
from omium.orchestration.definition import WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import NodeId, Principal
from omium.orchestration.log import commands as c
from omium.orchestration.service.views import Caller
from omium.server.terminal.app import BETWEEN_S, PANES
from omium.server.terminal.dialogs import Ask, Choose, Edit, Help
from omium.server.terminal.panes import LogPane
from omium.server.terminal.run import RunScreen
from omium.server.terminal.tables import Rows
from omium.storage.sqlite.store import SqliteStore
from tests.history_core import ME
from tests.terminal.desk import HOSTILE, NODES, WIDE, desk, seated

pytestmark = pytest.mark.anyio


async def test_an_approval_is_decided_with_two_keys_and_a_word(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        approval = await at.ask(await at.run(), "Post the notes?", arguments={"url": "https://example.org", "n": 3})
        async with seated(at) as person:
            await person.sees('"url": "https://example.org"')
            assert "Approving lets exactly this call be made" in person.screen()
            await person.press("a")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            await person.press(*"ship", "enter")
            await person.until(lambda: not person.rows())
            await person.sees("Nothing waits for a decision.")
            await person.until(lambda: at.executed)
        view = await at.view(approval)
        assert (view.decision, view.feedback, view.assurance) == ("approve", "ship", "elicited")
        assert view.decided_by == ME.principal


async def test_escape_leaves_a_question_open(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        approval = await at.ask(await at.run())
        async with seated(at) as person:
            await person.sees("the site")
            for key in ("a", "r", "m", "enter"):
                await person.press(key)
                await person.until(lambda: isinstance(at.top.screen, Ask | Choose | Edit))
                await person.press("escape")
                await person.until(lambda: len(at.top.screen_stack) == 1)
        assert (await at.view(approval)).status == "pending"
        assert not at.executed


async def test_other_options_are_chosen_from_a_list(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        approval = await at.ask(hand, "What now?", scope="error", options=("retry", "skip", "abort"))
        async with seated(at) as person:
            await person.sees("retry, skip, abort")
            await person.press("a")
            await person.sees("It does not offer approve")
            await person.press("enter")
            await person.until(lambda: isinstance(at.top.screen, Choose))
            await person.press("down", "enter")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            await person.press("enter")
            await person.until(lambda: not person.rows())
        assert (await at.view(approval)).decision == "skip"


async def test_modify_opens_an_editor_that_takes_only_json(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        approval = await at.ask(hand, arguments={"amount": 100})
        async with seated(at) as person:
            await person.sees('"amount": 100')
            await person.press("m")
            await person.until(lambda: isinstance(at.top.screen, Edit))
            editor = at.top.screen.query_one(TextArea)
            assert editor.text == '{\n  "amount": 100\n}'
            for wrong, told in (("{oops", "this is not JSON"), ("[1]", "arguments are an object"), ("NaN", "not JSON")):
                editor.text = wrong
                await person.press("ctrl+s")
                await person.sees(told)
            editor.text = '{"amount": 5}'
            await person.press("tab")
            await person.until(lambda: isinstance(at.top.focused, Input))
            await person.press(*"less", "enter")
            await person.until(lambda: not person.rows())
        view = await at.view(approval)
        assert (view.decision, view.feedback) == ("modify", "less")
        row = await at.core.store.approval(approval)
        assert row is not None and row.arguments is not None
        assert await at.core.store.value(row.arguments) == {"amount": 5}


async def test_what_is_decided_elsewhere_is_gone_within_a_second(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run(WIDE)
        first, second = await at.ask_often(hand, ["First?", "Second?"])
        elsewhere = await SqliteStore.open(tmp_path / "omium.db", durability="normal")
        try:
            async with seated(at) as person:
                await person.until(lambda: len(person.rows()) == 2)
                await person.press("down")
                await person.sees("node ask0")
                other = type(at.core)(elsewhere, at.core.catalog)
                await other.decide(Caller(Principal("user:eve"), ME.project), first, "reject", assurance="elicited")
                began = time.monotonic()
                await person.until(lambda: len(person.rows()) == 1)
                assert time.monotonic() - began < 5  # a busy machine; on an idle one it is a quarter of a second
                # The cursor stays on its question, so a key decides what was read.
                await person.press("a")
                await person.until(lambda: isinstance(at.top.screen, Ask))
                await other.decide(Caller(Principal("user:eve"), ME.project), second, "reject", assurance="elicited")
                await person.press("enter")
                await person.sees("user:eve")
                await person.until(lambda: not person.rows())
        finally:
            await elsewhere.close()
        assert (await at.view(second)).decided_by == "user:eve"
    assert BETWEEN_S < 0.5


async def test_a_question_that_has_become_another_is_not_decided(tmp_path: Path) -> None:
    from dataclasses import replace

    async with desk(tmp_path) as at:
        approval = await at.ask(await at.run(), arguments={"amount": 1})
        shown = replace(await at.view(approval), arguments={"amount": 2})
        with pytest.raises(OmiumError) as refused:
            await at.board.decide(shown, "approve")
        assert refused.value.code == "conflict"
        assert (await at.view(approval)).status == "pending"


async def test_a_gate_that_wants_more_is_shown_the_way(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        approval = await at.ask(await at.run(), needs="out_of_band")
        async with seated(at) as person:
            await person.sees("The gate asks for out_of_band")
            assert "--credential" in person.screen()
            await person.press("a")
            await person.pilot.pause()
            assert len(at.top.screen_stack) == 1
        assert (await at.view(approval)).status == "pending"


async def test_what_is_too_long_to_be_read_is_not_decided_here(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        approval = await at.ask(await at.run(), arguments={"body": "x" * 100_000, "hidden": "rm -rf"})
        async with seated(at) as person:
            await person.sees("too long to be shown here in full")
            await person.press("a", "enter")
            await person.pilot.pause()
            assert len(at.top.screen_stack) == 1
        assert (await at.view(approval)).status == "pending"


async def test_hostile_text_is_shown_as_it_is_and_does_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        await at.ask(hand, HOSTILE, arguments={HOSTILE: HOSTILE}, details={"show": HOSTILE, HOSTILE: "x"})
        await at.fail(await at.run(), HOSTILE)
        at.processes.append(process(command=HOSTILE, node=HOSTILE, argv=(HOSTILE,)))
        async with seated(at, (100, 40)) as person:
            await person.sees("[red]bad[/red]")
            await person.until(lambda: '"show"' in person.screen() or "\\x1b[31mred" in person.screen())
            for pane in PANES:
                await person.turn_to(pane)
                await person.sees("[red]bad")
                assert all(line.isprintable() for line in person.screen().split("\n")), pane
            await person.turn_to("approvals")
            await person.press("a")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            assert "[red]bad" in person.screen()
            assert all(line.isprintable() for line in person.screen().split("\n"))
            await person.press("escape")
            await person.until(lambda: len(at.top.screen_stack) == 1)
            await person.turn_to("runs")
            await person.press("enter")
            await person.until(lambda: isinstance(at.top.screen, RunScreen))
            await person.press("p")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            assert all(line.isprintable() for line in person.screen().split("\n"))
            at.top.say(HOSTILE, bad=True)
            await person.sees("[@click=app.quit]")


def process(**more: object) -> ProcessView:
    now = time.time_ns() // 1000
    given = {
        "run": "run_01ARZ3NDEKTSV4RRFFQ69G5FAV", "node": "draft", "attempt": 1, "command": "check", "pid": 4242,
        "state": "stalled", "started_at": now - 900_000_000, "last_output_at": now - 600_000_000,
        "last_heartbeat_at": None, "output_bytes": 12, "cpu_s": 1.0, "cpu_percent": 0.5,
        "rss": 12_000_000, "supervisor": 1, "argv": ("check",),
    }  # fmt: skip
    return ProcessView(**{**given, **more})  # type: ignore[arg-type]


async def test_a_run_is_opened_and_cancelled_after_a_question(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        await hand.start("draft")
        async with seated(at) as person:
            await person.turn_to("runs")
            await person.until(lambda: person.rows("runs-list"))
            assert person.rows("runs-list")[0][1] == "executing"
            await person.until(lambda: "draft" in person.rows("runs-list")[0][-1])
            await person.press("enter")
            await person.until(lambda: isinstance(at.top.screen, RunScreen) and person.rows("nodes"))
            assert [row[:2] for row in person.rows("nodes")] == [["draft", "running"], ["publish", "pending"]]
            await hand.end("draft")
            await person.until(lambda: person.rows("nodes")[0][1] == "completed")
            await person.press("c")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            await person.press("escape")
            await person.until(lambda: isinstance(at.top.screen, RunScreen))
            assert (await hand.state()).status == "executing"
            await person.press("c")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            await person.press(*"wrong", "enter")
            await person.until(lambda: "cancelled" in person.text("#run"))
            await person.press("c")
            await person.sees("it takes")
        assert (await hand.state()).status == "cancelled"
        view = await at.core.get_run(ME, hand.run_id)
        assert view.reason == "wrong"


async def test_pause_and_resume_from_the_list(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        async with seated(at) as person:
            await person.turn_to("runs")
            await person.until(lambda: person.rows("runs-list"))
            for key, status in (("p", "paused"), ("u", "executing")):
                await person.press(key)
                await person.until(lambda: isinstance(at.top.screen, Ask))
                await person.press("enter")
                await person.until(lambda: person.rows("runs-list")[0][1] == status)  # noqa: B023
            await person.until(lambda: at.executed)
        assert (await hand.state()).status == "executing"


async def test_running_ones_come_first_and_a_filter_finds_the_others(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        going = await at.run()
        other = await at.run(WorkflowDef("nightly", NODES))
        await at.fail(other, "no such host")
        async with seated(at) as person:
            await person.turn_to("runs")
            await person.until(lambda: len(person.rows("runs-list")) == 2)
            assert [row[2] for row in person.rows("runs-list")] == ["release", "nightly"]
            assert "no such host" in person.rows("runs-list")[1][-1]
            await person.press("slash")
            await person.until(lambda: isinstance(at.top.focused, Input))
            await person.press(*"night")
            await person.until(lambda: [row[2] for row in person.rows("runs-list")] == ["nightly"])
            await person.press("enter")
            await person.until(lambda: isinstance(at.top.focused, Rows))
            await person.press("enter")
            await person.until(lambda: isinstance(at.top.screen, RunScreen))
            await person.until(lambda: person.text("#run").startswith("failed: draft: unknown: no such host"))
            assert "no such host" in person.text("#node")
            await person.press("escape")
            await person.until(lambda: len(at.top.screen_stack) == 1)
            await person.press("escape")
            await person.until(lambda: len(person.rows("runs-list")) == 2)
        assert (await going.state()).status == "executing"


async def test_stalled_processes_failures_budgets_are_alerts(tmp_path: Path) -> None:
    async with desk(tmp_path, budgets=[BudgetRule("month", calls=0)]) as at:
        hand = await at.run()
        await at.fail(hand, "disk full")
        at.processes += [process(run=hand.run_id), process(state="running", pid=7, command="fine")]
        async with seated(at) as person:
            await person.turn_to("processes")
            await person.until(lambda: len(person.rows("processes-list")) == 2)
            assert [row[0] for row in person.rows("processes-list")] == ["! stalled", "running"]
            await person.turn_to("alerts")
            await person.until(lambda: len(person.rows("alerts-list")) == 3)
            kinds = {row[0]: row[3] for row in person.rows("alerts-list")}
            assert "quiet for 6" in kinds["process"]
            assert "used up: 0 of 0 calls" in kinds["budget"]
            assert "disk full" in kinds["run failed"]
            assert "1 stalled" in person.text("#status") and "3 alerts" in person.text("#status")
            at.processes.clear()
            await at.top.look_around()
            await person.until(lambda: len(person.rows("alerts-list")) == 2)
            await person.press("end", "enter")
            await person.until(lambda: isinstance(at.top.screen, RunScreen))


async def test_the_log_goes_on_is_held_and_narrowed_to_a_run(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        one, two = await at.run(), await at.run(WorkflowDef("nightly", NODES))
        async with seated(at, (120, 40)) as person:
            await person.turn_to("log")
            await one.run("draft")
            await person.sees("✓ draft")  # the last of its events: what comes while it is held is counted
            await person.press("space")
            await person.sees("held, 0 more")
            await two.start("publish")
            await two.do(c.NoteProgress(NodeId("publish"), 0, 1, "half way"))
            await person.until(lambda: at.top.query_one(LogPane)._held)
            assert "half way" not in person.screen()
            await person.press("space")
            await person.sees("half way")
            await person.turn_to("runs")
            await person.until(lambda: len(person.rows("runs-list")) == 2)
            place = [row[2] for row in person.rows("runs-list")].index("release")
            await person.press(*["down"] * place, "l")
            await person.sees("only; l shows all")
            assert "half way" not in person.screen() and "✓ draft" in person.screen()
            await person.press("l")
            await person.sees("half way")


async def test_keys_are_listed_and_colours_change(tmp_path: Path) -> None:
    async with desk(tmp_path, dark=False) as at:
        await at.ask(await at.run())
        async with seated(at) as person:
            await person.sees("the site")
            assert at.top.theme == "textual-light"
            await person.press("t")
            assert at.top.theme == "textual-dark"
            await person.press("question_mark")
            await person.until(lambda: isinstance(at.top.screen, Help))
            await person.sees("all options of the question")
            await person.press("escape")
            await person.until(lambda: len(at.top.screen_stack) == 1)
            await person.press("q")
            await person.until(lambda: not at.top.is_running)


async def test_a_thousand_approvals_stay_quick(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run(WIDE)
        ids = await at.ask_often(hand, [f"Question {number}?" for number in range(1_000)])
        async with seated(at) as person:
            await person.until(lambda: len(person.rows()) == 1_000)
            began = time.process_time()
            await at.top.look()
            assert time.process_time() - began < 1.0
            await person.press("end")
            await person.sees("node ask998")
            began = time.process_time()
            await at.core.decide(ME, ids[0], "approve", assurance="elicited")
            await person.until(lambda: len(person.rows()) == 999)
            assert time.process_time() - began < 3.0
            await person.press("r")
            await person.until(lambda: isinstance(at.top.screen, Ask))
            await person.press("enter")
            await person.until(lambda: len(person.rows()) == 998)
        assert (await at.view(ids[-1])).decision == "reject"


async def test_a_database_that_cannot_be_read_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as at:
        hand = await at.run()
        async with seated(at) as person:
            await person.sees("Nothing waits")
            read = at.core.store.approvals
            broken = True

            async def approvals(**given: object) -> object:
                if broken:
                    raise OmiumError("storage_unavailable", "the disk is gone.")
                return await read(**given)  # type: ignore[arg-type]

            monkeypatch.setattr(at.core.store, "approvals", approvals)
            await at.ask(hand)
            await person.sees("the disk is gone.")
            broken = False
            await person.until(lambda: person.rows())
            await person.until(lambda: "disk" not in person.text("#status"))
