"""`omium wrap -- command`: heartbeats for a program that sends none.

The program's input, output, signals and exit code go through unchanged. The heartbeats say how much CPU time it has
used and how much it has written; they prove that it lives, not that it gets on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

from omium.clients.processes.activity import usage
from omium.clients.processes.heartbeat import HeartbeatEmitter
from omium.clients.processes.identity import ProcessIdentity, identity
from omium.clients.processes.tree import MARKER, find_members, send_signal
from omium.orchestration.ids import new_id

NOT_FOUND: Final = 127  # as a shell says it
NOT_EXECUTABLE: Final = 126
_FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)
_CHUNK: Final = 64 * 1024
_LINGER_S: Final = 0.5  # how long background children may hold the output open behind the program's end


def wrap(argv: Sequence[str], *, tool: str, interval_s: float = 30.0, grace_s: float = 90.0) -> int:
    """Run `argv` to its end and give its exit code; if a signal ended it, this process ends by the same one.

    To be called in the main thread of a process that does nothing else. 127 and 126 when it cannot be started.
    """
    token = new_id("wrap")
    outer = os.environ.get(MARKER)
    environment = {**os.environ, MARKER: f"{outer}/{token}" if outer else token}
    forward = _Forward(token)
    # What is typed at a terminal goes to everybody there; handing it on would make it come twice.
    typed = (signal.SIGINT, signal.SIGQUIT) if sys.stdin is not None and sys.stdin.isatty() else ()
    for number in _FORWARDED:
        signal.signal(number, _ignored if number in typed else forward)
    try:
        process = subprocess.Popen(
            list(argv), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        sys.stderr.write(f"omium wrap: {argv[0]!r} cannot be started: {error.strerror or error}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    leader = identity(process.pid)
    assert leader is not None  # nobody collects it before the wait below
    assert process.stdout is not None and process.stderr is not None
    out, err = _Stream(sys.stdout.fileno()), _Stream(sys.stderr.fileno())
    copies = [
        threading.Thread(target=stream.copy, args=(source.fileno(),), daemon=True)
        for stream, source in ((out, process.stdout), (err, process.stderr))
    ]

    used = (0.0, 0)

    def more() -> Mapping[str, object]:
        nonlocal used
        cpu, moved = used = _most(used, usage(leader))
        return {
            "tool": tool,
            "pid": process.pid,
            "cpu_s": round(cpu, 2),
            "io_bytes": moved,
            "stdout_bytes": out.count,
            "stderr_bytes": err.count,
        }

    forward.begin(leader)
    for thread in copies:
        thread.start()
    beats = HeartbeatEmitter(interval_s=interval_s, grace_s=grace_s, more=more, stream=err)
    beats.start()
    try:
        code = process.wait()
    finally:
        beats.stop()
    for thread in copies:
        thread.join(_LINGER_S)
    if code < 0:
        _die_of(-code)
    return code


class _Forward:
    """Hands signals to the program and everything below it; those that come before it exists, right after its start."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._leader: ProcessIdentity | None = None
        self._early: list[signal.Signals] = []

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._leader is None:
            self._early.append(signal.Signals(number))
        else:
            send_signal(find_members(self._token, self._leader), signal.Signals(number))

    def begin(self, leader: ProcessIdentity) -> None:
        self._leader = leader
        for number in self._early:
            self(number, None)


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """A handler and not SIG_IGN, which the program would inherit."""


def _most(before: tuple[float, int], now: tuple[float, int]) -> tuple[float, int]:
    """What has been used so far: what has ended is counted no more, and is used all the same."""
    return max(before[0], now[0]), max(before[1], now[1])


class _Stream:
    """A copy of one stream, into which whole lines of our own can be written between its lines."""

    def __init__(self, target: int) -> None:
        self.count = 0
        self._target = target
        self._lock = threading.Lock()
        self._at_line_start = True
        self._postponed = False

    def copy(self, source: int) -> None:
        while data := os.read(source, _CHUNK):
            with self._lock:
                self.count += len(data)
                self._at_line_start = data.endswith(b"\n")
                if not self._write_all(data):
                    return

    def write(self, text: str) -> int:
        """A line between two lines. In the middle of one it is left out, but the next time that line is ended: a
        prompt without an end must not keep a living program from saying so."""
        with self._lock:
            if not self._at_line_start and not self._postponed:
                self._postponed = True
                return 0
            self._postponed = False
            self._write_all(text.encode() if self._at_line_start else b"\n" + text.encode())
            self._at_line_start = True
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _write_all(self, data: bytes) -> bool:
        """Whether anybody reads; if not, the program finds out by its own broken pipe."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._target, view) :]
            except OSError:
                return False
        return True


def _die_of(number: int) -> None:
    """End as the program ended, so that whoever waits sees the same; without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):  # SIGKILL and SIGSTOP have no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
