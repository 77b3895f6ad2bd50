"""Epics: long pieces of work that a workflow takes through phases. A phase is a node of the workflow's top level, with
everything inside it; so every run has phases, and an epic is a run that was given a goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from omium.orchestration.definition.address import containers_of
from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.phases import asked_for
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, NodeId, RunId
from omium.orchestration.log.state import NodeState, NodeStatus, RunState
from omium.orchestration.ports import RunRow, Store
from omium.orchestration.service import roles
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.reading import nodes_of, shown_status
from omium.orchestration.service.views import Caller, HistoryResult, PlanView, RunView

EPIC: Final = "epic"
_TITLE: Final = 120


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase. nodes, failed: how many nodes are in it, and which have failed, the innermost. cost_usd and tokens:
    of its present generation. worked_ms: how long its nodes have taken, together. error: why it, or the first node in
    it, failed. approval: what it waits for. position: where a rollback to its end goes; None until it completes."""

    id: NodeId
    kind: str
    status: str
    generation: int
    nodes: int
    failed: Sequence[NodeId]
    started_at: int | None
    ended_at: int | None
    worked_ms: int
    cost_usd: float
    tokens: int
    error: Mapping[str, Any] | None = None
    approval: ApprovalId | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class EpicView:
    """A run with its phases, in the order of its definition, and what its `inputs` were."""

    run: RunView
    inputs: Mapping[str, Any]
    phases: Sequence[PhaseView]


class EpicService:
    """Part of the core."""

    if TYPE_CHECKING:
        store: Store
        catalog: Catalog

        async def row(self, caller: Caller, run_id: RunId) -> RunRow: ...

        async def view_of(self, row: RunRow, *, detail: bool = False) -> RunView: ...

        async def structure(self, state: RunState) -> Structure: ...

        async def run_workflow(
            self,
            caller: Caller,
            workflow: str,
            inputs: Mapping[str, Any] | None = None,
            *,
            title: str = "",
            priority: int = 0,
            workspace: str | None = None,
            deadline_s: float | None = None,
            idempotency_key: str | None = None,
            start: bool = True,
            phases: Sequence[str] | None = None,
        ) -> RunView: ...

        async def preview_rollback(self, caller: Caller, run_id: RunId, to: str | int) -> PlanView: ...

        async def rollback(
            self,
            caller: Caller,
            run_id: RunId,
            to: str | int,
            *,
            reason: str | None = None,
            plan_token: str | None = None,
            idempotency_key: str | None = None,
        ) -> HistoryResult: ...

    async def start_epic(
        self,
        caller: Caller,
        goal: str,
        *,
        acceptance: Sequence[str] = (),
        workflow: str = EPIC,
        inputs: Mapping[str, Any] | None = None,
        workspace: str | None = None,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        phases: Sequence[str] | Literal["auto"] | None = None,
    ) -> RunView:
        """Start a workflow that takes `goal` and `acceptance`, beside what `inputs` has. phases: only these and what
        they need; `auto`: as far as the goal itself says (`definition.phases.asked_for`). Raises as `run_workflow`."""
        roles.check(caller, "start_epic")
        if phases == "auto":
            found = self.catalog.workflows.get(workflow)  # an unknown one is refused below
            phases = asked_for(goal, [node.id for node in found.nodes]) if found is not None else None
        given = {**(inputs or {}), "goal": goal, "acceptance": list(acceptance)}
        lines = goal.splitlines() or [""]
        return await self.run_workflow(
            caller,
            workflow,
            given,
            title=lines[0].strip()[:_TITLE],
            workspace=workspace,
            deadline_s=deadline_s,
            idempotency_key=idempotency_key,
            phases=phases,
        )

    async def get_epic(self, caller: Caller, run_id: RunId) -> EpicView:
        """A run as it stands, by phases."""
        roles.check(caller, "get_epic")
        row = await self.row(caller, run_id)
        state = await self.store.state(run_id)
        structure = await self.structure(state)
        inputs = await self.store.value(row.inputs)
        phases = _phases(state, structure)
        return EpicView(await self.view_of(row), inputs if isinstance(inputs, dict) else {}, phases)

    async def preview_rollback_phase(self, caller: Caller, run_id: RunId, phase: str) -> PlanView:
        """What `rollback_phase` would do, with a token for doing just that."""
        roles.check(caller, "preview_rollback_phase")
        return await self.preview_rollback(caller, run_id, await self._end_of(caller, run_id, phase))

    async def rollback_phase(
        self,
        caller: Caller,
        run_id: RunId,
        phase: str,
        *,
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> HistoryResult:
        """Take a run and its files back to the end of a phase, where it is paused; a resume goes on from there. Raises
        `not_found` for a phase that there is not, or that has not completed, and as `rollback`."""
        roles.check(caller, "rollback_phase")
        to = await self._end_of(caller, run_id, phase, repeats=idempotency_key is not None)
        return await self.rollback(
            caller, run_id, to, reason=reason, plan_token=plan_token, idempotency_key=idempotency_key
        )

    async def _end_of(self, caller: Caller, run_id: RunId, phase: str, *, repeats: bool = False) -> str:
        """The position of a phase's end. repeats: the rollback may be one that has been made, which is found by its
        key, so the phase need not be completed now."""
        phases = (await self.get_epic(caller, run_id)).phases
        found = next((one for one in phases if one.id == phase), None)
        ended = [one.id for one in phases if one.position is not None]
        if found is None or (found.position is None and not repeats):
            what = "has no phase" if found is None else "has not completed its phase"
            known = [str(one.id) for one in phases]
            raise OmiumError(
                "not_found",
                f"run {run_id} {what} {phase[:100]!r}.",
                f"Completed: {', '.join(ended) or 'none'}. Phases: {', '.join(known)}.",
                phases=known,
                completed=ended,
            )
        return f"node:{found.id}"


def _phases(state: RunState, structure: Structure) -> list[PhaseView]:
    """Each node of the top level, with what is inside it counted together."""
    order = structure.children_of(None)
    inside: dict[NodeId, list[tuple[NodeId, NodeState]]] = {phase: [] for phase in order}
    for node_id, node in nodes_of(state, structure):
        top = [node_id, *containers_of(node_id)][-1]
        inside[top].append((node_id, node))
    return [_phase(state, structure, phase, inside[phase]) for phase in order]


def _phase(
    state: RunState, structure: Structure, phase: NodeId, nodes: Sequence[tuple[NodeId, NodeState]]
) -> PhaseView:
    own = state.node(phase)
    leaves = [(node_id, node) for node_id, node in nodes if node.expansion is None]
    failed = [(node_id, node) for node_id, node in leaves if node.status is NodeStatus.FAILED]
    usage = [node.usage for _, node in leaves if node.usage is not None]
    errors = [node.error for _, node in failed if node.error is not None]
    return PhaseView(
        id=phase,
        kind=structure.node_def(phase).kind,
        status=shown_status(state, own).value,
        generation=own.generation,
        nodes=len(leaves),
        failed=[node_id for node_id, _ in failed],
        started_at=own.started_at,
        ended_at=own.ended_at,
        worked_ms=sum(_took_us(node) for _, node in leaves) // 1000,
        cost_usd=sum(float(one.get("cost_usd") or 0) for one in usage),
        tokens=sum(int(one.get("tokens") or 0) for one in usage),
        error=errors[0] if errors else own.error,
        approval=next((node.approval for _, node in nodes if node.approval and _waits(node)), None),
        position=f"node:{phase}" if own.status is NodeStatus.COMPLETED else None,
    )


def _took_us(node: NodeState) -> int:
    return node.ended_at - node.started_at if node.started_at is not None and node.ended_at is not None else 0


def _waits(node: NodeState) -> bool:
    return node.status is NodeStatus.WAITING_APPROVAL
