"""The application: five panes, and one listener for changes that has all of them drawn again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Final, Literal

import anyio
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static, TabbedContent, TabPane

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.service.watching import Watch
from omium.server.commands.console import safe
from omium.server.terminal.board import Board
from omium.server.terminal.dialogs import Help
from omium.server.terminal.panes import AlertsPane, ApprovalsPane, LogPane, Pane, ProcessesPane, RunsPane
from omium.server.terminal.run import RunScreen
from omium.server.terminal.words import DARK, LIGHT, Palette

_log = logging.getLogger(__name__)

BETWEEN_S: Final = 0.2  # between two looks, however much happens
AROUND_S: Final = 2.0  # processes, budgets and pins announce no change
_AGAIN_S: Final = 1.0  # how soon it is tried again when the database cannot be read
PANES: Final = ("approvals", "runs", "processes", "alerts", "log")
_THEMES: Final = {True: "textual-dark", False: "textual-light"}


class Top(App[None]):
    """`executed`: sees to it that a run which has become free is taken by somebody."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "omium top"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - the base declares an instance variable
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(place), f"pane('{name}')", name, show=False) for place, name in enumerate(PANES, 1)),
        Binding("t", "colours", "light", show=False),
        Binding("question_mark", "help", "keys"),
        Binding("q,ctrl+c", "quit", "leave"),
    ]
    CSS = """
    #status { height: 1; background: $primary-background; color: $text; padding: 0 1; text-style: bold; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    Rows { height: 1fr; scrollbar-size-horizontal: 0; scrollbar-size-vertical: 1; background: $background; }
    .detail { height: 1fr; border-top: solid $primary; padding: 0 1; scrollbar-size-vertical: 1; }
    .detail:focus { border-top: heavy $accent; }
    .short { height: 8; }
    ApprovalsPane .detail { height: 2fr; }
    .-wide ApprovalsPane { layout: horizontal; }
    .-wide ApprovalsPane .detail { height: 1fr; width: 1fr; border-top: none; border-left: solid $primary; }
    .-wide ApprovalsPane Rows { width: 1fr; }
    #head { height: auto; max-height: 5; padding: 0 1; }
    #nodes { border-top: solid $primary; }
    #log-state { height: 1; padding: 0 1; }
    #log { height: 1fr; padding: 0 1; background: $background; }
    ModalScreen { align: center middle; }
    .dialog { width: 90%; max-width: 110; height: auto; max-height: 90%; background: $surface; border: thick $primary;
              padding: 0 1; }
    .dialog #about { height: auto; max-height: 50vh; margin: 1 0; }
    .dialog OptionList { height: auto; max-height: 8; }
    .title { text-style: bold; }
    .hint { color: $text-muted; }
    .editor { height: 90%; }
    .editor TextArea { height: 1fr; }
    #wrong { color: $text-error; height: auto; }
    """

    def __init__(self, board: Board, executed: Callable[[], Awaitable[None]], *, dark: bool = True) -> None:
        super().__init__()
        self.board = board
        self._executed = executed
        self._dark = dark
        self._watch = Watch()
        self._trouble = ""

    @property
    def palette(self) -> Palette:
        return DARK if self._dark else LIGHT

    def compose(self) -> ComposeResult:
        yield Static("", id="status", markup=False)
        made: dict[str, type[Pane]] = {
            "approvals": ApprovalsPane,
            "runs": RunsPane,
            "processes": ProcessesPane,
            "alerts": AlertsPane,
            "log": LogPane,
        }
        with TabbedContent(id="tabs"):
            for name, pane in made.items():
                with TabPane(name.capitalize(), id=name):
                    yield pane(self.board, self)
        yield Footer()

    def on_mount(self) -> None:
        self.theme = _THEMES[self._dark]
        self.run_worker(self._listen(), group="listen")
        self.run_worker(self.look_around(), group="around")
        self.set_interval(AROUND_S, self.look_around)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Look whenever the database has changed, by whomever, until the end."""
        end = self.board.core.store.on_change(self._watch.ring)
        try:
            while True:
                pause = BETWEEN_S if await self.look() else _AGAIN_S
                await anyio.sleep(pause)
                if pause == BETWEEN_S:
                    await self._watch.wait()
        finally:
            end()

    async def look(self) -> bool:
        """Read and draw everything; False if it could not be read, which is said where the counts stand."""
        try:
            lines, self._trouble = await self.board.look(), ""
        except OmiumError as error:
            lines, self._trouble = None, error.message
        if not self.is_running:  # it was left meanwhile, and nothing is there to draw on
            return False
        if lines is None:
            self._draw_status()
            return False
        self.query_one(LogPane).take(lines)
        self._draw()
        for screen in self.screen_stack:
            if isinstance(screen, RunScreen):
                await screen.look()
        return True

    async def look_around(self) -> None:
        """Read what announces no change, and have ages grow."""
        try:
            await self.board.look_around()
        except OmiumError as error:
            self._trouble = error.message
        if not self.is_running:
            return
        self._draw()
        for screen in self.screen_stack:
            if isinstance(screen, RunScreen):
                screen.draw()

    def _draw(self) -> None:
        base = self.screen_stack[0]
        for pane in base.query(Pane):
            pane.draw()
        counts = {
            "approvals": len(self.board.approvals),
            "runs": len(self.board.runs),
            "processes": len(self.board.processes),
            "alerts": len(self.board.alerts),
        }
        tabs = base.query_one(TabbedContent)
        for name, count in counts.items():
            tabs.get_tab(name).label = f"{name.capitalize()} {count}"
        self._draw_status()

    def _draw_status(self) -> None:
        board, palette = self.board, self.palette
        text = Text.assemble("omium top  ", safe(board.caller.project), "   ", no_wrap=True, overflow="ellipsis")
        if self._trouble:
            text.append(f"{safe(self._trouble)}   ", palette.bad)
        text.append(f"{len(board.approvals)} waiting", palette.ask if board.approvals else "")
        text.append(f"   {board.executing} running   ")
        text.append(f"{board.unhealthy} stalled", palette.bad if board.unhealthy else "")
        text.append("   ")
        text.append(f"{len(board.alerts)} alerts", palette.bad if board.alerts else "")
        self.screen_stack[0].query_one("#status", Static).update(text)

    # --- what the panes ask for -------------------------------------------------------------------------------------

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        self.run_worker(self._done(work))

    async def _done(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except OmiumError as error:
            self.say(f"{error.message} {error.hint}".strip(), bad=True)
            self._watch.ring()
        except Exception as error:  # a deed that fails unforeseen must not take the screen away
            _log.exception("what was asked for has failed")
            self.say(f"It failed unexpectedly: {type(error).__name__}.", bad=True)

    def say(self, text: str, *, bad: bool = False) -> None:
        severity: Literal["error", "information"] = "error" if bad else "information"
        self.notify(safe(text, lines=True)[:1_000], severity=severity, timeout=8 if bad else 4, markup=False)

    def open_run(self, run: RunId) -> None:
        if not isinstance(self.screen, RunScreen):
            self.push_screen(RunScreen(self.board, self, run))

    def follow_only(self, run: RunId | None) -> None:
        self.action_pane("log")
        self.screen_stack[0].query_one(LogPane).only(run)

    async def have_executed(self) -> None:
        await self._executed()

    def _fatal_error(self) -> None:
        """As the base says it, without the values of variables: they may hold what nobody should read there."""
        from rich.segment import Segments
        from rich.traceback import Traceback

        shown = self.console.render(Traceback(show_locals=False, width=None), self.console.options)
        self._exit_renderables.append(Segments(shown))
        self._close_messages_no_wait()

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        if isinstance(self.screen, RunScreen):
            self.screen.dismiss(None)
        elif len(self.screen_stack) > 1:
            return
        self.screen_stack[0].query_one(TabbedContent).active = name

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        if event.tabbed_content.active == event.pane.id:
            event.pane.query_one(Pane).to_its_list()

    def action_colours(self) -> None:
        self._dark = not self._dark
        self.theme = _THEMES[self._dark]
        self._draw()
        self.screen_stack[0].query_one(LogPane).again()
        if isinstance(self.screen, RunScreen):
            self.screen.draw()

    def action_help(self) -> None:
        if not isinstance(self.screen, Help):
            self.push_screen(Help())


class Said(logging.Handler):
    """Log records as notes on the screen, which a line on standard error would tear."""

    def __init__(self, app: Top) -> None:
        super().__init__(logging.ERROR)
        self._app = app

    def emit(self, record: logging.LogRecord) -> None:
        from omium.server.logs import hidden

        if self._app.is_running:
            self._app.say(hidden(record.getMessage()), bad=True)
