"""Starting one process for the supervisor, and waiting for its death without collecting it."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING, Final

import anyio

from omium.clients.processes.environment import child_environment
from omium.clients.processes.identity import ProcessIdentity, is_alive
from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from omium.clients.processes.supervisor import Command

_NOT_THERE: Final = "Check that it is installed and executable, and that PATH names its directory."
_TOO_LONG: Final = "Hand long values over on standard input, or in a file."


def launch(command: Command) -> subprocess.Popen[bytes]:
    """The process of a command, in a session of its own, its pipes non-blocking. Raises OmiumError, see
    `supervisor.run_process`."""
    environment = child_environment(command.env, command.marker, command.token)
    if not command.argv or not command.argv[0]:
        raise OmiumError("invalid_argument", "A command needs at least the name of a program.")
    if any("\0" in text for text in (*command.argv, *environment, *environment.values())):
        raise OmiumError(
            "invalid_argument", f"An argument or variable of {command.argv[0]!r} contains a NUL character."
        )
    if not command.cwd.is_dir():
        raise OmiumError(
            "process_failed",
            f"The directory {str(command.cwd)!r} of the command {command.argv[0]!r} does not exist.",
            reason="not_started",
        )
    takes_input = command.stdin is not None or command.interactive
    try:
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=environment,
            stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=command.pass_fds,
        )
    except OSError as error:
        raise OmiumError(
            "process_failed",
            f"The program {command.argv[0]!r} cannot be started: {error.strerror or error}.",
            _TOO_LONG if error.errno == errno.E2BIG else _NOT_THERE,
            reason="not_started",
            errno=error.errno,
        ) from error
    for file in (process.stdin, process.stdout, process.stderr):
        if file is not None:
            os.set_blocking(file.fileno(), False)
    return process


async def wait_until_dead(process: ProcessIdentity) -> None:
    """Waits for a child's death without collecting it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # no pidfd on this system (it is Linux's), or no descriptor left
        while is_alive(process):
            await anyio.sleep(0.05)
        return
    try:
        await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
