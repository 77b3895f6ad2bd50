"""A project on disk, executed as a whole: functions on every host, commands, limits, failures."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.server.app import open_omium
from tests.project_help import all_events, caller, config_of, marks, node, types_of, until_marked, write_project

pytestmark = pytest.mark.anyio


async def test_functions_on_every_host_and_a_command_work_together(tmp_path: Path) -> None:
    given = {"name": "${{ nodes.loud.output }}", "marks": str(tmp_path / "marks")}
    write_project(
        tmp_path,
        {
            "all": [
                node("twice", "double", with_={"n": 20}),
                node("sum", "add", "twice", with_={"a": "${{ nodes.twice.output }}", "b": 1}),
                node("loud", "shout", "sum", with_={"text": "v${{ nodes.sum.output }}"}),
                node("greeted", "greet", "loud", "cli", with_=given, workspace="none"),
            ]
        },
    )
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(me, "all")
            run = await core.wait(me, run.id, 30, detail=True)
        assert (run.status, run.error) == ("completed", None)
        assert run.output == {"greeted": {"hello": "V41"}}
        effects = await core.store.effects(run.id)
    assert marks(tmp_path) == ["double 20", "add 40 1", "shout v41", "begin command V41", "end command V41"]
    told = [(one.kind, one.call, one.outcome, one.on_unknown) for one in effects]
    assert told == [("command", "command", "done", "ask")]
    logs = list((tmp_path / "home" / "runs" / run.id / "nodes" / "greeted").glob("*/logs/stdout.log"))
    assert [log.read_text().splitlines()[0] for log in logs] == ["working"]
    assert [log.stat().st_mode & 0o777 for log in logs] == [0o600]


async def test_what_a_function_does_to_its_arguments_reaches_nobody_else(tmp_path: Path) -> None:
    start = {"items": [1]}
    state = "${{ nodes.first.output }}"
    write_project(
        tmp_path,
        {
            "shared": [
                node("first", "change", with_={"state": start}),
                node("left", "change", "first", with_={"state": state}),
                node("right", "change", "first", with_={"state": state}),
            ]
        },
    )
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "shared")
            run = await core.wait(caller(config), run.id, 30, detail=True)
    assert run.output == {"left": {"items": [1, 2, 3]}, "right": {"items": [1, 2, 3]}}


@pytest.mark.parametrize("use", ["step", "astep"])
async def test_a_time_out_stops_the_work(tmp_path: Path, use: str) -> None:
    write_project(tmp_path, {"late": [node("late", use, with_={"name": "late", "seconds": 60}, timeout="2s")]})
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "late")
            pid = int((await until_marked(tmp_path, "begin late")).split()[-1])
            run = await core.wait(caller(config), run.id, 30)
        assert run.status == "failed"
        assert run.error is not None and run.error["category"] == "timeout"
        if use == "step":
            assert pid != os.getpid()
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert "end late" not in marks(tmp_path)


async def test_the_time_out_of_a_function_holds_for_every_node_that_calls_it(tmp_path: Path) -> None:
    project = "project: demo\nfunctions: {astep: {ref: 'work:astep', host: async, timeout: 100ms}}\n"
    write_project(tmp_path, {"late": [node("late", "astep", with_={"name": "late", "seconds": 60})]}, project)
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "late")
            run = await core.wait(caller(config), run.id, 30)
    assert run.error is not None and run.error["category"] == "timeout"


async def test_cancelling_a_run_ends_its_command(tmp_path: Path) -> None:
    given = {"name": "x", "marks": str(tmp_path / "marks"), "seconds": 60}
    write_project(tmp_path, {"long": [node("greeted", "greet", kind="cli", with_=given, workspace="none")]})
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "long")
            await until_marked(tmp_path, "begin command")
            await core.cancel(caller(config), run.id, reason="enough")
            assert core.engine is not None
            while core.engine.busy:
                await anyio.sleep(0.02)
        assert (await core.get_run(caller(config), run.id)).status == "cancelled"
    assert marks(tmp_path) == ["begin command x"]


@pytest.mark.parametrize("use", ["fail", "fail_in_thread"])
@pytest.mark.parametrize(
    ("kind", "message", "category", "name"),
    [
        ("missing", "no such thing", "file_not_found", "work.Missing"),
        ("ours", "slower", "rate_limited", "omium.orchestration.errors.OmiumError"),
        ("plain", "HTTP 503: later", "api_error", "builtins.Exception"),
        ("plain", "Conference room booking failed", "unknown", "builtins.Exception"),
    ],
)
async def test_a_failure_is_classified_by_what_was_raised(
    tmp_path: Path, use: str, kind: str, message: str, category: str, name: str
) -> None:
    write_project(tmp_path, {"bad": [node("bad", use, with_={"kind": kind, "message": message})]})
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "bad")
            run = await core.wait(caller(config), run.id, 30)
    assert run.error is not None
    assert (run.error["category"], run.error["type"]) == (category, name)


async def test_values_that_do_not_fit_the_functions_schema_are_refused(tmp_path: Path) -> None:
    write_project(tmp_path, {"bad": [node("bad", "add", with_={"a": 1, "c": 2})]})
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "bad")
            run = await core.wait(caller(config), run.id, 30)
    assert run.error is not None and run.error["code"] == "precondition_failed"
    assert marks(tmp_path) == []


async def test_an_effect_is_not_repeated_when_its_node_is(tmp_path: Path) -> None:
    write_project(
        tmp_path,
        {"twice": [node("one", "once", with_={"key": "mail"}, expects="output == 'two'", retry={"max_attempts": 1})]},
    )
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        with anyio.fail_after(30):
            run = await core.run_workflow(caller(config), "twice")
            await core.wait(caller(config), run.id, 30)
        told = [(one.call, one.outcome) for one in await core.store.effects(run.id)]
    assert told == [("mail", "done")]
    assert marks(tmp_path) == ["effect mail"]


async def test_without_an_engine_runs_are_created_and_steered_but_not_executed(tmp_path: Path) -> None:
    write_project(tmp_path, {"one": [node("one", "double", with_={"n": 1})]})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(caller(config), "one")
        run = await core.cancel(caller(config), run.id)
        assert run.status == "cancelled"
        assert await core.store.workers() == []
    assert marks(tmp_path) == []


async def test_what_still_runs_is_parked_and_taken_up_by_the_next_process(tmp_path: Path) -> None:
    write_project(
        tmp_path,
        {
            "two": [
                node("a", "astep", with_={"name": "a"}),
                node("b", "astep", "a", with_={"name": "b", "seconds": 2}),
            ]
        },
    )
    config = config_of(tmp_path)
    me = caller(config)
    with anyio.fail_after(30):
        async with open_omium(config) as core:
            run = await core.run_workflow(me, "two")
            await until_marked(tmp_path, "begin b")
        async with open_omium(config, engine=False) as core:
            assert (await core.get_run(me, run.id)).status == "executing"
            assert await core.store.workers() == []
        async with open_omium(config) as core:
            run = await core.wait(me, run.id, 30)
            told = types_of(await all_events(core, run.id))
    assert run.status == "completed"
    assert [one.split()[:2] for one in marks(tmp_path)] == [
        ["begin", "a"],
        ["end", "a"],
        ["begin", "b"],
        ["begin", "b"],
        ["end", "b"],
    ]
    assert not {"run.paused", "run.cancelled", "run.failed"} & set(told)


async def test_a_broken_project_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    write_project(tmp_path, {"bad": [node("bad", "nobody")]})
    with pytest.raises(OmiumError) as refused:
        config_of(tmp_path)
    assert refused.value.code == "not_registered"
    assert not (tmp_path / "db").exists()
