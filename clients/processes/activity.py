"""Whether a process works although it says nothing: what it and its children have computed, read and written.

A heartbeat costs next to nothing, so what counts is a rate that no heartbeat reaches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

from omium.clients.processes.identity import LINUX, ProcessIdentity, read_stat, stat_start_time

CPU_SHARE: Final = 0.05  # of one core,
CPU_LEAST_S: Final = 0.05  # and never less than some ticks of the kernel's clock
IO_BYTES_S: Final = 4096.0  # a heartbeat ten times a second writes less than half of it
IO_LEAST: Final = 16 * 1024
_TIMES: Final = slice(11, 15)  # in `read_stat`: utime, stime, and those of children that were waited for
_LOOKS: Final = 4  # within the time after which silence means something


class Activity:
    """Compares samples of one tree of processes. Processes that left the tree are not counted.

    limit_s: how long a silence may be before it means something; it is divided into windows of equal length.
    """

    def __init__(self, leader: ProcessIdentity, limit_s: float) -> None:
        self._leader = leader
        self._window = limit_s / _LOOKS
        self._sample: tuple[float, float, int] | None = None  # when, CPU seconds, bytes

    def look(self, now: float, quiet_since: float) -> bool:
        """Whether it has worked in the window that ends now. As long as there is output, nothing is looked at."""
        before = self._sample
        if now - max(quiet_since, 0.0 if before is None else before[0]) < self._window:
            return False
        cpu, moved = usage(self._leader)
        self._sample = (now, cpu, moved)
        if before is None or before[0] < quiet_since - self._window:
            return False  # too old to say anything about this silence
        elapsed = now - before[0]
        computed, transferred = cpu - before[1], moved - before[2]
        return computed >= max(CPU_SHARE * elapsed, CPU_LEAST_S) or transferred >= max(IO_BYTES_S * elapsed, IO_LEAST)

    def next_look(self, now: float, quiet_since: float) -> float:
        """Seconds until the next one."""
        since = max(quiet_since, quiet_since if self._sample is None else self._sample[0])
        return max(since + self._window - now, 0.0)


def usage(leader: ProcessIdentity) -> tuple[float, int]:
    """CPU seconds and bytes read and written, of the leader and its living descendants together."""
    return _usage_linux(leader) if LINUX else _usage_portable(leader)


def _usage_linux(leader: ProcessIdentity) -> tuple[float, int]:
    ticks, moved = 0, 0
    per_second = os.sysconf("SC_CLK_TCK")
    for pid in _tree(leader):
        fields = read_stat(pid)
        if fields is not None:
            ticks += sum(map(int, fields[_TIMES]))
        try:
            with open(f"/proc/{pid}/io", "rb") as file:
                moved += sum(int(line.split()[1]) for line in file.read().splitlines()[:2])  # rchar, wchar
        except OSError:  # gone meanwhile, or of another user
            continue
    return ticks / per_second, moved


def _tree(leader: ProcessIdentity) -> Iterator[int]:
    """By the kernel's own lists of children, which cost no look at every process of the machine."""
    fields = read_stat(leader.pid)
    if fields is None or stat_start_time(fields) != leader.start_time:
        return
    pending, seen = [leader.pid], {leader.pid}
    while pending:
        pid = pending.pop()
        yield pid
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    found = [int(child) for child in file.read().split()]
                pending += [child for child in found if child not in seen]
                seen.update(found)
        except OSError:
            continue


def _usage_portable(leader: ProcessIdentity) -> tuple[float, int]:
    import psutil

    cpu = 0.0
    try:
        root = psutil.Process(leader.pid)
        if root.create_time() != leader.start_time:
            return 0.0, 0
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0.0, 0
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        cpu += times.user + times.system
    return cpu, 0


def resident(leader: ProcessIdentity) -> int:
    """Bytes of resident memory of the same processes, pages that they share counted for each."""
    if not LINUX:
        import psutil

        from omium.clients.processes.tree import find_descendants, resident_bytes

        with_children = find_descendants(leader) if psutil.pid_exists(leader.pid) else []
        return resident_bytes(with_children)
    total = 0
    for pid in _tree(leader):
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                total += int(file.read().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE")


def started_at(process: ProcessIdentity) -> float:
    """Seconds since the epoch at which a process of this boot started."""
    if not LINUX:
        return process.start_time
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + process.start_time
