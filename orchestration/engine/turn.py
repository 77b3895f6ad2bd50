"""What one step of scheduling a run gathers for one write."""

from __future__ import annotations

from typing import Any

from omium.orchestration.engine.values import Held
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob


class Turn:
    """Commands and blobs of one write, and what begins once that is durable: nodes to run, child runs to create (node,
    run, workflow, inputs) or to cancel (run, reason), and a time to look again. The first `facts` commands are the end
    of an attempt, which stands whatever becomes of the rest. `held`: values that are too large for the cache, until the
    write is over."""

    __slots__ = ("blobs", "children", "commands", "dropped", "due", "facts", "held", "started")

    def __init__(self) -> None:
        self.commands: list[c.Command] = []
        self.blobs: list[NewBlob] = []
        self.started: list[NodeId] = []
        self.held: list[Held] = []
        self.children: list[tuple[NodeId, RunId, str, Any]] = []
        self.dropped: list[tuple[RunId, str]] = []
        self.facts = 0
        self.due: int | None = None

    def wake(self, due_us: int | None) -> None:
        """Have the run looked at again at this time, if there is one, once the turn is durable."""
        if due_us is not None and (self.due is None or due_us < self.due):
            self.due = due_us
