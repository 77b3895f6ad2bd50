"""A process that outlives its starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from omium.clients.processes.detached import start_detached
from omium.clients.processes.identity import ProcessIdentity, identity, is_alive
from omium.orchestration.errors import OmiumError

pytestmark = pytest.mark.anyio

STARTER = """
import sys
from pathlib import Path
from omium.clients.processes.detached import start_detached
code = "import os, sys, time; print(os.getsid(0) == os.getpid(), os.environ['KEPT'], flush=True); time.sleep(600)"
print(start_detached([sys.executable, "-c", code], cwd=Path(sys.argv[1]), log=Path(sys.argv[1], "log")).pid)
"""


async def gone(process: ProcessIdentity) -> None:
    with anyio.fail_after(10):
        while is_alive(process):
            await anyio.sleep(0.01)


async def test_it_goes_on_when_its_starter_has_ended(tmp_path: Path) -> None:
    starter = await anyio.run_process(
        [sys.executable, "-c", STARTER, str(tmp_path)], env={**os.environ, "KEPT": "kept"}, stderr=subprocess.STDOUT
    )
    worker = identity(int(starter.stdout))
    assert worker is not None
    try:
        with anyio.fail_after(10):
            while not (tmp_path / "log").read_text():
                await anyio.sleep(0.01)
        assert (tmp_path / "log").read_text() == "True kept\n"
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
        assert is_alive(worker)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
    await gone(worker)


async def test_one_that_ends_first_is_collected(tmp_path: Path) -> None:
    worker = start_detached(["true"], cwd=tmp_path, log=tmp_path / "log")
    with anyio.fail_after(10):
        while identity(worker.pid) == worker:
            await anyio.sleep(0.01)


async def test_one_that_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as caught:
        start_detached(["no-such-program-anywhere"], cwd=tmp_path, log=tmp_path / "log")
    assert caught.value.data["reason"] == "not_started"
