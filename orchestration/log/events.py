"""The vocabulary of the log: every change of a run is one of these events.

An event is a fact that has been committed. It names digests, never content, so that content can be erased while the
chain still verifies. `FIELDS` is the closed list of what each type carries: required names, then optional ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from omium.orchestration.ids import Principal, RunId, Seq
from omium.orchestration.records import record


class EventType(StrEnum):
    RUN_CREATED = "run.created"
    RUN_PLANNING = "run.planning"
    RUN_STARTED = "run.started"
    RUN_WAITING = "run.waiting"
    RUN_PAUSED = "run.paused"
    RUN_RESUMED = "run.resumed"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    RUN_RECOVERED = "run.recovered"
    RUN_ROLLED_BACK = "run.rolled_back"
    RUN_UNDONE = "run.undone"
    RUN_PLAYED_FROM = "run.played_from"
    RUN_BRANCHED = "run.branched"
    RUN_CLOSED = "run.closed"
    RUN_ADOPTED = "run.adopted"
    NODE_STARTED = "node.started"
    NODE_WAITING = "node.waiting"
    NODE_EXPANDED = "node.expanded"
    NODE_PROGRESS = "node.progress"
    NODE_COMPLETED = "node.completed"
    NODE_REUSED = "node.reused"
    NODE_ATTEMPT_FAILED = "node.attempt_failed"
    NODE_RETRY_BACKOFF = "node.retry_backoff"
    NODE_RETRY_STARTED = "node.retry_started"
    NODE_RETRY_SUCCEEDED = "node.retry_succeeded"
    NODE_RETRY_EXHAUSTED = "node.retry_exhausted"
    NODE_FAILED = "node.failed"
    NODE_SKIPPED = "node.skipped"
    NODE_INTERRUPTED = "node.interrupted"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_DECIDED = "approval.decided"
    APPROVAL_EXPIRED = "approval.expired"
    APPROVAL_CONSUMED = "approval.consumed"
    EFFECT_INTENDED = "effect.intended"
    EFFECT_SETTLED = "effect.settled"
    EFFECT_COMPENSATED = "effect.compensated"
    SIGNAL_RECEIVED = "signal.received"
    CHECKPOINT_CREATED = "checkpoint.created"
    CHECKPOINT_ENDED = "checkpoint.ended"
    WORKSPACE_CAPTURED = "workspace.captured"
    WORKSPACE_RESTORE_STARTED = "workspace.restore_started"
    WORKSPACE_RESTORED = "workspace.restored"
    ARTIFACT_SAVED = "artifact.saved"
    NODE_USAGE = "node.usage"
    BUDGET_REACHED = "budget.reached"
    STATE_KEPT = "node.state_kept"
    POLICY_DECIDED = "policy.decided"
    VALUE_DRAWN = "value.drawn"
    ERASED = "erased"


_NODE = "node generation attempt"

FIELDS: Mapping[EventType, tuple[frozenset[str], frozenset[str]]] = {
    kind: (frozenset(required.split()), frozenset(optional.split()))
    for kind, required, optional in (
        (
            EventType.RUN_CREATED,
            "definition workflow inputs project",
            "title priority deadline_at parent reset tree reuse overrides branch hypothesis caller session workspace"
            " owner policy agents",
        ),
        (EventType.RUN_PLANNING, "", ""),
        (EventType.RUN_STARTED, "", ""),
        (EventType.RUN_WAITING, "", ""),
        (EventType.RUN_PAUSED, "", "reason interrupt"),
        (EventType.RUN_RESUMED, "", "reason"),
        (EventType.RUN_COMPLETED, "output size", ""),
        (EventType.RUN_FAILED, "error", ""),
        (EventType.RUN_CANCELLED, "", "reason"),
        (EventType.RUN_RECOVERED, "fence", "interrupted unknown"),
        (
            EventType.RUN_ROLLED_BACK,
            "to generation",
            "reason restore label trigger rule cause category approval agents undone_since undo",
        ),
        (EventType.RUN_UNDONE, "rollback", ""),
        (EventType.RUN_PLAYED_FROM, "node nodes count generation", "overrides reuse reason restore agents"),
        (EventType.RUN_BRANCHED, "child at", "name hypothesis"),
        (EventType.RUN_CLOSED, "status", "reason adopted_into"),
        (EventType.RUN_ADOPTED, "child at name", "output outputs restore before reason"),
        (EventType.NODE_STARTED, _NODE, "key tree approval agent"),
        (EventType.NODE_WAITING, "node generation", "due_at signal child"),
        (EventType.NODE_EXPANDED, "node generation count", "first items keys plan"),
        (EventType.NODE_PROGRESS, _NODE + " text", ""),
        (EventType.NODE_COMPLETED, "node generation output size", "attempt key tree usage ms"),
        (EventType.NODE_REUSED, "node generation output size key source", "tree"),
        (EventType.NODE_ATTEMPT_FAILED, _NODE + " error", "rule"),
        (EventType.NODE_RETRY_BACKOFF, "node generation attempt due_at category", ""),
        (EventType.NODE_RETRY_STARTED, _NODE, "key tree approval agent"),
        (EventType.NODE_RETRY_SUCCEEDED, _NODE, ""),
        (EventType.NODE_RETRY_EXHAUSTED, _NODE + " category", ""),
        (EventType.NODE_FAILED, "node generation error", "attempt"),
        (EventType.NODE_SKIPPED, "node generation reason", "cause"),
        (EventType.NODE_INTERRUPTED, _NODE + " reason", ""),
        (
            EventType.APPROVAL_REQUESTED,
            "approval node generation scope question options expires_at min_assurance",
            "binding show details",
        ),
        (EventType.APPROVAL_DECIDED, "approval decision by assurance", "feedback arguments"),
        (EventType.APPROVAL_EXPIRED, "approval", ""),
        (EventType.APPROVAL_CONSUMED, "approval", ""),
        (
            EventType.EFFECT_INTENDED,
            "effect node generation attempt call kind on_unknown",
            "detail compensate approval",
        ),
        (EventType.EFFECT_SETTLED, "effect outcome", "result size error tree"),
        (EventType.EFFECT_COMPENSATED, "effect outcome", "result error"),
        (EventType.SIGNAL_RECEIVED, "name", "payload size"),
        (EventType.CHECKPOINT_CREATED, "at label", "note tree valid node generation attempt call state size"),
        (EventType.CHECKPOINT_ENDED, _NODE + " label call outcome", "error state size"),
        (EventType.WORKSPACE_CAPTURED, "tree reason", "node"),
        (EventType.WORKSPACE_RESTORE_STARTED, "tree reason", ""),
        (EventType.WORKSPACE_RESTORED, "tree", "changed removed added"),
        (EventType.ARTIFACT_SAVED, "node generation name digest size", "media_type"),
        (EventType.NODE_USAGE, _NODE + " tokens cost_usd calls", "model unpriced"),
        (EventType.BUDGET_REACHED, "budget unit percent spent limit", ""),
        (EventType.STATE_KEPT, _NODE + " digest size", ""),
        (
            EventType.POLICY_DECIDED,
            _NODE + " call action tool effect input version",
            "server rule reason micros shadow agent",
        ),
        (EventType.VALUE_DRAWN, "node generation attempt call value", ""),
        (EventType.ERASED, "digests reason", ""),
    )
}


@record
class Event:
    """One committed fact. `at` is UTC in microseconds since the epoch; `hash` chains to `prev_hash` (32 bytes each)."""

    run_id: RunId
    seq: Seq
    type: EventType
    at: int
    actor: Principal
    data: Mapping[str, Any]
    prev_hash: bytes
    hash: bytes
