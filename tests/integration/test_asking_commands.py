"""Commands that ask a person in the middle: no process waits, and an answer counts for its question only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.ids import RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import ApprovalView, Caller, RunView
from omium.server.app import open_omium
from omium.server.toolruns import tool_runs
from tests.project_help import all_events, caller, config_of, marks, node, types_of, write_project

pytestmark = pytest.mark.anyio

TOOL = """
import json, os, sys
from pathlib import Path
from omium.clients.processes.asking import ask, feedback

marks = Path(__file__).with_name("marks")
given = json.load(sys.stdin)


def mark(text):
    with marks.open("a") as file:
        file.write(text + "\\n")


mark(f"start {os.getcwd() == str(marks.parent)} {sys.argv[1:]}")
mode = given["mode"]
if mode == "once":
    choice = ask("Deploy?", ["stage", "production"], details={"commit": "abc"})
elif mode == "twice":
    ask("First?")
    choice = ask("Second?")
elif mode == "moving":  # another question every time
    count = marks.read_text().count("start")
    choice = ask(f"Question {count}?") if count < 3 else "done"
elif mode == "deaf":  # the same one every time, whatever the answer
    os.environ.pop("OMIUM_DECISION", None)
    choice = ask("Again?")
elif mode == "fails":
    choice = ask("Try?")
    mark("tried")
    sys.exit(3)
mark(f"does {choice} {feedback()}")
print(json.dumps({"choice": choice}))
"""

PROJECT = """
project: demo
database: db/omium.db
commands:
  tool: {argv: ["{python}", "{project}/tool.py", "--for={input.mode}"], cwd: project, env: {MODE: x}}
supervision:
  approvals: {expires: 1h}
  commands: {tool: {min_assurance: out_of_band}}
"""


@asynccontextmanager
async def asking(directory: Path, mode: str, **more: Any) -> AsyncIterator[tuple[Core, Caller, RunId]]:
    write_project(directory, {"w": [node("ask", "tool", kind="cli", with_={"mode": mode}, workspace="none", **more)]})
    (directory / "tool.py").write_text(TOOL)
    (directory / "omium.yaml").write_text(PROJECT)
    config = config_of(directory)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.run_workflow(caller(config), "w")
            yield core, caller(config), run.id


async def question(core: Core, me: Caller, run: RunId) -> ApprovalView:
    view = await core.wait(me, run, 30)
    while view.status == "executing":
        view = await core.wait(me, run, 30)
    assert view.status == "waiting_approval", view.error
    (found,) = await core.list_approvals(me, run_id=run)
    return found


async def decide(core: Core, me: Caller, asked: ApprovalView, choice: str, feedback: str | None = None) -> None:
    await core.decide(me, asked.id, choice, feedback=feedback, assurance="out_of_band")


async def end(core: Core, me: Caller, run: RunId) -> RunView:
    view = await core.wait(me, run, 30, detail=True)
    while view.ended_at is None:
        view = await core.wait(me, run, 30, detail=True)
    return view


async def test_a_question_waits_without_a_process_and_the_answer_reaches_the_rerun(tmp_path: Path) -> None:
    async with asking(tmp_path, "once") as (core, me, run):
        asked = await question(core, me, run)
        assert (asked.question, list(asked.options)) == ("Deploy?", ["stage", "production", "reject"])
        assert asked.min_assurance == "out_of_band"
        assert asked.expires_at - asked.requested_at == pytest.approx(3600e6, abs=5e6)
        assert asked.details is not None
        assert asked.details["details"] == {"commit": "abc"}
        assert asked.details["argv"][2] == "--for=once"
        assert asked.details["env"] == ["MODE"]  # names, no values
        assert list((tmp_path / "home" / "processes").glob("*.json")) == []
        (waiting,) = await tool_runs(core.store, run)
        assert (waiting.outcome, waiting.tool, waiting.approval) == ("waiting_approval", "tool", asked.id)
        await decide(core, me, asked, "production", "tonight")
        done = await end(core, me, run)
        assert (done.status, done.output) == ("completed", {"ask": {"choice": "production"}})
        effects = await core.store.effects(run)
        assert [(one.call, one.outcome) for one in effects] == [("command", "done")]
        told = types_of(await all_events(core, run))
        assert "node.attempt_failed" not in told
        assert told.count("approval.requested") == told.count("approval.consumed") == 1
        assert [one.outcome for one in await tool_runs(core.store, run)] == ["not_sent", "completed"]
    start = "start True ['--for=once']"
    assert marks(tmp_path) == [start, start, "does production tonight"]


async def test_what_is_run_again_is_what_was_stored(tmp_path: Path) -> None:
    async with asking(tmp_path, "once") as (core, me, run):
        asked = await question(core, me, run)
    # The operator changes the command meanwhile: what was asked about is the old one.
    (tmp_path / "omium.yaml").write_text(PROJECT.replace("--for={input.mode}", "--changed"))
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            await decide(core, me, asked, "stage")
            assert (await end(core, me, run)).status == "completed"
    assert marks(tmp_path)[1] == "start True ['--for=once']"


async def test_each_of_several_questions_has_its_own_answer(tmp_path: Path) -> None:
    async with asking(tmp_path, "twice") as (core, me, run):
        first = await question(core, me, run)
        await decide(core, me, first, "approve")
        second = await question(core, me, run)
        assert (first.question, second.question) == ("First?", "Second?")
        await decide(core, me, second, "approve")
        assert (await end(core, me, run)).status == "completed"
    assert len(marks(tmp_path)) == 4


async def test_another_question_gets_another_approval_and_never_the_old_answer(tmp_path: Path) -> None:
    async with asking(tmp_path, "moving") as (core, me, run):
        first = await question(core, me, run)
        await decide(core, me, first, "approve")
        second = await question(core, me, run)
        assert first.id != second.id
        assert (first.question, second.question) == ("Question 1?", "Question 2?")
        await decide(core, me, second, "approve")
        assert (await end(core, me, run)).status == "completed"


async def test_the_fourth_identical_question_fails(tmp_path: Path) -> None:
    async with asking(tmp_path, "deaf") as (core, me, run):
        seen = set()
        for _ in range(3):
            asked = await question(core, me, run)
            seen.add(asked.id)
            await decide(core, me, asked, "approve")
        view = await end(core, me, run)
        assert view.status == "failed"
        assert view.error is not None and view.error["reason"] == "max_resumes"
        assert len(seen) == 3
    assert len(marks(tmp_path)) == 4


@pytest.mark.parametrize("choice", ["reject"])
async def test_a_refusal_fails_the_node_and_runs_nothing(tmp_path: Path, choice: str) -> None:
    async with asking(tmp_path, "once") as (core, me, run):
        await decide(core, me, await question(core, me, run), choice)
        view = await end(core, me, run)
        assert view.status == "failed"
        assert view.error is not None and view.error["code"] == "approval_rejected"
        assert [one.outcome for one in await tool_runs(core.store, run)] == ["failed"]
    assert len(marks(tmp_path)) == 1


async def test_a_repetition_after_a_failure_asks_again(tmp_path: Path) -> None:
    retry = {"max_attempts": 2, "initial": 0.01, "on": ["unknown"]}
    async with asking(tmp_path, "fails", retry=retry) as (core, me, run):
        first = await question(core, me, run)
        await decide(core, me, first, "approve")
        second = await question(core, me, run)
        assert (second.question, second.id != first.id) == (first.question, True)
        await decide(core, me, second, "approve")
        assert (await end(core, me, run)).status == "failed"
    assert marks(tmp_path).count("tried") == 2


async def test_two_decisions_at_once_have_one_winner_and_one_rerun(tmp_path: Path) -> None:
    async with asking(tmp_path, "once") as (core, me, run):
        asked = await question(core, me, run)
        refused: list[str] = []

        async def one(choice: str) -> None:
            from omium.orchestration.errors import OmiumError

            try:
                await decide(core, me, asked, choice)
            except OmiumError as error:
                refused.append(error.code)

        async with anyio.create_task_group() as tasks:
            for choice in ("stage", "production") * 5:
                tasks.start_soon(one, choice)
        assert (await end(core, me, run)).status == "completed"
        assert refused == ["already_decided"] * 9
    assert len(marks(tmp_path)) == 3
