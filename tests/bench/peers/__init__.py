"""The peers of the benchmark, LangGraph and DBOS, each measured in a process and a virtual environment of its own.

    python -m tests.bench.peers --quick --json

Only the standard library at import: the peers' own processes import this package too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

from tests.bench.peers import environment
from tests.bench.peers.workload import Store, Work, arguments

Peer = Literal["langgraph", "dbos"]

PEERS: tuple[Peer, ...] = ("langgraph", "dbos")
LIMIT_SECONDS = 300


def unavailable() -> str | None:
    """Why the peers cannot be measured here, after trying to install them; None when they can."""
    return environment.unavailable()


def versions() -> dict[str, str]:
    """The installed version of each of the peers' packages. Raises RuntimeError when they cannot be installed."""
    return environment.versions()


def measure(
    peer: Peer,
    measure: str,
    *,
    store: Store = "sqlite",
    url: str | None = None,
    directory: Path | None = None,
    **sizes: Any,
) -> dict[str, Any]:
    """Measures one peer in a new process and returns its Figure as a dict.

    `measure` is one of `workload.MEASURES`; `url` names an empty PostgreSQL database; the SQLite file lies in a new
    directory below `directory` (the system's temporary one by default) and is deleted afterwards; `sizes` are further
    fields of `workload.Work`. Blocks for up to about a minute. Raises RuntimeError when the peers are not installed,
    and when the process fails or takes five minutes.
    """
    python = environment.interpreter()
    with tempfile.TemporaryDirectory(prefix="omium-peer-", dir=directory) as name:
        work = Work(measure, store, Path(name), url, **sizes)
        command = [str(python), "-m", f"tests.bench.peers.{peer}_peer", *arguments(work), "--json"]
        root = Path(__file__).parents[3]
        # A session of its own: when it takes too long, the workers that it started end with it.
        process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{peer} {work.name} took more than {LIMIT_SECONDS} s") from error
            raise
        if process.returncode != 0:
            raise RuntimeError(f"{peer} {work.name} failed with {process.returncode}:\n{errors[-2000:]}")
        figure: dict[str, Any] = json.loads(output.splitlines()[-1])
        return figure
