"""Starting runs, looking at them, waiting for them and steering them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, RunId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob, Write, Written
from omium.orchestration.service.views import Caller
from omium.orchestration.values import encode
from tests.interaction.studio import ADA, MODES, Mode, Studio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_from_its_start_to_its_output(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            started = await visitor.ok("run_workflow", workflow="greet", inputs={"name": "Ada"}, title="first")
            run_id = started["run_id"]
            ended = await visitor.ok("get_run", run_id=run_id, wait_seconds=45, detail=True)
    assert ended["status"] == "completed"
    assert ended["title"] == "first"
    assert ended["output"] == {"value": "Hello Ada", "size": 11}
    assert [node["id"] for node in ended["nodes"]] == ["hello"]
    assert "rollback" in ended["allowed"]
    assert ended["next"].startswith("done")


@pytest.mark.parametrize("mode", MODES)
async def test_a_start_does_not_wait_for_the_work(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="held")
            assert run["status"] in ("planning", "executing")
            assert "get_run" in run["next"]
            await studio.holding.wait()
            seen = await visitor.ok("get_run", run_id=run["run_id"])
            assert seen["current"] == ["second"]
            assert seen["counts"] == {"completed": 1, "running": 1, "pending": 1}
            studio.release.set()
            ended = await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45)
            assert ended["status"] == "completed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_is_bounded(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="held", wait_seconds=0.1)
            assert run["status"] == "executing"
            refused = await visitor.error("get_run", run_id=run["run_id"], wait_seconds=46)
    assert refused["code"] == "invalid_argument"
    assert refused["data"]["problems"][0]["path"] == "wait_seconds"


@pytest.mark.parametrize("mode", MODES)
async def test_a_wait_tells_its_progress(studio: Studio, mode: Mode) -> None:
    told: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))
        studio.release.set()  # the wait ends only because its progress was heard

    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="held")
            await studio.holding.wait()
            result = await visitor.client.call_tool(
                "get_run", {"run_id": run["run_id"], "wait_seconds": 45}, progress_callback=hear
            )
    assert result.structured_content["status"] == "completed"
    assert told
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})
    assert told[0][1] == "executing: 1 of 3 nodes ended, running: second"


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_gives_up_waiting_ends_the_wait_only(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="held")
            await studio.holding.wait()
            with anyio.move_on_after(0.05) as gone:
                await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45)
            assert gone.cancelled_caught
    # The client has gone altogether; another one finds the run as it was.
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            seen = await visitor.ok("get_run", run_id=run["run_id"])
            assert seen["status"] == "executing"
            studio.release.set()
            ended = await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45)
    assert ended["status"] == "completed"
    assert studio.calls["held"] == 1


@pytest.mark.parametrize("mode", MODES)
async def test_the_same_key_starts_one_run(studio: Studio, mode: Mode) -> None:
    arguments: dict[str, Any] = {"workflow": "greet", "inputs": {"name": "Ada"}, "idempotency_key": "k1"}
    async with studio.client(mode) as visitor:
        first = await visitor.ok("run_workflow", **arguments)
        again = await visitor.ok("run_workflow", **arguments)
        assert again["run_id"] == first["run_id"]
        other = await visitor.error("run_workflow", **{**arguments, "inputs": {"name": "Bob"}})
        assert other["code"] == "conflict"
        assert len((await visitor.ok("list_runs"))["runs"]) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_pause_resume_cancel(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run_id = (await visitor.ok("run_workflow", workflow="held"))["run_id"]
            await studio.holding.wait()
            paused = await visitor.ok("control_run", run_id=run_id, action="pause", reason="lunch")
            assert paused["status"] == "paused"
            assert "resume" in paused["allowed"]
            assert paused["next"] == "control_run(run_id, action='resume')"
            resumed = await visitor.ok("control_run", run_id=run_id, action="resume")
            assert resumed["status"] == "executing"
            cancelled = await visitor.ok("control_run", run_id=run_id, action="cancel")
            assert cancelled["status"] == "cancelled"
            refused = await visitor.error("control_run", run_id=run_id, action="resume")
            assert refused["code"] == "not_allowed"
            assert "branch" in refused["data"]["allowed"]
            assert not refused["retryable"]
            both = await visitor.error("control_run", run_id=run_id, action="cancel", interrupt=True)
            assert both["code"] == "invalid_argument"


async def test_a_key_of_one_control_is_refused_for_another(studio: Studio) -> None:
    async with studio.client() as visitor:
        with anyio.fail_after(20):
            run_id = (await visitor.ok("run_workflow", workflow="held"))["run_id"]
            await studio.holding.wait()
            for _ in range(2):
                paused = await visitor.ok("control_run", run_id=run_id, action="pause", idempotency_key="k")
                assert paused["status"] == "paused"
            for action in ("resume", "cancel"):
                refused = await visitor.error("control_run", run_id=run_id, action=action, idempotency_key="k")
                assert refused["code"] == "conflict" and "other arguments" in refused["message"]
            assert (await visitor.ok("get_run", run_id=run_id))["status"] == "paused"


async def test_a_repeated_control_changes_nothing_more(studio: Studio) -> None:
    async with studio.client() as visitor:
        with anyio.fail_after(20):
            run_id = (await visitor.ok("run_workflow", workflow="held"))["run_id"]
            await studio.holding.wait()
            for action in ("pause", "cancel"):
                await visitor.ok("control_run", run_id=run_id, action=action)
                seq = (await visitor.ok("get_run", run_id=run_id))["seq"]
                await visitor.client.call_tool("control_run", {"run_id": run_id, "action": action})
                assert (await visitor.ok("get_run", run_id=run_id))["seq"] == seq


async def test_a_control_that_another_overtakes_is_answered_like_a_repeat(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the run and the write somebody else has asked for the same."""
    core, write = studio.core, studio.store.write
    draft = await core.run_workflow(ADA, "held", start=False)
    steps = [(core.resume, "executing"), (core.pause, "paused"), (core.resume, "executing"), (core.cancel, "cancelled")]
    for verb, status in steps:

        async def overtaken(late: Write, verb: Any = verb) -> Written:
            monkeypatch.setattr(studio.store, "write", write)
            await verb(ADA, late.run_id)
            return await write(late)

        monkeypatch.setattr(studio.store, "write", overtaken)
        with anyio.fail_after(20):
            assert (await verb(ADA, draft.id)).status == status
    for verb in (core.pause, core.resume):
        with pytest.raises(OmiumError) as refused:
            await verb(ADA, draft.id)
        assert refused.value.code == "not_allowed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_run_says_why(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="failing", wait_seconds=45)
            assert run["status"] == "failed"
            assert "play_from_node" in run["next"]
            shown = await visitor.ok("get_run", run_id=run["run_id"], detail=True)
    assert "red" in shown["nodes"][0]["error"]


@pytest.mark.parametrize("mode", MODES)
async def test_lists_are_paged_without_gap_or_repeat(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(60):
            empty = await visitor.ok("list_runs")
            assert empty["runs"] == []
            assert "list_workflows" in empty["next"]
            made = [
                (await visitor.ok("run_workflow", workflow="echo", inputs={"value": n}))["run_id"] for n in range(7)
            ]
            seen: list[str] = []
            before: str | None = None
            while True:
                page = await visitor.ok("list_runs", limit=3, **({"before": before} if before else {}))
                seen += [run["run_id"] for run in page["runs"]]
                before = page.get("before")
                if before is None:
                    break
    assert seen == made[::-1]


@pytest.mark.parametrize("mode", MODES)
async def test_runs_that_runs_have_started_are_listed_when_asked_for(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            first = await visitor.finished("nested")
            second = await visitor.finished("nested")
            plain = await visitor.ok("list_runs", limit=2)
            whole = await visitor.ok("list_runs", children=True)
            missed = await visitor.ok("list_runs", workflow="echo")
    assert [(run["run_id"], run["children"]) for run in plain["runs"]] == [(second, 2), (first, 2)]
    assert "before" not in plain
    assert {run.get("caller") for run in whole["runs"]} == {
        None, *(f"{run}/below[{place}]" for run in (first, second) for place in (0, 1)),
    }  # fmt: skip
    assert (missed["runs"], missed["next"]) == ([], "only runs that other runs started: list_runs(children=true)")


@pytest.mark.parametrize("mode", MODES)
async def test_a_repeat_shows_the_run_as_it_stands(studio: Studio, mode: Mode) -> None:
    asked = {"workflow": "gated", "idempotency_key": f"again-{mode}", "wait_seconds": 15}
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            first = await visitor.ok("run_workflow", **asked)
            again = await visitor.ok("run_workflow", **asked)
    assert first["status"] == "waiting_approval"
    assert again["approvals"] == first["approvals"] != []
    assert again == first


@pytest.mark.parametrize("mode", MODES)
async def test_lists_are_filtered(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            greeted = await visitor.finished("greet", {"name": "Ada"})
            asking, _ = await visitor.asking()
            for filters, expected in (
                ({"statuses": ["completed"]}, [greeted]),
                ({"statuses": ["waiting_approval", "failed"]}, [asking]),
                ({"workflow": "greet"}, [greeted]),
                ({"text": asking[-6:]}, [asking]),
                ({"text": "%"}, []),
            ):
                found = await visitor.ok("list_runs", **filters)
                assert [run["run_id"] for run in found["runs"]] == expected, filters
            for wrong in ({"statuses": ["done"]}, {"before": "zzz"}, {"text": "a\0b"}, {"workflow": "\0"}):
                assert (await visitor.error("list_runs", **wrong))["code"] == "invalid_argument", wrong
            key = await visitor.error("run_workflow", workflow="greet", inputs={"name": "A"}, idempotency_key="a\0b")
    assert key["code"] == "invalid_argument"


@pytest.mark.parametrize("mode", MODES)
async def test_a_large_output_comes_in_pieces(studio: Studio, mode: Mode) -> None:
    value = {"text": "wörter " * 3_000, "n": 5}
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run_id = await visitor.finished("echo", {"value": value})
            shown = await visitor.ok("get_run", run_id=run_id, detail=True)
            output = shown["output"]
            assert "value" not in output
            assert f"get_run(run_id, offset={output['next_offset']})" in shown["next"]
            assert f"omium://runs/{run_id} " in shown["next"]
            pieces = [output["text"]]
            while "next_offset" in output:
                shown = await visitor.ok("get_run", run_id=run_id, offset=output["next_offset"])
                output = shown["output"]
                pieces.append(output["text"])
            assert shown["next"] == "done"
            whole = "".join(pieces)
            of_node = await visitor.ok("get_run", run_id=run_id, node="echo")
    assert len(whole) == output["size"]
    assert f"get_run(run_id, node='echo', offset={of_node['output']['next_offset']})" in of_node["next"]
    assert f"omium://runs/{run_id}/nodes/echo " in of_node["next"]
    assert of_node["output"]["text"] == whole[: len(of_node["output"]["text"])]
    assert value == __import__("json").loads(whole)


@pytest.mark.parametrize("mode", MODES)
async def test_many_nodes_come_in_pages(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(60):
            run_id = await visitor.finished("wide", {"count": 300})
            page = await visitor.ok("get_run", run_id=run_id, detail=True)
            ids = [node["id"] for node in page["nodes"]]
            while "nodes_after" in page:
                page = await visitor.ok("get_run", run_id=run_id, after=page["nodes_after"])
                ids += [node["id"] for node in page["nodes"]]
    assert len(ids) == len(set(ids)) == 302
    assert {f"fan[{n}]" for n in range(300)} < set(ids)


@pytest.mark.parametrize("mode", MODES)
async def test_a_unique_part_of_an_id_is_enough(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run_id = await visitor.finished("greet", {"name": "Ada"})
            assert (await visitor.ok("get_run", run_id=run_id[-8:]))["run_id"] == run_id
            assert (await visitor.error("get_run", run_id="zzzzzzzz"))["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_runs_of_another_project_do_not_exist(studio: Studio, mode: Mode) -> None:
    stranger = Caller(Principal("user:eve"), ProjectId("other"))
    async with studio.client(mode) as ada:
        with anyio.fail_after(20):
            run_id, approval_id = await ada.asking()
    calls: dict[str, dict[str, Any]] = {
        "get_run": {"run_id": run_id},
        "control_run": {"run_id": run_id, "action": "cancel"},
        "checkpoint": {"run_id": run_id, "label": "mine"},
        "list_checkpoints": {"run_id": run_id},
        "rollback": {"run_id": run_id, "to": "start"},
        "branch": {"run_id": run_id, "name": "b"},
        "play_from_node": {"run_id": run_id, "node": "draft"},
        "compare_runs": {"a": run_id, "b": run_id},
        "list_approvals": {"run_id": run_id},
        "approve": {"approval_id": approval_id, "decision": "approve"},
    }
    async with studio.client(mode, caller=stranger) as eve:
        before = await studio.changes()
        for name, arguments in calls.items():
            assert (await eve.error(name, **arguments))["code"] == "not_found", name
        assert (await eve.ok("list_runs"))["runs"] == []
        assert (await eve.ok("list_approvals"))["approvals"] == []
        assert await studio.changes() == before


async def test_a_definition_of_a_newer_version_hides_no_other_run(studio: Studio) -> None:
    document = encode({"name": "later", "nodes": [{"id": "a", "kind": "dream"}]})
    newer = RunId(new_id("run"))
    create = c.CreateRun(document.digest, "later", encode({}).digest, ADA.project)
    blobs = [NewBlob(document), NewBlob(encode({}))]
    await studio.store.write(Write(newer, [create, c.PlanRun(), c.StartRun()], ADA.principal, blobs=blobs))
    mine = await studio.core.run_workflow(ADA, "echo", {"value": 1})
    assert {run.id for run in (await studio.core.list_runs(ADA)).runs} == {newer, mine.id}
    with pytest.raises(OmiumError) as refused:
        await studio.core.get_run(ADA, newer, detail=True)
    assert refused.value.code == "unsupported"
