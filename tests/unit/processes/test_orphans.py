"""The register of supervised programs, and those whose supervisor has died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from omium.clients.processes.counters import counters
from omium.clients.processes.identity import ProcessIdentity, boot_id, identity, is_alive, this_process
from omium.clients.processes.listing import listed
from omium.clients.processes.liveness import HostProcesses
from omium.clients.processes.orphans import Reconciler
from omium.clients.processes.register import Entry, Register
from omium.clients.processes.tree import MARKER
from omium.orchestration.ids import WorkerId
from omium.orchestration.ports import WorkerRow
from omium.server.commands.wire import as_json

pytestmark = pytest.mark.anyio

GONE = ProcessIdentity(boot_id(), 2**22 - 1, 1.0)  # a supervisor that does not exist

Start = Callable[..., ProcessIdentity]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that nobody supervises."""
    started: list[subprocess.Popen[bytes]] = []

    def one(token: str, code: str = "import time; time.sleep(600)") -> ProcessIdentity:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", f"print(flush=True)\n{code}"],
            env={MARKER: token},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # it has come to its own code
        found = identity(process.pid)
        assert found is not None
        return found

    yield one
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def entry(token: str, leader: ProcessIdentity, **changes: object) -> Entry:
    plain = Entry(token, "run_1", "n", 1, "tool", ("tool", "-x"), "/", ("A",), leader, GONE, 1_000.0, 60.0)
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of an entry


async def outcomes(reconciler: Reconciler) -> dict[str, str]:
    with anyio.fail_after(30):
        return {one.token: one.outcome for one in await reconciler.look()}


# --- the register ---


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    register = Register(tmp_path / "processes")
    one = entry("t1", this_process(), last_output_at=5.0)
    register.put(one)
    register.put(replace(one, output_bytes=9))
    assert list(register.entries()) == [replace(one, output_bytes=9)]
    assert (tmp_path / "processes").stat().st_mode & 0o777 == 0o700
    register.drop("t1")
    register.drop("t1")
    assert list(register.entries()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"token": "t1"}', "[" * 100_000, "\x00\xff"])
def test_a_broken_entry_is_taken_out_and_the_others_stay(tmp_path: Path, text: str) -> None:
    register = Register(tmp_path)
    register.put(entry("t2", this_process()))
    (tmp_path / "t1.json").write_text(text, encoding="latin-1")
    (tmp_path / "..json").write_text("{}")
    (tmp_path / "note.txt").write_text("mine")
    assert [one.token for one in register.entries()] == ["t2"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["..json", "note.txt", "t2.json"]


def test_an_entry_of_another_token_is_refused(tmp_path: Path) -> None:
    register = Register(tmp_path)
    register.put(entry("t2", this_process()))
    (tmp_path / "t2.json").rename(tmp_path / "t1.json")
    assert list(register.entries()) == []
    for token in ("../t1", "", "a/b", "a\n"):
        with pytest.raises(ValueError, match="token"):
            register.drop(token)


def test_a_register_that_cannot_be_written_costs_the_entry_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    register = Register(tmp_path / "file" / "below")
    before = counters.log_failures
    register.put(entry("t1", this_process()))
    assert list(register.entries()) == []
    assert counters.log_failures == before + 1


# --- reconciliation ---


async def test_one_dead_one_alive_and_one_whose_pid_is_a_strangers(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    alive, stranger = start("alive"), start("somebody-else")
    register.put(entry("dead", replace(alive, pid=2**22 - 2)))
    register.put(entry("alive", alive))
    register.put(entry("reused", replace(stranger, start_time=stranger.start_time - 100.0)))
    register.put(entry("mine", alive, owner=this_process()))
    told = await outcomes(Reconciler(register))
    assert told == {"dead": "gone", "alive": "killed", "reused": "reused"}
    assert not is_alive(alive)
    assert is_alive(stranger)
    assert [one.token for one in register.entries()] == ["mine"]


async def test_children_of_a_dead_leader_are_ended(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    child = start("t1")
    register.put(entry("t1", replace(child, pid=2**22 - 2)))
    assert await outcomes(Reconciler(register)) == {"t1": "gone"}
    assert not is_alive(child)


async def test_a_grace_is_given_before_it_is_killed(tmp_path: Path, start: Start) -> None:
    register, now = Register(tmp_path), [0.0]
    leader = start("t1")
    register.put(entry("t1", leader))
    reconciler = Reconciler(register, grace_s=30.0, clock=lambda: now[0])
    assert reconciler.spared() == {"t1"}
    assert await outcomes(reconciler) == {"t1": "waiting"}
    now[0] = 29.9
    assert await outcomes(reconciler) == {"t1": "waiting"}
    assert is_alive(leader)
    now[0] = 30.0
    assert await outcomes(reconciler) == {"t1": "killed"}
    assert not is_alive(leader)


async def test_an_adopted_one_comes_to_its_end_but_not_beyond_its_time(tmp_path: Path, start: Start) -> None:
    register, now = Register(tmp_path), [1_000.0]
    leader = start("t1")
    register.put(entry("t1", leader))
    reconciler = Reconciler(register, orphans="adopt", wall=lambda: now[0])
    assert await outcomes(reconciler) == {"t1": "adopted"}
    (kept,) = register.entries()
    assert (kept.owner, kept.adopted) == (this_process(), True)
    assert [view.state for view in listed(register)] == ["adopted"]
    now[0] = 1_059.0
    assert await outcomes(reconciler) == {"t1": "adopted"}
    assert is_alive(leader)
    now[0] = 1_060.0
    assert await outcomes(reconciler) == {"t1": "killed"}
    assert list(register.entries()) == []


async def test_an_adopted_one_that_ended_by_itself_is_settled(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    leader = start("t1")
    register.put(entry("t1", leader, hard_timeout_s=None))
    reconciler = Reconciler(register, orphans="adopt")
    assert await outcomes(reconciler) == {"t1": "adopted"}
    os.kill(leader.pid, signal.SIGKILL)
    with anyio.fail_after(10):
        while is_alive(leader):
            await anyio.sleep(0.01)
    assert await outcomes(reconciler) == {"t1": "gone"}


async def test_an_orphan_of_a_node_is_ended_before_the_node_runs_again(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    mine, other = start("t1"), start("t2")
    register.put(entry("t1", mine))
    register.put(entry("t2", other, node="elsewhere"))
    with anyio.fail_after(20):
        await Reconciler(register, orphans="adopt").end("run_1", "n")
    assert (is_alive(mine), is_alive(other)) == (False, True)
    assert [one.token for one in register.entries()] == ["t2"]


async def test_what_ran_under_another_boot_is_gone_and_in_another_container_is_none_of_ours(tmp_path: Path) -> None:
    register = Register(tmp_path)
    boot, _, space = boot_id().partition("/")
    before = ProcessIdentity(f"another-boot/{space}", os.getpid(), 1.0)
    beside = ProcessIdentity(f"{boot}/pid:[1]", os.getpid(), 1.0)
    register.put(entry("before", before, owner=before))
    register.put(entry("beside", beside, owner=beside))
    assert await outcomes(Reconciler(register)) == {"before": "gone"}
    assert [(view.command, view.state) for view in listed(register)] == [("tool", "elsewhere")]


@pytest.mark.parametrize("orphans", ["kill", "adopt"])
async def test_at_a_takeover_only_what_is_to_live_on_is_spared(tmp_path: Path, start: Start, orphans: str) -> None:
    register = Register(tmp_path)
    worker = WorkerRow(WorkerId("w"), "host", GONE.boot_id, GONE.pid, GONE.start_time, 0, ())
    command = start(f"worker-{GONE.pid}-{GONE.start_time:.2f}/t1")
    other = start(f"worker-{GONE.pid}-{GONE.start_time:.2f}")
    register.put(entry("t1", command))
    reconciler = Reconciler(register, orphans=orphans)  # type: ignore[arg-type]  # one of the two
    HostProcesses(reconciler.spared).kill(worker)
    assert is_alive(command) is (orphans == "adopt")
    assert not is_alive(other)


def test_the_list_says_what_is_what(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    stopped, quiet = start("t1"), start("t2")
    os.kill(stopped.pid, signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)  # it has stopped
    register.put(entry("t1", stopped, owner=this_process(), started_at=1.0))
    register.put(entry("t2", quiet, owner=this_process(), started_at=2.0, stalled=True))
    register.put(entry("t3", quiet, run="run_2", started_at=3.0))
    register.put(entry("t4", GONE, owner=this_process(), started_at=4.0))
    views = listed(register)
    assert [view.state for view in views] == ["stopped", "stalled", "orphaned", "ended"]
    assert views[0].rss is not None and views[0].rss > 1_000_000
    assert views[0].cpu_s is not None and views[0].cpu_s >= 0
    assert views[3].rss is None
    assert [view.run for view in listed(register, "run_2")] == ["run_2"]
    assert json.dumps([view.pid for view in views])


def test_the_times_of_the_list_are_read_as_those_of_every_view(tmp_path: Path, start: Start) -> None:
    register = Register(tmp_path)
    at = {"started_at": 1_790_000_000.25, "last_output_at": 1_790_000_001.5, "last_heartbeat_at": None}
    register.put(entry("t1", start("t1"), owner=this_process(), **at))
    (shown,) = as_json(listed(register))
    assert (shown["started_at"], shown["last_output_at"], shown["last_heartbeat_at"]) == (
        "2026-09-21T14:13:20.250000Z", "2026-09-21T14:13:21.500000Z", None,
    )  # fmt: skip
