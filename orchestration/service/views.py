"""What the core answers: plain frozen data that every surface shows in its own way.

Times are microseconds UTC since the epoch, durations milliseconds, costs US dollars, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from omium.orchestration.ids import ApprovalId, Digest, NodeId, PlanToken, Principal, ProjectId, RunId, Seq
from omium.orchestration.ports_gates import Amounts, DecisionRow
from omium.orchestration.values import Value

Role = Literal["viewer", "operator", "approver", "admin"]
Assurance = Literal["none", "elicited", "separate_identity", "out_of_band", "signed"]
Reuse = Literal["none", "unchanged"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Every read and write is scoped to the project, and with `sees` "own" to the principal's own runs;
    `session` is a label, not an identity; `authenticated`: by a credential of their own, which a user of this machine
    who was asked for none has not shown."""

    principal: Principal
    project: ProjectId = ProjectId("default")
    role: Role = "admin"
    session: str | None = None
    sees: Literal["own", "project"] = "project"
    authenticated: bool = False

    @property
    def only(self) -> Principal | None:
        """The owner that what is listed is restricted to; None when the whole project is seen."""
        return self.principal if self.sees == "own" else None

    def may_see(self, project: str, owner: str) -> bool:
        """Whether a run of this project and owner exists for the caller."""
        return project == self.project and (self.sees == "project" or owner == self.principal)


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A registered workflow. `definition` is the digest that a run of it records."""

    name: str
    description: str
    definition: Digest
    inputs: Mapping[str, Any] | None  # JSON Schema
    nodes: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    id: NodeId
    kind: str
    status: str
    generation: int
    attempt: int
    failures: int
    started_at: int | None
    ended_at: int | None
    needs: Sequence[NodeId] = ()
    use: str | None = None
    output: Digest | None = None
    output_size: int = 0
    error: Mapping[str, Any] | None = None
    reason: str | None = None
    wait: Mapping[str, Any] | None = None
    due_at: int | None = None
    approval: ApprovalId | None = None
    reused_from: str | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """A question, with all that is needed to decide it."""

    id: ApprovalId
    run_id: RunId
    workflow: str
    node: NodeId | None
    scope: str
    status: str
    question: str
    options: Sequence[str]
    min_assurance: str
    requested_at: int
    expires_at: int
    decision: str | None = None
    decided_by: str | None = None
    assurance: str | None = None
    feedback: str | None = None
    decided_at: int | None = None
    details: Mapping[str, Any] | None = None
    arguments: Value = None  # what it is about: the arguments of a call, with secrets taken out; the steps of a plan
    consequence: str = ""  # what the decision sets in motion, in one sentence


@dataclass(frozen=True, slots=True)
class DecisionView:
    """What policy said of a call, with what it was asked (None once that is erased)."""

    row: DecisionRow
    question: Value


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A counter. budget: the declared budget that it is of; None for the rates and budgets of policies and of nodes.
    limits: what the budget allows, by unit; `extra` comes on top. present: of the period of now."""

    name: str
    budget: str | None
    spent: Amounts
    held: Amounts
    extra: Amounts
    limits: Mapping[str, float]
    present: bool


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands. `nodes` is empty in lists; `progress` is the share of nodes that have come to their end, 0 to
    1: what was cut off, or never begun because a node before it failed, counts only once the run has completed."""

    id: RunId
    project: ProjectId
    workflow: str
    title: str
    status: str
    reason: str | None
    definition: Digest
    generation: int
    seq: Seq
    created_at: int
    updated_at: int
    started_at: int | None
    ended_at: int | None
    cost_usd: float
    tokens: int
    allowed: Sequence[str]  # verbs that the run takes now
    error: Mapping[str, Any] | None = None
    output: Value = None
    output_digest: Digest | None = None
    no_output: str | None = None  # why what it has given is not there
    parent_run: RunId | None = None
    parent_seq: Seq | None = None
    parent_before: NodeId | None = None  # of a branch before a node: that; not in lists
    branch: str | None = None
    hypothesis: str | None = None
    closed: str | None = None
    caller_run: RunId | None = None
    caller_node: NodeId | None = None
    session: str | None = None
    owner: str = ""  # the principal whose run it is
    workspace: str | None = None
    progress: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)  # nodes by status
    current: Sequence[NodeId] = ()  # nodes that run now
    nodes: Sequence[NodeView] = ()
    approvals: Sequence[ApprovalView] = ()  # pending ones
    children: int = 0  # runs that it has started; counted in lists and with detail


@dataclass(frozen=True, slots=True)
class RunPage:
    runs: Sequence[RunView]
    next: RunId | None  # pass as `before` for the next page
    hidden: bool = False  # nothing is listed, and runs that other runs have started would be


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A position to go back to: `<run>@<seq>`."""

    run_id: RunId
    seq: Seq
    at: int
    kind: str  # the event: node.completed, checkpoint.created, ...
    node: NodeId | None
    label: str | None = None
    note: str | None = None
    superseded: bool = False  # a later rollback or play-from left it behind; it can still be gone to
    valid: bool = True  # false: what it promised did not hold, and it cannot be gone to

    @property
    def position(self) -> str:
        return f"{self.run_id}@{self.seq}"


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    checkpoints: Sequence[CheckpointView]
    next: Seq | None


@dataclass(frozen=True, slots=True)
class EffectView:
    """A call in the ledger, as a history operation sees it."""

    node: NodeId
    call: str  # its key in the ledger
    what: str  # what was called, as a person knows it
    kind: str
    outcome: str | None
    compensate: str | None = None
    compensated: str | None = None  # the outcome of its compensation: done, failed, unknown
    error: Mapping[str, Any] | None = None  # why the compensation failed


@dataclass(frozen=True, slots=True)
class PlanView:
    """What a history operation would do. Pass `plan_token` to do exactly this; it is good for one use until
    `expires_at`."""

    plan_token: PlanToken
    expires_at: int
    operation: Literal["rollback", "branch", "play_from_node"]
    run_id: RunId
    at: Seq
    reruns: Sequence[NodeId]
    reused: Sequence[NodeId]
    asked_again: Sequence[NodeId]  # approvals
    repeated_effects: Sequence[EffectView]  # have happened, or may have, and would happen again
    undone_effects: Sequence[EffectView]  # a rollback goes behind them, and they are, or would be, compensated
    not_undone_effects: Sequence[EffectView]  # a rollback goes behind them, and they stay as they are
    files: Sequence[Mapping[str, Any]]  # path, status
    last_cost_usd: float
    last_tokens: int
    last_ms: int
    saved_cost_usd: float = 0.0
    saved_tokens: int = 0
    in_place: bool = True  # false: the result is a new run
    notes: Sequence[str] = ()  # what else to know before doing it


@dataclass(frozen=True, slots=True)
class HistoryResult:
    """What a history operation did. `run` is the run that it was done to, or the new one."""

    operation: str
    run: RunView
    reset: Sequence[NodeId]
    files_changed: int = 0
    files_removed: int = 0
    files_added: int = 0
    undone: Sequence[EffectView] = ()
    not_undone: Sequence[EffectView] = ()
    notes: Sequence[str] = ()  # what is still to be done, and by whom


@dataclass(frozen=True, slots=True)
class ClosedView:
    """A branch that was closed. With an adoption: `files`, what it changed in the parent's workspace ({path, status:
    added, removed or modified, old_size, new_size}); `back_to`, the parent's checkpoint with the files as they were
    before; both empty when there was nothing to bring."""

    run: RunView
    files: Sequence[Mapping[str, Any]] = ()
    back_to: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NodeDifference:
    node: NodeId
    change: Literal["same", "changed", "only_a", "only_b"]
    a: NodeView | None
    b: NodeView | None
    output_diff: str | None = None  # a bounded unified diff of the pretty-printed values


@dataclass(frozen=True, slots=True)
class GivenDifference:
    """Something that two runs were given differently: an input by its name, or a changed part of a node, such as
    `draft.with.tone` and `draft.output`. The values are JSON text, cut where it is long; None: not given."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class ComparisonView:
    a: RunView
    b: RunView
    first_divergence: NodeId | None
    nodes: Sequence[NodeDifference]
    files: Sequence[Mapping[str, Any]]  # path, status, patch
    cost_usd: tuple[float, float]
    tokens: tuple[int, int]
    duration_ms: tuple[int | None, int | None]
    decisions: Sequence[Mapping[str, Any]]
    outputs_equal: bool | None  # None: neither has given anything
    inputs: Sequence[GivenDifference] = ()
    overrides: Sequence[GivenDifference] = ()  # of nodes; those of inputs show in `inputs`


@dataclass(frozen=True, slots=True)
class ReplayView:
    """The recorded results fed to the current definition, without effects."""

    run_id: RunId
    identical: bool
    replayed: int  # nodes
    digest: Digest  # over the sequence of (node, key, output): equal replays give equal digests
    divergence: Mapping[str, Any] | None  # node, reason, recorded, now


@dataclass(frozen=True, slots=True)
class BranchView:
    run: RunView
    depth: int
    children: Sequence[BranchView]


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    node: str
    kind: str
    use: str | None
    level: int
    asks: str | None  # the gate's question, unrendered
    estimate_ms: int | None
    estimate_cost_usd: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class SimulationView:
    """A dry run: order, gates and estimates; nothing is executed or stored."""

    workflow: str
    definition: Digest
    order: Sequence[SimulatedNode]
    approvals: int
    estimate_ms: int | None
    longest_way: Sequence[str]  # the nodes whose times add up to it
    estimate_cost_usd: float | None
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class EventView:
    seq: Seq
    type: str
    at: int
    actor: Principal
    data: Mapping[str, Any]
    hash: str
