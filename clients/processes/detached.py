"""Starting a process that outlives this one: Omium's own worker, which goes on with the runs when a server ends."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from omium.clients.processes.identity import ProcessIdentity, identity
from omium.orchestration.errors import OmiumError


def start_detached(
    argv: Sequence[str], *, cwd: Path, log: Path, env: Mapping[str, str | None] | None = None
) -> ProcessIdentity:
    """Starts `argv` in a session of its own and gives its identity; its output is appended to `log` (mode 0600).

    For Omium's own programs only: they are as trusted as this process, so they inherit its whole environment, and
    nobody supervises them. env: what is different in theirs; None takes a variable away.
    Raises OmiumError("process_failed", reason="not_started").
    """
    changed = {**os.environ, **(env or {})}
    environment = {name: value for name, value in changed.items() if value is not None}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    except OSError as error:
        raise OmiumError(
            "process_failed",
            f"The program {argv[0]!r} cannot be started: {error.strerror or error}.",
            reason="not_started",
            errno=error.errno,
        ) from error
    finally:
        os.close(descriptor)
    started = identity(process.pid)
    assert started is not None  # it is not collected before the thread below begins to wait
    # If it ends first, somebody must collect it.
    threading.Thread(target=process.wait, daemon=True, name="omium-collect").start()
    return started
