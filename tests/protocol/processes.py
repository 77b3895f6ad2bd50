"""Servers as processes of their own, reached over HTTP."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

_URL = re.compile(r"http://[0-9.]+:\d+/mcp")


@asynccontextmanager
async def http_server(
    command: Sequence[str], environment: Mapping[str, str] | None, log: Path, directory: Path | None = None
) -> AsyncIterator[str]:
    """The URL of the MCP endpoint that this command serves, as it says itself. All its output goes to `log`. It must
    end well when it is told to, and must not have crashed anywhere on the way."""
    with log.open("wb") as output:
        process = await anyio.open_process(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        while not (found := _URL.search(log.read_text())):
            assert process.returncode is None, log.read_text()
            await anyio.sleep(0.02)
        yield found[0]
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(20):
            assert await process.wait() == 0, log.read_text()[-3_000:]
        assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
