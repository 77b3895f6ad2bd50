"""A core over a database, runs that a hand steers, and a person at the keys of `omium top`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from textual.pilot import Pilot
from textual.widgets import Static

from omium.clients.processes.listing import ProcessView
from omium.orchestration.definition import NodeDef, WorkflowDef
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import ApprovalId, NodeId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import ApprovalView
from omium.orchestration.values import Encoded, encode
from omium.server.terminal.app import PANES, Top
from omium.server.terminal.board import Board
from omium.server.terminal.tables import Rows
from omium.storage.sqlite.store import SqliteStore
from tests.history_core import ME, Hand, by_hand

HOSTILE = "[red]bad[/red] [@click=app.quit]x[/] \x1b[31mred\x07 \u202egnihtyreve\u2066 z\u200bw\ttab"
PATIENCE_S = 120.0
ASKING = [f"ask{number}" for number in range(1_000)]
NODES = (NodeDef("draft", "function", use="f"), NodeDef("publish", "function", use="f"))
WORKFLOW = WorkflowDef("release", NODES)
WIDE = WorkflowDef("wide", (*NODES, *(NodeDef(name, "function", use="f") for name in ASKING)))


@dataclass
class Desk:
    core: Core
    board: Board
    top: Top
    processes: list[ProcessView] = field(default_factory=list)
    executed: list[int] = field(default_factory=list)  # a number for each time that somebody was asked to execute

    async def run(self, workflow: WorkflowDef = WORKFLOW) -> Hand:
        return await by_hand(self.core, workflow)  # type: ignore[arg-type]

    async def ask(self, hand: Hand, question: str = "Publish it?", **more: Any) -> ApprovalId:
        return (await self.ask_often(hand, [question], **more))[0]

    async def ask_often(
        self,
        hand: Hand,
        questions: Sequence[str],
        *,
        scope: str = "call",
        options: tuple[str, ...] = ("approve", "reject", "modify"),
        arguments: Any = None,
        needs: str = "elicited",
        details: dict[str, Any] | None = None,
    ) -> list[ApprovalId]:
        """Questions in one write: of the node `publish`, and of a workflow with more nodes of those."""
        given: Encoded = encode({"to": "the site"} if arguments is None else arguments)
        told = {"call": "post", "action": "tool", "tool": "post", **(details or {}), "arguments": given.digest}
        ids = [ApprovalId(new_id("apr", 1_700_000_000_000 + place)) for place in range(len(questions))]
        expires = self.core.clock.now_us() + 24 * 3600 * 1_000_000
        asked = [
            c.RequestApproval(one, NodeId(node), 0, scope, question, options, expires, needs, details=told)
            for node, one, question in zip(["publish", *ASKING], ids, questions, strict=False)
        ]
        await hand.do(*asked, blobs=[NewBlob(given)])
        return ids

    async def fail(self, hand: Hand, message: str) -> None:
        await hand.start("draft")
        error = {"category": "unknown", "message": message, "node": "draft"}
        await hand.do(c.FailAttempt(NodeId("draft"), 0, 1, error))
        await hand.do(c.FailRun(error))

    async def view(self, approval: ApprovalId) -> ApprovalView:
        return await self.core.get_approval(ME, approval)


@asynccontextmanager
async def desk(directory: Path, *, budgets: Sequence[BudgetRule] = (), dark: bool = True) -> AsyncIterator[Desk]:
    """Nobody executes; what `omium top` shows is what a hand has written."""
    store = await SqliteStore.open(directory / "omium.db", durability="normal")
    try:
        core = Core(store, Catalog(workflows={WORKFLOW.name: WORKFLOW}), budgets=lambda: budgets)
        processes: list[ProcessView] = []
        executed: list[int] = []

        async def have_executed() -> None:
            executed.append(len(executed))

        board = Board(core, ME, lambda: processes)
        yield Desk(core, board, Top(board, have_executed, dark=dark), processes, executed)
    finally:
        await store.close()


@asynccontextmanager
async def seated(at: Desk, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Person]:
    with anyio.fail_after(PATIENCE_S):
        async with at.top.run_test(size=size, notifications=True) as pilot:
            yield Person(at.top, pilot)


@dataclass
class Person:
    """Somebody who presses keys and reads the screen."""

    top: Top
    pilot: Pilot[None]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def turn_to(self, pane: str) -> None:
        """Go to a pane by its number, until keys go there: a focus that was on its way while the screen was made may
        turn back to its own pane once, and a person presses again."""
        place = self.top.screen.query_one(f"#{pane}")
        with anyio.fail_after(PATIENCE_S / 3):
            while self.top.focused is None or place not in self.top.focused.ancestors:
                await self.press(str(PANES.index(pane) + 1))
                await self.pilot.pause(0.02)

    def rows(self, table: str = "approvals-list") -> list[list[str]]:
        found = self.top.screen_stack[0].query(f"#{table}")
        rows = found.first(Rows) if found else self.top.screen.query_one(f"#{table}", Rows)
        return [[text.plain for text in rows.get_row_at(place)] for place in range(rows.row_count)]

    def text(self, selector: str) -> str:
        return str(self.top.screen.query_one(selector, Static).content)

    def screen(self) -> str:
        """Every character on the screen, as it would reach the terminal."""
        return "\n".join(strip.text for strip in self.top.screen._compositor.render_strips())

    async def until(self, condition: Callable[[], object]) -> None:
        """Until it holds; the screen is in the message of the failure if it never does."""
        try:
            with anyio.fail_after(PATIENCE_S / 3):
                while not condition():
                    await self.pilot.pause(0.02)
        except TimeoutError:
            raise AssertionError(f"it never came to that:\n{self.screen()}") from None

    async def sees(self, text: str) -> None:
        await self.until(lambda: text in self.screen())
