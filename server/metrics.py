"""Metrics for Prometheus: what this process did, in counters and histograms, and how the project stands, in gauges that
are read from the database when somebody scrapes.

Every process on a database counts what it commits itself, so sums over processes are right; the gauges of any of them
are those of the whole project. Names are a contract: the dashboard that `omium deploy` writes uses them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.state import RunStatus
from omium.orchestration.ports import Clock, Store
from omium.orchestration.ports_processes import Processes

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400)
_BYTES: Final = tuple(float(4**power) for power in range(3, 14))
_DECISIONS: Final = frozenset({"approve", "reject", "modify", "retry", "skip", "abort", "expired"})
_REMEMBERED: Final = 20_000  # beginnings whose ends are still to come
_ENDS: Final = {
    EventType.RUN_COMPLETED: "completed",
    EventType.RUN_FAILED: "failed",
    EventType.RUN_CANCELLED: "cancelled",
}


class Begun:
    """When things began, and of what kind they are, for as many as can be remembered; the oldest are forgotten."""

    def __init__(self) -> None:
        self._at: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def note(self, name: str, at: int, kind: str = "") -> None:
        self._at[name] = (at, kind)
        while len(self._at) > _REMEMBERED:
            self._at.popitem(last=False)

    def end(self, name: str, at: int) -> tuple[float, str] | None:
        """Seconds since it began, and its kind; None when that is not known."""
        began = self._at.pop(name, None)
        return None if began is None else (max(0.0, (at - began[0]) / 1e6), began[1])


class Supervised:
    """What the supervisor of this process has counted, as Prometheus collects it."""

    def collect(self) -> Iterator[Metric]:
        from omium.clients.processes.counters import counters

        yield GaugeMetricFamily("omium_active_tools", "Processes that this one supervises now.", counters.running)
        yield CounterMetricFamily("omium_tools_started", "Processes that this one started.", counters.starts)
        yield CounterMetricFamily("omium_stalled_tools", "How often one made no progress.", counters.stalled)
        ended = CounterMetricFamily("omium_tools_completed", "Processes that ended, by reason.", labels=["reason"])
        for reason, count in sorted(counters.ends.items()):
            ended.add_metric([str(reason)], count)
        yield ended
        orphans = CounterMetricFamily("omium_orphans", "Processes whose owner had died.", labels=["outcome"])
        for outcome, count in sorted(counters.orphans.items()):
            orphans.add_metric([str(outcome)], count)
        yield orphans


class Metrics:
    """Of one process and one project. Use `listening` for as long as it is to count."""

    def __init__(
        self, store: Store, project: ProjectId, clock: Clock, processes: Processes, *, version: str = "0"
    ) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._processes = processes
        self.registry = CollectorRegistry()
        self._runs, self._effects, self._restores, self._asked = Begun(), Begun(), Begun(), Begun()
        Gauge("omium_info", "The version that runs.", ["version"], registry=self.registry).labels(version).set(1)
        self._counters()
        self._gauges()

    def _counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"omium_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"omium_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.events = counter("events", "Events written by this process.", "type")
        self.writes = counter("db_operations", "Writes that this process committed.", "operation")
        self.runs_created = counter("runs_created", "Runs that were created.")
        self.runs_ended = counter("runs_ended", "Runs that ended.", "status")
        self.run_seconds = histogram("run_duration_seconds", "From the start of a run to its end.", "status")
        self.attempts = counter("node_attempts", "Attempts of nodes, by how they ended.", "outcome")
        self.node_seconds = histogram("node_duration_seconds", "Of attempts that completed.")
        self.errors = counter("errors", "Failed attempts, by category.", "category")
        self.retries = counter("node_retries", "Attempts after a failed one.")
        self.calls = counter("effects", "Calls outside that are in the ledger.", "kind", "outcome")
        self.call_seconds = histogram("effect_duration_seconds", "From the intent of a call to its result.", "kind")
        self.checkpoints = counter("checkpoints", "Positions that a run can go back to.")
        self.checkpoint_bytes = histogram("checkpoint_bytes", "Size of the output at such a position.", buckets=_BYTES)
        self.rollbacks = counter("rollbacks", "Runs that were put back.")
        self.rollback_seconds = histogram("rollback_restore_seconds", "Putting files back after a rollback.")
        self.branches = counter("branches", "Runs that started from another.")
        self.approvals = counter("approvals", "Questions, by what became of them.", "outcome")
        self.approval_seconds = histogram("approval_wait_seconds", "From a question to its decision.")
        self.tokens = counter("tokens", "Tokens of models that completed attempts report.")
        self.cost = counter("cost_usd", "US dollars that completed attempts report.")

    def _gauges(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"omium_{name}", text, labels, registry=self.registry)

        self.runs = gauge("runs", "Runs of the project, by status.", "status")
        self.queued = gauge("queued_runs", "Runs that nobody executes, with a time at which somebody has to look.")
        self.overdue = gauge("overdue_seconds", "For how long a run has waited for somebody to take it.")
        self.workers = gauge("workers", "Processes that execute runs, by whether they are known to live.", "alive")
        self.pending = gauge("pending_approvals", "Questions that wait for a decision.")
        self.oldest = gauge("oldest_approval_seconds", "Age of the question that waits longest.")
        self.notices = gauge("notices", "What endpoints are to be told.", "endpoint", "status")
        self.registry.register(Supervised())

    # --- counting -------------------------------------------------------------------------------------------------

    def listening(self) -> Callable[[], None]:
        """Count what this process commits from now on; gives what ends that."""
        return self._store.listen(self._hear)

    def _hear(self, run_id: RunId, events: Sequence[Event]) -> None:
        self.writes.labels("write").inc()
        for event in events:
            self.events.labels(event.type.value).inc()
            heard = _HEARD.get(event.type)
            if heard is not None:
                heard(self, event)

    def _run_created(self, event: Event) -> None:
        self.runs_created.inc()
        if event.data.get("parent") is not None:
            self.branches.inc()

    def _run_started(self, event: Event) -> None:
        self._runs.note(event.run_id, event.at)

    def _run_ended(self, event: Event) -> None:
        status = _ENDS[event.type]
        self.runs_ended.labels(status).inc()
        lasted = self._runs.end(event.run_id, event.at)
        if lasted is not None:
            self.run_seconds.labels(status).observe(lasted[0])

    def _node_completed(self, event: Event) -> None:
        self.attempts.labels("completed").inc()
        if event.data.get("ms") is not None:
            self.node_seconds.observe(event.data["ms"] / 1000)
        self._checkpoint(event)
        usage = event.data.get("usage") or {}
        self.tokens.inc(_number(usage.get("tokens")))
        self.cost.inc(_number(usage.get("cost_usd")))

    def _checkpoint(self, event: Event) -> None:
        self.checkpoints.inc()
        if event.data.get("size") is not None:
            self.checkpoint_bytes.observe(event.data["size"])

    def _attempt_failed(self, event: Event) -> None:
        self.attempts.labels("failed").inc()
        self.errors.labels(str(event.data["error"].get("category", "unknown"))).inc()

    def _intended(self, event: Event) -> None:
        self._effects.note(event.data["effect"], event.at, event.data["kind"])

    def _settled(self, event: Event) -> None:
        lasted = self._effects.end(event.data["effect"], event.at)
        kind = "unknown" if lasted is None else lasted[1]
        self.calls.labels(kind, str(event.data["outcome"])).inc()
        if lasted is not None:
            self.call_seconds.labels(kind).observe(lasted[0])

    def _restoring(self, event: Event) -> None:
        self._restores.note(event.run_id, event.at)

    def _restored(self, event: Event) -> None:
        lasted = self._restores.end(event.run_id, event.at)
        if lasted is not None:
            self.rollback_seconds.observe(lasted[0])

    def _asking(self, event: Event) -> None:
        self.approvals.labels("requested").inc()
        self._asked.note(event.data["approval"], event.at)

    def _decided(self, event: Event) -> None:
        decision = event.data.get("decision", "expired")
        # A question may have options of its own; of those there could be any number.
        self.approvals.labels(decision if decision in _DECISIONS else "other").inc()
        lasted = self._asked.end(event.data["approval"], event.at)
        if lasted is not None:
            self.approval_seconds.observe(lasted[0])

    # --- scraping -------------------------------------------------------------------------------------------------

    async def text(self) -> bytes:
        """Everything, in Prometheus's text format. Raises `storage_unavailable`, and then nothing is given: a gauge
        that is not known must not look like the last one."""
        counted = await self._store.count(self._project)
        for status in RunStatus:
            self.runs.labels(status.value).set(counted.runs.get(status.value, 0))
        self.queued.set(await self._store.queued([self._project], self._clock.now_us()))
        due = await self._store.next_wake([self._project])
        self.overdue.set(0.0 if due is None else max(0.0, (self._clock.now_us() - due) / 1e6))
        self.pending.set(counted.approvals)
        since = counted.oldest_approval_at
        self.oldest.set(0.0 if since is None else max(0.0, (self._clock.now_us() - since) / 1e6))
        await self._count_workers()
        self.notices.clear()
        for (endpoint, what), count in (await self._store.notice_counts(self._project)).items():
            self.notices.labels(endpoint, what).set(count)
        return generate_latest(self.registry)

    async def _count_workers(self) -> None:
        found = {"yes": 0, "no": 0, "unknown": 0}
        for worker in await self._store.workers():
            if self._project in worker.serving:
                found[{True: "yes", False: "no", None: "unknown"}[self._processes.alive(worker)]] += 1
        for alive, count in found.items():
            self.workers.labels(alive).set(count)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


_HEARD: Final[Mapping[EventType, Callable[[Metrics, Event], None]]] = {
    EventType.RUN_CREATED: Metrics._run_created,
    EventType.RUN_STARTED: Metrics._run_started,
    **dict.fromkeys(_ENDS, Metrics._run_ended),
    EventType.RUN_ROLLED_BACK: lambda metrics, _: metrics.rollbacks.inc(),
    EventType.NODE_COMPLETED: Metrics._node_completed,
    EventType.NODE_REUSED: Metrics._checkpoint,
    EventType.NODE_ATTEMPT_FAILED: Metrics._attempt_failed,
    EventType.NODE_RETRY_STARTED: lambda metrics, _: metrics.retries.inc(),
    EventType.NODE_INTERRUPTED: lambda metrics, _: metrics.attempts.labels("interrupted").inc(),
    EventType.EFFECT_INTENDED: Metrics._intended,
    EventType.EFFECT_SETTLED: Metrics._settled,
    EventType.CHECKPOINT_CREATED: Metrics._checkpoint,
    EventType.WORKSPACE_RESTORE_STARTED: Metrics._restoring,
    EventType.WORKSPACE_RESTORED: Metrics._restored,
    EventType.APPROVAL_REQUESTED: Metrics._asking,
    EventType.APPROVAL_DECIDED: Metrics._decided,
    EventType.APPROVAL_EXPIRED: Metrics._decided,
}
