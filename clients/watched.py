"""A registered program under way as others see it: its entry in the register, its events, its lines in files."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from omium.clients.processes.counters import counters
from omium.clients.processes.credentials import Credentials
from omium.clients.processes.event_log import EventLog
from omium.clients.processes.identity import this_process
from omium.clients.processes.orphans import Reconciler
from omium.clients.processes.register import Entry, Register
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Running, Status
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt

_log = logging.getLogger(__name__)

_LINE_SHOWN: Final = 500


@dataclass(frozen=True, slots=True)
class Supervision:
    """What is kept of commands outside of the run's log; each may be missing. reconciler: ends the orphans of a node
    before it is run again."""

    register: Register | None = None
    events: EventLog | None = None
    reconciler: Reconciler | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: name is the operator's for it; env: names of variables only."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    env: tuple[str, ...]
    hard_timeout_s: float | None


class Watched:
    """One run of a program. Nothing here ends it: a full disk costs lines, and is counted. credentials: taken out of
    every line. files: whether its lines are kept beside the run. outcome: what became of it, where that is more than
    whether the block raised."""

    def __init__(
        self,
        supervision: Supervision,
        program: Program,
        attempt: Attempt,
        token: str,
        credentials: Credentials,
        *,
        files: bool = True,
    ) -> None:
        self._supervision = supervision
        self._credentials = credentials
        self._program = program
        self._keeps = files
        self.outcome: str | None = None
        self._attempt = attempt
        self._token = token
        self._running: Running | None = None
        self._entry: Entry | None = None
        self._files: dict[StreamName, IO[str]] = {}
        self._stack = ExitStack()
        self._about: dict[str, Any] = {
            "tool": program.name,
            "run": attempt.run_id,
            "node": attempt.node_id,
            "attempt": attempt.attempt,
            "token": token,
        }
        self.last: str | None = None

    def __enter__(self) -> Watched:
        if self._keeps and self._attempt.scratch is not None:
            names: tuple[StreamName, ...] = ("stdout", "stderr")
            for name in names:
                self._open(name, self._attempt.scratch / "logs" / f"{name}.log")
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._stack.close()
        except OSError as failed:  # what was buffered does not fit on the disk
            self._lost(failed)
        if self._supervision.register is not None and self._entry is not None:
            self._supervision.register.drop(self._token)
        if self._running is not None:
            told = self._running.exit
            ended = {} if told is None else {"exit_code": told.code, "signal": told.signal, "ended_by": told.reason}
            self._tell("running", self.outcome or _status(error), **ended)

    # --- what the supervisor reports ---

    async def started(self, running: Running) -> None:
        self._running = running
        self._entry = Entry(
            token=self._token,
            run=self._attempt.run_id,
            node=self._attempt.node_id,
            attempt=self._attempt.attempt,
            command=self._program.name,
            argv=self._program.argv,
            cwd=self._program.cwd,
            env=self._program.env,
            leader=running.identity,
            owner=this_process(),
            started_at=time.time(),
            hard_timeout_s=self._program.hard_timeout_s,
            seen_at=time.time(),
        )
        self._put()
        self._tell("queued", "running", pid=running.identity.pid)

    def status(self, status: Status) -> None:
        self._tell("stalled" if status == "running" else "running", status)
        self.refresh()

    @property
    def hears(self) -> bool:
        """Whether anything is done with its lines."""
        events = self._supervision.events
        return self._keeps or (events is not None and events.output)

    def line(self, stream: StreamName, line: str) -> None:
        line = self._credentials.text(line)
        file = self._files.get(stream)
        if file is not None:
            try:
                file.write(f"{line}\n")
            except OSError as error:
                del self._files[stream]
                self._lost(error)
        events = self._supervision.events
        if events is not None and events.output:
            events.write("tool_output", {**self._about, "stream": stream, "line": line})
        if line.strip():
            self.last = line.strip()[:_LINE_SHOWN]

    def refresh(self) -> None:
        """Write the entry anew if the program has given a sign of life since."""
        if self._running is None or self._entry is None:
            return
        running, shift = self._running, time.time() - time.monotonic()
        beat = running.last_heartbeat_at
        now = replace(
            self._entry,
            last_output_at=running.last_output_at + shift,
            last_heartbeat_at=None if beat is None else beat + shift,
            output_bytes=running.output_bytes,
            stalled=running.stalled,
        )
        before = self._entry
        if (now.output_bytes, now.stalled) != (before.output_bytes, before.stalled):  # heartbeats are bytes too
            self._entry = replace(now, seen_at=time.time())
            self._put()

    # --- below ---

    def _put(self) -> None:
        if self._supervision.register is not None and self._entry is not None:
            self._supervision.register.put(self._entry)

    def _tell(self, before: str, now: str, **more: Any) -> None:
        if self._supervision.events is not None:
            self._supervision.events.write("tool_status_change", {**self._about, "from": before, "to": now, **more})

    def _open(self, name: StreamName, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            file = open(descriptor, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - by the stack
            self._stack.enter_context(file)
            self._files[name] = file
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        counters.log_failures += 1
        _log.warning("the output of %s in run %s is not kept: %s", self._attempt.node_id, self._attempt.run_id, error)


def _status(error: BaseException | None) -> str:
    """What became of a program, in the words of its events."""
    if error is None:
        return "completed"
    if not isinstance(error, OmiumError):
        return "cancelled"
    if error.data.get("reason") == "approval_requested":
        return "waiting_approval"
    return "failed_timeout" if error.code == "timeout" else "failed"
