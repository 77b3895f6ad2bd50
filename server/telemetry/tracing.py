"""Spans of what is committed: run, node, attempt, call.

The log already says when everything began and ended, so spans are made of events after their commit: what was not
durable was never traced, and nothing on the way of a run waits for an exporter. Contents are in no attribute: the log
holds digests, and so do spans.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, RunId
from omium.orchestration.log.events import Event, EventType
from omium.server.telemetry.ids import span_id, trace_id

if TYPE_CHECKING:
    from omium.orchestration.ports import RunRow, Store

_log = logging.getLogger(__name__)

_WAITING: Final = 50_000  # events that wait to become spans; a burst beyond that loses its oldest
_REMEMBERED: Final = 20_000
_DEFINITIONS: Final = 500
_INDEX: Final = re.compile(r"\[[^\]]*\]")

ids: ContextVar[tuple[int, int] | None] = ContextVar("omium_span_ids", default=None)
"""(trace, span) of the span that is begun next; read by `exporting.DerivedIds`."""

_OPERATIONS: Final = {"agent": "invoke_agent", "tool": "execute_tool", "model": "chat"}


@dataclass(frozen=True, slots=True)
class Begun:
    at: int
    data: Mapping[str, Any]


class Memory:
    """What began, by its name, for as much as can be remembered."""

    def __init__(self) -> None:
        self._begun: OrderedDict[tuple[Any, ...], Begun] = OrderedDict()

    def note(self, event: Event, *name: object) -> None:
        self._begun.setdefault(name, Begun(event.at, event.data))
        while len(self._begun) > _REMEMBERED:
            self._begun.popitem(last=False)

    def get(self, *name: object) -> Begun | None:
        return self._begun.get(name)

    def end(self, *name: object) -> Begun | None:
        return self._begun.pop(name, None)


class Tracing:
    """Makes spans of what this process commits. `serve` has to run meanwhile."""

    def __init__(self, store: Store, tracer: trace.Tracer) -> None:
        self._store = store
        self._tracer = tracer
        self._events: deque[Event] = deque(maxlen=_WAITING)
        self._arrived = asyncio.Event()
        self._lost = 0
        self._one_at_a_time = anyio.Lock()
        self._begun = Memory()
        self._kinds: OrderedDict[Digest, Mapping[str, tuple[str, str]]] = OrderedDict()
        self._rows: OrderedDict[RunId, RunRow] = OrderedDict()

    # --- hearing --------------------------------------------------------------------------------------------------

    def hear(self, _: RunId, events: Sequence[Event]) -> None:
        """For `Store.listen`: only takes note, since whoever committed is waiting."""
        wanted = [event for event in events if event.type in _HEARD]
        self._lost += max(0, len(self._events) + len(wanted) - _WAITING)
        self._events.extend(wanted)
        self._arrived.set()

    async def serve(self) -> None:
        """Make spans until it is cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self.drain()

    async def drain(self) -> None:
        """Make spans of everything that was heard, in its order."""
        async with self._one_at_a_time:
            while self._events:
                event = self._events.popleft()
                try:
                    await _HEARD[event.type](self, event)
                except OmiumError as error:
                    _log.debug("%s of %s is not traced: %s", event.type.value, event.run_id, error)
        if self._lost:
            _log.warning("%d events came faster than spans could be made of them", self._lost)
            self._lost = 0

    # --- runs -----------------------------------------------------------------------------------------------------

    async def _run_ended(self, event: Event) -> None:
        row = await self._store.run(event.run_id)
        if row is None:
            return
        links = []
        for other, relation in ((row.parent_run, "branched_from"), (row.caller_run, "called_by")):
            if other is not None:
                links.append(Link(_context(other, span_id(other)), {"omium.relation": relation}))
        attributes = {
            "omium.run.id": row.id,
            "omium.project": row.project,
            "omium.run.status": row.status,
            "omium.run.generation": row.generation,
            "gen_ai.workflow.name": row.workflow,
            "gen_ai.operation.name": "invoke_workflow",
            "omium.tokens": row.tokens,
            "omium.cost_usd": row.cost_usd,
            "omium.nodes.completed": row.completed_nodes,
        }
        if row.session is not None:
            attributes["gen_ai.conversation.id"] = row.session
        self._span(
            f"invoke_workflow {row.workflow}", event.run_id, (), None, row.started_at or row.created_at, event.at,
            attributes, error=event.data.get("error"), links=links,
        )  # fmt: skip

    # --- nodes ----------------------------------------------------------------------------------------------------

    async def _attempt_started(self, event: Event) -> None:
        data = event.data
        self._begun.note(event, event.run_id, data["node"], data["generation"])
        self._begun.note(event, event.run_id, data["node"], data["generation"], data["attempt"])

    async def _attempt_ended(self, event: Event) -> None:
        await self._attempt_span(event, event.data["attempt"])

    async def _node_ended(self, event: Event) -> None:
        """The last attempt, if the event ends that too, and the node."""
        data = event.data
        if event.type is EventType.NODE_COMPLETED and data.get("attempt") is not None:
            await self._attempt_span(event, data["attempt"])
        begun = self._begun.end(event.run_id, data["node"], data["generation"])
        kind, use = await self._kind(event.run_id, data["node"])
        operation = _OPERATIONS.get(kind)
        attributes: dict[str, Any] = {
            "omium.run.id": event.run_id,
            "omium.node.id": data["node"],
            "omium.node.kind": kind,
            "omium.node.generation": data["generation"],
            "omium.node.outcome": event.type.value.partition(".")[2],
            **_usage(data.get("usage")),
        }
        if use:
            attributes["omium.node.use"] = use
        if operation is not None:
            attributes |= {"gen_ai.operation.name": operation, f"gen_ai.{kind}.name": use}
        if data.get("reason"):
            attributes["omium.node.reason"] = str(data["reason"])
        name = f"{operation} {use}" if operation is not None else f"node {data['node']}"
        self._span(
            name, event.run_id, (data["node"], data["generation"]), (), begun.at if begun else event.at, event.at,
            attributes, error=data.get("error"),
        )  # fmt: skip

    async def _attempt_span(self, event: Event, number: int) -> None:
        data = event.data
        node = (data["node"], data["generation"])
        begun = self._begun.end(event.run_id, *node, number)
        attributes = {
            "omium.run.id": event.run_id,
            "omium.node.id": data["node"],
            "omium.attempt": number,
            "omium.attempt.outcome": event.type.value.partition(".")[2],
            **_usage(data.get("usage")),
        }
        started = begun.at if begun else event.at
        parts = (*node, number)
        self._span(f"attempt {number}", event.run_id, parts, node, started, event.at, attributes, data.get("error"))

    async def _kind(self, run_id: RunId, node: str) -> tuple[str, str]:
        """The kind of a node, and what it uses, as the run's definition says; of one that a plan added, nothing."""
        row = self._rows.get(run_id) or await self._store.run(run_id)
        if row is None:
            return "unknown", ""
        self._rows[run_id] = row
        if len(self._rows) > _DEFINITIONS:
            self._rows.popitem(last=False)
        found = self._kinds.get(row.definition)
        if found is None:
            document = await self._store.value(row.definition)
            found = dict(_nodes(document.get("nodes", ()))) if isinstance(document, Mapping) else {}
            self._kinds[row.definition] = found
            if len(self._kinds) > _DEFINITIONS:
                self._kinds.popitem(last=False)
        return found.get(_INDEX.sub("", node), ("unknown", ""))

    # --- calls ----------------------------------------------------------------------------------------------------

    async def _intended(self, event: Event) -> None:
        self._begun.note(event, event.run_id, "effect", event.data["effect"])

    async def _settled(self, event: Event) -> None:
        begun = self._begun.end(event.run_id, "effect", event.data["effect"])
        if begun is None:
            return  # whoever began it has died, and its result was learned later
        data = begun.data
        detail = data.get("detail") or {}
        tool = str(detail.get("tool") or detail.get("call") or data["call"])
        if detail.get("server"):
            tool = f"{detail['server']}/{tool}"
        operation = _OPERATIONS.get(data["kind"])
        attributes: dict[str, Any] = {
            "omium.run.id": event.run_id,
            "omium.node.id": data["node"],
            "omium.effect.id": event.data["effect"],
            "omium.effect.kind": data["kind"],
            "omium.effect.outcome": event.data["outcome"],
        }
        if operation == "execute_tool":
            attributes |= {"gen_ai.tool.name": tool, "gen_ai.tool.call.id": data["call"]}
        elif operation == "chat":
            attributes["gen_ai.request.model"] = tool
        if operation is not None:
            attributes["gen_ai.operation.name"] = operation
        parent = (data["node"], data["generation"], data["attempt"])
        self._span(
            f"{operation or data['kind']} {tool}", event.run_id, ("effect", event.data["effect"]), parent, begun.at,
            event.at, attributes, error=event.data.get("error"), kind=SpanKind.CLIENT,
        )  # fmt: skip

    async def _asked(self, event: Event) -> None:
        self._begun.note(event, event.run_id, "approval", event.data["approval"])

    async def _answered(self, event: Event) -> None:
        begun = self._begun.end(event.run_id, "approval", event.data["approval"])
        if begun is None:
            return
        data = begun.data
        parent = (data["node"], data["generation"]) if data.get("node") else ()
        attributes = {
            "omium.run.id": event.run_id,
            "omium.approval.id": event.data["approval"],
            "omium.approval.scope": data["scope"],
            "omium.approval.decision": event.data.get("decision", "expired"),
        }
        parts = ("approval", event.data["approval"])
        self._span("approval", event.run_id, parts, parent, begun.at, event.at, attributes)

    # --- spans ----------------------------------------------------------------------------------------------------

    def _span(
        self,
        name: str,
        run_id: RunId,
        parts: tuple[object, ...],
        parent: tuple[object, ...] | None,
        began_us: int,
        ended_us: int,
        attributes: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
    ) -> None:
        """A span that has ended. parts: name it within its run; parent: name that of its parent, None for none."""
        above = None
        if parent is not None:
            above = trace.set_span_in_context(NonRecordingSpan(_context(run_id, span_id(run_id, *parent))))
        given = ids.set((trace_id(run_id), span_id(run_id, *parts)))
        try:
            span = self._tracer.start_span(name, above, kind, dict(attributes), list(links), start_time=began_us * 1000)
        finally:
            ids.reset(given)
        if error is not None:
            span.set_attribute("error.type", str(error.get("category", error.get("type", "unknown"))))
            span.set_status(Status(StatusCode.ERROR, str(error.get("message", ""))[:200]))
        span.end(max(began_us, ended_us) * 1000)


def _context(run_id: str, span: int) -> SpanContext:
    return SpanContext(trace_id(run_id), span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nodes(nodes: Any, above: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Each node of a definition's document by its id, those inside a group as `group.node`."""
    for node in nodes if isinstance(nodes, Sequence) else ():
        if isinstance(node, Mapping):
            name = f"{above}{node.get('id')}"
            yield name, (str(node.get("kind", "unknown")), str(node.get("use") or ""))
            yield from _nodes(node.get("nodes", ()), f"{name}.")


def _usage(usage: Any) -> dict[str, Any]:
    """What an attempt says that it has used, by the names of the conventions where they have one."""
    if not isinstance(usage, Mapping):
        return {}
    named = {
        "input_tokens": "gen_ai.usage.input_tokens",
        "output_tokens": "gen_ai.usage.output_tokens",
        "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
        "model": "gen_ai.response.model",
        "provider": "gen_ai.provider.name",
        "tokens": "omium.tokens",
        "cost_usd": "omium.cost_usd",
    }
    return {named[key]: value for key, value in usage.items() if key in named and isinstance(value, int | float | str)}


_HEARD: Final[Mapping[EventType, Callable[[Tracing, Event], Any]]] = {
    EventType.NODE_STARTED: Tracing._attempt_started,
    EventType.NODE_RETRY_STARTED: Tracing._attempt_started,
    EventType.NODE_ATTEMPT_FAILED: Tracing._attempt_ended,
    EventType.NODE_INTERRUPTED: Tracing._attempt_ended,
    EventType.NODE_COMPLETED: Tracing._node_ended,
    EventType.NODE_FAILED: Tracing._node_ended,
    EventType.NODE_SKIPPED: Tracing._node_ended,
    EventType.EFFECT_INTENDED: Tracing._intended,
    EventType.EFFECT_SETTLED: Tracing._settled,
    EventType.APPROVAL_REQUESTED: Tracing._asked,
    EventType.APPROVAL_DECIDED: Tracing._answered,
    EventType.APPROVAL_EXPIRED: Tracing._answered,
    EventType.RUN_COMPLETED: Tracing._run_ended,
    EventType.RUN_FAILED: Tracing._run_ended,
    EventType.RUN_CANCELLED: Tracing._run_ended,
}


@contextlib.asynccontextmanager
async def traced(store: Store, tracer: trace.Tracer) -> AsyncIterator[Tracing]:
    """Trace what this process commits, for the length of the block."""
    tracing = Tracing(store, tracer)
    ends = store.listen(tracing.hear)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tracing.serve)
            try:
                yield tracing
            finally:
                tasks.cancel_scope.cancel()
    finally:
        ends()
        with anyio.CancelScope(shield=True):
            await tracing.drain()
