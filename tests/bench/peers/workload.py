"""The work that every peer does, and what their processes share: sizes, state, timing, storage and the kill.

The measures, each the same program in every system:

- `chain`: `steps` no-op steps in a row; a step takes the whole state and returns it. Steps per second.
- `runs`: `runs` concurrent runs of `nodes` such steps. Runs per second.
- `fanout`: one step, `branches` parallel ones that each return a state, one that takes all. Branches per second.
- `fork`: a new run that continues a finished chain from its middle. Milliseconds of the fork alone, KB that it stores.
- `storage`: the chain with a state of which a hundredth changes at each step. KB stored for each step.
- `kill`: SIGKILL in the middle of a chain, then a new process. Seconds from the kill to the first step not seen before.

Only the standard library: this runs in the peers' virtual environment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.bench.figures import Figure, payload

Store = Literal["sqlite", "postgres"]
State = dict[str, Any]

MEASURES = ("chain", "runs", "fanout", "fork", "storage", "kill")
FORKS = 20
PIECES = 100


@dataclass(frozen=True, slots=True)
class Work:
    """One measurement: what to do, how much of it, and where. `url` is None with SQLite."""

    measure: str
    store: Store
    directory: Path
    url: str | None
    steps: int = 1000
    runs: int = 1000
    nodes: int = 10
    branches: int = 1000
    state_kb: int = 1
    looped: bool = False

    @property
    def database(self) -> Path:
        return self.directory / "peer.db"

    @property
    def middle(self) -> int:
        return self.steps // 2

    @property
    def name(self) -> str:
        return f"{self.measure}_{self.store}"


def initial_state(work: Work, number: int = 0) -> State:
    """A state of `state_kb` KB: a step number and a text that does not compress, another one for each `number`. Runs
    that are measured get their own: a content that was stored before costs less where each is kept once."""
    return {"n": 0, "text": payload(work.state_kb, seed=number)}


def pieces(work: Work) -> dict[str, str]:
    """The state of the storage measure: a hundred texts, `state_kb` KB together, one of which changes at a step."""
    size = max(1, work.state_kb * 1024 // PIECES)
    return {f"piece_{number:02}": payload(1, seed=number)[:size] for number in range(PIECES)}


def change(work: Work, step: int) -> tuple[str, str]:
    """The piece that changes at `step`, and its new text."""
    size = max(1, work.state_kb * 1024 // PIECES)
    return f"piece_{step % PIECES:02}", payload(1, seed=1000 + step)[:size]


def sqlite_kb(database: Path) -> float:
    """The KB of a SQLite database, with what its log still holds. The log is left as it is: one that has to grow again
    makes the commits that are timed next twice as dear."""
    connection = sqlite3.connect(database)
    try:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    finally:
        connection.close()
    return float(pages * size) / 1024


POSTGRES_KB = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) / 1024.0
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')
"""


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def report_step(step: int) -> None:
    """Tells the process that will kill this one which step has begun."""
    os.write(1, f"{step}\n".encode())


def kill_and_resume(work: Work, module: str) -> Figure:
    """Runs `module` as a worker, kills it in the middle of its chain and starts it again."""
    command = [sys.executable, "-m", module, *arguments(work), "--worker"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, "start"], stdout=subprocess.PIPE, text=True, env=environment) as first:
        seen = _read_until(first, work.middle)
        killed = time.perf_counter()
        first.send_signal(signal.SIGKILL)
        assert first.stdout is not None
        seen = max([seen, *(int(line) for line in first.stdout if line.endswith("\n"))])
    repeated = []
    with subprocess.Popen([*command, "resume"], stdout=subprocess.PIPE, text=True, env=environment) as second:
        while (step := _read_until(second, 0)) <= seen:
            repeated.append(step)
        seconds = time.perf_counter() - killed
        second.kill()
    return Figure(
        work.name, round(seconds, 3), "s", detail={"killed_at": seen, "repeated_steps": len(repeated), **_sizes(work)}
    )


def _read_until(process: subprocess.Popen[str], step: int) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return int(line)
    raise RuntimeError(f"the worker ended with {process.wait()} before step {step}")


def _sizes(work: Work) -> dict[str, Any]:
    return {"steps": work.steps, "state_kb": work.state_kb, "looped": work.looped}


def arguments(work: Work) -> list[str]:
    """The command line that `parse` reads back."""
    given = ["--measure", work.measure, "--store", work.store, "--directory", str(work.directory)]
    given += ["--url", work.url] if work.url else []
    given += ["--looped"] if work.looped else []
    for name in ("steps", "runs", "nodes", "branches", "state_kb"):
        given += [f"--{name.replace('_', '-')}", str(getattr(work, name))]
    return given


def parse(program: str, argv: list[str] | None = None) -> tuple[Work, str]:
    """The work that the command line asks for, and the role: 'measure', or 'start' or 'resume' of a worker."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--measure", choices=MEASURES, required=True)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory for the database")
    parser.add_argument("--url", help="an empty PostgreSQL database, for --store postgres")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--branches", type=int, default=1000)
    parser.add_argument("--state-kb", type=int, default=1)
    parser.add_argument("--looped", action="store_true", help="one looped node instead of a node a step (LangGraph)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    parser.add_argument("--worker", choices=("start", "resume"), help=argparse.SUPPRESS)
    given = vars(parser.parse_args(argv))
    if given["store"] == "postgres" and not given["url"]:
        parser.error("--store postgres needs --url")
    role = given.pop("worker") or "measure"
    given.pop("json")
    return Work(**given), role


def print_figure(figure: Figure) -> None:
    if "--json" in sys.argv:
        print(json.dumps(figure.as_dict()))
    else:
        print(f"{figure.measure}: {figure.value} {figure.unit}, p50 {figure.p50_ms} ms, p95 {figure.p95_ms} ms")
        print(*(f"  {name}: {value}" for name, value in figure.detail.items()), sep="\n")
