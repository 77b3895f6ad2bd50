"""What REST takes and gives. An answer has the fields of the view that it shows, in the shape of `--json`: times are
RFC 3339 in UTC, durations milliseconds, costs US dollars, sizes bytes; values that JSON lacks are tagged objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from omium.orchestration.service.figures_view import By
from omium.server.commands.wire import as_json, rfc3339, value_as_json
from omium.tools.desk import MAX_WAIT_S


def _time(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, int) else value


_DUE = ("due_at", "expires_at", "deadline_at")  # what is called so in a mapping of ours is a time


def _ours(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: rfc3339(one) if key in _DUE and isinstance(one, int) else as_json(one) for key, one in value.items()}


Time = Annotated[str, BeforeValidator(_time), Field(json_schema_extra={"format": "date-time"})]
Json = Annotated[dict[str, Any], BeforeValidator(as_json)]
OurJson = Annotated[dict[str, Any], BeforeValidator(_ours)]
AnyValue = Annotated[Any, BeforeValidator(value_as_json)]
Status = Literal["draft", "planning", "executing", "paused", "waiting_approval", "completed", "failed", "cancelled"]
Short = Annotated[str, Field(min_length=1, max_length=200)]


class Shown(BaseModel):
    """An answer."""

    model_config = ConfigDict(from_attributes=True, frozen=True, extra="forbid")


class Asked(BaseModel):
    """A body or query, in which nothing unknown may stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- answers ------------------------------------------------------------------------------------------------------


class Approval(Shown):
    """A question, with all that is needed to decide it."""

    id: str
    run_id: str
    workflow: str
    node: str | None
    scope: str
    status: str
    question: str
    options: list[str]
    min_assurance: str
    requested_at: Time
    expires_at: Time
    decision: str | None
    decided_by: str | None
    assurance: str | None
    feedback: str | None
    decided_at: Time | None
    details: OurJson | None
    arguments: AnyValue = Field(description="What it is about: those of a call, or a plan; secrets are taken out")
    consequence: str


class PolicyDecision(Shown):
    """What policy said of a call. `input`: the digest of the question; `version`: of the policy; `micros`: how long it
    took; `shadow`: what a version on trial would have said, where it differs."""

    run_id: str
    seq: int
    node: str
    call: str
    action: str
    server: str | None
    tool: str
    agent: str | None
    effect: str
    rule: str | None
    reason: str | None
    input: str
    version: str
    micros: float | None
    shadow: str | None
    at: Time


class DecisionWithQuestion(Shown):
    row: PolicyDecision
    question: AnyValue = Field(description="What was asked, with secrets taken out; null once that is erased")


class Decisions(Shown):
    decisions: list[DecisionWithQuestion]


class Amounts(Shown):
    usd: float
    tokens: float
    calls: float


class Budget(Shown):
    """A counter; `extra` comes on top of its limits, `held` is for calls under way."""

    name: str
    budget: str | None = Field(description="The declared budget that it is of")
    spent: Amounts
    held: Amounts
    extra: Amounts
    limits: dict[str, float]
    present: bool = Field(description="Of the period of now")


class Budgets(Shown):
    budgets: list[Budget]


class Figures(Shown):
    """One line of a report; `unpriced` calls have a price that is not known, and cost nothing here."""

    key: str
    runs: int
    completed: int
    failed: int
    cancelled: int
    going_on: int
    success: float | None = Field(description="Completed of those that completed or failed")
    p50_ms: int | None
    p95_ms: int | None
    retries: int
    questions: int
    wait_p50_ms: int | None = Field(description="Until people answered")
    calls: int
    tokens: int
    cost_usd: float
    unpriced: int


class Report(Shown):
    """What runs came to that were created between `since_at` and `until_at`. The lines add up, whatever makes one."""

    by: str
    since_at: Time
    until_at: Time
    groups: list[Figures]
    total: Figures
    whole: bool = Field(
        description="False when there were more runs than are counted, of which the oldest are left out"
    )
    hints: list[str] = Field(description="What the figures suggest to look at")


class Node(Shown):
    id: str
    kind: str
    status: str
    generation: int
    attempt: int
    failures: int
    started_at: Time | None
    ended_at: Time | None
    needs: list[str]
    use: str | None
    output: str | None = Field(description="The digest of what it gave")
    output_size: int
    error: Json | None
    reason: str | None
    wait: OurJson | None
    due_at: Time | None
    approval: str | None
    reused_from: str | None
    usage: Json | None


class Run(Shown):
    """A run as it stands; `nodes`, `output` and all questions only with `detail`."""

    id: str
    project: str
    workflow: str
    title: str
    status: Status
    reason: str | None
    definition: str
    generation: int
    seq: int = Field(description="The position of its log")
    created_at: Time
    updated_at: Time
    started_at: Time | None
    ended_at: Time | None
    cost_usd: float
    tokens: int
    allowed: list[str] = Field(description="What it takes now")
    error: Json | None
    output: AnyValue
    output_digest: str | None
    no_output: str | None = Field(description="Why what it has given is not there")
    parent_run: str | None
    parent_seq: int | None
    parent_before: str | None = Field(description="Of a branch before a node: that node; not in lists")
    branch: str | None
    hypothesis: str | None
    closed: str | None
    caller_run: str | None
    caller_node: str | None
    session: str | None
    owner: str
    workspace: str | None
    progress: float = Field(description="The share of its nodes that have come to their end, 0 to 1")
    counts: dict[str, int]
    current: list[str]
    nodes: list[Node]
    approvals: list[Approval]
    children: int = Field(description="Runs that it has started")


class Runs(Shown):
    runs: list[Run]
    next: str | None = Field(description="Pass as `before` for the next page")
    hidden: bool = Field(description="Nothing is listed, and runs that other runs have started would be")


class Event(Shown):
    seq: int
    type: str
    at: Time
    actor: str
    data: OurJson
    hash: str


class Events(Shown):
    events: list[Event]
    next: int = Field(description="Pass as `after` for what follows")


class Workflow(Shown):
    name: str
    description: str
    definition: str
    inputs: Json | None = Field(description="JSON Schema")
    nodes: int
    source: str | None


class Approvals(Shown):
    approvals: list[Approval]


class Workflows(Shown):
    workflows: list[Workflow]


class Failure(Shown):
    code: str
    message: str
    hint: str
    data: dict[str, Any]


class Refusal(Shown):
    """What every status from 400 on says."""

    error: Failure


# --- bodies -------------------------------------------------------------------------------------------------------


class Start(Asked):
    workflow: Short
    inputs: dict[str, Any] | None = None
    title: Annotated[str, Field(max_length=200)] = ""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    workspace: Short | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    start: bool = Field(default=True, description="false: it stays a draft until it is resumed")


class Because(Asked):
    reason: Annotated[str, Field(max_length=2_000)] | None = None


class Pause(Because):
    interrupt: bool = Field(default=False, description="Stop running nodes too, where they allow it")


class Decide(Asked):
    decision: Short
    feedback: Annotated[str, Field(max_length=16_000)] | None = None
    arguments: dict[str, Any] | None = None


class Raise(Asked):
    name: Short
    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tokens: Annotated[int, Field(ge=0)] = 0
    calls: Annotated[int, Field(ge=0)] = 0


# --- queries ------------------------------------------------------------------------------------------------------


class Nothing(Asked):
    """No parameters."""


class RunsQuery(Asked):
    status: list[Status] = Field(default_factory=list, max_length=8, description="May be given several times")
    workflow: Short | None = None
    text: Annotated[Short | None, Field(description="In id, workflow or title")] = None
    parent: Annotated[Short | None, Field(description="Branches of this run")] = None
    session: Short | None = None
    children: Annotated[bool, Field(description="Also the runs that other runs have started")] = False
    before: Annotated[Short | None, Field(description="The next page")] = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class RunQuery(Asked):
    wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 0
    detail: bool = False


class EventsQuery(Asked):
    after: Annotated[int, Field(ge=0, le=2**53)] = 0
    limit: Annotated[int, Field(ge=1, le=1_000)] = 200


class FeedQuery(Asked):
    after: Annotated[int, Field(ge=0, le=2**53)] = 0


class DecisionsQuery(Asked):
    run_id: Short | None = None
    effect: list[Literal["allow", "deny", "require_approval"]] = Field(default_factory=list, max_length=3)
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


class ReportQuery(Asked):
    by: By = "workflow"
    hours: Annotated[float, Field(gt=0, le=87_600)] = 720
    workflow: Short | None = None


class ApprovalsQuery(Asked):
    run_id: Short | None = None
    pending: bool = True
