"""What nodes look up of their own run: the items of fan-outs, and how earlier attempts failed."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from omium.orchestration.ids import NodeId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution

Items: TypeAlias = tuple[Any, Sequence[str] | None, Mapping[str, int] | None]
"""The items of a fan-out, the keys of its instances, and the place of each key; None for both where places name
them."""


class Recall:
    """Read when it is first asked for, and kept as long as this process owns the run."""

    def __init__(self, run: Execution) -> None:
        self._run: Execution = weakref.proxy(run)  # which keeps this: a circle would stay until somebody collects it
        self._items: dict[NodeId, Items] = {}
        self._failures: dict[NodeId, list[Mapping[str, Any]]] | None = None
        self._reading: anyio.Lock | None = None

    def keep_items(self, node_id: NodeId, items: Any, keys: Sequence[str] | None) -> None:
        places = None if keys is None else {key: place for place, key in enumerate(keys)}
        self._items[node_id] = (items, keys, places)

    def forget_items(self) -> None:
        self._items.clear()

    async def items_of(self, node_id: NodeId) -> Items:
        """As they were when the fan-out expanded."""
        if node_id not in self._items:
            expansion = self._run.folded.node(node_id).expansion or {}
            items = await self._run.engine.values.load(expansion["items"])
            self.keep_items(node_id, items, expansion.get("keys"))
        return self._items[node_id]

    def hear(self, event: Event) -> None:
        """An attempt has failed."""
        if self._failures is not None:
            self._failures.setdefault(event.data["node"], []).append(event.data["error"])

    async def failures_of(self, node_id: NodeId) -> Sequence[Mapping[str, Any]]:
        """How the attempts of a node failed, oldest first. The log is read once, however many nodes ask together; from
        then on, failures are heard."""
        if self._failures is None:
            self._reading = self._reading or anyio.Lock()
            async with self._reading:
                if self._failures is None:
                    self._failures = await self._read()
        return self._failures.get(node_id, ())

    async def _read(self) -> dict[NodeId, list[Mapping[str, Any]]]:
        found: dict[NodeId, list[Mapping[str, Any]]] = {}
        after = Seq(0)
        while after < self._run.folded.seq:
            page = await self._run.engine.store.events(self._run.run_id, after)
            if not page:
                break
            after = page[-1].seq
            for event in page:
                if event.type is E.NODE_ATTEMPT_FAILED:
                    found.setdefault(event.data["node"], []).append(event.data["error"])
        return found
