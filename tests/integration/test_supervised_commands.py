"""Supervised commands as a whole: their supervisor is killed, their disk is full, and others look at them."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.processes.identity import ProcessIdentity, is_alive
from omium.clients.processes.register import Entry, Register
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.toolruns import tool_runs
from tests.project_help import caller, config_of, node, until_marked, worker, write_project

pytestmark = pytest.mark.anyio

TOOL = """
import json, sys, time
from pathlib import Path
given = json.load(sys.stdin)
print("working", flush=True)
with Path(__file__).with_name("marks").open("a") as marks:
    print("begin", given["name"], file=marks)
time.sleep(given.get("seconds", 0))
print(json.dumps({"name": given["name"]}))
"""
PROJECT = """
project: demo
database: db/omium.db
commands:
  slow: {argv: ["{python}", "{project}/slow.py"], cwd: project}
  safe: {argv: ["{python}", "{project}/slow.py"], cwd: project, on_unknown: rerun}
"""


def project(directory: Path, uses: Mapping[str, tuple[str, float]], said: str = "") -> None:
    nodes = [
        node(name, use, kind="cli", workspace="none", with_={"name": name, "seconds": seconds})
        for name, (use, seconds) in uses.items()
    ]
    write_project(directory, {"w": nodes})
    (directory / "slow.py").write_text(TOOL)
    (directory / "omium.yaml").write_text(PROJECT + said)


async def registered(directory: Path, count: int) -> dict[str, Entry]:
    register = Register(directory / "home" / "processes")
    with anyio.fail_after(60):
        while len(found := {one.node: one for one in register.entries()}) < count:
            await anyio.sleep(0.02)
    return found


async def gone(process: ProcessIdentity) -> None:
    with anyio.fail_after(30):
        while is_alive(process):
            await anyio.sleep(0.02)


async def until(core: Core, me: Caller, run: RunView, *statuses: str) -> RunView:
    with anyio.fail_after(60):
        view = await core.wait(me, run.id, 5, detail=True)
        while view.status not in statuses:
            view = await core.wait(me, run.id, 5, detail=True)
    return view


async def killed_with(directory: Path, count: int) -> dict[str, Entry]:
    """A worker is killed while `count` commands run."""
    with worker(directory) as first:
        entries = await registered(directory, count)
        with anyio.fail_after(30):
            for name in entries:  # its output is read: what an orphan writes after that would end it
                await until_marked(directory, f"begin {name}")
        first.send_signal(signal.SIGKILL)
        first.wait()
    return entries


async def test_the_supervisor_is_killed_with_three_children(tmp_path: Path) -> None:
    """One is dead by then, one lives, and the pid of one is a stranger's."""
    project(tmp_path, {"dead": ("slow", 600), "alive": ("slow", 600), "reused": ("slow", 600)})
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(me, "w")
        entries = await killed_with(tmp_path, 3)
        import os

        from omium.clients.processes.identity import this_process

        register = Register(tmp_path / "home" / "processes")
        for name in ("dead", "reused"):
            os.kill(entries[name].leader.pid, signal.SIGKILL)
            await gone(entries[name].leader)
        stranger = this_process()
        told = entries["reused"]
        file = register.directory / f"{told.token}.json"
        document = json.loads(file.read_text())
        document["leader"]["pid"] = stranger.pid
        file.write_text(json.dumps(document))
    async with open_omium(config) as core:
        await gone(entries["alive"].leader)
        with anyio.fail_after(30):
            while list(register.entries()):
                await anyio.sleep(0.02)
        await until(core, me, run, "waiting_approval")  # nobody knows what they did, so somebody is asked
        assert {one.outcome for one in await tool_runs(core.store, run.id)} == {"running"}
    assert is_alive(stranger)


async def test_an_adopted_command_runs_on_and_is_ended_when_its_node_runs_again(tmp_path: Path) -> None:
    project(tmp_path, {"a": ("slow", 600)}, "supervision: {reconciliation: {orphans: adopt, every: 1s}}")
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config, engine=False) as core:
        run = await core.run_workflow(me, "w")
        entry = (await killed_with(tmp_path, 1))["a"]
    async with open_omium(config) as core:
        await until(core, me, run, "waiting_approval")
        register = Register(tmp_path / "home" / "processes")
        with anyio.fail_after(30):
            while not all(one.adopted for one in register.entries()):
                await anyio.sleep(0.02)
        assert is_alive(entry.leader)
        (asked,) = await core.list_approvals(me, run_id=run.id)
        await core.decide(me, asked.id, "retry", assurance="out_of_band")
        await gone(entry.leader)
        with anyio.fail_after(30):
            while [one.token for one in register.entries()] in ([], [entry.token]):
                await anyio.sleep(0.02)
        (second,) = register.entries()
        assert second.node == "a" and not second.adopted
        await core.cancel(me, run.id)
        await gone(second.leader)
        with anyio.fail_after(30):
            while list(register.entries()):
                await anyio.sleep(0.02)


async def test_the_log_of_commands_and_the_ledger_tell_the_same(tmp_path: Path) -> None:
    project(tmp_path, {"a": ("slow", 0)}, "supervision: {logging: {output: true}}")
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config) as core:
        run = await core.run_workflow(me, "w")
        assert (await until(core, me, run, "completed", "failed")).status == "completed"
        (told,) = await tool_runs(core.store, run.id)
    lines = (tmp_path / "home" / "logs" / "commands.jsonl").read_text().splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {(one["tool"], one["run"], one["node"], one["token"]) for one in events} == {
        ("slow", run.id, "a", told.token)
    }
    changes = [(one["from"], one["to"]) for one in events if one["event"] == "tool_status_change"]
    assert changes == [("queued", "running"), ("running", "completed")]
    assert [one["line"] for one in events if one["event"] == "tool_output"] == ["working", '{"name": "a"}']
    assert (told.outcome, told.last_error) == ("completed", None)


async def test_logs_and_register_that_cannot_be_written_end_no_command(tmp_path: Path) -> None:
    project(tmp_path, {"a": ("slow", 0)}, "supervision: {logging: {output: true}}")
    config = config_of(tmp_path)
    (tmp_path / "home").mkdir()
    for name in ("processes", "logs"):  # files where the directories should be
        (tmp_path / "home" / name).write_text("")
    async with open_omium(config) as core:
        run = await core.run_workflow(caller(config), "w")
        assert (await until(core, caller(config), run, "completed", "failed")).status == "completed"


async def test_a_register_and_logs_that_vanish_in_the_middle_end_no_command(tmp_path: Path) -> None:
    import shutil

    project(tmp_path, {"a": ("slow", 1.0)}, "supervision: {logging: {output: true}}")
    config = config_of(tmp_path)
    async with open_omium(config) as core:
        run = await core.run_workflow(caller(config), "w")
        await registered(tmp_path, 1)
        for name in ("processes", "logs"):
            shutil.rmtree(tmp_path / "home" / name)
        assert (await until(core, caller(config), run, "completed", "failed")).status == "completed"
