"""Omium's own measures, each made in a process of its own.

`measure(name, ...)` is to Omium what `tests.bench.peers.measure` is to the peers, and the work is the same: a step
takes the whole state and returns it, and a benchmark's state is the output of a node that the next node consumes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.ours.work import Work, as_json
from tests.bench.peers.workload import Store

LIMIT_SECONDS = 600


def measure(
    name: str, *, store: Store = "sqlite", url: str | None = None, directory: Path | None = None, **sizes: Any
) -> dict[str, Figure]:
    """Makes one measurement in a new process; its figures by name.

    `name` is one of `work.MEASURES`; `url` names an empty PostgreSQL database; files lie in a new directory below
    `directory` (the system's temporary one by default), which is deleted afterwards; `sizes` are further fields of
    `work.Work`. Raises RuntimeError when the process fails or takes ten minutes.
    """
    with tempfile.TemporaryDirectory(prefix="omium-ours-", dir=directory, ignore_cleanup_errors=True) as place:
        work = Work(name, store, Path(place), url, **sizes)
        command = [sys.executable, "-m", "tests.bench.ours", as_json(work)]
        # A session of its own: when it takes too long, the processes that it started end with it.
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[3],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{name} took more than {LIMIT_SECONDS} s") from error
            raise
        if process.returncode != 0:
            raise RuntimeError(f"{name} failed with {process.returncode}:\n{errors[-3000:]}")
        return {figure["measure"]: Figure(**figure) for figure in json.loads(output.splitlines()[-1])}
