"""What the core needs from outside, each as a contract that several implementations pass.

Store: the log, its projections, blobs and the plain tables. Clock: time. Executor: how one attempt of a node is run.
Outbox and Notifier, who is told of what happens, stand in `ports_notices`, workspaces in `ports_workspace`, processes
in `ports_processes`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from omium.orchestration.ids import (
    ApprovalId,
    Digest,
    Fence,
    NodeId,
    PlanToken,
    Principal,
    ProjectId,
    RunId,
    Seq,
    WorkerId,
)
from omium.orchestration.log.below import Below
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import Command
from omium.orchestration.log.events import Event
from omium.orchestration.log.state import RunState
from omium.orchestration.ports_calls import Allowed, Call, Decided, Guidance, Reservation
from omium.orchestration.ports_counts import Counts
from omium.orchestration.ports_gates import Amounts, BudgetRow, Counter, DecisionRow, PinRow
from omium.orchestration.ports_graphs import Graphs
from omium.orchestration.ports_memory import Memories
from omium.orchestration.ports_notices import Outbox
from omium.orchestration.records import record
from omium.orchestration.values import Encoded, Value


class Clock(Protocol):
    def now_us(self) -> int:
        """UTC, microseconds since the epoch: what is stored."""

    def monotonic(self) -> float:
        """Seconds that only go forward: what is waited by."""


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()


# --- writing ------------------------------------------------------------------------------------------------------


@record
class NewBlob:
    """Content to be stored with a write. `base` names a similar blob that it may be stored as a patch against."""

    encoded: Encoded
    base: Digest | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's promise that equal keys mean the same request: a repeat must match `arguments`, and gets `result`."""

    scope: str  # project, principal and operation
    key: str
    arguments: Digest
    result: Mapping[str, Any]


@record
class Write:
    """One atomic change of one run: all of its commands, or none.

    `fence`: the owner's token, needed by execution commands. `claim`: on creation, the worker that owns the run from
    the start. `priority` and `project` are taken for the queue on creation. `faults`: of how many writes the owner has
    heard that they could not be made; one that knows not of the last may follow from it, and is not made either.
    `tried`: the events of an earlier try that is `Unheard`; if they are in the log, they are what is written.
    `below`: what is known of the runs below this one, and which of them end with it. `awaited_by`: on
    creation, the run of which a node (`CreateRun.caller`) has to wait for it.
    """

    run_id: RunId
    commands: Sequence[Command]
    actor: Principal
    fence: Fence | None = None
    blobs: Sequence[NewBlob] = ()
    claim: WorkerId | None = None
    idempotency: IdempotencyKey | None = None
    faults: int = 0
    tried: Sequence[Event] = ()
    below: Below | None = None
    awaited_by: RunId | None = None


@record
class Written:
    """What was committed. `replayed` is the stored result of an earlier write with the same idempotency key; then
    nothing was written now. `fence` is set when the write created and claimed the run."""

    events: Sequence[Event]
    seq: Seq
    fence: Fence | None = None
    replayed: Mapping[str, Any] | None = None


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line of the list of runs. Times are microseconds since the epoch; costs are US dollars."""

    id: RunId
    project: ProjectId
    workflow: str
    title: str
    definition: Digest
    inputs: Digest
    status: str
    reason: str | None
    priority: int
    generation: int
    created_at: int
    updated_at: int
    started_at: int | None
    ended_at: int | None
    seq: Seq
    head: bytes
    output: Digest | None
    error: Mapping[str, Any] | None
    parent_run: RunId | None
    parent_seq: Seq | None
    caller_run: RunId | None
    caller_node: NodeId | None
    branch: str | None
    hypothesis: str | None
    closed: str | None
    session: str | None
    completed_nodes: int
    cost_usd: float
    tokens: int
    owner: str


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Filters are joined by "and"; `text` is searched literally in id, workflow and title; `top` leaves out what other
    runs have started. Newest first; `before` is the cursor of the next page (a run id)."""

    projects: tuple[ProjectId, ...] | None = None
    statuses: tuple[str, ...] = ()
    workflow: str | None = None
    text: str | None = None
    parent: RunId | None = None
    caller: RunId | None = None
    session: str | None = None
    owner: str | None = None
    top: bool = False
    before: RunId | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    id: ApprovalId
    run_id: RunId
    node: NodeId | None
    generation: int
    scope: str
    status: Literal["pending", "decided", "expired", "cancelled"]
    question: str
    options: Sequence[str]
    min_assurance: str
    requested_at: int
    expires_at: int
    decision: str | None
    decided_by: str | None
    assurance: str | None
    feedback: str | None
    decided_at: int | None
    consumed: bool
    binding: Digest | None
    details: Mapping[str, Any] | None
    arguments: Digest | None = None  # what is to be done instead, where the decision is `modify`


@dataclass(frozen=True, slots=True)
class EffectRow:
    id: str
    run_id: RunId
    node: NodeId
    generation: int
    attempt: int
    call: str
    kind: str
    on_unknown: str
    outcome: str | None
    result: Digest | None
    error: Mapping[str, Any] | None
    compensate: str | None
    detail: Mapping[str, Any] | None
    approval: ApprovalId | None = None  # the decision that the intent rests on


@dataclass(frozen=True, slots=True)
class LabelRow:
    run_id: RunId
    label: str
    at: Seq
    seq: Seq
    note: str | None
    tree: str | None
    created_at: int
    actor: str


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A previewed operation: single use, bound to caller, arguments and the generations that it affects."""

    token: PlanToken
    caller: Principal
    run_id: RunId
    operation: str
    binding: Digest
    expires_at: int
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task of the protocol: a promise to a client that its call's result can be asked for. What becomes of it is read
    from the run; `document` is what only the task knows (asked keys, a cancellation), and `version` counts its changes.
    `id` cannot be guessed, and is worth nothing to another principal."""

    id: str
    project: ProjectId
    principal: Principal
    run_id: RunId
    created_at: int
    expires_at: int | None
    version: int
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A bearer token. `digest`: the SHA-256 of its secret, in hexadecimal; `sees`: its principal's runs, or all."""

    id: str
    digest: str
    project: ProjectId
    principal: Principal
    role: str
    sees: Literal["own", "project"]
    note: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


# --- owning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A process that executes runs: `pid`, with `boot` and `start_time`. `beat`, microseconds of its wall clock, only
    grows; whoever observes it unchanged for long enough, by its own monotonic clock, may take its runs over."""

    id: WorkerId
    host: str
    boot: str
    pid: int
    start_time: float
    beat: int
    serving: Sequence[str]  # projects


@dataclass(frozen=True, slots=True)
class Claimed:
    run_id: RunId
    fence: Fence


class Subscription(Protocol):
    """Wakes when anything may have changed in the database, by whichever process: too often, never too seldom."""

    def __aiter__(self) -> AsyncIterator[None]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Damage:
    """What `verify` found: something broken, differing, not matching, or what the database itself complains of."""

    kind: Literal["chain", "blob", "projection", "anchor", "reference", "database"]
    subject: str
    problem: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Store(Outbox, Counts, Memories, Graphs, Protocol):
    """The truth on disk. Every method may raise OmiumError("storage_unavailable"), and then nothing was changed; with
    `outcome: unknown` in its data the answer to a commit was lost, which may have taken place: `write` says `Unheard`.

    `chain`: how the logs of this store are linked, with the operator's key if there is one."""

    chain: Chain

    async def write(self, write: Write) -> Written:
        """Commit one write; returns only after it is durable. Concurrent writes share commits (group commit).

        Raises `not_allowed`, `conflict`, `already_decided`, `not_found` as the transition table does; `fenced` when an
        execution command comes without the run's present fencing token; `conflict` when the idempotency key was used
        with other arguments, or when a run below has made calls that are not known (`look_below`); `not_allowed` when
        no node waits for the run that is created (`awaited_by`). A refused write changes nothing and does not disturb
        the others of its batch."""

    async def state(self, run_id: RunId, upto: Seq | None = None) -> RunState:
        """A fresh fold that the caller may keep and mutate. Raises `not_found`."""

    async def events(self, run_id: RunId, after: Seq = Seq(0), limit: int = 1000) -> list[Event]:
        """Events with seq > after, in order, at most `limit`."""

    async def heads(self, run_ids: Sequence[RunId]) -> dict[RunId, Seq]:
        """The last position of each run that exists."""

    async def run(self, run_id: RunId) -> RunRow | None: ...

    async def runs(self, query: RunQuery) -> list[RunRow]: ...

    async def started_by(self, run_ids: Sequence[RunId]) -> dict[RunId, int]:
        """How many runs each of these has started; those that have started none are left out."""

    async def approvals(
        self,
        *,
        projects: Sequence[ProjectId] | None = None,
        owner: str | None = None,
        run_id: RunId | None = None,
        pending: bool = True,
        limit: int = 200,
    ) -> list[ApprovalRow]:
        """Oldest request first. `owner`: only those of this principal's runs."""

    async def approval(self, approval_id: ApprovalId) -> ApprovalRow | None: ...

    async def effects(self, run_id: RunId) -> list[EffectRow]:
        """The ledger of a run, in the order of the intents."""

    async def labels(self, run_id: RunId) -> list[LabelRow]: ...

    async def checkpoints(self, run_id: RunId, before: Seq | None = None, limit: int = 50) -> list[Event]:
        """Newest first: the events at which the run can be gone back to (ends of nodes, labels, decisions)."""

    async def value(self, digest: Digest) -> Value:
        """The value that a digest names. Raises `not_found`, or `integrity` after quarantining it."""

    async def values(self, digests: Sequence[Digest]) -> dict[Digest, Value]: ...

    async def put(self, blobs: Sequence[NewBlob]) -> None:
        """Store blobs that no write refers to yet (definitions, drafts); the sweep takes them after a day."""

    # tasks and tokens
    async def put_task(self, task: TaskRow) -> None:
        """Durable when it returns. Raises `conflict` for an id that there is. Tasks that expired a day ago go."""

    async def task(self, task_id: str) -> TaskRow | None: ...

    async def change_task(self, task_id: str, version: int, document: Mapping[str, Any]) -> bool:
        """Replace the document if the task is at `version`, which becomes one more; whether it was."""

    async def put_token(self, token: TokenRow, by: Principal) -> None:
        """With `token.created` in the project's log. Raises `conflict` for an id or a digest that there is."""

    async def token(self, digest: str) -> TokenRow | None:
        """The token of a secret, also one that was revoked or has expired."""

    async def tokens(self, project: ProjectId) -> list[TokenRow]:
        """Oldest first."""

    async def revoke_token(self, project: ProjectId, token_id: str, at_us: int, by: Principal) -> bool:
        """Whether the project had such a token that was not revoked; then `token.revoked` is in its log."""

    async def put_pin(self, pin: PinRow, by: Principal, before: PinRow | None) -> bool:
        """Store a pin in the place of `before` (None: there is none of this tool), with `tool.pinned`, `tool.changed`
        or `tool.disabled` in the project's log. False, and nothing is changed, when it is another one by now."""

    async def pins(self, project: ProjectId, server: str | None = None) -> list[PinRow]:
        """Of the project, or of one of its servers, by name."""

    async def record(self, project: ProjectId, kind: str, actor: Principal, data: Mapping[str, Any]) -> Seq:
        """Log something that belongs to no run. `kind`: words joined by dots; `data`: small JSON, which is never erased
        and holds no secret. Gives its position in the project's log."""

    # budgets and leases
    async def hold(
        self, hold: str, project: ProjectId, worker: WorkerId, counters: Sequence[Counter], amounts: Amounts
    ) -> list[str]:
        """Hold a part of every counter, or of none: the names of those that have not so much left, or nothing at all.
        What a dead worker held counts as spent."""

    async def settle_hold(self, hold: str, amounts: Amounts) -> None:
        """What was held is spent, as far as `amounts` says; once, a repeat changes nothing."""

    async def raise_budget(self, project: ProjectId, name: str, extra: Amounts, by: Principal) -> None:
        """Allow more of a counter, with `budget.raised` in the project's log."""

    async def budgets(self, project: ProjectId, names: Sequence[str] | None = None) -> list[BudgetRow]:
        """By name; only those of these names, if they are given."""

    async def lease(self, name: str, worker: WorkerId, holder: str) -> str | None:
        """Take a lease that nobody has, or whose worker is gone. None, or who holds it."""

    async def unlease(self, name: str, worker: WorkerId, holder: str) -> None: ...

    async def decisions(
        self,
        *,
        projects: Sequence[ProjectId] | None = None,
        owner: str | None = None,
        run_id: RunId | None = None,
        effects: Sequence[str] = (),
        limit: int = 200,
    ) -> list[DecisionRow]:
        """What policy decided, newest first."""

    # claims
    async def register(self, worker: WorkerRow) -> None: ...

    async def beat(self, worker: WorkerId) -> None: ...

    async def workers(self) -> list[WorkerRow]: ...

    async def retire(self, worker: WorkerId) -> int:
        """Free all claims of a worker that has ended or died and forget it; how many runs became free."""

    async def claim(self, worker: WorkerId, projects: Sequence[ProjectId], limit: int, now_us: int) -> list[Claimed]:
        """Take ownership of up to `limit` free runs that are due, by priority, then in order of their being due."""

    async def claimed_by(self, worker: WorkerId) -> list[Claimed]:
        """The runs that a worker owns, also those that it was never told of because the answer was lost."""

    async def take(self, worker: WorkerId, run_id: RunId) -> Fence | None:
        """Take ownership of this run if it is free; None if somebody has it."""

    async def release(self, run_id: RunId, fence: Fence, seq: Seq, wake_at: int | None) -> bool:
        """Give a run up, to be woken at `wake_at` (microseconds; None: by a control event only). False, and nothing is
        changed, when the log has grown beyond `seq` or the fence is not the present one."""

    async def next_wake(self, projects: Sequence[ProjectId]) -> int | None:
        """When the next free run is due, microseconds; None if none is."""

    async def queued(self, projects: Sequence[ProjectId], now_us: int) -> int:
        """How many runs are due and wait for a worker; not those that wait for a person or a time."""

    # plain tables
    async def recall(self, scope: str, key: str) -> tuple[Digest, Mapping[str, Any]] | None:
        """Arguments' digest and result of an earlier request with this idempotency key."""

    async def put_plan(self, plan: PlanRow) -> None: ...

    async def take_plan(self, token: PlanToken, caller: Principal, now_us: int) -> PlanRow | None:
        """Use a token up. None when it is unknown, used, expired or somebody else's."""

    async def snapshot(self, run_id: RunId) -> None:
        """Store a fold snapshot at the head; disposable."""

    def listen(self, hear: Callable[[RunId, Sequence[Event]], None], run_id: RunId | None = None) -> Callable[[], None]:
        """Have `hear` called, in the event loop and in the order of the commits, with the events of every write of this
        process (those to one run, if `run_id` names it), before the write's own caller goes on. Gives what ends it."""

    def on_change(self, call: Callable[[], None], *, own: bool = True) -> Callable[[], None]:
        """Have `call` called, in the event loop, when anything may have changed in the database; with `own` False only
        for changes by other processes. It may come for nothing. Gives what ends it."""

    def changes(self, *, own: bool = True) -> Subscription:
        """`on_change`, to be iterated."""

    async def wake(self, run_ids: Sequence[RunId], at_us: int) -> None:
        """Have these runs claimed at `at_us`, or by then. For a run that somebody owns this counts from the moment at
        which it is given up with a time to be woken at; to one that is given up without one, it means nothing."""

    async def close(self) -> None: ...


# --- executing ----------------------------------------------------------------------------------------------------


@record
class Done:
    """How an attempt ended well. `usage`: `{"tokens", "cost_usd", ...}` as far as it is known."""

    output: Value
    usage: Mapping[str, Any] | None = None


class Attempt(Protocol):
    """What an executor may know and ask of the engine while it runs one attempt of a node."""

    run_id: RunId
    node_id: NodeId
    attempt: int
    generation: int
    timeout_s: float | None  # enforced by the engine too: it cancels the executor
    workspace: Path | None
    scratch: Path | None  # a directory of this attempt's own
    guidance: Guidance
    resumed: bool  # an earlier attempt was interrupted in the middle

    async def ask(self, kind: str, payload: Value) -> Value:
        """`progress` {"text"}; `now`, `random`, `uuid`; `effect_intent` {"key"} -> {"known", "result"?} and
        `effect_settle` {"key", "ok", "result"|"error_type", "message"}, `ok` None where the call was cut off and nobody
        knows (answered at once, and written with what comes next); `artifact` {"name", "value"}; `scratch`.
        `checkpoint` {"label", "state", "call"?, "later"?} -> {"call", "restored": {"state"} or None} and
        `checkpoint_end` {"label", "call", "outcome", "error"?, "state"?, "later"?}; `later`: with the next commit.
        Intents and settlements are durable when this returns."""

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        """Run `action` under the ledger: its intent is durable before, its result after. Within a generation a call
        that is known to have happened gives its stored result and is not made again."""

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        """Make a call outside: under policy, approval and ledger. `action` gets what may be sent. A call that is known
        to have happened gives its stored result, and nobody is asked. Raises `denied`, `budget_exceeded`, `Suspended`
        when a person has to decide first, and what `action` raises."""

    async def gate(self, call: Call) -> Allowed:
        """Only the decision, for what something else carries out (a coding CLI that asks leave). The decision and its
        use are durable when this returns; asked again for the same call, it is the same. Raises like `call`."""

    async def decide(
        self,
        question: str,
        options: Sequence[str],
        *,
        key: str,
        details: Mapping[str, Any] | None = None,
        expires_s: float = 86_400.0,
        min_assurance: str = "elicited",
    ) -> Decided:
        """Ask a person what the work itself cannot know: a program that stopped to ask, an agent's question.

        key: names the question within (node, generation); asked again with the same key it is the same approval, and
        once decided it gives the same answer, to repeats after a crash too. Equal text under another key is another
        approval. The question and what is in `details` are shown literally: they are data, never templates.
        options: what can be answered, at least one; `reject`, `abort` and an expiry fail the node (codes
        `approval_rejected`, `approval_expired`) without another attempt; every other option, `skip` too, is for the
        executor to understand. Raises `Suspended` until somebody has decided: no process is held meanwhile."""

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reservation:
        """Hold a part of every budget that covers this attempt, before a call of a model or a tool that costs. `usd`
        None: its price is not known. Raises `budget_exceeded`, which stays so until somebody raises the budget."""

    async def keep(self, state: Value) -> None:
        """Have the state of the work durable: the next attempt of this generation finds it in `kept`."""

    async def kept(self) -> Value:
        """What `keep` was last given in this generation, by this attempt or one before it; None if nothing."""

    def leased(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold something that only one attempt may use at a time (a session). Raises `conflict` when another has it;
        what a dead worker held is free."""


class Executor(Protocol):
    """Runs attempts of one kind of node. Cancelling `run` must stop the work, processes and all."""

    def digest(self, use: str) -> str:
        """What identifies the code behind a registered name, as part of a node's key. Raises `not_registered`."""

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """One attempt. Any exception is a failed attempt; the engine classifies it."""
