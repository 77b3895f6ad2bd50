"""Which process was meant: a pid alone is reused, a pid with its start time and its boot is not."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import Final

LINUX: Final = sys.platform == "linux"

_STATE, _START_TICKS = (
    0,
    19,
)  # positions in `read_stat`: fields 3 and 22 of proc(5)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time.

    boot_id: the boot of the machine and, on Linux, the pid namespace (two containers share a boot, not their pids);
    start_time: seconds since boot on Linux (immune to changes of the clock), since the epoch elsewhere.
    """

    boot_id: str
    pid: int
    start_time: float


@functools.cache
def boot_id() -> str:
    """What distinguishes this boot and pid namespace from every other one."""
    if LINUX:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    import psutil  # only where there is no /proc: importing it costs time on every start

    return f"boot-{psutil.boot_time():.0f}"


def read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat behind the command name; None when there is no such process. Linux only."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses.
    return text[text.rindex(b")") + 2 :].decode("ascii", "replace").split()


def stat_start_time(fields: list[str]) -> float:
    """Seconds since boot at which the process of these `read_stat` fields started."""
    return int(fields[_START_TICKS]) / _ticks_per_second()


@functools.cache
def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def identity(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this pid now; None when there is none. A zombie still has one."""
    if pid <= 0:
        return None
    if LINUX:
        fields = read_stat(pid)
        return None if fields is None else ProcessIdentity(boot_id(), pid, stat_start_time(fields))
    import psutil

    try:
        return ProcessIdentity(boot_id(), pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def this_process() -> ProcessIdentity:
    """The identity of the caller's own process."""
    own = identity(os.getpid())
    assert own is not None  # whoever asks exists
    return own


def same_host(process: ProcessIdentity) -> bool:
    """Whether `is_alive` can judge: False for a process of another machine, container or boot."""
    return process.boot_id == boot_id()


def is_alive(process: ProcessIdentity) -> bool:
    """Whether exactly this process still runs here.

    False when it is gone, is a zombie (dead, not yet collected), when its pid belongs to another process by now, or
    when it ran under another boot or in another container; `same_host` tells the last case from the others.
    """
    if not same_host(process):
        return False
    if LINUX:
        fields = read_stat(process.pid)
        return fields is not None and stat_start_time(fields) == process.start_time and fields[_STATE] not in "ZX"
    import psutil

    try:
        found = psutil.Process(process.pid)
        return found.create_time() == process.start_time and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
