"""What has failed in a run, what became of it, and what mended such failures before.

Times are microseconds UTC since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from omium.orchestration.engine.mending import (
    RUNS,
    Failing,
    Mended,
    RunFailings,
    Tally,
    learn,
    mended_before,
    tallied,
)
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.state import RUN_TERMINAL, NodeStatus, RunState
from omium.orchestration.ports import RunQuery
from omium.orchestration.service import roles
from omium.orchestration.service.evidence import evidence
from omium.orchestration.service.reading import Reading, node_views
from omium.orchestration.service.timeline import failing_path
from omium.orchestration.service.views import Caller


@dataclass(frozen=True, slots=True)
class FailureView:
    """A node that failed, from its first failure until it gave a result. attempts: those that failed; the rest is of
    the last of them. status: `open`, `retrying` (it is tried again, or somebody is asked), `resolved` (`resolution`
    says how, `resolved_at_seq` where), `skipped`, `reset` (it is to run again). first: what failed first, and so made
    the run fail. chance: an estimate, 0 to 1, that trying once more helps, from `tried` attempts after such failures in
    the workflow's newest runs; None once there is nothing left to try. similar: how failures of the category were
    mended in those runs. last_good: `<run>@<seq>` of the newest other run of the workflow that got behind the node."""

    node: NodeId
    category: str
    code: str | None
    message: str
    evidence: str
    hint: str
    attempts: int
    seq: Seq
    failed_at: int
    status: Literal["open", "retrying", "resolved", "skipped", "reset"]
    first: bool
    resolution: str | None = None
    resolved_at_seq: Seq | None = None
    chance: float | None = None
    tried: int = 0
    similar: Sequence[Mended] = ()
    last_good: str | None = None


class FailureService(Reading):
    """Part of the core."""

    async def failures(self, caller: Caller, run_id: RunId) -> Sequence[FailureView]:
        """What has failed in a run, in the order in which it last did."""
        roles.check(caller, "failures")
        row = await self.row(caller, run_id)
        query = RunQuery((row.project,), workflow=row.workflow, owner=caller.only, limit=RUNS)
        newest = [one.id for one in await self.store.runs(query)]
        learnt = await learn(self.store, [run_id, *(one for one in newest if one != run_id)])
        state = await self.store.state(run_id)
        path = failing_path(node_views(state, await self.structure(state)))
        tallies = tallied(learnt)
        found = [self._view(one, state, path, learnt, tallies) for one in learnt[0].causes()]
        return sorted(found, key=lambda one: one.seq)

    def _view(
        self,
        one: Failing,
        state: RunState,
        path: Sequence[NodeId],
        learnt: Sequence[RunFailings],
        tallies: Mapping[str, Tally],
    ) -> FailureView:
        status = _status(one, state)
        known = tallies.get(one.category, Tally())
        left = status in ("open", "retrying")
        good = next((run for run in learnt[1:] if one.node in run.completed), None) if left else None
        return FailureView(
            node=one.node,
            category=one.category,
            code=one.error.get("code"),
            message=str(one.error.get("message", "")),
            evidence=evidence(one.error),
            hint=str(one.error.get("hint", "")),
            attempts=one.attempts,
            seq=one.seq,
            failed_at=one.at,
            status=status,
            first=bool(path) and path[-1] == one.node and left,
            resolution=one.mended,
            resolved_at_seq=one.mended_at,
            chance=round(known.chance(one.category), 3) if left else None,
            tried=known.tried,
            similar=mended_before(learnt, one.node, one.category) if left else (),
            last_good=f"{good.run}@{good.completed[one.node]}" if good is not None else None,
        )


def _status(one: Failing, state: RunState) -> Literal["open", "retrying", "resolved", "skipped", "reset"]:
    if one.mended is not None:
        return "resolved"
    if one.skipped:
        return "skipped"
    node = state.node(one.node)
    if node.generation != one.generation:
        return "reset"
    return "open" if node.status is NodeStatus.FAILED or state.status in RUN_TERMINAL else "retrying"
