"""What may be asked of a run. The transition table turns a command into events, or refuses it.

Execution commands (`EXECUTION`) also need the owner's fencing token; control commands may come from any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias

from omium.orchestration.ids import ApprovalId, Digest, EffectId, NodeId, Seq
from omium.orchestration.log.state import EffectOutcome
from omium.orchestration.records import record


@record
class CreateRun:
    """The first command of a log. `parent` makes it a branch: `{"run", "seq", "before"?}`; `reset` names what it does
    not take over from there (digest of a list of node ids, with the list itself in `reset_nodes`; the first is the node
    that is played again), and `tree` the files that it begins with, where they are not those of the position."""

    definition: Digest
    workflow: str
    inputs: Digest
    project: str
    title: str = ""
    priority: int = 0
    deadline_at: int | None = None
    parent: Mapping[str, Any] | None = None
    reset: Digest | None = None
    reset_nodes: tuple[NodeId, ...] = ()
    tree: str | None = None
    reuse: str = "none"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    branch: str | None = None
    hypothesis: str | None = None
    caller: Mapping[str, Any] | None = None
    session: str | None = None
    workspace: str | None = None  # the name of a declared workspace
    policy: Digest | None = None  # the version of the policy that it keeps; None: what holds where nobody said anything
    agents: Digest | None = None  # the agents that it keeps, as they were registered; None: it needs none
    owner: str | None = None  # whose run it is, where that is not who creates it: a child run is its parent's owner's


@record
class PlanRun: ...


@record
class StartRun: ...


@record
class WaitRun:
    """Nothing can go on before somebody decides. Where that is not so any more (a decision has come, or the run is of
    another `generation` than its engine has seen), this is nothing, and no refusal: what it is written with stands."""

    generation: int | None = None  # None: any


@record
class PauseRun:
    reason: str | None = None
    interrupt: bool = False


@record
class ResumeRun:
    reason: str | None = None


@record
class CancelRun:
    reason: str | None = None


@record
class CompleteRun:
    """`generation`: the one that came to its end, as its engine has seen it; None: any."""

    output: Digest
    size: int
    generation: int | None = None


@record
class FailRun:
    """`generation`: as of `CompleteRun`."""

    error: Mapping[str, Any]
    generation: int | None = None


@record
class RecoverRun:
    """A new owner settles what the last one left in flight: `interrupted` nodes run again."""

    fence: int
    interrupted: tuple[NodeId, ...] = ()
    reason: str = "owner_lost"


@record
class RollBack:
    """`trigger` makes it one that the run itself asks for, because `cause` failed under rule `rule` of its definition:
    "automatic" when the rule says so, "decided" when a person did, in `approval`. Then the run goes on at once; one
    that is asked for from outside lands in `paused`."""

    to: Seq
    reason: str | None = None
    restore: str | None = None
    label: str | None = None
    trigger: Literal["automatic", "decided"] | None = None
    rule: int | None = None
    cause: NodeId | None = None
    category: str | None = None
    approval: ApprovalId | None = None
    agents: Digest | None = None  # those that it goes on with; None: those that it has
    bare: bool = False  # planned when the run had no files; where it has some by now, this is a `conflict`
    seen: Seq | None = None  # a `conflict` where calls lie behind it that may not be repeated, or undone, unseen
    undo: bool = False  # what lies behind it is still to be undone, by whoever owns the run: see `EndUndoing`


@record
class EndUndoing:
    """What lies behind the rollback at this position is undone, as far as it can be. Nothing, where it is not owed."""

    rollback: int


@record
class PlayFrom:
    """`planned`: the run's generation when this was planned, if the plan is to be checked: where another operation of
    history came in between, or nothing was to be restored and a node that is reset has begun to write since, it is a
    `conflict`. `readers`: the vertices that use the files and are known not to write."""

    node: NodeId
    nodes: Digest  # blob: the list of node ids that are reset; what is inside of them is reset with them
    affected: tuple[NodeId, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reuse: str = "none"
    reason: str | None = None
    restore: str | None = None
    agents: Digest | None = None  # as for `RollBack`
    planned: int | None = None
    seen: Seq | None = None  # likewise: calls of nodes that are reset, which may not be repeated unseen
    readers: frozenset[str] = frozenset()


@record
class NoteBranch:
    """`replaces`: the run that the name was noted for before, if there is none of that id."""

    child: str
    at: Seq
    name: str | None = None
    hypothesis: str | None = None
    replaces: str | None = None
    seen: Seq | None = None  # likewise: calls that may not be repeated unseen


@record
class CloseBranch:
    status: str  # "adopted" or "abandoned"
    reason: str | None = None
    adopted_into: str | None = None


@record
class Adopt:
    """Take over into a parent what one of its branches had at `at`: its output, what each node gave (`outputs`, the
    digest of a mapping of node to output and source), and, with `tree`, its files. `before`: the parent's own files,
    captured; they get a label, so that the run can be taken back to them."""

    child: str
    at: Seq
    name: str
    output: Digest | None = None
    outputs: Digest | None = None
    tree: str | None = None
    before: str | None = None
    reason: str | None = None


@record
class StartNode:
    node: NodeId
    generation: int
    key: str | None = None
    tree: str | None = None
    approval: ApprovalId | None = None  # consumed by this start
    agent: str | None = None  # the agent that takes it, as name@version


@record
class WaitNode:
    """Park a running node: it keeps its place without an owner. Exactly one of the three says until when."""

    node: NodeId
    generation: int
    due_at: int | None = None
    signal: str | None = None
    child: str | None = None


@record
class ExpandNode:
    node: NodeId
    generation: int
    count: int
    first: int = 0
    items: Digest | None = None
    keys: tuple[str, ...] | None = None
    plan: Digest | None = None


@record
class NoteProgress:
    node: NodeId
    generation: int
    attempt: int
    text: str


@record
class CompleteNode:
    node: NodeId
    generation: int
    output: Digest
    size: int
    attempt: int | None = None
    key: str | None = None
    tree: str | None = None
    usage: Mapping[str, Any] | None = None
    ms: float | None = None
    approval: ApprovalId | None = None  # consumed by this completion


@record
class ReuseNode:
    node: NodeId
    generation: int
    key: str
    source: NodeId  # whose result it was


@record
class FailAttempt:
    """An attempt failed. `retry_at` starts a backoff; with `rule` the run is to be taken back by that rule of its
    definition, and the node waits for that; without either the node has failed."""

    node: NodeId
    generation: int
    attempt: int
    error: Mapping[str, Any]
    retry_at: int | None = None
    retries: bool = False  # the node may be tried more than once, so that giving up is worth an event
    rule: int | None = None


@record
class FailNode:
    """A node that is not in an attempt fails: its gate was rejected, its child run failed, its input cannot be made."""

    node: NodeId
    generation: int
    error: Mapping[str, Any]
    approval: ApprovalId | None = None


@record
class SkipNode:
    node: NodeId
    generation: int
    reason: str  # "condition", "upstream_failed", "upstream_skipped", "decision"
    cause: NodeId | None = None
    approval: ApprovalId | None = None


@record
class InterruptNode:
    """Stop an attempt that will run again: on a pause it rests as `paused`, otherwise it is pending."""

    node: NodeId
    generation: int
    attempt: int
    reason: str


@record
class RequestApproval:
    approval: ApprovalId
    node: NodeId | None
    generation: int
    scope: str
    question: str
    options: tuple[str, ...]
    expires_at: int
    min_assurance: str
    binding: Digest | None = None
    details: Mapping[str, Any] | None = None


@record
class Decide:
    approval: ApprovalId
    decision: str
    by: str
    assurance: str
    feedback: str | None = None
    arguments: Digest | None = None


@record
class UseDecision:
    """What was decided is carried out by something that has no entry in the ledger."""

    approval: ApprovalId
    node: NodeId
    generation: int


@record
class ExpireApproval:
    approval: ApprovalId


@record
class IntendEffect:
    effect: EffectId
    node: NodeId
    generation: int
    attempt: int
    call: str
    kind: str
    on_unknown: str
    compensate: str | None = None
    detail: Mapping[str, Any] | None = None
    approval: ApprovalId | None = None  # consumed by this intent; it covers the intent's repeats after a crash


@record
class SettleEffect:
    """What became of an intent. Taken from any process while the intent is unsettled, also when it comes late."""

    effect: EffectId
    outcome: EffectOutcome
    result: Digest | None = None
    size: int = 0
    error: Mapping[str, Any] | None = None
    tree: str | None = None  # the files as the call has left them


@record
class NoteCompensation:
    effect: EffectId
    outcome: str
    result: Digest | None = None
    error: Mapping[str, Any] | None = None
    rollback: Seq | None = None  # behind which it is begun; nothing, where that is not owed any more


@record
class Signal:
    name: str
    payload: Digest
    size: int


@record
class Label:
    at: Seq
    label: str
    note: str | None = None
    valid: bool = True
    tree: str | None = None  # the workspace as of `at`


@record
class SetPoint:
    """A checkpoint that a function sets in the middle of its node: a label at this very position, with the state
    (digest and size) that the call is given again once the run has been taken back there. call: the label and its
    number in the attempt."""

    node: NodeId
    generation: int
    attempt: int
    label: str
    call: str
    state: Digest
    size: int
    note: str | None = None


@record
class EndPoint:
    """What came of the work behind a checkpoint: `done`, `failed` (it raised), or `invalid` (what it gave is not what
    it should be)."""

    node: NodeId
    generation: int
    attempt: int
    label: str
    call: str
    outcome: Literal["done", "failed", "invalid"]
    error: Mapping[str, Any] | None = None
    state: Digest | None = None
    size: int = 0


@record
class CaptureWorkspace:
    tree: str
    reason: str
    node: NodeId | None = None


@record
class StartRestore:
    tree: str
    reason: str


@record
class FinishRestore:
    tree: str
    changed: int = 0
    removed: int = 0
    added: int = 0


@record
class SaveArtifact:
    node: NodeId
    generation: int
    name: str
    digest: Digest
    size: int
    media_type: str | None = None


@record
class KeepState:
    """The state of the work in the middle of a node, for the attempt that goes on with it. None: start afresh."""

    node: NodeId
    generation: int
    attempt: int
    digest: Digest
    size: int


@record
class NoteUsage:
    """What a call in the middle of a node has cost. `unpriced`: its price is not known, and counts as nothing."""

    node: NodeId
    generation: int
    attempt: int
    tokens: int
    cost_usd: float
    calls: int
    model: str | None = None
    unpriced: bool = False


@record
class NoteBudget:
    """A call of this run has brought a budget to a share of what it allows. percent: that share; spent and limit: in
    units, what was allowed beyond the budget included."""

    budget: str
    unit: Literal["usd", "tokens", "calls"]
    percent: int
    spent: float
    limit: float


@record
class NoteDecision:
    """What policy said of a call. `input` is the question (its blob), `version` the policy; `shadow` what a version on
    trial would say."""

    node: NodeId
    generation: int
    attempt: int
    call: str
    action: str
    tool: str
    effect: str
    input: Digest
    version: Digest
    server: str | None = None
    agent: str | None = None
    rule: str | None = None
    reason: str | None = None
    micros: float | None = None
    shadow: str | None = None


@record
class DrawValue:
    """A clock reading, an id or a random number that a node drew: recorded, so that a replay can give it again."""

    node: NodeId
    generation: int
    attempt: int
    call: str
    value: Any


@record
class Erase:
    """`seen`: where a branch was noted behind this position, it is a `conflict`: it may take over what would go."""

    digests: tuple[Digest, ...]
    reason: str
    seen: Seq | None = None


Command: TypeAlias = (
    CreateRun
    | PlanRun
    | StartRun
    | WaitRun
    | PauseRun
    | ResumeRun
    | CancelRun
    | CompleteRun
    | FailRun
    | RecoverRun
    | RollBack
    | EndUndoing
    | PlayFrom
    | NoteBranch
    | CloseBranch
    | Adopt
    | StartNode
    | WaitNode
    | ExpandNode
    | NoteProgress
    | CompleteNode
    | ReuseNode
    | FailAttempt
    | FailNode
    | SkipNode
    | InterruptNode
    | RequestApproval
    | Decide
    | UseDecision
    | ExpireApproval
    | IntendEffect
    | SettleEffect
    | NoteCompensation
    | Signal
    | Label
    | SetPoint
    | EndPoint
    | CaptureWorkspace
    | StartRestore
    | FinishRestore
    | SaveArtifact
    | KeepState
    | NoteUsage
    | NoteBudget
    | NoteDecision
    | DrawValue
    | Erase
)

EXECUTION: frozenset[type] = frozenset(
    {
        WaitRun,
        CompleteRun,
        FailRun,
        RecoverRun,
        EndUndoing,
        StartNode,
        WaitNode,
        ExpandNode,
        NoteProgress,
        CompleteNode,
        ReuseNode,
        FailAttempt,
        FailNode,
        SkipNode,
        InterruptNode,
        RequestApproval,
        IntendEffect,
        SaveArtifact,
        UseDecision,
        KeepState,
        SetPoint,
        EndPoint,
        NoteUsage,
        NoteDecision,
        DrawValue,
    }
)
