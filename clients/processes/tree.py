"""Everything below a process: found by marker, session, group and parentage, and signalled without hitting a stranger.

A descendant can leave its parent's group and session (coding CLIs start their shells so), and loses its parent when
that dies. The marker variable in its environment stays. What escapes is only a process that did all of it at once:
cleared its environment, took a session of its own and outlived every ancestor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from omium.clients.processes.identity import LINUX, ProcessIdentity, boot_id, read_stat, stat_start_time

MARKER: Final = "OMIUM_PROCESS"
"""The variable that every supervised process inherits: `/`-separated tokens, outermost first, so that what an Omium
inside an Omium starts belongs to both."""

_PPID, _PGID, _SID, _FLAGS = 1, 2, 3, 6  # positions in `read_stat`
_KERNEL_THREAD: Final = 0x00200000  # PF_KTHREAD: it never has an environment
_PASSES: Final = 20
_EXEC_LOOKS: Final = 4
_EXEC_PAUSE_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class _Row:
    pid: int
    ppid: int
    pgid: int
    sid: int
    start_time: float
    zombie: bool

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(boot_id(), self.pid, self.start_time)


def find_members(token: str, leader: ProcessIdentity | None = None) -> list[ProcessIdentity]:
    """The living processes that belong to `token`, without the caller's own; blocking, a few milliseconds.

    Belonging is: the marker holds the token; or it is the leader, or in the session or group that the leader made; or
    its parent belongs. Processes that this user may not inspect are found through their parents only. `leader` must
    not have been collected yet (or be None), so that its pid still means it. Something that replaces itself by a new
    process within less than a millisecond, in ever new sessions, can outrun every search; call again until it is empty.
    """
    since = 0.0 if leader is None else leader.start_time
    found: set[int] = set()
    rows: list[_Row] = []
    for row in _rows():
        rows.append(row)
        led = leader is not None and leader.pid in (row.pid, row.sid, row.pgid)
        if led or (row.start_time >= since and not row.zombie and _is_marked(row.pid, token)):
            found.add(row.pid)
    _add_descendants(found, rows)
    own = os.getpid()
    return [row.identity for row in rows if row.pid in found and not row.zombie and row.pid != own]


def kill_members(
    token: str, leader: ProcessIdentity | None = None, *, spared: Collection[str] = ()
) -> list[ProcessIdentity]:
    """Sends SIGKILL to whatever `find_members` finds, without a moment between, and gives it. What also belongs to one
    of the `spared` tokens is left alone."""
    members = find_members(token, leader)
    if spared and members:
        kept = {member for one in spared for member in find_members(one)}
        members = [member for member in members if member not in kept]
    send_signal(members, signal.SIGKILL)
    return members


def find_descendants(leader: ProcessIdentity) -> list[ProcessIdentity]:
    """The leader, its session and its descendants by parentage alone: cheaper than `find_members`."""
    rows = list(_rows())
    found = {row.pid for row in rows if leader.pid in (row.pid, row.sid, row.pgid)}
    _add_descendants(found, rows)
    return [row.identity for row in rows if row.pid in found and not row.zombie]


def _add_descendants(found: set[int], rows: list[_Row]) -> None:
    children: dict[int, list[int]] = {}
    for row in rows:
        children.setdefault(row.ppid, []).append(row.pid)
    pending = list(found)
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found:
                found.add(child)
                pending.append(child)


def _rows() -> Iterator[_Row]:
    if LINUX:
        # One pass may miss a child born behind its listing to a parent that ends before its turn, so it looks again
        # for processes that are new, which takes far less time than a process needs to start another one.
        seen: set[str] = set()
        for _ in range(_PASSES):
            new = [name for name in os.listdir("/proc") if name.isdigit() and name not in seen]
            if not new:
                return
            seen.update(new)
            for name in new:
                if (fields := read_stat(int(name))) is not None and not int(fields[_FLAGS]) & _KERNEL_THREAD:
                    yield _row(int(name), fields)
        return
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            pid = process.pid
            yield _Row(pid, process.ppid(), os.getpgid(pid), os.getsid(pid), process.create_time(), zombie)


def _row(pid: int, fields: list[str]) -> _Row:
    return _Row(
        pid=pid,
        ppid=int(fields[_PPID]),
        pgid=int(fields[_PGID]),
        sid=int(fields[_SID]),
        start_time=stat_start_time(fields),
        zombie=fields[0] in "ZX",
    )


def _is_marked(pid: int, token: str) -> bool:
    return any(token in value.split("/") for value in _marker_of(pid))


def _marker_of(pid: int) -> Iterator[str]:
    if LINUX:
        block = _environment_block(pid)
        prefix = f"{MARKER}=".encode()
        for entry in block.split(b"\0"):
            if entry.startswith(prefix):
                yield entry[len(prefix) :].decode("utf-8", "replace")
        return
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        value = psutil.Process(pid).environ().get(MARKER)
        if value is not None:
            yield value


def _environment_block(pid: int) -> bytes:
    for _ in range(_EXEC_LOOKS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                block = file.read()
        except OSError:  # gone meanwhile, or of another user
            return b""
        if block:
            return block
        # It has none, or is about to get it: in the middle of exec the old one is gone and the new one not there yet.
        time.sleep(_EXEC_PAUSE_S)
    return b""


def send_signal(processes: Iterable[ProcessIdentity], number: signal.Signals) -> None:
    """Signals exactly these processes. One that is gone, was replaced or belongs to another user is passed over."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if LINUX:
                _signal_linux(process, number)
            else:
                _signal_portable(process, number)


def _signal_linux(process: ProcessIdentity, number: signal.Signals) -> None:
    # The descriptor pins the process, so the check of its start time still holds when the signal goes out.
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # no descriptor left, or an old kernel: the moment between check and signal is then a risk to take
        fields = read_stat(process.pid)
        if fields is not None and stat_start_time(fields) == process.start_time:
            os.kill(process.pid, number)
        return
    try:
        fields = read_stat(process.pid)
        if fields is not None and stat_start_time(fields) == process.start_time:
            signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _signal_portable(process: ProcessIdentity, number: signal.Signals) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid)
        if found.create_time() == process.start_time:
            found.send_signal(number)


def resident_bytes(processes: Iterable[ProcessIdentity]) -> int:
    """The resident memory of these processes together; pages that they share are counted once for each."""
    import psutil

    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(process.pid).memory_info().rss
    return total
