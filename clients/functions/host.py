"""A pool of worker processes for Python functions.

A worker lives through many calls. A time-out or a cancellation kills it and everything below it, so the work really
stops, and another worker takes its place. What a function prints is captured and cannot disturb the channel. The
workers end by themselves when this process dies.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio

from omium.clients.functions.context import AskAsync
from omium.clients.functions.failure import FunctionError
from omium.clients.functions.frames import PREFIX_BYTES, Header, lengths, pack, unpack
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Command, Exit, OnLine, Running, run_process
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value, decode, encode

_log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
_KEEP_BYTES: Final = 64 * 1024
_KEEP_LINES: Final = 50
_CHUNK: Final = 256 * 1024
_REF: Final = re.compile(r"\A[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")


class _WorkerDied(Exception):
    """The channel ended; `FunctionPool._died` says why."""


class FunctionPool:
    """Calls functions in worker processes; an async context manager.

    size: calls at a time (a spare worker more is kept warm); env: what the workers' environment has beyond the
    allow-list of `processes.environment`; cwd: their directory; idle_s: seconds after which an unused worker ends;
    max_calls: calls after which a worker is replaced (None: never); memory_limit_bytes: of one worker with all its
    descendants; python: the interpreter, which must be able to import omium.
    """

    def __init__(
        self,
        size: int,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        idle_s: float = 60.0,
        max_calls: int | None = None,
        memory_limit_bytes: int | None = None,
        python: str = sys.executable,
    ) -> None:
        if size < 1:
            raise OmiumError("invalid_argument", f"A pool of {size} workers cannot work.")
        self._size = size
        self._env = dict(env or {})
        self._cwd = cwd or Path.home()
        self._idle_s = idle_s
        self._max_calls = max_calls
        self._memory_limit_bytes = memory_limit_bytes
        self._python = python
        self._slots = anyio.Semaphore(size)
        self._idle: list[_Worker] = []  # the most recently used is last
        self._starting_spare = False
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> FunctionPool:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._retire_idle)
        self._keep_spare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Ends every worker, also in the middle of a call."""
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    async def call(
        self,
        ref: str,
        kwargs: Mapping[str, Value],
        *,
        context: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        sys_path: tuple[str, ...] = (),
        on_request: AskAsync | None = None,
        on_line: OnLine | None = None,
    ) -> Value:
        """Calls `package.module:function` with these arguments in a worker and gives what it returns.

        The function, sync or async, is imported from `sys_path` (absolute) and what is installed; a worker serves one
        `sys_path` in its life, and a file of it that has changed is loaded anew. context: `run_id`, `node_id`,
        `attempt`, `generation`, `workspace`, for a parameter `ctx`; on_request: answers what `ctx` asks (see
        `context`); on_line: what the function prints.
        timeout_s: from the moment when a worker is ready.

        Raises OmiumError: FunctionError when the function raises or cannot be imported; "timeout" (reason
        "hard_timeout"); "invalid_value" for arguments or a result that cannot be stored; "process_failed" with reason
        "worker_died" (data exit_code, signal, stderr) or "memory". When this raises or is cancelled, the function runs
        no more.
        """
        if not _REF.match(ref):
            raise OmiumError("invalid_argument", f"{ref!r} is not of the form package.module:function.")
        if any(not Path(entry).is_absolute() for entry in sys_path):
            raise OmiumError("invalid_argument", f"The paths {sys_path!r} of {ref} must be absolute.")
        header = {"kind": "call", "ref": ref, "sys_path": sys_path, "context": _plain(context or {})}
        frame = pack(header, encode(dict(kwargs)).data)
        async with self._slots:
            while True:
                worker = await self._take(sys_path)
                reply, body = await self._call_on(worker, ref, frame, timeout_s, on_request, on_line)
                if reply["kind"] != "stale":
                    break
        if reply["kind"] == "result":
            return decode(body)
        if reply["kind"] == "raised":
            raise FunctionError(ref, reply["failure"])
        error = reply["error"]
        raise OmiumError(error["code"], f"{ref}: {error['message']}", error["hint"], **error["data"])

    async def _call_on(
        self,
        worker: _Worker,
        ref: str,
        frame: bytes,
        timeout_s: float | None,
        on_request: AskAsync | None,
        on_line: OnLine | None,
    ) -> tuple[Header, bytes]:
        """One call on one worker, which is idle again or dead afterwards."""
        worker.begin(on_line)
        reusable = False
        try:
            with anyio.move_on_after(timeout_s) as scope:
                reply, body = await _converse(worker, frame, on_request)
                reusable = reply["kind"] != "stale"
        except _WorkerDied:
            await self._discard(worker)
            raise self._died(worker, ref) from None
        finally:
            if reusable:
                self._give_back(worker)
            else:
                await self._discard(worker)
        if worker.callback_failure is not None:
            raise worker.callback_failure
        if scope.cancelled_caught:
            raise OmiumError(
                "timeout",
                f"{ref} took longer than {timeout_s:g} s and was ended.",
                reason="hard_timeout",
                limit_s=timeout_s,
            )
        return reply, body

    # --- workers ---

    async def _take(self, sys_path: tuple[str, ...]) -> _Worker:
        """A worker for these paths: one that serves them already, a fresh one, or a new one."""
        self._idle = [worker for worker in self._idle if not worker.ended.is_set()]
        for wanted in (sys_path, None):
            for worker in reversed(self._idle):
                if worker.sys_path == wanted:
                    self._idle.remove(worker)
                    return self._bind(worker, sys_path)
        return self._bind(await self._start(), sys_path)

    def _bind(self, worker: _Worker, sys_path: tuple[str, ...]) -> _Worker:
        if worker.sys_path is None:
            worker.sys_path = sys_path
            self._trim()
            self._keep_spare()
        return worker

    def _give_back(self, worker: _Worker) -> None:
        worker.finish()
        worker.calls += 1
        worker.idle_since = anyio.current_time()
        if self._max_calls is not None and worker.calls >= self._max_calls:
            worker.close()
        else:
            self._idle.append(worker)

    def _trim(self) -> None:
        """Lets the longest unused workers go, beyond as many as there are calls at a time."""
        bound = [worker for worker in self._idle if worker.sys_path is not None]
        busy = self._size - self._slots.value
        for worker in bound[: max(0, len(bound) + busy - self._size)]:
            self._idle.remove(worker)
            worker.close()

    async def _discard(self, worker: _Worker) -> None:
        """Kills a worker and waits until nothing of it is left."""
        worker.kill()
        with anyio.CancelScope(shield=True):
            await worker.ended.wait()

    def _keep_spare(self) -> None:
        if not self._starting_spare and not any(worker.sys_path is None for worker in self._idle):
            self._starting_spare = True
            self._tasks.start_soon(self._start_spare)

    async def _start_spare(self) -> None:
        try:
            worker = await self._start()
        except OmiumError as error:  # whoever needs a worker meets the same failure and reports it
            _log.warning("no spare worker: %s", error)
        else:
            self._idle.insert(0, worker)
        finally:
            self._starting_spare = False

    async def _start(self) -> _Worker:
        """A new worker that is ready. Raises OmiumError("process_failed", reason="not_started")."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = _Worker(ours)
        self._tasks.start_soon(self._host, worker, theirs)
        ready = False
        try:
            with anyio.move_on_after(START_TIMEOUT_S):
                ready = (await worker.receive())[0]["kind"] == "ready"
        except _WorkerDied:
            pass
        finally:
            if not ready:
                await self._discard(worker)
        if not ready:
            raise OmiumError(
                "process_failed",
                f"A worker process of {self._python} does not start.",
                "The end of its stderr says why; the interpreter must have omium installed.",
                reason="not_started",
                stderr=worker.stderr(),
            )
        worker.idle_since = anyio.current_time()
        return worker

    async def _host(self, worker: _Worker, theirs: socket.socket) -> None:
        """A worker's process from start to end."""

        async def started(running: Running) -> None:
            theirs.close()  # or its end would never show as the end of the channel
            worker.running = running
            if worker.doomed:
                running.kill()

        command = Command(
            # -P: the directory that the worker starts in must not shadow modules.
            argv=(self._python, "-P", "-m", "omium.clients.functions.worker", str(theirs.fileno())),
            cwd=self._cwd,
            env=self._env,
            hard_timeout_s=None,
            memory_limit_bytes=self._memory_limit_bytes,
            keep_bytes=_KEEP_BYTES,
            pass_fds=(theirs.fileno(),),
        )
        try:
            worker.exit = await run_process(command, on_line=worker.take_line, on_start=started)
        except OmiumError as error:
            worker.take_line("stderr", str(error))
        except Exception:  # boundary: a worker that is lost must not end the others
            _log.exception("a worker process could not be supervised")
        finally:
            theirs.close()
            worker.close()
            worker.ended.set()

    async def _retire_idle(self) -> None:
        while True:
            await anyio.sleep(max(self._idle_s / 4, 0.02))
            limit = anyio.current_time() - self._idle_s
            for worker in [each for each in self._idle if each.sys_path is not None and each.idle_since <= limit]:
                self._idle.remove(worker)
                worker.close()

    def _died(self, worker: _Worker, ref: str) -> OmiumError:
        ended = worker.exit
        data: dict[str, Any] = {
            "exit_code": ended.code if ended else None,
            "signal": ended.signal if ended else None,
            "stderr": worker.stderr(),
        }
        if ended is not None and ended.reason == "memory":
            return OmiumError(
                "process_failed",
                f"{ref} exceeded its limit of {self._memory_limit_bytes} bytes of memory and was ended.",
                reason="memory",
                **data,
            )
        how = "ended"
        if ended is not None:
            how = f"died of signal {ended.signal}" if ended.signal else f"exited with code {ended.code}"
        return OmiumError(
            "process_failed", f"The worker process {how} while it ran {ref}.", reason="worker_died", **data
        )


@dataclass(eq=False, slots=True)
class _Worker:
    """This side of one worker's channel."""

    channel: socket.socket
    sys_path: tuple[str, ...] | None = None  # what it serves; None as long as it is fresh
    running: Running | None = None
    exit: Exit | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)
    idle_since: float = 0.0
    calls: int = 0
    doomed: bool = False
    on_line: OnLine | None = None
    callback_failure: Exception | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=_KEEP_LINES))
    buffer: bytearray = field(default_factory=bytearray)

    def begin(self, on_line: OnLine | None) -> None:
        self.recent.clear()
        self.callback_failure = None
        self.on_line = on_line

    def finish(self) -> None:
        if self.on_line is not None and self.running is not None:
            self.running.flush_output()  # what was printed before the result came is in the pipe already
        self.on_line = None

    def take_line(self, stream: StreamName, line: str) -> None:
        if stream == "stderr":
            self.recent.append(line[:1000])
        if self.on_line is not None:
            try:
                self.on_line(stream, line)
            except Exception as error:  # boundary: the caller of the function gets it
                self.callback_failure = error
                self.on_line = None

    def stderr(self) -> str:
        return "\n".join(self.recent)[-4096:]

    def kill(self) -> None:
        self.doomed = True
        if self.running is not None:
            self.running.kill()

    def close(self) -> None:
        """Ends an idle worker: it reads the end of its channel."""
        if self.channel.fileno() >= 0:
            anyio.notify_closing(self.channel)
            self.channel.close()

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[self.channel.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(self.channel)
        except (OSError, anyio.ClosedResourceError) as error:
            raise _WorkerDied from error

    async def receive(self) -> tuple[Header, bytes]:
        await self._fill(PREFIX_BYTES)
        head, body = lengths(bytes(self.buffer[:PREFIX_BYTES]))
        start, end = PREFIX_BYTES + head, PREFIX_BYTES + head + body
        await self._fill(end)
        header, content = unpack(bytes(self.buffer[PREFIX_BYTES:start])), bytes(self.buffer[start:end])
        del self.buffer[:end]
        return header, content

    async def _fill(self, count: int) -> None:
        try:
            while len(self.buffer) < count:
                await anyio.wait_readable(self.channel)
                with suppress(BlockingIOError):
                    data = self.channel.recv(_CHUNK)
                    if not data:
                        raise _WorkerDied
                    self.buffer += data
        except (OSError, anyio.ClosedResourceError) as error:
            raise _WorkerDied from error


async def _converse(worker: _Worker, frame: bytes, on_request: AskAsync | None) -> tuple[Header, bytes]:
    """Sends a call, answers what the function asks, and gives the last frame."""
    await worker.send(frame)
    while True:
        header, body = await worker.receive()
        if header["kind"] != "request":
            return header, body
        try:
            if on_request is None:
                raise OmiumError("unsupported", f"Nobody answers {header['what']!r} for this call.")
            answer = pack({"kind": "answer"}, encode(await on_request(header["what"], decode(body))).data)
        except OmiumError as error:
            answer = pack({"kind": "refusal", "error": _plain(error.as_dict())})
        await worker.send(answer)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """A header's form of what may hold paths."""
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in data.items()}
