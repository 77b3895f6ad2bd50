"""The five panes. Each draws from the board whenever it has looked again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, Protocol

import anyio
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, RichLog, Static

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.service.views import ApprovalView
from omium.server.commands.console import safe, short
from omium.server.commands.wire import json_text, value_as_json
from omium.server.terminal import words
from omium.server.terminal.board import Board, Line
from omium.server.terminal.dialogs import Ask, Choose, Edit
from omium.server.terminal.tables import Rows
from omium.server.terminal.words import Palette

KEPT_LINES: Final = 2_000
_SETTLE_S: Final = 0.03  # how long the cursor rests on a row before that is read in full
_NONE: Final = "Nothing waits for a decision."
_FEEDBACK: Final = "a word to the agents that go on from here (may stay empty)"


class Hands(Protocol):
    """What a pane asks of the application."""

    @property
    def palette(self) -> Palette: ...

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Work on without holding up the screen; what goes wrong is said."""

    def say(self, text: str, *, bad: bool = False) -> None: ...

    def open_run(self, run: RunId) -> None: ...

    def follow_only(self, run: RunId | None) -> None: ...

    async def have_executed(self) -> None:
        """See to it that somebody goes on with what has become free."""


class Pane(Vertical):
    def __init__(self, board: Board, hands: Hands) -> None:
        super().__init__()
        self.board = board
        self.hands = hands

    def draw(self) -> None:
        raise AssertionError("each pane draws itself")

    def to_its_list(self) -> None:
        """Have keys go to the list, at once: a focus that comes later, when another pane is shown, turns back to it."""
        self.screen.set_focus(self.query(Rows).first())


class ApprovalsPane(Pane):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "choose('approve')", "approve"),
        Binding("r", "choose('reject')", "reject"),
        Binding("m", "modify", "modify"),
        Binding("o", "options", "options"),
        Binding("g", "run", "its run"),
    ]

    def __init__(self, board: Board, hands: Hands) -> None:
        super().__init__(board, hands)
        self._view: ApprovalView | None = None
        self._why_not: str | None = None

    def compose(self) -> ComposeResult:
        yield Rows(words.APPROVALS, id="approvals-list")
        with VerticalScroll(classes="detail"):
            yield Static("", id="approval", markup=False)

    def draw(self) -> None:
        now = self.board.core.clock.now_us()
        rows = [words.approval_row(one, now, self.hands.palette) for one in self.board.approvals]
        self.query_one(Rows).show(rows)
        self._draw_view()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        event.stop()
        self._view = None
        self.run_worker(self._read(event.key), group="approval", exclusive=True)

    def on_rows_opened(self, event: Rows.Opened) -> None:
        event.stop()
        self.action_options()

    async def _read(self, key: str | None) -> None:
        await anyio.sleep(_SETTLE_S if key is not None else 0)
        try:
            self._view = None if key is None else await self.board.approval(key)
            self._why_not = None if self._view is None else await self.board.why_not(self._view)
        except OmiumError as error:
            self.hands.say(error.message, bad=True)
        self._draw_view()
        self.query_one(VerticalScroll).scroll_home(animate=False)

    def _draw_view(self) -> None:
        place, palette = self.query_one("#approval", Static), self.hands.palette
        if self._view is None:
            place.update(Text("" if self.board.approvals else _NONE, style=palette.quiet))
            return
        text, whole = words.approval_text(self._view, self.board.core.clock.now_us(), palette)
        why_not = self._refusal(self._view, whole)
        place.update(Text.assemble((f"{safe(why_not)}\n", palette.bad), text) if why_not else text)

    def _refusal(self, view: ApprovalView, whole: bool) -> str | None:
        if not whole:
            way = f"omium approvals {short(view.id)}"
            return f"It is too long to be shown here in full, so it cannot be decided here. In a shell: {way}"
        return self._why_not

    def _ready(self) -> tuple[ApprovalView, Text] | None:
        """What is shown in full and can be decided here; None, and a word about it, when nothing is."""
        view = self._view
        if view is None or self.query_one(Rows).key != view.id:
            self.hands.say("It is still being read: again, once it stands below." if self.board.approvals else _NONE)
            return None
        text, whole = words.approval_text(view, self.board.core.clock.now_us(), self.hands.palette)
        if (why_not := self._refusal(view, whole)) is not None:
            self.hands.say(why_not, bad=True)
            return None
        return view, text

    def action_choose(self, decision: str) -> None:
        if (ready := self._ready()) is None:
            return
        view, text = ready
        if decision not in view.options:
            self.hands.say(f"It does not offer {decision}: {', '.join(view.options)}. Enter lists them.", bad=True)
        elif decision == "modify":
            self.hands.do(self._modify(view))
        else:
            self.hands.do(self._decide(view, decision, text))

    def action_modify(self) -> None:
        self.action_choose("modify")

    def action_options(self) -> None:
        if (ready := self._ready()) is not None:
            self.hands.do(self._choose(*ready))

    def action_run(self) -> None:
        if self._view is not None:
            self.hands.open_run(self._view.run_id)

    async def _choose(self, view: ApprovalView, text: Text) -> None:
        chosen = await self.app.push_screen_wait(Choose("Decide", text, view.options))
        if chosen == "modify":
            await self._modify(view)
        elif chosen is not None:
            await self._decide(view, chosen, text)

    async def _decide(self, view: ApprovalView, decision: str, text: Text) -> None:
        said = await self.app.push_screen_wait(Ask(f"{decision}?", text, decision, _FEEDBACK))
        if said is None:
            return
        await self.board.decide(view, decision, said)
        self.hands.say(f"decided: {decision}")
        await self.hands.have_executed()

    async def _modify(self, view: ApprovalView) -> None:
        shown = json_text(value_as_json(view.arguments))
        title = f"What is to be done instead: {view.question.splitlines()[0] if view.question else ''}"[:300]
        given = await self.app.push_screen_wait(Edit(title, shown, plan=view.scope == "plan"))
        if given is None:
            return
        value, said = given
        await self.board.decide(view, "modify", said, value)
        self.hands.say("decided: modify")
        await self.hands.have_executed()


class RunsPane(Pane):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter"),
        Binding("p", "steer('pause')", "pause"),
        Binding("u", "steer('resume')", "resume"),
        Binding("c", "steer('cancel')", "cancel"),
        Binding("l", "log", "log"),
    ]

    def compose(self) -> ComposeResult:
        yield Input(placeholder="id, workflow or title; Enter to the list, Esc shows all", max_length=200)
        yield Rows(words.RUNS, id="runs-list")

    def on_mount(self) -> None:
        self.query_one(Input).display = False

    def draw(self) -> None:
        now = self.board.core.clock.now_us()
        self.query_one(Rows).show([words.run_row(one, now, self.hands.palette) for one in self.board.runs])

    def on_rows_opened(self, event: Rows.Opened) -> None:
        event.stop()
        if event.key is not None:
            self.hands.open_run(RunId(event.key))

    def action_filter(self) -> None:
        self.query_one(Input).display = True
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.board.text = event.value.strip()
        self.run_worker(self._filtered(), group="filter", exclusive=True)

    async def _filtered(self) -> None:
        await anyio.sleep(_SETTLE_S)
        await self.board.look_at_runs()
        self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.to_its_list()

    def key_escape(self) -> None:
        field = self.query_one(Input)
        if field.display:
            field.value = ""
            field.display = False
            self.to_its_list()

    def action_log(self) -> None:
        if (key := self.query_one(Rows).key) is not None:
            self.hands.follow_only(RunId(key))

    def action_steer(self, verb: str) -> None:
        if (key := self.query_one(Rows).key) is not None:
            self.hands.do(steer(self, RunId(key), verb))


async def steer(place: Any, run: RunId, verb: str) -> None:
    """Pause, resume or cancel a run, once that is confirmed. place: a widget or screen with a board and hands."""
    board: Board = place.board
    hands: Hands = place.hands
    view = await board.core.get_run(board.caller, run)
    if not words.may(view, verb):
        hands.say(f"{short(run)} is {view.status}: it takes {', '.join(view.allowed) or 'nothing'}.", bad=True)
        return
    about = words.run_text(view, board.core.clock.now_us(), hands.palette)
    meaning = {
        "pause": "No new node starts; one in flight finishes.",
        "resume": "It goes on where it stopped.",
        "cancel": "It ends, and everything below it: nodes in flight are killed, questions withdrawn.",
    }[verb]
    text = Text.assemble(f"{safe(view.workflow)} {view.id}\n{meaning}\n\n", about)
    said = await place.app.push_screen_wait(Ask(f"{verb} {short(run)}?", text, verb, "why (may stay empty)"))
    if said is None:
        return
    deed = {"pause": board.core.pause, "resume": board.core.resume, "cancel": board.core.cancel}[verb]
    done = await deed(board.caller, run, reason=said or None)
    hands.say(f"{short(run)} is {done.status.replace('_', ' ')}")
    if verb == "resume":
        await hands.have_executed()


class ProcessesPane(Pane):
    def compose(self) -> ComposeResult:
        yield Rows(words.PROCESSES, id="processes-list")
        with VerticalScroll(classes="detail short"):
            yield Static("", id="process", markup=False)

    def draw(self) -> None:
        now, palette = time.time_ns() // 1000, self.hands.palette
        self.query_one(Rows).show([words.process_row(one, now, palette) for one in self.board.processes])
        self._draw_one()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        event.stop()
        self._draw_one()

    def _draw_one(self) -> None:
        at, palette = self.query_one(Rows).key, self.hands.palette
        found = [one for one in self.board.processes if words.process_row(one, 0, palette)[0] == at]
        if not found:
            self.query_one("#process", Static).update(Text("No supervised program runs here now.", palette.quiet))
            return
        argv = " ".join(found[0].argv)
        pairs = [("run", found[0].run), ("argv", argv[:4_000]), ("output", f"{found[0].output_bytes} bytes")]
        self.query_one("#process", Static).update(words.fields(pairs, palette))

    def on_rows_opened(self, event: Rows.Opened) -> None:
        event.stop()
        if event.key is not None:
            self.hands.open_run(RunId(event.key.partition(":")[0]))


class AlertsPane(Pane):
    def compose(self) -> ComposeResult:
        yield Rows(words.ALERTS, id="alerts-list")
        with VerticalScroll(classes="detail short"):
            yield Static("", id="alert", markup=False)

    def draw(self) -> None:
        now, palette = self.board.core.clock.now_us(), self.hands.palette
        self.query_one(Rows).show([words.alert_row(one, now, palette) for one in self.board.alerts])
        self._draw_one()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        event.stop()
        self._draw_one()

    def _draw_one(self) -> None:
        at, palette = self.query_one(Rows).key, self.hands.palette
        text = Text("Nothing is wrong.", palette.quiet)
        for one in self.board.alerts:
            if one.key == at:
                text = words.fields([(one.kind, one.what), ("said", one.said), ("to do", one.todo)], palette)
        self.query_one("#alert", Static).update(text)

    def on_rows_opened(self, event: Rows.Opened) -> None:
        event.stop()
        run = next((one.run for one in self.board.alerts if one.key == event.key), None)
        if run is not None:
            self.hands.open_run(run)


class LogPane(Pane):
    """What happens in the runs under way, or in one of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "hold", "hold, go on"),
        Binding("l", "all", "all runs"),
    ]

    def __init__(self, board: Board, hands: Hands) -> None:
        super().__init__(board, hands)
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._only: RunId | None = None
        self._held: int | None = None  # how many lines have come since it is held

    def compose(self) -> ComposeResult:
        yield Static("", id="log-state", markup=False)
        yield RichLog(max_lines=KEPT_LINES, wrap=False, markup=False, highlight=False, id="log")

    def to_its_list(self) -> None:
        self.screen.set_focus(self.query_one(RichLog))

    def take(self, lines: list[Line]) -> None:
        self._lines.extend(lines)
        wanted = [one for one in lines if self._only in (None, one.run)]
        if self._held is not None:
            self._held += len(wanted)
        else:
            self._write(wanted)

    def _write(self, lines: list[Line]) -> None:
        log = self.query_one(RichLog)
        for one in lines:
            log.write(words.log_line(one, self.hands.palette))

    def draw(self) -> None:
        what = "all runs under way" if self._only is None else f"run {short(self._only)} only; l shows all"
        held = "" if self._held is None else f"   held, {self._held} more; Space goes on"
        self.query_one("#log-state", Static).update(Text(what + held, self.hands.palette.quiet))

    def again(self) -> None:
        """Write everything anew: another selection, or other colours."""
        self._held = None
        self.query_one(RichLog).clear()
        self._write([one for one in self._lines if self._only in (None, one.run)])
        self.draw()

    def only(self, run: RunId | None) -> None:
        self._only = run
        self.again()

    def action_all(self) -> None:
        self.only(None)

    def action_hold(self) -> None:
        if self._held is None:
            self._held = 0
            self.draw()
        else:
            self.again()
