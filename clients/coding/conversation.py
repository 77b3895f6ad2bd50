"""One process of a coding CLI, from its start to its end: lines in, events out, answers back.

Its input says what to do, its output is read as it comes; it is interrupted before it is ended, so that a command which
it runs is stopped by itself and its conversation is written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup

from omium.clients.coding import protocol
from omium.clients.coding.events import Asked, Begun, Event, Malformed, Result, Said, Unknown, Used
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Command, Exit, Running, run_process
from omium.orchestration.errors import OmiumError

_log = logging.getLogger(__name__)

INTERRUPT_S: Final = 1.0  # how long it gets to stop by itself; all of a cancelled run must be gone within 5 s
_AFTER_RESULT_S: Final = 10.0
_AFTER_WAIT_S: Final = 30.0
_STIRS_S: Final = 20.0
_LATER: Final = "The work stops here until a person has decided about another call. Make this one again after that."


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word on a tool call. arguments: what may be used; message: what the model is told."""

    behavior: protocol.Behavior
    arguments: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


class Desk(Protocol):
    """Where a conversation reports and asks."""

    def heard(self, event: Event) -> None:
        """Called with every event, in order; must not block."""

    async def decide(self, asked: Asked) -> Verdict:
        """May it? What this raises ends the conversation."""


@dataclass(slots=True)
class Ended:
    """How a process ended. result: of the last turn, None when it gave none; begun: whether it said that the
    conversation goes on; unknown, malformed: lines of that sort."""

    exit: Exit
    result: Result | None = None
    waits: bool = False
    begun: bool = False
    unknown: int = 0
    malformed: int = 0


class Conversation:
    """opening: what its input begins with; otherwise: what is said if it does not go on by itself within some seconds.
    controlled: it speaks the control protocol, and its input stays open; otherwise the opening is all it gets."""

    def __init__(
        self,
        command: Command,
        parse: Callable[[str], list[Event]],
        desk: Desk,
        *,
        opening: bytes = b"",
        otherwise: bytes | None = None,
        controlled: bool = False,
        on_line: Callable[[StreamName, str], None] | None = None,
        on_start: Callable[[Running], Awaitable[None]] | None = None,
    ) -> None:
        self._command = command
        self._parse = parse
        self._desk = desk
        self._opening = opening
        self._otherwise = otherwise
        self._controlled = controlled
        self._on_line = on_line
        self._on_start = on_start
        self._tasks: TaskGroup | None = None
        self._running: Running | None = None
        self._over = anyio.Event()
        self._stirred = anyio.Event()
        self._deciding = anyio.Lock()
        self._failure: BaseException | None = None
        self._stopping = False
        self._exit: Exit | None = None
        self._result: Result | None = None
        self._waits = self._begun = False
        self._unknown = self._malformed = 0

    async def run(self) -> Ended:
        """From start to end; when this returns or raises, nothing of it is left. Raises what `Desk.decide` and
        `supervisor.run_process` raise; cancelled, it interrupts first."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._execute)
            try:
                await self._over.wait()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._stop()
                raise
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        assert self._exit is not None
        return Ended(self._exit, self._result, self._waits, self._begun, self._unknown, self._malformed)

    def fail(self, error: BaseException) -> None:
        """End it, and raise this from `run`."""
        if self._failure is None:
            self._failure = error
            if self._tasks is not None:
                self._tasks.start_soon(self._stop)

    async def _execute(self) -> None:
        # Shielded: a cancellation goes through `run`, which interrupts first.
        with anyio.CancelScope(shield=True):
            try:
                if not self._stopping:
                    self._exit = await run_process(self._command, on_line=self._hear, on_start=self._begin)
            except OmiumError as error:
                self._failure = self._failure or error
            finally:
                self._over.set()

    async def _begin(self, running: Running) -> None:
        self._running = running
        if self._on_start is not None:
            await self._on_start(running)
        if self._stopping:
            running.kill()
        elif self._controlled and self._tasks is not None:
            self._tasks.start_soon(self._open)

    async def _open(self) -> None:
        if self._opening:
            await self._send(self._opening)
        if self._otherwise is not None:
            with anyio.move_on_after(_STIRS_S):
                await self._stirred.wait()
            if not self._stirred.is_set():
                await self._send(self._otherwise)

    async def _stop(self) -> None:
        """Interrupt, then TERM, then KILL."""
        self._stopping = True
        if self._running is None:
            await self._over.wait()
            return
        if self._controlled:
            with anyio.move_on_after(INTERRUPT_S):
                await self._send(protocol.interrupt("stop"))
                self._running.end_input()
                await self._over.wait()
        self._running.stop()
        await self._over.wait()

    async def _end_within(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._over.wait()
        if self._running is not None:
            self._running.stop()

    async def _send(self, data: bytes) -> None:
        assert self._running is not None
        try:
            await self._running.send(data)
        except (OmiumError, ValueError) as error:  # it ends, or its input was ended: its result says how that came
            _log.debug("%s does not read any more: %s", self._command.argv[0], error)

    # --- what it says ---------------------------------------------------------------------------------------------

    def _hear(self, stream: StreamName, line: str) -> None:
        if self._on_line is not None:
            self._on_line(stream, line)
        if stream != "stdout":
            return
        for event in self._parse(line):
            if isinstance(event, Unknown):
                self._unknown += 1
            elif isinstance(event, Malformed):
                self._malformed += 1
            elif isinstance(event, (Begun, Said, Used, Asked)):
                self._stirred.set()
            self._begun = self._begun or isinstance(event, Begun)
            self._desk.heard(event)
            if isinstance(event, Asked):
                self._answer_soon(event)
            elif isinstance(event, Result):
                self._take(event)

    def _take(self, result: Result) -> None:
        self._result = result
        if self._tasks is not None and self._running is not None and not self._stopping:
            if self._controlled:
                self._running.end_input()
            self._tasks.start_soon(self._end_within, _AFTER_RESULT_S)

    def _answer_soon(self, asked: Asked) -> None:
        if self._tasks is not None and not self._stopping:
            self._tasks.start_soon(self._answer, asked)

    async def _answer(self, asked: Asked) -> None:
        if asked.by == "other":
            await self._send(protocol.refuse(asked, f"not supported: {asked.what}"))
            return
        async with self._deciding:
            if self._stopping:
                return
            if self._waits:
                verdict = Verdict("deny", message=_LATER)
            else:
                try:
                    verdict = await self._desk.decide(asked)
                except Exception as error:  # boundary: it is raised from `run` once the process is gone
                    self.fail(error)
                    return
                self._waits = verdict.behavior == "wait"
            await self._send(
                protocol.answer(asked, verdict.behavior, arguments=verdict.arguments, message=verdict.message)
            )
        if verdict.behavior == "wait":
            await self._end_within(_AFTER_WAIT_S)
