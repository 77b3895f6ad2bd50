"""What happens with the events of a conversation: its state is kept, its progress told, its calls put to the gate."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Final

import anyio

from omium.clients.coding.conversation import Conversation, Ended, Verdict
from omium.clients.coding.events import SHOWN, Asked, Begun, Event, Result, Retried, Said, Used
from omium.clients.coding.failures import not_leave
from omium.clients.coding.sessions import Kept, Waiting, is_session
from omium.clients.coding.spec import CodingSpec
from omium.clients.coding.usage import Meter
from omium.clients.external.redact import Redactor
from omium.clients.processes.stream import StreamName
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Call, Suspended

_log = logging.getLogger(__name__)

PROGRESS_EVERY_S: Final = 2.0
_TOLD: Final = 300
_MOST_DENIED: Final = 100
_LOGGED_LINE: Final = 16 * 1024


class AttemptDesk:
    """See `conversation.Desk`. asks_a_person: a call waits for a decision, and the attempt ends with that."""

    def __init__(self, spec: CodingSpec, attempt: Attempt, kept: Kept, meter: Meter, redactor: Redactor) -> None:
        self._spec = spec
        self._attempt = attempt
        self._kept = kept
        self._meter = meter
        self._redactor = redactor
        self._said: list[str] = []
        self._news: str | None = None
        self._wake = anyio.Event()  # something has to be made durable
        self._told = anyio.Event()  # there are news
        self._unsaved = False  # that the conversation has begun is not durable yet
        self._more = False  # more of the budgets has to be held
        self._answers: dict[str, tuple[dict[str, Any], dict[str, Any], Verdict]] = {}
        self.asks_a_person = False

    async def attend(self, conversation: Conversation, refresh: Callable[[], None] | None = None) -> Ended:
        """Run the conversation, with what goes on beside it. refresh: called now and then as long as it runs."""
        ended: Ended | None = None
        failure: OmiumError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._make_durable, conversation)
            tasks.start_soon(self._tell_now_and_then)
            if refresh is not None:
                tasks.start_soon(_every, PROGRESS_EVERY_S, refresh)
            try:
                ended = await conversation.run()
            except OmiumError as error:  # raised outside of the group, which would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        assert ended is not None
        return ended

    # --- what is heard --------------------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        if isinstance(event, Begun):
            self._meter.model = event.model or self._meter.model
            if self._spec.kind != "claude" and is_session(event.session):  # it becomes an argument when it goes on
                self._kept.session = event.session
            self._unsaved = self._unsaved or not self._kept.begun
            self._kept.begun = True
        elif isinstance(event, Said):
            self._hear_words(event)
        elif isinstance(event, Used):
            self._tell(f"{event.tool} {_short(event.arguments)}")
        elif isinstance(event, Retried):
            self._tell(_failed(event))
        elif isinstance(event, Result):
            self._meter.ended(event.tokens, event.turns, event.model)
            self._kept.heard(self._redactor.text(event.text))
        if self._unsaved or self._more:
            self._wake.set()

    def _hear_words(self, said: Said) -> None:
        self._said = [*self._said, said.text] if said.fragment else [said.text]
        text = "".join(self._said)
        if text.strip():
            text = self._redactor.text(text)
            self._kept.heard(text)
            self._tell(text)
        self._more = self._meter.heard(said) or self._more

    def _tell(self, text: str) -> None:
        most, told = self._spec.max_turns, " ".join(self._redactor.text(text[:_LOGGED_LINE]).split())
        if self._spec.kind == "claude" and most is not None:
            told = f"turn {max(1, self._meter.answers)} of {most}: {told}"
        self._news = told[:_TOLD]
        self._told.set()

    async def _make_durable(self, conversation: Conversation) -> None:
        """Keep that it has begun, and hold budgets ahead of what it uses."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            try:
                if self._unsaved:
                    self._unsaved = False
                    await self._attempt.keep(self._kept.as_value())
                if self._more:
                    self._more = False
                    await self._meter.hold()
            except OmiumError as error:
                conversation.fail(error)
                return

    async def _tell_now_and_then(self) -> None:
        """Progress: at once, then now and then. Each note is a commit, so most lines are in the log file only."""
        while True:
            await self._told.wait()
            self._told = anyio.Event()
            news, self._news = self._news, None
            if news is None:
                continue
            try:
                with anyio.CancelScope(shield=True):
                    await self._attempt.ask("progress", {"text": news})
            except OmiumError as error:  # the node is no longer ours, or the database is away: the engine sees to that
                _log.info("progress of %s is not noted: %s", self._attempt.node_id, error)
                return
            await anyio.sleep(PROGRESS_EVERY_S)

    # --- what is asked --------------------------------------------------------------------------------------------

    async def decide(self, asked: Asked) -> Verdict:
        """The gate's word. The decision is noted before the CLI hears it: killed between the two, it asks anew."""
        kept, arguments = self._kept, dict(asked.arguments)
        known = self._answers.get(asked.use)
        if known is not None and arguments in known[:2]:
            return known[2]  # its own rules ask too, for a call that was decided about a moment ago
        if asked.tool not in self._spec.tools and not asked.tool.startswith("mcp__"):
            return await self._denied(asked, f"{asked.tool} is not among the tools of {self._spec.name}.")
        try:
            key = kept.key_of(asked.tool, arguments)
        except OmiumError as error:  # too deep, or too large
            return await self._denied(asked, error.message)
        kept.waiting = Waiting(asked.use, self._shown(asked))
        await self._attempt.keep(kept.as_value())
        call = Call(key, "permission", asked.tool, arguments, preview=_preview(asked), agent=self._spec.name)
        try:
            allowed = await self._attempt.gate(call)
        except Suspended:
            self.asks_a_person = True
            return Verdict("wait", message="A person has to decide about this call.")
        except OmiumError as error:
            message = not_leave(error)
            kept.was_answered(key)
            return await self._denied(asked, message)
        kept.was_answered(key)
        await self._attempt.keep(kept.as_value())
        verdict = Verdict("allow", allowed.arguments if isinstance(allowed.arguments, dict) else arguments)
        self._answers[asked.use] = arguments, dict(verdict.arguments), verdict
        return verdict

    async def _denied(self, asked: Asked, message: str) -> Verdict:
        if len(self._kept.denied) < _MOST_DENIED:
            self._kept.denied.append({"tool": asked.tool, "call": self._shown(asked), "reason": message})
        await self._attempt.keep(self._kept.as_value())
        return Verdict("deny", message=message)

    def _shown(self, asked: Asked) -> str:
        return f"{asked.tool}({self._redactor.text(_short(asked.arguments))})"

    # --- its log --------------------------------------------------------------------------------------------------

    @contextmanager
    def logging(self) -> Iterator[Callable[[StreamName, str], None] | None]:
        """Its lines, in the scratch directory of the attempt, each up to some kilobytes and without our secrets."""
        if self._attempt.scratch is None:
            yield None
            return
        logs = self._attempt.scratch / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        files: dict[StreamName, IO[str]] = {}
        with ExitStack() as stack:
            names: tuple[StreamName, ...] = ("stdout", "stderr")
            for name in names:
                descriptor = os.open(logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                file = stack.enter_context(open(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
                files[name] = file

            def write(stream: StreamName, line: str) -> None:
                shown = line if len(line) <= _LOGGED_LINE else f"{line[:_LOGGED_LINE]} [... {len(line)} characters]"
                files[stream].write(f"{self._redactor.text(shown)}\n")

            yield write


def _failed(event: Retried) -> str:
    """A wrong key or a service that is down would otherwise look like a model that thinks for minutes."""
    why = " ".join(filter(None, (str(event.status or ""), event.error)))
    when = "" if event.wait_s is None else f" in {event.wait_s:.0f} s"
    return f"a request to the model failed{f' ({why})' if why else ''}; it is made again{when}"


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        await anyio.sleep(seconds)
        call()


def _short(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:SHOWN]!r}" for name, value in arguments.items())[:SHOWN]


def _preview(asked: Asked) -> str:
    """What a person reads first: the command, the file; the arguments stand beside it."""
    for name in ("command", "file_path", "notebook_path", "url", "path", "pattern"):
        if isinstance(asked.arguments.get(name), str):
            return f"{asked.tool}: {asked.arguments[name]}"[:2_000]
    return asked.tool
