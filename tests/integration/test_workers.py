"""Workers as processes: killed in the middle, told to end, several at once, and left behind by somebody who leaves."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.processes.tree import MARKER, send_signal
from omium.orchestration.ids import RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import RunView
from omium.server.app import open_omium
from omium.server.config import Config
from omium.server.detach import lock_path, log_path, start_worker
from tests.project_help import (
    all_events,
    caller,
    config_of,
    ended,
    environment,
    marks,
    node,
    types_of,
    until_marked,
    worker,
    write_project,
)

pytestmark = pytest.mark.anyio


def chain(use: str, names: str, seconds: float = 0.0, slow: str = "") -> list[dict[str, Any]]:
    """Nodes one after the other; those in `slow` take `seconds`."""
    nodes: list[dict[str, Any]] = []
    for name in names:
        before = nodes[-1]["id"] if nodes else None
        nodes.append(node(name, use, before, with_={"name": name, "seconds": seconds if name in slow else 0.0}))
    return nodes


def begun(directory: Path) -> list[str]:
    return [one.split()[1] for one in marks(directory) if one.startswith("begin")]


async def finished(core: Core, config: Config, run_id: RunId) -> RunView:
    with anyio.fail_after(60):
        view = await core.get_run(caller(config), run_id)
        while view.ended_at is None:
            view = await core.wait(caller(config), run_id, 5.0, detail=True)
    return await core.get_run(caller(config), run_id, detail=True)


@pytest.mark.parametrize("use", ["step", "astep"])
async def test_a_killed_worker_is_taken_over_and_nothing_completed_is_repeated(tmp_path: Path, use: str) -> None:
    write_project(tmp_path, {"chain": chain(use, "abcde", 1.5, slow="c")})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(caller(config), "chain")
        with worker(tmp_path) as first:
            with anyio.fail_after(60):
                pid = int((await until_marked(tmp_path, "begin c")).split()[-1])
            first.send_signal(signal.SIGKILL)
            first.wait()
        with worker(tmp_path, "--idle", "60") as second:
            view = await finished(core, config, run.id)
            second.terminate()
            with anyio.fail_after(20):
                assert await ended(second) == 0
        told = types_of(await all_events(core, run.id))
    assert (view.status, view.error) == ("completed", None)
    assert begun(tmp_path) == ["a", "b", "c", "c", "d", "e"]
    assert marks(tmp_path).count("end c") == 1  # what the first one had started was ended before the second began
    assert "run.recovered" in told
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_a_killed_workers_command_still_does_is_ended_and_asked_about(tmp_path: Path) -> None:
    given = {"name": "x", "marks": str(tmp_path / "marks"), "seconds": 60}
    write_project(tmp_path, {"cli": [node("one", "greet", kind="cli", with_=given, workspace="none")]})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(caller(config), "cli")
        with worker(tmp_path) as first:
            with anyio.fail_after(60):
                await until_marked(tmp_path, "begin command")
                left = _marked_processes(run.id)
            first.send_signal(signal.SIGKILL)
            first.wait()
        assert left
        with worker(tmp_path, "--idle", "60"), anyio.fail_after(60):
            while (view := await core.get_run(caller(config), run.id, detail=True)).status != "waiting_approval":
                await anyio.sleep(0.05)
        assert [one.scope for one in view.approvals] == ["unknown_effect"]
    assert _marked_processes(run.id) == []
    assert marks(tmp_path) == ["begin command x"]


def _marked_processes(run_id: str) -> list[int]:
    """The processes that were started for a run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"OMIUM_RUN_ID={run_id}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_told_to_end_frees_its_runs_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    nodes = [
        node("a", "step", with_={"name": "a", "seconds": 60}),
        node("b", "astep", with_={"name": "b", "seconds": 60}),
    ]
    write_project(tmp_path, {"two": nodes})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(caller(config), "two")
        with worker(tmp_path) as process:
            with anyio.fail_after(60):
                pid = int((await until_marked(tmp_path, "begin a")).split()[-1])
                await until_marked(tmp_path, "begin b")
            process.send_signal(number)
            with anyio.fail_after(10):
                assert await ended(process) == 0
        view = await core.get_run(caller(config), run.id, detail=True)
        told = types_of(await all_events(core, run.id))
        assert await core.store.workers() == []
        assert await core.store.next_wake((config.project.id,)) is not None
    assert view.status == "executing"
    assert not {"run.paused", "run.cancelled", "run.failed"} & set(told)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_command_that_is_interrupted_by_a_shutdown_is_asked_about(tmp_path: Path) -> None:
    given = {"name": "x", "marks": str(tmp_path / "marks"), "seconds": 60}
    write_project(tmp_path, {"cli": [node("one", "greet", kind="cli", with_=given, workspace="none")]})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(caller(config), "cli")
        with worker(tmp_path) as process, anyio.fail_after(60):
            await until_marked(tmp_path, "begin command")
            process.terminate()
            assert await ended(process) == 0
        with worker(tmp_path, "--idle", "60"), anyio.fail_after(60):
            while (await core.get_run(caller(config), run.id)).status != "waiting_approval":
                await anyio.sleep(0.05)
    assert marks(tmp_path) == ["begin command x"]


async def test_two_workers_share_a_database_and_do_everything_once(tmp_path: Path) -> None:
    write_project(tmp_path, {"short": chain("astep", "abc", 0.05, slow="abc")})
    config = config_of(tmp_path)
    async with open_omium(config, engine=False) as core:
        with worker(tmp_path, "--idle", "60"), worker(tmp_path, "--idle", "60"), anyio.fail_after(60):
            while len(await core.store.workers()) < 2:
                await anyio.sleep(0.05)
            runs = [await core.run_workflow(caller(config), "short") for _ in range(12)]
            views = [await finished(core, config, run.id) for run in runs]
    assert {view.status for view in views} == {"completed"}
    assert sorted(begun(tmp_path)) == sorted("abc" * 12)


STARTER = """
import sys, anyio
from dataclasses import replace
from pathlib import Path
from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.config import load_config

async def main():
    config = load_config()
    async with open_omium(config, leave="detach") as core:
        run = await core.run_workflow(Caller(Principal("user:test"), config.project.id), "chain")
        marks = config.project.directory / "marks"
        while not marks.exists() or "begin c" not in marks.read_text():
            await anyio.sleep(0.02)
    print(run.id)

anyio.run(main)
"""


async def test_a_background_worker_goes_on_when_the_one_who_started_the_run_leaves(tmp_path: Path) -> None:
    write_project(tmp_path, {"chain": chain("astep", "abcde", 1.0, slow="c")})
    config = config_of(tmp_path)
    with anyio.fail_after(60):
        starter = await anyio.run_process(
            [sys.executable, "-P", "-c", STARTER], env={**os.environ, **environment(tmp_path)}, stderr=None
        )
    run_id = RunId(starter.stdout.decode().strip())
    async with open_omium(config, engine=False) as core:
        view = await finished(core, config, run_id)
        left = await core.store.workers()
        told = types_of(await all_events(core, run_id))
    try:
        assert (view.status, view.error) == ("completed", None)
        assert begun(tmp_path) == ["a", "b", "c", "c", "d", "e"]
        assert not {"run.paused", "run.cancelled", "run.failed"} & set(told)
        assert len(left) == 1
        marker = f"{MARKER}=worker-".encode()
        assert marker not in Path(f"/proc/{left[0].pid}/environ").read_bytes()  # its starter's end is not its own
        assert log_path(config).stat().st_mode & 0o777 == 0o600
    finally:
        for one in left:
            os.kill(one.pid, signal.SIGKILL)


async def test_runs_are_parked_when_the_project_does_not_want_background_workers(tmp_path: Path) -> None:
    write_project(tmp_path, {"chain": chain("astep", "abcde", 60.0, slow="c")})
    config = config_of(tmp_path)
    with anyio.fail_after(60):
        starter = await anyio.run_process(
            [sys.executable, "-P", "-c", STARTER],
            env={**os.environ, **environment(tmp_path), "OMIUM_DETACH": "false"},
            stderr=None,
        )
    async with open_omium(config, engine=False) as core:
        view = await core.get_run(caller(config), RunId(starter.stdout.decode().strip()))
        assert await core.store.workers() == []
    assert view.status == "executing"
    assert not log_path(config).exists()


async def test_there_is_one_background_worker_and_it_ends_when_it_is_idle(tmp_path: Path) -> None:
    write_project(tmp_path, {"chain": chain("astep", "a")})
    config = config_of(tmp_path)
    started = await start_worker(config, idle_s=2.0)
    assert started is not None
    try:
        async with open_omium(config, engine=False) as core:
            with anyio.fail_after(60):
                while not await core.store.workers():
                    await anyio.sleep(0.02)
                while await start_worker(config, idle_s=2.0) is not None:  # it has registered, and takes the lock next
                    await anyio.sleep(0.02)
                run = await core.run_workflow(caller(config), "chain")
                view = await finished(core, config, run.id)
                while await core.store.workers():
                    await anyio.sleep(0.05)
    finally:
        send_signal([started], signal.SIGKILL)
    assert view.status == "completed"
    assert lock_path(config).parent == tmp_path / "db"


async def test_a_background_worker_serves_a_project_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    write_project(tmp_path, {"chain": chain("astep", "abc")})
    config = replace(config_of(tmp_path), database=postgres_url)
    started = await start_worker(config, idle_s=60.0)
    assert started is not None
    try:
        async with open_omium(config, engine=False) as core:
            run = await core.run_workflow(caller(config), "chain")
            view = await finished(core, config, run.id)
    finally:
        send_signal([started], signal.SIGKILL)
    assert (view.status, begun(tmp_path)) == ("completed", ["a", "b", "c"])
    assert lock_path(config).parent == tmp_path / "home" / "workers"
    assert not (tmp_path / "db").exists()
