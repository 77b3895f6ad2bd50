"""What the benchmark measures: for each line of its table, the work of ours, the floor, the peers, and what is to be
reached.

A `Measure` is one piece of work, made in a fresh process; its lines are figures of it. Where ours and the floor take
less than some seconds together, the measure is made in several rounds, floor and ours and peers in turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import floors
from tests.bench.figures import KB
from tests.bench.peers.workload import Store
from tests.postgres import PostgresServer

Sizes = dict[str, Any]
Figures = Mapping[str, float]  # of ours, by name; where a measure has several variants, `variant.name`


@dataclass(frozen=True, slots=True)
class Room:
    """Where a measurement is made: a directory for its databases, and the PostgreSQL server if one is needed."""

    directory: Path
    server: PostgresServer | None

    def database(self) -> str:
        """The URL of a new, empty PostgreSQL database."""
        assert self.server is not None
        return self.server.create_database(f"bench_{uuid.uuid4().hex}")


Floor = Callable[[Room, Sizes], float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    figure: its name among ours, or how it is made of several. floor: the least that such work costs here. peer: where
    the peers' figure has it, `value` unless it is among the details; None: it is not compared with them.
    What is to be reached: `below` is in the unit of the line, `of_floor` is the least ratio to the floor (of a rate),
    `most_of_floor` the greatest (of a time), `of_peers` how many times the better of the peers. `any_size`: that
    target is the same for less work.
    """

    name: str
    unit: str
    figure: str | Callable[[Figures], float]
    target: str = ""
    below: float | None = None
    of_floor: float | None = None
    most_of_floor: float | None = None
    of_peers: float | None = None
    floor: Floor | None = None
    peer: str | None = None
    any_size: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """One piece of work. work: what ours is called; sizes and quick: how much of it; variants: the same work in several
    sizes, for lines that compare them. peer: what the peers call it, with `peer_sizes` besides."""

    work: str
    lines: tuple[Line, ...]
    sizes: Sizes = field(default_factory=dict)
    quick: Sizes | None = field(default_factory=dict)  # None: not in a quick run
    variants: Mapping[str, Sizes] = field(default_factory=lambda: {"": {}})
    store: Store = "sqlite"
    rounds: int = 1
    peer: str | None = None
    peer_rounds: int = 1


# --- floors ---------------------------------------------------------------------------------------------------------


def _chain(room: Room, sizes: Sizes) -> float:
    return floors.sqlite_chain(room.directory, steps=sizes["steps"], state_kb=sizes.get("state_kb", 1)).value


def _runs(room: Room, sizes: Sizes) -> float:
    return floors.sqlite_group_commit(room.directory, runs=sizes["runs"], nodes=sizes.get("nodes", 10)).value


def _fanout(room: Room, sizes: Sizes) -> float:
    return floors.sqlite_group_commit(room.directory, runs=sizes["branches"], nodes=1).value


def _commit_ms(room: Room, sizes: Sizes) -> float:
    return floors.sqlite_chain(room.directory, steps=50).p50_ms or 0.0


def _large_commit_ms(room: Room, sizes: Sizes) -> float:
    return floors.sqlite_chain(room.directory, steps=sizes["times"], state_kb=sizes["state_kb"]).p95_ms or 0.0


def _postgres_chain(room: Room, sizes: Sizes) -> float:
    return floors.postgres_chain(room.database(), steps=sizes["steps"]).value


def _postgres_runs(room: Room, sizes: Sizes) -> float:
    return floors.postgres_group_commit(room.database(), runs=sizes["runs"], nodes=sizes.get("nodes", 10)).value


def _interpreter_s(room: Room, sizes: Sizes) -> float:
    return floors.interpreter_start(times=5).value


def _changed_kb(room: Room, sizes: Sizes) -> float:
    return float(sizes["state_kb"]) / 100  # the hundredth that changes


def _worktree_s(room: Room, sizes: Sizes) -> float:
    """A bare `git worktree add` of a repository of that size; the median of as many."""
    from tests.bench.ours.checkouts import make_repository

    with tempfile.TemporaryDirectory(dir=room.directory) as name:
        source, bare = make_repository(Path(name) / "source", sizes["files"], sizes["file_kb"]), Path(name) / "bare"
        subprocess.run(["git", "clone", "--quiet", "--bare", str(source), str(bare)], check=True)
        took = []
        for number in range(sizes["times"]):
            add = ["git", "worktree", "add", "--quiet", "--detach", str(Path(name) / f"tree-{number}"), "main"]
            began = time.perf_counter()
            subprocess.run(add, cwd=bare, check=True, stderr=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
        return sorted(took)[len(took) // 2]


def _rewritten_s(room: Room, sizes: Sizes) -> float:
    """A tenth of the files copied over themselves from another directory, and every other one looked at."""
    with tempfile.TemporaryDirectory(dir=room.directory) as name:
        source, target = Path(name) / "source", Path(name) / "target"
        files, content = sizes["files"], os.urandom(sizes["file_kb"] * KB)
        for directory in (source, target):
            directory.mkdir()
            for number in range(files):
                (directory / str(number)).write_bytes(content)
        began = time.perf_counter()
        for number in range(files):
            if number % 10:
                (target / str(number)).lstat()
            else:
                shutil.copyfile(source / str(number), target / str(number))
        return time.perf_counter() - began


# --- the table ------------------------------------------------------------------------------------------------------


def _plan() -> tuple[Measure, ...]:
    return (*_executing(), *_on_postgres(), *_history(), *_resting(), *_starting())


def _executing() -> tuple[Measure, ...]:
    chain = "3x the better peer, 0.40 of the floor"
    return (
        Measure(
            "chain",
            (Line("chain_sqlite", "nodes/s", "chain", chain, of_floor=0.40, of_peers=3, floor=_chain, peer="value"),),
            {"steps": 1000},
            {"steps": 300},
            rounds=3,
            peer="chain",
            peer_rounds=3,
        ),
        Measure(
            "chain",
            (Line("chain_sqlite_100kb", "nodes/s", "chain", floor=_chain, peer="value"),),
            {"steps": 500, "state_kb": 100},
            None,
            peer="chain",
        ),
        Measure(
            "runs",
            (Line("runs_sqlite", "runs/s", "runs", "10x the better peer", of_peers=10, floor=_runs, peer="value"),),
            {"runs": 1000},
            {"runs": 100},
            rounds=3,
            peer="runs",
        ),
        Measure("runs", (Line("runs_sqlite_100", "runs/s", "runs", floor=_runs),), {"runs": 100}, None, rounds=3),
        Measure("runs", (Line("runs_sqlite_10000", "runs/s", "runs", floor=_runs),), {"runs": 10_000}, None),
        Measure(
            "fanout",
            (
                Line(
                    "fanout_sqlite",
                    "branches/s",
                    "fanout",
                    "2.5x the better peer",
                    of_peers=2.5,
                    floor=_fanout,
                    peer="value",
                ),
            ),
            {"branches": 1000},
            {"branches": 300},
            rounds=3,
            peer="fanout",
            peer_rounds=3,
        ),
        Measure(
            "fanout",
            (
                Line(
                    "fanout_linear",
                    "x",
                    lambda of: of["large.us_per_branch"] / of["small.us_per_branch"],
                    "a branch of 10,000 costs at most 1.5 times one of 1,000",
                    below=1.5,
                ),
            ),
            quick=None,
            variants={"small": {"branches": 1000}, "large": {"branches": 10_000}},
            rounds=3,
        ),
    )


def _on_postgres() -> tuple[Measure, ...]:
    chain = "3x the better peer, 0.25 of the floor"
    return (
        Measure(
            "chain",
            (
                Line(
                    "chain_postgres",
                    "nodes/s",
                    "chain",
                    chain,
                    of_floor=0.25,
                    of_peers=3,
                    floor=_postgres_chain,
                    peer="value",
                ),
            ),
            {"steps": 1000},
            {"steps": 200},
            store="postgres",
            rounds=3,
            peer="chain",
        ),
        Measure(
            "runs",
            (
                Line(
                    "runs_postgres",
                    "runs/s",
                    "runs",
                    "10x the better peer",
                    of_peers=10,
                    floor=_postgres_runs,
                    peer="value",
                ),
            ),
            {"runs": 1000},
            {"runs": 100},
            store="postgres",
            rounds=3,
            peer="runs",
        ),
    )


def _history() -> tuple[Measure, ...]:
    return (
        Measure(
            "branch",
            (
                Line("branch_ms", "ms", "branch_ms", "under 5", below=5, floor=_commit_ms, peer="value"),
                Line("branch_by_node_ms", "ms", "branch_by_node_ms"),
                Line("branch_kb", "KB", "branch_kb", "under 4", below=4, peer="stored_kb"),
                Line("branch_wal_kb", "KB", "branch_wal_kb"),
            ),
            {"steps": 1000, "times": 20},
            {"steps": 200, "times": 10},
            rounds=3,
            peer="fork",
        ),
        Measure(
            "branch",
            (
                Line(
                    "branch_10000",
                    "x",
                    lambda of: of["large.branch_ms"] / of["small.branch_ms"],
                    "at 10,000 nodes at most twice that at 1,000",
                    below=2,
                ),
                Line("branch_10000_kb", "KB", "large.branch_kb", "under 4", below=4),
            ),
            {"times": 20},
            None,
            variants={"small": {"steps": 1000}, "large": {"steps": 10_000}},
        ),
        Measure(
            "checkpoint",
            (
                Line("checkpoint_1mb_p95", "ms", "save_ms", "under 25", below=25, floor=_large_commit_ms),
                Line("label_1mb_p95", "ms", "label_ms", "under 25", below=25),
            ),
            {"times": 200, "state_kb": 1024},
            {"times": 30, "state_kb": 1024},
        ),
        Measure(
            "rollback",
            (
                Line("rollback_s", "s", "rollback", "under 1", below=1, floor=_rewritten_s),
                Line("workspace_setup_s", "s", "workspace_setup", "under 5", below=5),
            ),
            {"steps": 50, "files": 1000, "file_kb": 100},
            {"steps": 50, "files": 200, "file_kb": 20},
            rounds=3,
        ),
        Measure(
            "checkouts",
            (
                Line("checkout_first_s", "s", "checkout_first", "under 5", below=5, any_size=True),
                Line(
                    "checkout_s",
                    "s",
                    "checkout",
                    "at most 1.3 times `git worktree add`",
                    most_of_floor=1.3,
                    floor=_worktree_s,
                ),
            ),
            {"files": 10_000, "file_kb": 1, "times": 5},
            {"files": 1_000, "file_kb": 1, "times": 3},
            rounds=3,
        ),
        Measure(
            "storage",
            (
                Line(
                    "delta_kb_per_node",
                    "KB",
                    "storage",
                    "under 4",
                    below=4,
                    floor=_changed_kb,
                    peer="value",
                    any_size=True,
                ),
            ),
            {"steps": 200, "state_kb": 100},
            {"steps": 200, "state_kb": 100},
            peer="storage",
        ),
    )


def _resting() -> tuple[Measure, ...]:
    return (
        Measure(
            "kill",
            (
                Line(
                    "kill_to_next_node_s",
                    "s",
                    "kill",
                    "under 1.5",
                    below=1.5,
                    floor=_interpreter_s,
                    peer="value",
                    any_size=True,
                ),
            ),
            {"steps": 1000},
            {"steps": 200},
            rounds=3,
            peer="kill",
            peer_rounds=3,
        ),
        Measure(
            "waiting",
            (
                Line("waiting_10000_mb", "MB", "waiting_mb", "under 500", below=500),
                Line("waiting_cpu", "ms/s", "idle_cpu_ms", "under 20: nothing is polled for a run", below=20),
                Line("list_page_p95", "ms", "list_ms", "under 50", below=50),
                Line("start_run_p95", "ms", "start_ms", "under 1,000", below=1000),
            ),
            {"runs": 10_000},
            {"runs": 300},
        ),
        Measure(
            "approval",
            (Line("approval_wake_p95", "ms", "approval_ms", "under 200", below=200, any_size=True),),
            {"times": 50},
            {"times": 10},
        ),
        Measure(
            "events",
            (
                Line("event_latency_p95", "ms", "event_ms", "under 100", below=100),
                Line("event_latency_local_p95", "ms", "event_local_ms", "under 100", below=100),
            ),
            {"steps": 500},
            {"steps": 100},
        ),
        Measure(
            "cancel",
            (Line("cancel_p95", "ms", "cancel_ms", "under 5,000", below=5000, any_size=True),),
            {"times": 50},
            {"times": 10},
        ),
    )


def _starting() -> tuple[Measure, ...]:
    return (
        Measure(
            "commands",
            (
                Line("help_s", "s", "help", "under 0.3", below=0.3, floor=_interpreter_s, any_size=True),
                Line("stdio_first_answer_s", "s", "stdio_first_answer", "under 2", below=2, any_size=True),
                Line("stdio_exit_s", "s", "stdio_exit", "under 10", below=10, any_size=True),
            ),
            {"times": 10},
            {"times": 3},
        ),
        Measure(
            "pages",
            (
                Line("page_list_10000_p95", "ms", "list_ms", "under 500", below=500, any_size=True),
                Line("page_search_10000_p95", "ms", "search_ms", "under 500", below=500, any_size=True),
                Line("page_run_5000_p95", "ms", "run_ms"),
                Line("page_graph_5000_p95", "ms", "graph_ms"),
            ),
            {"runs": 10_000, "steps": 5_000, "times": 20},
            {"runs": 500, "steps": 200, "times": 5},
        ),
        *_screens(),
        Measure(
            "calls",
            (
                Line("call_overhead_p95", "ms", "call_overhead_ms", "under 10", below=10, any_size=True),
                Line("call_core", "ms", "call_core_ms"),
            ),
            {"times": 500},
            {"times": 100},
        ),
        Measure(
            "http_clients",
            (
                Line("http_clients", "ms", "http_call_ms"),  # 200 at once, of which one that fails fails the measure
                Line("http_clients_rate", "calls/s", "http_calls"),
            ),
            {"runs": 200},
            {"runs": 20},
        ),
        Measure(
            "tools",
            (
                Line("tool_call", "ms", "tool_call_ms"),
                Line("tool_call_held", "ms", "tool_held_ms"),
                Line("tool_policy", "%", "tool_policy"),  # of which: what deciding takes
                Line("tool_overhead", "%", "tool_overhead", "under 10", below=10, any_size=True),
                Line("tool_node", "ms", "tool_node_ms"),
            ),
            {"times": 1000},
            {"times": 200},
            rounds=3,
        ),
        Measure(
            "policies",
            (
                Line("policy_20_rules", "us", "policy_us", "under 20", below=20, any_size=True),
                Line("policy_20_rules_cel", "us", "policy_cel_us", "under 250", below=250, any_size=True),
                Line("policy_1000_rules_p95", "us", "policy_1000_p95_us", "under 1,000", below=1000, any_size=True),
            ),
            {"times": 500},
            {"times": 100},
        ),
        Measure(
            "quiet",
            (
                Line("quiet_processes_cpu", "%", "quiet_cpu", "under 2", below=2, any_size=True),
                Line("quiet_processes_memory", "MB", "quiet_mb", "under 64", below=64, any_size=True),
            ),
            {"times": 100},
            None,
        ),
    )


def _screens() -> tuple[Measure, ...]:
    """What needs a browser, which no wheel brings: `apt-get install chromium`."""
    if shutil.which("chromium") is None:
        return ()
    line = Line("event_screen_p95", "ms", "event_screen_ms", "under 200", below=200, any_size=True)
    return (Measure("screens", (line,), {"times": 100}, {"times": 20}),)


PLAN = _plan()
