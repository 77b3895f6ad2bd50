"""The state of one run: what its log folds to.

A node that is not in `RunState.nodes` is pending at the run's generation, so a branch or a rollback needs to say
nothing about the nodes that it does not keep. Only `fold` changes these objects.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from itertools import compress
from operator import attrgetter, ne
from typing import Any, Literal

from omium.orchestration.ids import ApprovalId, Digest, EffectId, NodeId, ProjectId, RunId, Seq
from omium.orchestration.log.chain import GENESIS


class RunStatus(StrEnum):
    DRAFT = "draft"
    PLANNING = "planning"
    EXECUTING = "executing"
    PAUSED = "paused"
    WAITING_APPROVAL = "waiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NodeStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    WAITING_APPROVAL = "waiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


RUN_TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
AT_REST = RUN_TERMINAL | {RunStatus.PAUSED, RunStatus.WAITING_APPROVAL}
"""The states of a run in which no node of it works."""
_SLEEPING = RUN_TERMINAL | {RunStatus.PAUSED, RunStatus.DRAFT}
NODE_TERMINAL = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.CANCELLED})

EffectOutcome = Literal["done", "failed", "not_sent", "unknown"]


@dataclass(slots=True)
class NodeState:
    """What is known of one node. Times are microseconds since the epoch; `wait` is what a parked node waits for:
    `{"kind": "children"}`, `{"kind": "timer", "due_at": ...}`, `{"kind": "signal", "name": ...}`,
    `{"kind": "child", "run": ...}`."""

    status: NodeStatus = NodeStatus.PENDING
    generation: int = 0
    attempt: int = 0  # of this generation; counts interruptions too
    failures: int = 0  # attempts of this generation that failed: what the retry limit counts
    seq: int = 0  # position of the event that brought the present status
    called: int = 0  # position of its last call that may not be repeated unseen
    began: int = 0  # position of the first start of this generation, or of its reuse
    started_at: int | None = None
    ended_at: int | None = None
    output: Digest | None = None
    size: int = 0
    key: str | None = None
    tree_start: str | None = None  # workspace trees: where it started from, and what it left
    tree: str | None = None
    tree_made: str | None = None  # as its last call in the ledger left it, while it has not ended
    error: dict[str, Any] | None = None
    reason: str | None = None
    wait: dict[str, Any] | None = None
    due_at: int | None = None  # when the next attempt may start
    approval: ApprovalId | None = None
    expansion: dict[str, Any] | None = None  # {"count", "items", "keys", "plan"} of a node that has children
    usage: dict[str, Any] | None = None
    agent: str | None = None  # who took the last attempt, as name@version
    reused_from: str | None = None
    worked_us: int = 0  # what the attempts of this generation have taken, but for those that a crash ended
    kept: Digest | None = None  # the state of work in the middle, for the next attempt
    points: dict[str, Digest] | None = None  # what its checkpoints hold, by call; and what they are to give again
    restored: dict[str, Digest] | None = None
    draws: dict[str, Any] | None = None  # what an unfinished attempt drew: a recovered one gets the same again

    @property
    def in_flight(self) -> bool:
        """An attempt is (or was, before a crash) being executed, as opposed to parked on a wait."""
        return self.status is NodeStatus.RUNNING and self.wait is None


@dataclass(slots=True)
class ApprovalState:
    node: NodeId | None
    generation: int
    scope: str  # "node" (an approval node), "step" (a gate before a node), "error", "plan", "unknown_effect", and:
    # "call" (a call that policy has a person decide), "question" (what the work itself asks); see IN_THE_MIDDLE
    question: str
    options: list[str]
    expires_at: int
    min_assurance: str
    requested_at: int
    binding: Digest | None = None
    decision: str | None = None  # an option, or "expired"
    by: str | None = None
    assurance: str | None = None
    feedback: str | None = None
    decided_at: int | None = None
    consumed: bool = False
    details: dict[str, Any] | None = None
    arguments: Digest | None = None  # with the decision "modify": what is to be done instead


IN_THE_MIDDLE = frozenset({"call", "question"})
"""Scopes of questions from the middle of an attempt: the node runs again, and finds what was decided where it asked."""


@dataclass(slots=True)
class EffectState:
    """A call in the ledger, identified by (run, node, generation, call key)."""

    node: NodeId
    generation: int
    attempt: int
    call: str
    kind: str
    on_unknown: str
    outcome: EffectOutcome | None = None  # None: the intent is unsettled
    result: Digest | None = None
    error: dict[str, Any] | None = None
    compensate: str | None = None
    detail: dict[str, Any] | None = None
    approval: ApprovalId | None = None


FREE = "rerun"
"""What is declared so may be called again unseen. Functions' own effects (`ctx.effect`) declare nothing: theirs is only
the way in which a node is recovered, and each of them counts."""


def is_unsafe(kind: str, on_unknown: str) -> bool:
    """Whether a call may only be repeated by a plan: every call of the ledger, unless it was declared to be repeatable
    with `on_unknown: rerun`."""
    return kind == "effect" or on_unknown != FREE


def called(call: str, detail: Mapping[str, Any] | None) -> str:
    """What was called, as a person knows it: the tool or the command, or the name that the node gave the call."""
    about = detail or {}
    what = about.get("tool") or about.get("command")
    if what is None:
        return call
    return f"{about['server']}/{what}" if "server" in about else str(what)


@dataclass(slots=True)
class Reusable:
    """A result that a reset put aside and that the same key may bring back."""

    node: NodeId
    output: Digest
    size: int
    tree: str | None
    seq: int
    tree_start: str | None
    generation: int  # of the node: a later one of the same node is a later result


@dataclass(slots=True)
class RunState:
    run_id: RunId
    seq: Seq = Seq(0)
    head: bytes = GENESIS
    status: RunStatus = RunStatus.DRAFT
    definition: Digest = Digest("")
    workflow: str = ""
    inputs: Digest = Digest("")
    project: ProjectId = ProjectId("default")
    title: str = ""
    priority: int = 0
    created_at: int = 0
    updated_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    deadline_at: int | None = None
    generation: int = 0  # counts history operations
    origins: list[int] = field(default_factory=list)  # of a branch and those that it is of: their first generations
    left: list[list[int]] = field(default_factory=list)  # positions, from and to, that rollbacks went back behind
    output: Digest | None = None
    error: dict[str, Any] | None = None
    reason: str | None = None
    parent: dict[str, Any] | None = None  # branch: {"run", "seq", "before"?: the node that it begins with}
    branches: dict[str, str] = field(default_factory=dict)  # branches that were made of this run: name -> run
    branched: int = 0  # position of the last note of a branch
    erased: int = 0  # position where content was last erased
    caller: dict[str, Any] | None = None  # sub-run: {"run", "node", "generation"}
    branch: str | None = None
    hypothesis: str | None = None
    closed: str | None = None  # branch: "adopted" or "abandoned"
    adopted: dict[str, Any] | None = None  # the branch of it that was: {"run", "seq", "name"}
    session: str | None = None
    owner: str = ""  # the principal whose run it is
    workspace: str | None = None
    policy: Digest | None = None
    agents: Digest | None = None  # those that it keeps
    overrides: dict[str, Any] = field(default_factory=dict)
    reuse: str = "none"  # of the last play-from: "none" or "unchanged"
    interrupt: bool = False  # the last pause also stops nodes in flight
    # Nodes that failed under a rule by which the run is to be taken back, and has not been: {"rule", "category",
    # "approval" (a person decided so)}, the first first; and how often each rule has done so without being asked.
    setbacks: dict[NodeId, dict[str, Any]] = field(default_factory=dict)
    rollbacks: dict[str, int] = field(default_factory=dict)
    called: int = 0  # position of the last such call of any node (`NodeState.called`), whatever became of that since
    compensable: int = 0  # likewise of the last call for which a compensation is declared
    owed: list[int] = field(default_factory=list)  # rollbacks behind which effects are still to be undone, by position
    tree: str | None = None  # last captured workspace tree
    restoring: str | None = None  # the tree that the workspace still has to be brought to
    nodes: dict[NodeId, NodeState] = field(default_factory=dict)
    approvals: dict[ApprovalId, ApprovalState] = field(default_factory=dict)
    effects: dict[EffectId, EffectState] = field(default_factory=dict)
    signals: dict[str, list[str]] = field(default_factory=dict)  # name -> payload digests not yet taken
    reusable: dict[str, dict[NodeId, Reusable]] = field(default_factory=dict)  # by key and by whose they were
    completed_nodes: int = 0
    cost_usd: float = 0.0
    tokens: int = 0

    @property
    def sleeps(self) -> bool:
        """There is nothing to do in the run until somebody asks for something."""
        return not self.owed and self.status in _SLEEPING

    @property
    def undoing(self) -> int | None:
        """The position of the newest rollback behind which effects are still to be undone."""
        return self.owed[-1] if self.owed else None

    def node(self, node_id: NodeId) -> NodeState:
        """The node as it stands; one that nothing happened to is pending at the run's generation."""
        known = self.nodes.get(node_id)
        return known if known is not None else _untouched(self.generation)

    def begun(self, node: NodeState) -> tuple[int, int]:
        """Where a node began, comparable between nodes that the run inherited and its own: times are not, as several
        begin in one commit and clocks are set back."""
        return bisect_right(self.origins, node.generation), node.began

    def answered(self) -> ApprovalId | None:
        """A question of a node that has been decided, or has expired, and that its node still waits for."""
        for approval_id, approval in self.approvals.items():
            if approval.decision is not None and not approval.consumed and approval.node is not None:
                node = self.node(approval.node)
                if node.status is NodeStatus.WAITING_APPROVAL and node.approval == approval_id:
                    return approval_id
        return None


@lru_cache(maxsize=256)
def _untouched(generation: int) -> NodeState:
    """One for all, since it is asked for several times a node; the fold makes its own before it changes anything."""
    return NodeState(generation=generation)


_NODE_FIELDS = tuple(f.name for f in fields(NodeState))
_NODE_DEFAULTS = tuple(f.default for f in fields(NodeState))
_node_values = attrgetter(*_NODE_FIELDS)
_PLAIN = tuple(
    f.name
    for f in fields(RunState)
    if f.name not in {"nodes", "approvals", "effects", "reusable", "head", "status", "run_id"}
)


def node_document(node: NodeState) -> dict[str, Any]:
    """The fields of a node that differ from their defaults, as JSON. Of a large run thousands are made at once."""
    values = _node_values(node)
    return dict(compress(zip(_NODE_FIELDS, values, strict=True), map(ne, values, _NODE_DEFAULTS)))


def to_document(state: RunState) -> dict[str, Any]:
    """A state as JSON, for a snapshot: `from_document` gives an equal state."""
    return {
        **{name: getattr(state, name) for name in _PLAIN},
        "run_id": state.run_id,
        "head": state.head.hex(),
        "status": state.status,
        "nodes": {name: node_document(node) for name, node in state.nodes.items()},
        "approvals": {k: {f.name: getattr(v, f.name) for f in fields(v)} for k, v in state.approvals.items()},
        "effects": {k: {f.name: getattr(v, f.name) for f in fields(v)} for k, v in state.effects.items()},
        "reusable": {
            key: {node: {f.name: getattr(v, f.name) for f in fields(v)} for node, v in results.items()}
            for key, results in state.reusable.items()
        },
    }


def from_document(document: dict[str, Any]) -> RunState:
    if absent := [name for name in _PLAIN if name not in document]:
        raise KeyError(*absent)
    plain = dict(document)
    plain["head"] = bytes.fromhex(plain["head"])
    plain["status"] = RunStatus(plain["status"])
    plain["nodes"] = {
        name: NodeState(**{**node, "status": NodeStatus(node.get("status", "pending"))})
        for name, node in plain["nodes"].items()
    }
    plain["approvals"] = {k: ApprovalState(**v) for k, v in plain["approvals"].items()}
    plain["effects"] = {k: EffectState(**v) for k, v in plain["effects"].items()}
    plain["reusable"] = {
        key: {node: Reusable(**v) for node, v in results.items()} for key, results in plain["reusable"].items()
    }
    return RunState(**plain)
