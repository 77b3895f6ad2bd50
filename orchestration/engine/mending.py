"""What failed in runs and what mended it, told from their events: for who tries again, person or agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.definition.address import containers_of
from omium.orchestration.engine.failures import TRANSIENT
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import RunQuery

if TYPE_CHECKING:
    from omium.orchestration.log.state import RunState
    from omium.orchestration.ports import Store

HEARD: Final = frozenset(
    {
        E.RUN_CREATED, E.RUN_PLAYED_FROM, E.RUN_ROLLED_BACK, E.NODE_ATTEMPT_FAILED, E.NODE_FAILED, E.NODE_COMPLETED,
        E.NODE_REUSED, E.NODE_SKIPPED, E.APPROVAL_REQUESTED, E.APPROVAL_DECIDED,
    }
)  # fmt: skip
RUNS: Final = 20  # the newest runs of a workflow, from which is learnt
_EVENTS: Final = 20_000  # of all but the first of them together
_WHOLE: Final = 10_000_000
_TOLD: Final = 300  # characters of what mended a failure
_UNCHANGED: Final = "tried again"
_RESET: Final = "run again"


@dataclass(slots=True)
class Failing:
    """A node that fails: from its first failure until it gives a result. attempts: those that failed; seq, at: of the
    last of them; said: what people said meanwhile; changed: the last reset of it. mended: how it came to a result, at
    the position `mended_at`."""

    run: RunId
    node: NodeId
    generation: int
    attempts: int
    error: Mapping[str, Any]
    seq: Seq
    at: int
    said: list[str] = field(default_factory=list)
    changed: str | None = None
    skipped: bool = False
    mended: str | None = None
    mended_at: Seq | None = None

    @property
    def category(self) -> str:
        return str(self.error.get("category", "unknown"))


@dataclass(frozen=True, slots=True)
class Mended:
    """That a failure was mended: where (`<run>@<seq>` is after it), and how."""

    run: RunId
    node: NodeId
    seq: Seq
    category: str
    how: str


@dataclass(slots=True)
class Tally:
    """Further attempts after a failure of one category: how many there were, and how many gave a result."""

    tried: int = 0
    helped: int = 0

    def chance(self, category: str) -> float:
        """An estimate that trying once more helps, between 0 and 1. Without experience it is a half for what passes by
        itself and a tenth for the rest; that counts as much as two attempts."""
        expected = 0.5 if category in TRANSIENT else 0.1
        return (self.helped + 2 * expected) / (self.tried + 2)


class RunFailings:
    """Hears the `HEARD` events of one run, in order. completed: where each node last gave a result."""

    def __init__(self, run: RunId) -> None:
        self.run = run
        self.parent: RunId | None = None
        self.begun_as = ""  # a branch: what is different in it
        self.failings: list[Failing] = []
        self.completed: dict[NodeId, Seq] = {}
        self.tallies: dict[str, Tally] = {}
        self._open: dict[NodeId, Failing] = {}
        self._resets: dict[int, str] = {}  # by the generation that began with it
        self._asked: dict[str, NodeId] = {}

    def hear(self, event: Event) -> None:
        kind, data = event.type, event.data
        if kind is E.RUN_CREATED and data.get("parent"):
            self.parent = RunId(data["parent"]["run"])
            hypothesis = f": {data['hypothesis']}" if data.get("hypothesis") else ""
            self.begun_as = f"branch {data.get('branch')}{hypothesis}{_with_other(data.get('overrides'))}"
        elif kind is E.RUN_PLAYED_FROM:
            text = f"run again from {data['node']}{_with_other(data.get('overrides'))}"
            self._resets[int(data["generation"])] = text
        elif kind is E.RUN_ROLLED_BACK:
            self._resets[int(data["generation"])] = f"rolled back to {data.get('label') or data['to']} and run again"
        elif kind is E.APPROVAL_REQUESTED and data.get("node"):
            self._asked[data["approval"]] = NodeId(data["node"])
        elif kind is E.APPROVAL_DECIDED:
            failing = self._open.get(self._asked.get(data["approval"], NodeId("")))
            if failing is not None and data.get("feedback"):
                failing.said.append(str(data["feedback"]))
        elif data.get("node"):
            self._of_node(event, NodeId(data["node"]))

    def _of_node(self, event: Event, node: NodeId) -> None:
        kind, known = event.type, self._open.get(node)
        if kind is E.NODE_ATTEMPT_FAILED or (kind is E.NODE_FAILED and not _said_already(known, event)):
            self._failed(event, node, known)
        elif kind in (E.NODE_COMPLETED, E.NODE_REUSED):
            self.completed[node] = event.seq
            if known is not None:
                self._mended(event, known)
        elif kind is E.NODE_SKIPPED and known is not None:
            known.skipped = True

    def _failed(self, event: Event, node: NodeId, known: Failing | None) -> None:
        generation, error = int(event.data["generation"]), event.data["error"]
        if known is None:
            known = self._open[node] = Failing(self.run, node, generation, 0, error, event.seq, event.at)
            self.failings.append(known)
        elif known.generation == generation:
            self._tally(known.category).tried += 1
        else:
            known.changed = self._resets.get(generation, _RESET)
        known.generation, known.attempts, known.error = generation, known.attempts + 1, error
        known.seq, known.at, known.skipped = event.seq, event.at, False

    def _mended(self, event: Event, failing: Failing) -> None:
        generation = int(event.data["generation"])
        if generation == failing.generation:
            tally = self._tally(failing.category)
            tally.tried, tally.helped = tally.tried + 1, tally.helped + 1
        else:
            failing.changed = self._resets.get(generation, _RESET)
        how = [f"a person said: {one}" for one in failing.said]
        if failing.changed is not None:
            how.append(failing.changed)
        failing.mended = "; ".join(how)[:_TOLD] or _UNCHANGED
        failing.mended_at = event.seq
        del self._open[failing.node]

    def _tally(self, category: str) -> Tally:
        return self.tallies.setdefault(category, Tally())

    def causes(self) -> Iterator[Failing]:
        """The failures without those of containers, which fail with what is inside them."""
        holding = {above for one in self.failings for above in containers_of(one.node)}
        return (one for one in self.failings if one.node not in holding)


def _said_already(known: Failing | None, event: Event) -> bool:
    """The failure of a node is told a second time, behind that of its last attempt."""
    return known is not None and known.generation == event.data["generation"] and known.mended is None


def _with_other(overrides: Mapping[str, Any] | None) -> str:
    """What was overridden, by name: the values may be of any size, and say less."""
    inputs = [f"inputs.{name}" for name in (overrides or {}).get("inputs", {})]
    nodes = [f"{node}.{part}" for node, change in (overrides or {}).get("nodes", {}).items() for part in change]
    return f" with other {', '.join([*inputs, *nodes])}" if inputs or nodes else ""


async def learn(store: Store, runs: Sequence[RunId]) -> list[RunFailings]:
    """What happened in these runs, in their order: in the first of them whatever its length, and in as many of the
    others as have no more than some thousands of such events together. Raises `storage_unavailable`."""
    learnt: list[RunFailings] = []
    left = _EVENTS
    for run in runs:
        most = left if learnt else _WHOLE
        events = await store.events_among([run], HEARD, most)
        if len(events) == most:
            break  # not all of it: what mended a failure may be missing
        left -= len(events) if learnt else 0
        learnt.append(RunFailings(run))
        for event in events:
            learnt[-1].hear(event)
    return learnt


def mended_before(learnt: Iterable[RunFailings], node: NodeId, category: str, most: int = 3) -> list[Mended]:
    """Failures of this category that were mended, in this run or in a branch of it: those of the same node first, and
    first those where something was changed."""
    every = list(learnt)
    found = [
        Mended(one.run, one.node, one.mended_at, one.category, one.mended)
        for run in every
        for one in run.causes()
        if one.category == category and one.mended is not None and one.mended_at is not None
    ]
    lost = {run.run: [one for one in run.causes() if one.mended is None] for run in every}
    for branch in every:
        for one in lost.get(branch.parent, ()) if branch.parent is not None else ():
            if one.category == category and one.node in branch.completed:
                found.append(
                    Mended(branch.run, one.node, branch.completed[one.node], category, branch.begun_as[:_TOLD])
                )
    place = node.partition("[")[0]
    return sorted(found, key=lambda one: (one.node.partition("[")[0] != place, one.how == _UNCHANGED))[:most]


async def remedies(store: Store, run: RunState, node: NodeId, category: str) -> list[str]:
    """What was changed before a failure of this category was mended, in the newest runs of the same workflow and owner:
    what somebody who tries again can learn from. Raises `storage_unavailable`."""
    query = RunQuery((run.project,), workflow=run.workflow, owner=run.owner, limit=RUNS)
    learnt = await learn(store, [row.id for row in await store.runs(query)])
    return [one.how for one in mended_before(learnt, node, category) if one.how != _UNCHANGED]


def tallied(learnt: Iterable[RunFailings]) -> dict[str, Tally]:
    """By category, over all of these runs."""
    tried: Counter[str] = Counter()
    helped: Counter[str] = Counter()
    for run in learnt:
        for category, tally in run.tallies.items():
            tried[category] += tally.tried
            helped[category] += tally.helped
    return {category: Tally(tried[category], helped[category]) for category in sorted(tried)}
