"""What the server answers, typed. Fields that a newer server adds are left aside.

Times are ISO 8601 in UTC, costs US dollars, durations seconds. What is None was not said.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

ENDED: Final = frozenset({"completed", "failed", "cancelled"})
SETTLED: Final = ENDED | {"paused", "waiting_approval", "draft"}


class Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Piece(Wire):
    """A value whole, or a piece of its JSON text."""

    value: Any = None
    text: str | None = None
    size: int
    next_offset: int | None = None

    @property
    def whole(self) -> Any:
        """The value. Raises ValueError for a piece that is not all of it."""
        return self.value if self.text is None else json.loads(self.text)


class Question(Wire):
    """A question that a run waits for."""

    approval_id: str
    node: str | None = None
    question: str
    options: list[str]


class Approval(Question):
    """The same with what became of it, and how sure the gate wants to be that a human decides."""

    run_id: str
    status: str
    min_assurance: str
    decision: str | None = None
    decided_by: str | None = None
    assurance: str | None = None
    feedback: str | None = None
    workflow: str | None = None
    scope: str | None = None
    expires_at: str | None = None
    consequence: str | None = None


class Decision(Wire):
    """`decided` false: it still waits, and `next` says how a human decides."""

    decided: bool
    approval: Approval
    next: str


class Node(Wire):
    id: str
    kind: str
    status: str
    attempt: int | None = None
    generation: int | None = None
    use: str | None = None
    reason: str | None = None
    error: str | None = None
    seconds: float | None = None
    output_size: int | None = None
    approval_id: str | None = None


class RunRef(Wire):
    run_id: str
    status: str
    branch: str | None = None
    parent: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def settled(self) -> bool:
        """Whether it stays as it is until somebody does something."""
        return self.status in SETTLED


class ClosedBranch(RunRef):
    """A branch that was closed. files: what adopting it changed in its parent's workspace (`modified notes.md`);
    back_to: the parent's checkpoint with the files as they were before."""

    files: list[str] | None = None
    back_to: str | None = None
    notes: list[str] | None = None


class Run(RunRef):
    workflow: str
    title: str | None = None
    progress: float | None = None
    updated_at: str | None = None
    hypothesis: str | None = None
    cost_usd: float = 0.0
    tokens: int = 0
    reason: str | None = None
    allowed: list[str] = []
    counts: dict[str, int] = {}
    current: list[str] = []
    seq: int = 0
    error: dict[str, Any] | None = None
    approvals: list[Question] = []
    workspace: str | None = None
    created_at: str | None = None
    ended_at: str | None = None
    output: Piece | None = None
    nodes: list[Node] = []
    nodes_after: str | None = None
    next: str = ""


class Event(Wire):
    """One fact of a run's log. data: digests in the place of contents; what is long is cut."""

    seq: int
    type: str
    at: str | None = None
    actor: str
    data: dict[str, Any] = {}


class PhaseError(Wire):
    category: str | None = None
    message: str | None = None


class Phase(Wire):
    id: str
    kind: str
    status: str
    generation: int
    nodes: int
    failed: list[str] = []
    error: PhaseError | None = None
    approval_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    seconds: float = 0.0
    cost_usd: float = 0.0
    tokens: int = 0
    end: str | None = None


class Epic(Run):
    phases: list[Phase]
    inputs: Piece


class Checkpoint(Wire):
    position: str
    seq: int
    at: str
    kind: str
    node: str | None = None
    label: str | None = None
    note: str | None = None


class Plan(Wire):
    """What an operation would do; its token does just that."""

    plan_token: str
    expires_at: str | None = None
    at: int
    in_place: bool
    reruns: list[str]
    reused: list[str] = []
    asked_again: list[str] = []
    repeated_effects: list[str] = []
    undone_effects: list[str] = []
    not_undone_effects: list[str] = []
    files: list[str] = []
    last_cost_usd: float = 0.0
    last_tokens: int = 0
    last_seconds: float = 0.0


class Operation(Wire):
    """What an operation on a run's history did: `run` is the run that it was done to, or the new one."""

    run: RunRef
    reset: list[str] = []
    files: dict[str, int] = {}
    undone: list[str] = []
    not_undone: list[str] = []
    notes: list[str] = []
    next: str = ""


class Difference(Wire):
    node: str
    change: str
    a: str | None = None
    b: str | None = None
    output_diff: str | None = None


class Comparison(Wire):
    a: RunRef
    b: RunRef
    outputs_equal: bool | None = None
    first_divergence: str | None = None
    same_nodes: int
    nodes: list[Difference]
    given: list[str] = []
    files: list[str] = []
    decisions: list[str] = []
    cost_usd: list[float]
    tokens: list[int]


class Workflow(Wire):
    name: str
    description: str | None = None
    nodes: int
    required: list[str] = []


class Memory(Wire):
    scope: str
    key: str
    kind: str
    text: Piece
    tags: list[str] = []
    outcome: str | None = None
    at: str | None = None


class Memories(Wire):
    """A page; `found`, `worked` and `failed` count everything that matches."""

    memories: list[Memory]
    found: int
    worked: int
    failed: int
    success_rate: float | None = None
    next_offset: int | None = None
