"""Genie drives the example's epic: through its gates, and out of its failures."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from omium.clients.genie import Genie, Report
from omium.clients.genie.memory import GenieMemory
from omium.clients.genie.state import State, Step
from omium.clients.remote import OmiumClient
from omium.orchestration.errors import OmiumError
from tests.genie.projects import BAD, GOOD, TEST, developer, epic_project, opened, spec_of, writes

pytestmark = pytest.mark.anyio

LIMIT_S = 90


async def agree(client: OmiumClient, report: Report, decision: str = "approve", word: str | None = None) -> None:
    """A person decides what the report says that it waits for."""
    assert report.standing == "waiting", report.reason
    (approval,) = report.approvals
    assert (await client.approve(approval.approval_id, decision, feedback=word)).decided


async def to_the_end(client: OmiumClient, genie: Genie) -> Report:
    """A person agrees to everything."""
    report = await genie.drive()
    while report.standing == "waiting":
        await agree(client, report)
        report = await genie.drive()
    return report


async def test_only_the_phases_that_are_asked_for_are_taken(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            planned = await Genie(client, spec_of(project, name="one", phases=["architect"])).drive()
            goal = "Give every page a slug. Stop after the architecture."
            told = await Genie(client, spec_of(project, name="two", phases="auto", goal=goal)).drive()
    for report in (planned, told):
        assert report.standing == "completed" and [one.id for one in report.phases] == ["architect"]
        assert report.output["architect"]["items"]
    plain = spec_of(project)
    assert plain.digest() != spec_of(project, phases=["test"]).digest() == spec_of(project, phases=["test"]).digest()


async def test_gates_are_left_to_people_and_phases_are_labelled(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    said: list[str] = []
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            genie = Genie(client, spec_of(project, answers={"agree": "approve"}), tell=said.append)
            # An answer is only a proposal: the person at this client says yes, so the epic comes to its second gate.
            report = await genie.drive()
            assert [one.node for one in report.approvals] == ["release"]
            await agree(client, report)
            done = await genie.drive()
        assert done.standing == "completed" and done.output["into"].startswith("epic/")
        assert done.tokens > 10_000 and {one.status for one in done.phases} == {"completed"}
        labels = [one.label for one in await client.checkpoints(done.run_id, limit=50) if one.label]
        assert set(labels) == {one.id for one in done.phases}
        decisions = await client.recall(scope="epic:page-titles", kind="decision")
        assert sorted(str(one.text.value).split(" by ")[0] for one in decisions.memories) == [
            "agree: approve",
            "release: approve",
        ]
        loop = await client.output(done.run_id, "test.loop")
        assert loop["passed"] is True
        nodes = {one.id for one in (await client.get_run(done.run_id, detail=True)).nodes}
        assert {"test.loop[0].run", "test.loop[1].run"} <= nodes and "test.loop[2].run" not in nodes
    log = await anyio.run_process(["git", "log", "--oneline", "--merges"], cwd=project / "repository")
    assert done.output["into"] in log.stdout.decode()
    assert "start" in said and "completed" in said


async def test_what_fails_is_done_again_with_what_the_failure_says(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    developer(
        project,
        **{"test failed": writes("now right", ("slug.py", GOOD), ("test_slug.py", TEST))},
        Task=writes("wrong", ("slug.py", BAD), ("test_slug.py", TEST)),
    )
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            done = await to_the_end(client, Genie(client, spec_of(project)))
        assert done.standing == "completed"
        assert [(one.kind, one.node, one.phase, one.outcome) for one in done.tried] == [
            ("play_from", "implement", "test", "worked")
        ]
        assert len(done.runs) == 1
        known = await client.recall(kind="remedy", tags=["remedy:play_from", "phase:test"])
        assert (known.worked, known.failed, known.success_rate) == (1, 0, 1.0)
        failure = await client.recall("still fail", scope="epic:page-titles", kind="failure")
        assert failure.found == 1


async def test_what_fails_again_is_branched_with_another_hypothesis(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    developer(
        project,
        **{"Try this: lower the letters": writes("now right", ("slug.py", GOOD), ("test_slug.py", TEST))},
        Task=writes("wrong", ("slug.py", BAD), ("test_slug.py", TEST)),
    )
    async with opened(project) as (core, client):
        with anyio.fail_after(LIMIT_S):
            done = await to_the_end(client, Genie(client, spec_of(project, hypotheses=["lower the letters"])))
        assert [(one.kind, one.outcome) for one in done.tried] == [("play_from", "failed"), ("branch", "worked")]
        assert done.standing == "completed" and len(done.runs) == 2 and done.run_id == done.runs[1]
        run = await client.get_run(done.run_id)
        assert run.hypothesis == "lower the letters" and run.parent is not None
        assert done.cost_usd == 0 and done.tokens > run.tokens  # what both runs have taken
        row = await core.store.run(done.run_id)  # type: ignore[arg-type]
        assert row is not None and row.closed == "adopted"


async def test_it_stops_at_its_bounds_and_goes_on_when_they_are_raised(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    wrong = writes("wrong", ("slug.py", BAD), ("test_slug.py", TEST))
    developer(project, **{"Try this: lower": writes("right", ("slug.py", GOOD), ("test_slug.py", TEST))}, Task=wrong)
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            none = spec_of(project, bounds={"attempts": 0})
            ended = await to_the_end(client, Genie(client, none))
            assert (ended.standing, len(ended.tried)) == ("out_of_attempts", 0)
            costly = spec_of(project, bounds={"attempts": 3, "tokens": 10})
            assert (await Genie(client, costly).drive()).standing == "over_budget"
            more = spec_of(project, bounds={"attempts": 2}, hypotheses=["lower the letters"])
            done = await to_the_end(client, Genie(client, more))
        assert done.standing == "completed" and [one.kind for one in done.tried] == ["play_from", "branch"]


async def test_a_rejection_with_a_word_is_done_and_one_without_is_the_end(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    async with opened(project) as (_, client):
        genie = Genie(client, spec_of(project))
        with anyio.fail_after(LIMIT_S):
            await agree(client, await genie.drive(), "reject", "Only slugs, please.")
            report = await genie.drive()
            assert [one.node for one in report.approvals] == ["agree"]  # asked anew about a new plan
            assert [(one.kind, one.node, one.category) for one in report.tried] == [
                ("play_from", "architect", "rejected")
            ]
            epic = await client.get_epic(report.run_id)
            assert epic.phases[0].generation == 1
            await agree(client, report, "reject")
            assert (await genie.drive()).standing == "rejected"
            assert (await genie.drive()).standing == "rejected"  # asked again, it says so again
            assert (await genie.drive(again=True)).standing == "waiting"


async def test_a_step_that_was_under_way_is_made_once(tmp_path: Path) -> None:
    """Whoever is killed after the server did a step, and before that was written down, finds it done."""
    project = epic_project(tmp_path)
    spec = spec_of(project)
    async with opened(project) as (_, client):
        memory = GenieMemory(client, spec.name)
        with anyio.fail_after(LIMIT_S):
            began = State(1, spec.digest(), step=Step(0, "start"))
            await memory.save(began)
            first = await Genie(client, spec).drive()
            await memory.save(began)
            second = await Genie(client, spec).drive()
            assert first.run_id == second.run_id and len(await client.list_runs()) == 1
            await agree(client, second, "reject", "Only slugs.")
            step = Step(1, "play_from", first.run_id, "architect", "agree", "rejected", "Only slugs.")
            state = State(1, spec.digest(), runs=[first.run_id], step=step)
            for _ in range(2):
                await memory.save(state)
                report = await Genie(client, spec).drive()
                assert report.standing == "waiting"
            assert report.phases[0].generation == 1


async def test_what_was_asked_for_otherwise_is_a_conflict_and_what_ended_begins_anew(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            first = await Genie(client, spec_of(project)).drive()
            other = Genie(client, spec_of(project, goal="Something else"))
            with pytest.raises(OmiumError) as refused:
                await other.drive()
            assert refused.value.code == "conflict"
            await client.control(first.run_id, "pause")
            await client.control(first.run_id, "cancel")
            assert (await Genie(client, spec_of(project)).drive()).standing == "cancelled"
            assert (await other.drive()).run_id != first.run_id
            await client.remember("state", '{"format": 99}', scope="epic:page-titles", kind="state")
            with pytest.raises(OmiumError) as unreadable:
                await other.drive()
            assert unreadable.value.code == "unsupported"


@pytest.mark.parametrize("wrong", [{"workflow": "epik"}, {"phases": ["architekt"]}, {"workspace": "nowhere"}])
async def test_an_epic_that_was_never_started_can_be_mended(tmp_path: Path, wrong: dict[str, object]) -> None:
    project = epic_project(tmp_path)
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            for _ in range(2):  # the same again is refused again, and for the same reason
                with pytest.raises(OmiumError) as refused:
                    await Genie(client, spec_of(project, **wrong)).drive()
                assert refused.value.code != "conflict"
            assert (await Genie(client, spec_of(project)).drive()).standing == "waiting"
            assert len(await client.list_runs()) == 1


async def test_what_would_repeat_an_effect_waits_for_a_person(tmp_path: Path) -> None:
    """A call that nobody declared repeatable is not repeated by a program."""
    project = epic_project(tmp_path)
    workflow = project / "workflows" / "epic.yaml"
    lines = [one for one in workflow.read_text().splitlines() if not one.strip().startswith("on_unknown: rerun")]
    workflow.write_text("\n".join(lines))
    developer(project, Task=writes("wrong", ("slug.py", BAD), ("test_slug.py", TEST)))
    async with opened(project) as (_, client):
        with anyio.fail_after(LIMIT_S):
            report = await to_the_end(client, Genie(client, spec_of(project)))
        assert report.standing == "needs_person" and "play_from implement" in report.reason
        assert (await client.get_run(report.run_id)).status == "failed"
