"""The one supervisor: every process that Omium starts is started, watched and ended here.

`run_process` starts a program in a session of its own, without a shell, drains its output within bounds, holds it to
its limits, and answers only when nothing that it started is left. Ending goes in order: SIGTERM to the group and to
every descendant, SIGKILL to whatever is there after the grace, sweep until a sweep finds nobody, and only then the
leader is collected: as long as it is a zombie neither its pid nor its group's number can mean a stranger.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.lowlevel import RunVar

from omium.clients.processes.activity import Activity
from omium.clients.processes.counters import counters
from omium.clients.processes.identity import ProcessIdentity, identity, is_alive
from omium.clients.processes.launch import launch, wait_until_dead
from omium.clients.processes.stream import (
    LINE_LIMIT,
    Captured,
    LineSplitter,
    RingBuffer,
    StreamName,
    is_heartbeat,
    may_become_heartbeat,
)
from omium.clients.processes.tree import find_descendants, find_members, kill_members, resident_bytes, send_signal
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import new_id

_log = logging.getLogger(__name__)

Reason = Literal["exited", "hard_timeout", "idle_timeout", "heartbeat_timeout", "memory", "output", "cancelled"]
Status = Literal["running", "stalled"]
ProgressBy = Literal["output", "activity"]
OnLine = Callable[[StreamName, str], None]
OnStatus = Callable[[Status], None]

KEEP_BYTES: Final = 1024 * 1024
CANCEL_GRACE_S: Final = 2.0  # a cancelled run must be gone within 5 s, whatever grace its commands declare
_LINGER_S: Final = 0.5  # how long the output may stay open behind a leader that ended by itself
_DRAIN_S: Final = 2.0  # how long to wait for the end of the output when everybody was killed
_COLLECT_S: Final = 10.0  # a killed process that is still there then hangs in the kernel
_TICK_S: Final = 0.25
_LONGEST_S: Final = 60.0
_CHUNK: Final = 256 * 1024
_SWEEP_THREADS: Final = 4
_sweep_limiter: Final = RunVar[anyio.CapacityLimiter]("omium_sweep_limiter")


@dataclass(frozen=True, slots=True)
class Command:
    """What to start and what it may use.

    argv: the program and its arguments, never a shell string. env: only what is declared beyond the allow-list of
    `environment.child_environment`. stdin: None is an empty input; bytes are fed, then it ends; with `interactive` it
    stays open for `Running.send`. Times are in seconds, None is no limit. idle_timeout_s: without progress, after which
    it is ended; stall_after_s: likewise, after which it counts as stalled and goes on. progress: real output, and with
    "activity" also work of the process and its children (see `activity.Activity`); heartbeats are neither.
    heartbeat_timeout_s: once it has sent a heartbeat, how long it may give neither another nor output.
    output_limit_bytes: stdout and stderr together, beyond which the process is ended;
    keep_bytes: what is kept of each (beginning and end). memory_limit_bytes: resident, of the whole tree, polled.
    marker: what it belongs to (`run_id`, `node_id`, `attempt`). token: what finds it again after a crash; written down
    before the start, it lets `reconcile.kill_marked` find a process whose pid nobody had time to record.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    hard_timeout_s: float | None = 1800.0
    idle_timeout_s: float | None = None
    heartbeat_timeout_s: float | None = None
    stall_after_s: float | None = None
    progress: ProgressBy = "output"
    output_limit_bytes: int | None = None
    memory_limit_bytes: int | None = None
    marker: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 5.0
    keep_bytes: int = KEEP_BYTES
    interactive: bool = False
    pass_fds: tuple[int, ...] = ()
    token: str = field(default_factory=lambda: new_id("proc"))


@dataclass(frozen=True, slots=True)
class Exit:
    """How it ended. Exactly one of code and signal is set, neither when the kernel did not let go of the process.

    reason: who ended it ("exited": itself). started_at, ended_at: seconds since the epoch. start_time: see
    `identity.ProcessIdentity`.
    """

    code: int | None
    signal: int | None
    reason: Reason
    stdout: Captured
    stderr: Captured
    started_at: float
    ended_at: float
    pid: int
    start_time: float


async def run_process(
    command: Command,
    *,
    on_line: OnLine | None = None,
    on_start: Callable[[Running], Awaitable[None]] | None = None,
    on_status: OnStatus | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Exit:
    """Runs `command` to its end and answers how it ended; when this returns or raises, nothing of it is left.

    on_line: called with each line as it comes, heartbeats excepted; it must not block. on_start: awaited once the
    process exists, for instance to write its pid down. on_status: called when it stalls and when it moves again; it
    must neither block nor raise. clock: monotonic seconds, for the limits.
    Raises OmiumError("invalid_argument") for a command that cannot be one, OmiumError("process_failed", reason=
    "not_started") when the program cannot be started, and what `on_line` or `on_start` raise, after ending the process.
    Cancellation ends the process too, within `CANCEL_GRACE_S` and the sweep.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()  # what is cancelled already starts nothing
    running = Running(command, launch(command), on_line, clock, on_status)
    counters.started()
    try:
        async with anyio.create_task_group() as tasks:
            await running._supervise(tasks, on_start)
    finally:
        running._collect()
        assert running.exit is not None
        counters.ended(running.exit.reason, running.output_bytes, running.heartbeats)
    if running._failure is not None:
        raise running._failure
    assert running.exit is not None  # set by _collect
    return running.exit


class Running:
    """A process under `run_process`. identity, token: how to find it again; exit: None as long as it runs.

    last_output_at, last_progress_at, last_heartbeat_at: in seconds of the clock that `run_process` was given.
    stalled: it made no progress for `stall_after_s`. heartbeats: how many came.
    """

    def __init__(
        self,
        command: Command,
        process: subprocess.Popen[bytes],
        on_line: OnLine | None,
        clock: Callable[[], float],
        on_status: OnStatus | None = None,
    ) -> None:
        found = identity(process.pid)
        assert found is not None  # nobody but us collects it
        self.identity: ProcessIdentity = found
        self.token = command.token
        self.exit: Exit | None = None
        self.last_heartbeat_at: float | None = None
        self.heartbeats = 0
        self.stalled = False
        self.last_output_at = self.last_progress_at = self._began = clock()
        self._started_at = time.time()
        self._command = command
        self._process = process
        self._on_line = on_line
        self._on_status = on_status
        self._clock = clock
        self._reason: Reason | None = None
        self._grace = command.grace_s
        self._failure: BaseException | None = None
        self._ended = anyio.Event()  # the leader exited, or it is to be ended
        self._exited = anyio.Event()  # the leader exited and is not collected yet
        self._drained = anyio.Event()  # both outputs came to their end
        self._scopes: list[anyio.CancelScope] = []
        self._outbox = anyio.Lock()
        self._heard = anyio.Event()  # the watch is to look again
        assert process.stdout is not None and process.stderr is not None
        self._outputs = (
            _Output("stdout", process.stdout.fileno(), command.keep_bytes),
            _Output("stderr", process.stderr.fileno(), command.keep_bytes),
        )

    # --- for the caller ---

    @property
    def output_bytes(self) -> int:
        """How much it has written so far, heartbeats included."""
        return sum(each.kept.total for each in self._outputs)

    def stop(self) -> None:
        """Asks for the end: SIGTERM, the grace, SIGKILL. The exit's reason is "cancelled"."""
        self._end("cancelled")

    def kill(self) -> None:
        """Ends it at once: SIGKILL to the group now and to every descendant right after. Reason "cancelled"."""
        self._grace = 0.0
        self._kill_group(signal.SIGKILL)
        self._end("cancelled")

    async def send(self, data: bytes) -> None:
        """Writes to the input of an interactive process. OmiumError("process_failed", reason="input_closed") when it
        no longer reads."""
        if not await self._write(data):
            raise OmiumError(
                "process_failed",
                "The process does not read its input any more.",
                reason="input_closed",
                pid=self._process.pid,
            )

    def end_input(self) -> None:
        """Ends the input of an interactive process: it reads end-of-file."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            anyio.notify_closing(self._process.stdin.fileno())
            self._process.stdin.close()

    def flush_output(self) -> None:
        """Hands what the process has written until now to `on_line`, without waiting for more."""
        for output in self._outputs:
            self._read(output)  # a pipe holds less than one chunk

    # --- from start to end ---

    async def _supervise(self, tasks: TaskGroup, on_start: Callable[[Running], Awaitable[None]] | None) -> None:
        """Waits for the end and sees to it. Raises nothing but cancellation; other failures go to `_failure`."""
        tasks.start_soon(self._aside, self._wait_for_leader)
        tasks.start_soon(self._aside, self._drain)
        if self._command.stdin is not None:
            tasks.start_soon(self._aside, self._feed)
        if self._has_limits():
            tasks.start_soon(self._aside, self._watch)
        try:
            try:
                if on_start is not None:
                    await on_start(self)
            except Exception as error:  # boundary: it is raised to the caller once the process is gone
                self._fail(error)
            await self._ended.wait()
            if self._reason == "exited":
                with anyio.move_on_after(_LINGER_S):
                    await self._drained.wait()
            await self._terminate()
        except BaseException:
            self._end("cancelled")
            self._grace = min(self._grace, CANCEL_GRACE_S)
            with anyio.CancelScope(shield=True):
                await self._terminate()
            raise
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._kill_everything()
            finally:
                for scope in self._scopes:
                    scope.cancel()

    async def _aside(self, work: Callable[[], Awaitable[None]]) -> None:
        # Shielded, so that output is still drained while a cancelled process gets its chance to end.
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.append(scope)
            await work()

    def _end(self, reason: Reason) -> None:
        if self._reason is None:
            self._reason = reason
        self._ended.set()
        self._heard.set()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._end("cancelled")

    async def _wait_for_leader(self) -> None:
        await wait_until_dead(self.identity)
        self._exited.set()
        self._end("exited")

    async def _terminate(self) -> None:
        """SIGTERM to everybody, then up to the grace for them to go."""
        members = await self._sweep(find_members)
        if not members or self._grace <= 0:
            return
        self._kill_group(signal.SIGTERM)
        send_signal([member for member in members if member != self.identity], signal.SIGTERM)
        # One that was stopped can only react to the polite signal when it goes on.
        self._kill_group(signal.SIGCONT)
        send_signal([member for member in members if member != self.identity], signal.SIGCONT)
        pause = 0.02
        with anyio.move_on_after(self._grace):
            await self._exited.wait()
            while any(is_alive(member) for member in members) or await self._sweep(find_members):
                await anyio.sleep(pause)
                pause = min(pause * 2, 0.2)

    async def _kill_everything(self) -> None:
        """SIGKILL until nobody is left, the output's end, and the leader's death. Never waits without a bound."""
        if not self._exited.is_set():
            self._kill_group(signal.SIGKILL)
        deadline = time.monotonic() + _COLLECT_S
        sweeps_left = 1
        while sweeps_left:
            members = await self._sweep(kill_members)
            if not members:
                sweeps_left -= 1
                continue
            # The next round catches what they started before they died. One that finds nobody may just have missed a
            # process that was born during it, so after a find it takes two of them.
            sweeps_left = 2
            if time.monotonic() > deadline:
                _log.error("processes survive SIGKILL: %s", [member.pid for member in members])
                break
            await anyio.sleep(0.005)
        with anyio.move_on_after(_COLLECT_S):
            await self._exited.wait()
        with anyio.move_on_after(_DRAIN_S):
            await self._drained.wait()

    async def _sweep(
        self, work: Callable[[str, ProcessIdentity | None], list[ProcessIdentity]]
    ) -> list[ProcessIdentity]:
        return await anyio.to_thread.run_sync(work, self.token, self.identity, limiter=_sweeper())

    def _kill_group(self, number: signal.Signals) -> None:
        # The leader is not collected before the end of `run_process`, so the number is still its group's.
        if self.exit is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _collect(self) -> None:
        """Collects the leader and closes what is open; sets `exit`."""
        code = self._process.poll()
        if code is None:  # it hangs in the kernel: somebody must collect it when it comes back
            threading.Thread(target=self._process.wait, daemon=True, name="omium-collect").start()
        for file in (self._process.stdin, self._process.stdout, self._process.stderr):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()
        stdout, stderr = self._outputs
        self.exit = Exit(
            code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            reason=self._reason or "cancelled",
            stdout=stdout.kept.captured(),
            stderr=stderr.kept.captured(),
            started_at=self._started_at,
            ended_at=time.time(),
            pid=self.identity.pid,
            start_time=self.identity.start_time,
        )

    # --- limits ---

    def _has_limits(self) -> bool:
        command = self._command
        limits = (command.hard_timeout_s, command.idle_timeout_s, command.heartbeat_timeout_s, command.stall_after_s)
        return any(limit is not None for limit in (*limits, command.memory_limit_bytes))

    async def _watch(self) -> None:
        """Holds the process to its limits. It sleeps as long as nothing can be due: a quiet process costs nothing."""
        command = self._command
        # A clock that is not the machine's may jump, so it is looked at again and again.
        longest = _LONGEST_S if self._clock is time.monotonic else _TICK_S
        silences = [one for one in (command.stall_after_s, command.idle_timeout_s) if one is not None]
        watched = command.progress == "activity" and bool(silences)
        activity = Activity(self.identity, min(silences)) if watched else None
        while not self._ended.is_set():
            now = self._clock()
            if activity is not None and activity.look(now, self.last_progress_at):
                self.last_progress_at = now
            due = self._due(now)
            if (reason := next((reason for reason, left in due.items() if left <= 0), None)) is not None:
                return self._end(reason)
            nearest = min([longest, *due.values(), *self._stalls(now)])
            if activity is not None:
                nearest = min(nearest, activity.next_look(now, self.last_progress_at))
            if command.memory_limit_bytes is not None:
                used = await anyio.to_thread.run_sync(self._resident_bytes, limiter=_sweeper())
                if used > command.memory_limit_bytes:
                    self._grace = 0.0  # in a grace period it would take more
                    return self._end("memory")
                nearest = min(nearest, _TICK_S)
            with anyio.move_on_after(max(nearest, 0.005)):
                await self._heard.wait()
            self._heard = anyio.Event()

    def _due(self, now: float) -> dict[Reason, float]:
        """Seconds until each limit of time is reached."""
        command = self._command
        due: dict[Reason, float] = {}
        if command.hard_timeout_s is not None:
            due["hard_timeout"] = self._began + command.hard_timeout_s - now
        if command.idle_timeout_s is not None:
            due["idle_timeout"] = self.last_progress_at + command.idle_timeout_s - now
        if command.heartbeat_timeout_s is not None and self.last_heartbeat_at is not None:
            sign = max(self.last_heartbeat_at, self.last_output_at)
            due["heartbeat_timeout"] = sign + command.heartbeat_timeout_s - now
        return due

    def _stalls(self, now: float) -> Iterator[float]:
        """Notes whether it is stalled; seconds until it will be."""
        limit = self._command.stall_after_s
        if limit is None:
            return
        left = self.last_progress_at + limit - now
        self._note_stalled(left <= 0)
        if left > 0:
            yield left

    def _note_stalled(self, stalled: bool) -> None:
        if stalled == self.stalled:
            return
        self.stalled = stalled
        if stalled:
            counters.stalled += 1
        else:
            self._heard.set()  # from now on it can stall again
        if self._on_status is not None:
            self._on_status("stalled" if stalled else "running")

    def _resident_bytes(self) -> int:
        return resident_bytes(find_descendants(self.identity))

    # --- input and output ---

    async def _feed(self) -> None:
        await self._write(self._command.stdin or b"")
        if not self._command.interactive:
            self.end_input()

    async def _write(self, data: bytes) -> bool:
        """Whether all of it went out; False when the other end is closed."""
        async with self._outbox:
            view = memoryview(data)
            while view:
                if self._process.stdin is None or self._process.stdin.closed:
                    return False
                descriptor = self._process.stdin.fileno()
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    try:
                        await anyio.wait_writable(descriptor)
                    except anyio.ClosedResourceError:
                        return False
                except BrokenPipeError:
                    return False
            return True

    async def _drain(self) -> None:
        async with anyio.create_task_group() as tasks:
            for output in self._outputs:
                tasks.start_soon(self._drain_one, output)
        self._drained.set()

    async def _drain_one(self, output: _Output) -> None:
        while not output.closed:
            await anyio.wait_readable(output.descriptor)
            # A flood must not keep the loop from its other work, so it is read in turns.
            self._read(output)

    def _read(self, output: _Output) -> bool:
        """Takes one chunk; False when there is none now."""
        if output.closed:
            return False
        try:
            data = os.read(output.descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            output.kept.write(data)
            lines = list(output.lines.feed(data))
        else:
            output.closed = True
            lines = list(output.lines.close())
        self._note(output, data, lines)
        limit = self._command.output_limit_bytes
        if limit is not None and sum(each.kept.total for each in self._outputs) > limit:
            self._end("output")
        return bool(data)

    def _note(self, output: _Output, data: bytes, lines: list[bytes]) -> None:
        """Tells output from heartbeats, sets the clocks and hands the lines on."""
        now = self._clock()
        # The start of what may become a heartbeat counts as neither until its line is complete.
        real = bool(data) and (output.name == "stdout" or not may_become_heartbeat(output.lines.pending))
        for line in lines:
            if output.name == "stderr" and is_heartbeat(line):
                if self.last_heartbeat_at is None:
                    self._heard.set()  # from now on they are waited for
                self.last_heartbeat_at = now
                self.heartbeats += 1
                continue
            real = True
            if self._on_line is not None and self._failure is None:
                try:
                    self._on_line(output.name, line.decode("utf-8", "replace"))
                except Exception as error:  # boundary: it is raised to the caller once the process is gone
                    self._fail(error)
        if real:
            self.last_output_at = self.last_progress_at = now
            self._note_stalled(False)


def _sweeper() -> anyio.CapacityLimiter:
    """Sweeps have threads of their own: the common ones may all be taken by functions that never return."""
    limiter = _sweep_limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(_SWEEP_THREADS)
        _sweep_limiter.set(limiter)
    return limiter


class _Output:
    """One stream of output under way."""

    def __init__(self, name: StreamName, descriptor: int, keep_bytes: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.kept = RingBuffer(keep_bytes)
        self.lines = LineSplitter(LINE_LIMIT)
        self.closed = False
