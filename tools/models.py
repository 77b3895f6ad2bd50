"""The typed answers of the tools. What is None is left out on the wire.

Strings from outside have a type that makes them harmless and short (`Line`, `Text`), so that no answer can hold another
kind. Times are ISO 8601 in UTC, costs US dollars, durations seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from omium.tools.present import line, paragraph

Line = Annotated[str, AfterValidator(line)]
Text = Annotated[str, AfterValidator(paragraph)]
Detail = dict[str, Any]  # JSON that was made harmless; its keys vary


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValueOut(Answer):
    """A value: whole as `value`, or as a piece of its JSON `text`, `size` characters in all."""

    value: Any = None
    text: str | None = None
    size: int
    next_offset: int | None = None


class QuestionOut(Answer):
    approval_id: str
    node: Line | None = None
    question: Text
    options: list[Line]


class SettledOut(QuestionOut):
    """An approval with what became of it."""

    run_id: str
    status: str
    min_assurance: str
    decision: Line | None = None
    decided_by: Line | None = None
    assurance: str | None = None
    feedback: Text | None = None


class ApprovalOut(SettledOut):
    """The same with all that is needed to decide it."""

    workflow: Line
    scope: Line
    expires_at: str | None = None
    consequence: Line | None = None
    details: ValueOut | None = None


class NodeOut(Answer):
    id: Line
    kind: str
    status: str
    attempt: int | None = None
    generation: int | None = None
    needs: list[str] | None = None
    use: Line | None = None
    reason: Line | None = None
    error: Line | None = None
    seconds: float | None = None
    output_size: int | None = None
    due_at: str | None = None
    approval_id: str | None = None
    reused_from: Line | None = None


class RunRef(Answer):
    """Which run."""

    run_id: str
    status: str
    branch: Line | None = None
    parent: str | None = None


class RunLine(RunRef):
    """A run in a list."""

    workflow: Line
    title: Line | None = None
    progress: float | None = None
    updated_at: str | None = None
    hypothesis: Line | None = None
    cost_usd: float | None = None


class RunState(RunLine):
    """A run as it stands, and what can be done next. `progress` is the share of its nodes that have ended."""

    reason: Line | None = None
    allowed: list[str]
    counts: dict[str, int] | None = None
    current: list[str] | None = None
    seq: int
    error: Detail | None = None
    approvals: list[QuestionOut] | None = None
    next: Line


class RunOut(RunState):
    """The same with what takes more room."""

    tokens: int | None = None
    created_at: str | None = None
    ended_at: str | None = None
    workspace: Line | None = None
    output: ValueOut | None = None
    nodes: list[NodeOut] | None = None
    nodes_after: str | None = None


class ListedRun(RunLine):
    """With how many runs it has started, and which node has started it."""

    children: int | None = None
    caller: Line | None = None


class RunsOut(Answer):
    runs: list[ListedRun]
    before: str | None = None
    next: Line | None = None


class CheckpointOut(Answer):
    position: str
    seq: int
    at: str
    kind: str
    node: Line | None = None
    label: Line | None = None
    note: Line | None = None
    superseded: bool | None = None
    valid: bool | None = None


class CheckpointsOut(Answer):
    checkpoints: list[CheckpointOut]
    before: int | None = None


class PlanOut(Answer):
    """What an operation would do. `last_*`: what the nodes that run again cost before."""

    plan_token: str
    expires_at: str | None = None
    at: int
    in_place: bool
    reruns: list[str]
    reused: list[str] | None = None
    asked_again: list[str] | None = None
    repeated_effects: list[Line] | None = None
    undone_effects: list[Line] | None = None
    not_undone_effects: list[Line] | None = None
    files: list[Line] | None = None
    last_cost_usd: float
    last_tokens: int
    last_seconds: float
    saved_cost_usd: float | None = None
    saved_tokens: int | None = None


class HistoryOut(Answer):
    """Either the `plan` of an operation (nothing was changed) or its result."""

    plan: PlanOut | None = None
    run: RunRef | None = None
    reset: list[str] | None = None
    files: dict[str, int] | None = None
    undone: list[Line] | None = None
    not_undone: list[Line] | None = None
    notes: list[Line] | None = None
    next: Line


class DifferenceOut(Answer):
    node: Line
    change: str
    a: Line | None = None
    b: Line | None = None
    output_diff: Text | None = None


class ComparisonOut(Answer):
    a: RunRef
    b: RunRef
    outputs_equal: bool | None = None
    first_divergence: Line | None = None
    same_nodes: int
    nodes: list[DifferenceOut]
    nodes_after: str | None = None
    given: list[Line] | None = None
    files: list[Text] | None = None
    decisions: list[Line] | None = None
    cost_usd: list[float]
    tokens: list[int]
    seconds: list[float] | None = None


class ApprovalsOut(Answer):
    approvals: list[ApprovalOut]
    after: str | None = None
    next: Line | None = None


class DecisionOut(Answer):
    """`decided` false: it still waits, and `next` says how a human decides."""

    decided: bool
    approval: SettledOut
    next: Line


class WorkflowOut(Answer):
    name: Line
    description: Text | None = None
    nodes: int
    inputs: ValueOut | None = None
    required: list[str] | None = None
    definition: str | None = None


class WorkflowsOut(Answer):
    workflows: list[WorkflowOut]
    after: str | None = None
    next: Line | None = None


class StepOut(Answer):
    node: Line
    kind: str
    use: Line | None = None
    level: int
    asks: Line | None = None
    estimate_seconds: float | None = None
    estimate_cost_usd: float | None = None
    note: Line | None = None


class SimulationOut(Answer):
    workflow: Line
    definition: str
    order: list[StepOut]
    steps: int
    approvals: int
    estimate_seconds: float | None = None
    estimate_cost_usd: float | None = None
    warnings: list[Line] | None = None
