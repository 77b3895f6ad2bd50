"""Counting what a run's log says: from which nodes it can go on again, what its retries came to, how often it went
back. Times are microseconds UTC since the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from omium.orchestration.definition.graph import Structure
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.automatic import ENGINE
from omium.orchestration.history.ledger import deeds_of
from omium.orchestration.history.recorded import has_run
from omium.orchestration.history.reset import Reset, plan_reset
from omium.orchestration.ids import Digest, NodeId, Principal, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import owed_after
from omium.orchestration.log.state import NodeStatus, RunState, RunStatus
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading, nodes_of
from omium.orchestration.service.views import Caller

_PAGE = 1_000
_NOT_YET = frozenset({RunStatus.DRAFT, RunStatus.PLANNING})
_OF_ROLLBACKS: Final = frozenset(
    {
        EventType.RUN_ROLLED_BACK, EventType.RUN_PLAYED_FROM, EventType.WORKSPACE_RESTORED,
        EventType.EFFECT_COMPENSATED, EventType.RUN_UNDONE,
    }
)  # fmt: skip
_MOST_OF_THEM: Final = 100_000


@dataclass(frozen=True, slots=True)
class ResumableView:
    """Whether a run can be played again from a node. reason: why not: `not_started` (the run), `upstream` (something
    that it needs has no result), `integrity` (a result that it needs, or the run's own input, cannot be read).
    checkpoint: the newest position before the node began; reruns: nodes that have run and would run again; repeats:
    calls that have happened and want a plan before they happen again."""

    node: NodeId
    status: str
    can_resume: bool
    reason: str | None
    checkpoint: Seq | None
    reruns: int
    repeats: int


@dataclass(frozen=True, slots=True)
class RetryView:
    """What retrying came to, over the whole log of a run, every generation. retried: nodes that were tried more than
    once; attempts: all that began; failed: those that failed; recovered: nodes that succeeded after a retry; exhausted:
    nodes that failed with all their retries used; categories: failed attempts by category."""

    retried: int
    attempts: int
    failed: int
    recovered: int
    exhausted: int
    categories: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RollbackView:
    """One time that a run went back, from the position before `seq` to `to`. trigger: `manual`; `automatic`, by a rule
    of the workflow, because the node `cause` failed of this category; `decided`, the same where a person said so first.
    outcome: `unfinished` as long as files are to be put back, or a compensation was begun and never ended; `failed`
    when a compensation failed; else `done`. ms: until the last of it was over. compensated: calls by what became of
    undoing them; files: changed, removed, added."""

    seq: Seq
    began_at: int
    from_seq: Seq
    to: Seq
    label: str | None
    by: Principal
    trigger: str
    cause: NodeId | None
    category: str | None
    reason: str | None
    outcome: Literal["done", "failed", "unfinished"]
    ms: int
    compensated: Mapping[str, int]
    files: tuple[int, int, int] | None


class RecountService(Reading):
    """Part of the core."""

    async def resumable(self, caller: Caller, run_id: RunId) -> Sequence[ResumableView]:
        """Every node of a run, in its order, with whether it can be played from."""
        roles.check(caller, "resumable")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        structure = await self.structure(state)
        starts = await self._starts(run_id)
        calls = Counter(one.node for one in await deeds_of(self.store, state, lambda _: True) if one.unsafe)
        sound: dict[Digest, bool] = {}
        found = []
        for node_id, node in nodes_of(state, structure):
            reset = plan_reset(structure, state, node_id)
            reason = await self._obstacle(state, structure, reset, sound)
            before = await self.store.checkpoints(run_id, starts.get(node_id), 1)
            found.append(
                ResumableView(
                    node_id,
                    node.status.value,
                    reason is None,
                    reason,
                    before[0].seq if before else None,
                    sum(has_run(state, one) for one in reset.nodes),
                    sum(calls[one] for one in reset.nodes),
                )
            )
        return found

    async def _starts(self, run_id: RunId) -> dict[NodeId, Seq]:
        """Where each node last began."""
        starts: dict[NodeId, Seq] = {}
        after = Seq(0)
        while page := await self.store.events(run_id, after, _PAGE):
            for event in page:
                if event.type is EventType.NODE_STARTED:
                    starts[NodeId(event.data["node"])] = event.seq
            after = page[-1].seq
        return starts

    async def _obstacle(
        self, state: RunState, structure: Structure, reset: Reset, sound: dict[Digest, bool]
    ) -> str | None:
        if state.status in _NOT_YET:
            return "not_started"
        again = {*reset.listed, *reset.nodes}
        needed = [state.definition, state.inputs]
        for up in {up for one in again for up in structure.needs_of(one)} - again:
            node = state.node(up)
            if node.status is NodeStatus.COMPLETED and node.output is not None:
                needed.append(node.output)
            elif node.status not in (NodeStatus.FAILED, NodeStatus.SKIPPED):
                return "upstream"  # what failed or was skipped has come to an end, which an optional edge may allow
        for digest in needed:
            if digest not in sound:
                sound[digest] = await self._is_sound(digest)
            if not sound[digest]:
                return "integrity"
        return None

    async def _is_sound(self, digest: Digest) -> bool:
        try:
            await self.store.value(digest)
        except OmiumError as error:
            if error.code not in ("integrity", "not_found"):
                raise
            return False
        return True

    async def retry_stats(self, caller: Caller, run_id: RunId) -> RetryView:
        """What the retries of a run came to."""
        roles.check(caller, "retry_stats")
        await self.row(caller, run_id)
        kinds: Counter[EventType] = Counter()
        categories: Counter[str] = Counter()
        retried: set[str] = set()
        after = Seq(0)
        while page := await self.store.events(run_id, after, _PAGE):
            for event in page:
                kinds[event.type] += 1
                if event.type is EventType.NODE_ATTEMPT_FAILED:
                    categories[str(event.data["error"].get("category", "unknown"))] += 1
                elif event.type is EventType.NODE_RETRY_STARTED:
                    retried.add(event.data["node"])
            after = page[-1].seq
        return RetryView(
            retried=len(retried),
            attempts=kinds[EventType.NODE_STARTED] + kinds[EventType.NODE_RETRY_STARTED],
            failed=kinds[EventType.NODE_ATTEMPT_FAILED],
            recovered=kinds[EventType.NODE_RETRY_SUCCEEDED],
            exhausted=kinds[EventType.NODE_RETRY_EXHAUSTED],
            categories=dict(sorted(categories.items())),
        )

    async def rollbacks(self, caller: Caller, run_id: RunId) -> Sequence[RollbackView]:
        """How often a run went back, oldest first: by whom, why, how far, and whether all of it was done."""
        roles.check(caller, "rollbacks")
        await self.row(caller, run_id)
        found: list[_Back] = []
        ahead: dict[str, str] = {}  # by effect: what was undone before the run went back
        events = await self.store.events_among([run_id], _OF_ROLLBACKS, _MOST_OF_THEM)
        spans = [(one.data["undone_since"], one.seq) for one in events if "undone_since" in one.data]
        begun: dict[str, _Back] = {}  # by effect: which began to undo it; its outcome is told with that
        owed: list[tuple[Seq, list[int]]] = [(Seq(0), [])]  # as `RunState.owed`, and since when
        for event in events:
            if event.type is EventType.RUN_ROLLED_BACK:
                knows = "trigger" in event.data or "undone_since" in event.data
                found.append(_Back(event, event.at, ahead if knows else {}))
                then = next(left for seq, left in reversed(owed) if seq <= event.data["to"])
                owed.append((event.seq, owed_after(owed[-1][1], then, event.seq, "undo" in event.data)))
                ahead = {}
            elif event.type is EventType.RUN_UNDONE:
                owed.append((event.seq, [one for one in owed[-1][1] if one != event.data["rollback"]]))
                for one in found:
                    one.last = event.at if one.event.seq == event.data["rollback"] else one.last
            elif event.type is EventType.EFFECT_COMPENSATED and (
                event.actor == ENGINE or any(since < event.seq < until for since, until in spans)
            ):
                ahead[event.data["effect"]] = event.data["outcome"]
            elif event.type is EventType.RUN_PLAYED_FROM:
                found.append(_Back(event, event.at))  # what comes behind it belongs to no rollback before it
            elif event.type is EventType.EFFECT_COMPENSATED and found:
                effect, newest = event.data["effect"], owed[-1][1][-1:]
                whose = next((one for one in found if one.event.seq in newest), found[-1])
                whose = begun.pop(effect, whose)
                whose.hear(event)
                if event.data["outcome"] == "started":
                    begun[effect] = whose
            elif found:
                found[-1].hear(event)
        left = owed[-1][1]
        return [one.view(one.event.seq in left) for one in found if one.event.type is EventType.RUN_ROLLED_BACK]


@dataclass(slots=True)
class _Back:
    """A rollback, and what its log says of it later. Files that a repeat puts back count for the newest one."""

    event: Event
    last: int
    undone: dict[str, str] = field(default_factory=dict)  # by effect
    files: tuple[int, int, int] | None = None

    def hear(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        if event.type is EventType.EFFECT_COMPENSATED:
            self.undone[data["effect"]] = data["outcome"]
        elif self.files is None and "restore" in self.event.data:
            self.files = data.get("changed", 0), data.get("removed", 0), data.get("added", 0)
        else:
            return  # a later restore, of somebody else
        self.last = event.at

    def view(self, undoing: bool) -> RollbackView:
        """undoing: what lies behind it is still to be undone."""
        data = self.event.data
        compensated = Counter("unknown" if one == "started" else one for one in self.undone.values())
        waiting = ("restore" in data and self.files is None) or compensated["unknown"] or undoing
        return RollbackView(
            seq=self.event.seq,
            began_at=self.event.at,
            from_seq=Seq(self.event.seq - 1),
            to=Seq(data["to"]),
            label=data.get("label"),
            by=self.event.actor,
            trigger=data.get("trigger") or "manual",
            cause=data.get("cause"),
            category=data.get("category"),
            reason=data.get("reason"),
            outcome="unfinished" if waiting else "failed" if compensated["failed"] else "done",
            ms=(self.last - self.event.at) // 1000,
            compensated={kind: count for kind, count in sorted(compensated.items()) if count},
            files=self.files,
        )
