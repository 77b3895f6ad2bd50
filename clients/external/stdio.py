"""The stdio transport: a server as a supervised process, its output read within bounds.

The SDK's own transport starts processes without our environment, marker and sweep, and reads lines of any length.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from omium.clients.external.link import TOO_LARGE, Link, Streams
from omium.clients.external.spec import ServerSpec
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Command, Exit, Running, run_process
from omium.orchestration.errors import OmiumError

_log = logging.getLogger(__name__)

_STDERR_LINES: Final = 50
_LINE_SHOWN: Final = 300
_LEAVING_S: Final = 1.0  # how long a server may take to end by itself once its input has ended
_GRACE_S: Final = 1.0
_LIFETIME_BYTES: Final = 4 * 1024**3
_RECYCLE_BYTES: Final = 512 * 1024**2  # after so much output a process is ended when it is idle
_UNREAD_MESSAGES: Final = 10_000
_ID: Final = re.compile(r'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,100}")')
_HEAD: Final = 2_000


class StdioLink(Link):
    """A server's process, from its start to its end."""

    def __init__(self, spec: ServerSpec, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._spec = spec
        self._environment = environment
        self._running: Running | None = None
        self._started = anyio.Event()
        self._over = anyio.Event()
        self._exit: Exit | None = None
        self._failure: OmiumError | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._noise: deque[str] = deque(maxlen=5)
        self._inbox = _Inbox(4 * spec.output.message)
        self._read = 0

    @property
    def pid(self) -> int | None:
        return self._running.identity.pid if self._running is not None else None

    async def ended(self) -> None:
        await self._over.wait()

    def worn(self) -> bool:
        return self._read > _RECYCLE_BYTES

    def trouble(self) -> str:
        """How the process ended, as far as it has, and what it last said on standard error."""
        said = []
        if self._failure is not None:
            said.append(self._failure.message.rstrip("."))
        if self._inbox.flooded:
            said.append("it sent more than anybody could read")
        elif self._exit is not None:
            how = f"exit code {self._exit.code}" if self._exit.code is not None else f"signal {self._exit.signal}"
            said.append("it wrote without end" if self._exit.reason == "output" else f"its process ended ({how})")
        if self._noise:
            said.append(f"on standard output, where only messages may be: {' | '.join(self._noise)}")
        if self._stderr:
            said.append(f"standard error: {' | '.join(list(self._stderr)[-10:])}")
        return "; ".join(said)

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            await self._started.wait()
            if self._failure is not None:
                for stream in (to_session, from_server, to_server, from_session):
                    stream.close()
                raise self._failure
            tasks.start_soon(self._hear, to_session)
            tasks.start_soon(self._tell, from_session)
            try:
                yield from_server, to_server
            finally:
                with anyio.CancelScope(shield=True):
                    await self._leave()
                tasks.cancel_scope.cancel()
                for stream in (to_session, from_server, to_server, from_session):
                    stream.close()

    async def _run(self) -> None:
        """The process, under the supervisor."""
        spec = self._spec
        command = Command(
            argv=spec.command,
            cwd=spec.cwd,
            env=self._environment,
            interactive=True,
            hard_timeout_s=None,
            output_limit_bytes=_LIFETIME_BYTES,
            keep_bytes=0,  # what matters of it is kept here
            marker={"server": spec.name},
            grace_s=_GRACE_S,
        )
        try:
            self._exit = await run_process(command, on_line=self._on_line, on_start=self._on_start)
        except OmiumError as error:
            self._failure = OmiumError(error.code, error.message, error.hint, **{**error.data, "sent": False})
        finally:
            self._over.set()
            self._started.set()
            self._inbox.close()

    async def _on_start(self, running: Running) -> None:
        self._running = running
        self._started.set()

    def _on_line(self, stream: StreamName, line: str) -> None:
        self._read += len(line)
        if stream == "stderr":
            self._stderr.append(self.shown(line[:_LINE_SHOWN]))
        elif not self._inbox.put(line) and self._running is not None:
            self._running.kill()

    async def _hear(self, to_session: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        async with to_session:
            while (line := await self._inbox.take()) is not None:
                message = self._parsed(line)
                if message is not None:
                    try:
                        await to_session.send(message)
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        return

    def _parsed(self, line: str) -> SessionMessage | None:
        """The message of a line; for one that is no message, or too large, an error to whoever waits for it, if it
        can be told who that is, and nothing otherwise."""
        limit = self._spec.output.message
        if len(line) <= limit:
            try:
                return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError:
                told = "the answer is no message of the protocol"
        else:
            told = f"the answer has more than {limit} bytes"
        head = line[:_HEAD]
        found = None if '"method"' in head else _ID.search(head) or _ID.search(line[-_HEAD:])
        if found is None:
            self._noise.append(self.shown(line[:_LINE_SHOWN]))
            return None
        identity = found[1]
        error = types.ErrorData(code=TOO_LARGE, message=told)
        number: int | str = identity[1:-1] if identity.startswith('"') else int(identity)
        return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=number, error=error))

    async def _tell(self, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_session:
            async for one in from_session:
                text = one.message.model_dump_json(by_alias=True, exclude_unset=True)
                assert self._running is not None
                try:
                    await self._running.send(text.encode() + b"\n")
                except OmiumError:  # it reads no more: the session learns it from the end of its output
                    self._running.stop()
                    return

    async def _leave(self) -> None:
        """The order of the protocol: end its input, give it time, then the supervisor's SIGTERM and SIGKILL."""
        if self._running is None:
            return
        self._running.end_input()
        with anyio.move_on_after(_LEAVING_S):
            await self._over.wait()
        self._running.stop()
        await self._over.wait()


class _Inbox:
    """Lines that were read and not yet taken, within a limit of characters."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[str] = deque()
        self._size = 0
        self._more = anyio.Event()
        self._closed = False
        self.flooded = False

    def put(self, line: str) -> bool:
        """False when there is no room: then nothing more is taken."""
        if self.flooded:
            return True  # it is being ended
        if self._size + len(line) > self._limit + len(line) * (not self._lines) or len(self._lines) >= _UNREAD_MESSAGES:
            self.flooded = True
            self.close()
            return False
        self._lines.append(line)
        self._size += len(line)
        self._more.set()
        return True

    def close(self) -> None:
        self._closed = True
        self._more.set()

    async def take(self) -> str | None:
        while not self._lines:
            if self._closed:
                return None
            self._more = anyio.Event()
            await self._more.wait()
        line = self._lines.popleft()
        self._size -= len(line)
        return line
