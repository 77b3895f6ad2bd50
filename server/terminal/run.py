"""One run: why it failed, its nodes as they are, and the keys that steer it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.service.views import RunView
from omium.server.commands.console import safe, short
from omium.server.terminal import words
from omium.server.terminal.board import Board
from omium.server.terminal.panes import Hands, steer
from omium.server.terminal.tables import Rows


class RunScreen(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "back", "back"),
        Binding("p", "steer('pause')", "pause"),
        Binding("u", "steer('resume')", "resume"),
        Binding("c", "steer('cancel')", "cancel"),
        Binding("l", "log", "log"),
    ]

    def __init__(self, board: Board, hands: Hands, run: RunId) -> None:
        super().__init__()
        self.board = board
        self.hands = hands
        self.run_id = run
        self.view: RunView | None = None

    def compose(self) -> ComposeResult:
        yield Static("", id="status", markup=False)
        with VerticalScroll(id="head", can_focus=False):
            yield Static("", id="run", markup=False)
        yield Rows(words.NODES, id="nodes")
        with VerticalScroll(classes="detail short"):
            yield Static("", id="node", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        self.query_one(Rows).focus()
        await self.look()
        failed = [one.id for one in self.view.nodes if one.status == "failed"] if self.view is not None else []
        if failed:
            self.query_one(Rows).go_to(failed[0])

    async def look(self) -> None:
        """Read the run again if its position has moved, and draw it."""
        try:
            row = await self.board.core.row(self.board.caller, self.run_id)
            if self.view is None or self.view.seq != row.seq:
                self.view = await self.board.core.get_run(self.board.caller, self.run_id, detail=True)
        except OmiumError as error:
            self.hands.say(error.message, bad=True)
            return
        if self.is_mounted:
            self.draw()

    def draw(self) -> None:
        if self.view is None:
            return
        view, now, palette = self.view, self.board.core.clock.now_us(), self.hands.palette
        self.query_one("#status", Static).update(Text(f"run {short(view.id)}  {safe(view.workflow)}"))
        self.query_one("#run", Static).update(words.run_text(view, now, palette))
        self.query_one(Rows).show([words.node_row(one, now, palette) for one in view.nodes])
        self._draw_node()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        event.stop()
        self._draw_node()
        self.query_one(".detail", VerticalScroll).scroll_home(animate=False)

    def on_rows_opened(self, event: Rows.Opened) -> None:
        event.stop()
        self.query_one(".detail", VerticalScroll).focus()

    def _draw_node(self) -> None:
        at = self.query_one(Rows).key
        found = [one for one in (self.view.nodes if self.view else ()) if one.id == at]
        now, palette = self.board.core.clock.now_us(), self.hands.palette
        self.query_one("#node", Static).update(words.node_text(found[0], now, palette) if found else "")

    def action_back(self) -> None:
        self.dismiss(None)

    def action_log(self) -> None:
        self.dismiss(None)
        self.hands.follow_only(self.run_id)

    def action_steer(self, verb: str) -> None:
        self.hands.do(steer(self, self.run_id, verb))
