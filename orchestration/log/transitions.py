"""The one transition table: (state, command) -> events, or a refusal that says what is allowed now.

`RUN_COMMANDS` and `NODE_COMMANDS` are the whole of it; the functions below only say which events a permitted command
becomes. Everything here is pure: the clock's reading comes with the call, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId
from omium.orchestration.log import commands as c
from omium.orchestration.log import courses, records
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.records import Draft, present
from omium.orchestration.log.state import IN_THE_MIDDLE, RUN_TERMINAL, ApprovalState, NodeState, RunState
from omium.orchestration.log.state import NodeStatus as N
from omium.orchestration.log.state import RunStatus as R

_LIVE = frozenset({R.PLANNING, R.EXECUTING, R.PAUSED, R.WAITING_APPROVAL})
_ANY = frozenset(R)

RUN_COMMANDS: Mapping[type, frozenset[R]] = {
    c.CreateRun: frozenset({R.DRAFT}),
    c.PlanRun: frozenset({R.DRAFT}),
    c.StartRun: frozenset({R.PLANNING}),
    c.WaitRun: frozenset({R.PLANNING, R.EXECUTING}),
    c.PauseRun: frozenset({R.PLANNING, R.EXECUTING, R.WAITING_APPROVAL}),
    c.ResumeRun: frozenset({R.PAUSED}),
    c.CancelRun: _LIVE | {R.DRAFT},
    c.CompleteRun: frozenset({R.EXECUTING}),
    c.FailRun: _LIVE,
    c.RecoverRun: _LIVE,
    c.RollBack: _ANY - {R.DRAFT, R.PLANNING},
    c.EndUndoing: _ANY,
    c.PlayFrom: frozenset({R.EXECUTING, R.PAUSED, R.WAITING_APPROVAL, R.FAILED}),
    c.NoteBranch: _ANY,
    c.CloseBranch: _ANY,
    c.Adopt: _ANY - {R.DRAFT},  # with files, only while nothing works on the run's own
    # A node starts only while the run executes; one that is in flight may still end while the run pauses.
    c.StartNode: frozenset({R.EXECUTING}),
    c.ReuseNode: frozenset({R.EXECUTING}),
    c.SkipNode: frozenset({R.EXECUTING}),
    c.ExpandNode: frozenset({R.EXECUTING, R.PAUSED, R.WAITING_APPROVAL}),  # a plan is what a node in flight came to
    c.RequestApproval: frozenset({R.PLANNING, R.EXECUTING, R.PAUSED, R.WAITING_APPROVAL}),
    c.WaitNode: _LIVE,
    c.NoteProgress: _LIVE,
    c.CompleteNode: _LIVE,
    c.FailAttempt: _LIVE,
    c.FailNode: _LIVE,
    c.InterruptNode: _LIVE,
    c.IntendEffect: _LIVE,
    c.SettleEffect: _ANY,
    c.NoteCompensation: _ANY,
    c.Decide: _ANY,  # the approval itself says whether it can still be decided
    c.ExpireApproval: _ANY,
    c.Signal: _LIVE,
    c.Label: _ANY,
    c.CaptureWorkspace: _ANY,
    c.StartRestore: _ANY,
    c.FinishRestore: _ANY,
    c.SaveArtifact: _LIVE,
    c.UseDecision: _LIVE,
    c.KeepState: _LIVE,
    c.SetPoint: _LIVE,
    c.EndPoint: _LIVE,
    c.NoteUsage: _LIVE,
    c.NoteBudget: _ANY,  # the last call of a run may be over when the run is
    c.NoteDecision: _LIVE,
    c.DrawValue: _LIVE,
    c.Erase: RUN_TERMINAL,
}

NODE_COMMANDS: Mapping[type, frozenset[N]] = {
    c.StartNode: frozenset({N.PENDING, N.PAUSED, N.WAITING_APPROVAL}),
    c.ReuseNode: frozenset({N.PENDING}),
    c.SkipNode: frozenset({N.PENDING, N.WAITING_APPROVAL}),
    c.ExpandNode: frozenset({N.RUNNING}),
    c.WaitNode: frozenset({N.RUNNING}),
    c.NoteProgress: frozenset({N.RUNNING}),
    c.CompleteNode: frozenset({N.RUNNING, N.WAITING_APPROVAL}),
    c.FailAttempt: frozenset({N.RUNNING}),
    c.FailNode: frozenset({N.RUNNING, N.WAITING_APPROVAL}),
    c.InterruptNode: frozenset({N.RUNNING}),
    c.RequestApproval: frozenset({N.PENDING, N.RUNNING}),
    c.IntendEffect: frozenset({N.RUNNING}),
    c.SaveArtifact: frozenset({N.RUNNING}),
    c.UseDecision: frozenset({N.RUNNING}),
    c.KeepState: frozenset({N.RUNNING}),
    c.SetPoint: frozenset({N.RUNNING}),
    c.EndPoint: frozenset({N.RUNNING}),
    c.NoteUsage: frozenset({N.RUNNING}),
    c.NoteDecision: frozenset({N.RUNNING}),
    c.DrawValue: frozenset({N.RUNNING}),
}

# What a user calls these things: a refusal lists the verbs that the state allows.
_VERBS: Mapping[type, str] = {
    c.PauseRun: "pause",
    c.ResumeRun: "resume",
    c.CancelRun: "cancel",
    c.RollBack: "rollback",
    c.PlayFrom: "play_from_node",
    c.NoteBranch: "branch",
    c.Label: "checkpoint",
    c.Signal: "signal",
}


def allowed(status: R) -> list[str]:
    """The verbs that a run in this state takes, in a stable order."""
    return [verb for kind, verb in _VERBS.items() if status in RUN_COMMANDS[kind]]


def decide(state: RunState, command: c.Command, at: int) -> list[Draft]:
    """The events that a command becomes, `at` microseconds. Raises OmiumError: `not_allowed` when the table has no such
    entry, `conflict` when the command is about an older generation or attempt, `already_decided`, `not_found`."""
    kind = type(command)
    if state.status not in RUN_COMMANDS[kind]:
        raise _refused(state, kind)
    if kind in NODE_COMMANDS:
        node_id: NodeId | None = command.node  # type: ignore[union-attr]
        if node_id is not None:
            _check_node(state, state.nodes.get(node_id) or state.node(node_id), command)
    return _DECIDE[kind](state, command, at)


def _refused(state: RunState, kind: type) -> OmiumError:
    verb = _VERBS.get(kind, kind.__name__)
    now = allowed(state.status)
    return OmiumError(
        "not_allowed",
        f"{verb} is refused: run {state.run_id} is {state.status}.",
        f"Allowed now: {', '.join(now)}." if now else "",
        state=str(state.status),
        allowed=now,
    )


def _check_node(state: RunState, node: NodeState, command: Any) -> None:
    if command.generation != node.generation:
        raise OmiumError(
            "conflict",
            f"node {command.node} of run {state.run_id} is in generation {node.generation}, not {command.generation}.",
            "It was reset meanwhile; the result of the older generation changes nothing.",
        )
    if node.status not in NODE_COMMANDS[type(command)]:
        raise OmiumError(
            "not_allowed",
            f"{type(command).__name__} is refused: node {command.node} of run {state.run_id} is {node.status}.",
            state=str(node.status),
        )
    attempt = getattr(command, "attempt", None)
    if attempt is not None and attempt != node.attempt:
        raise OmiumError(
            "conflict", f"node {command.node} of run {state.run_id} is at attempt {node.attempt}, not {attempt}."
        )


def _create(state: RunState, m: c.CreateRun, at: int) -> list[Draft]:
    if state.seq != 0:
        raise OmiumError("conflict", f"run {state.run_id} exists.")
    if not m.definition:
        raise OmiumError("invalid_argument", "a run needs a definition.")
    data = present(
        definition=m.definition,
        workflow=m.workflow,
        inputs=m.inputs,
        project=m.project,
        title=m.title or None,
        priority=m.priority or None,
        deadline_at=m.deadline_at,
        parent=dict(m.parent) if m.parent else None,
        reset=m.reset,
        tree=m.tree,
        reuse=m.reuse if m.reuse != "none" else None,
        overrides=dict(m.overrides) if m.overrides else None,
        branch=m.branch,
        hypothesis=m.hypothesis,
        caller=dict(m.caller) if m.caller else None,
        session=m.session,
        workspace=m.workspace,
        owner=m.owner,
        policy=m.policy,
        agents=m.agents,
    )
    return [(E.RUN_CREATED, data)]


def _pause(state: RunState, m: c.PauseRun, at: int) -> list[Draft]:
    return [(E.RUN_PAUSED, present(reason=m.reason, interrupt=m.interrupt or None))]


def _roll_back(state: RunState, m: c.RollBack, at: int) -> list[Draft]:
    if not 1 <= m.to <= state.seq:
        raise OmiumError(
            "invalid_argument",
            f"position {m.to} is not in the log of run {state.run_id}, which ends at {state.seq}.",
            "List the checkpoints to see the positions.",
        )
    called = m.seen is not None and max(state.called, state.compensable) > m.seen
    if called or (m.bare and (state.tree is not None or state.restoring is not None)):
        raise courses.overtaken(state)
    drafts: list[Draft] = []
    if m.trigger is not None:
        known = state.setbacks.get(m.cause) if m.cause is not None else None
        if known is None or (known["rule"], known.get("approval")) != (m.rule, m.approval) or state.status not in _LIVE:
            raise OmiumError("conflict", f"run {state.run_id} is not to be taken back for node {m.cause} any more.")
        if m.approval is not None:
            drafts.append(_consume(state, m.approval))
    data = present(
        to=m.to,
        generation=state.generation + 1,
        reason=m.reason,
        restore=m.restore,
        label=m.label,
        trigger=m.trigger,
        rule=m.rule,
        cause=m.cause,
        category=m.category,
        approval=m.approval,
        agents=m.agents,
        undo=m.undo or None,
    )
    return [*drafts, (E.RUN_ROLLED_BACK, data)]


def _start_node(state: RunState, m: c.StartNode, at: int) -> list[Draft]:
    node = state.node(m.node)
    drafts: list[Draft] = []
    if node.status is N.WAITING_APPROVAL or m.approval is not None:
        if m.approval is None:
            raise OmiumError("not_allowed", f"node {m.node} waits for approval {node.approval}.")
        if _approval(state, m.approval).scope not in IN_THE_MIDDLE:
            drafts.append(_consume(state, m.approval))
        elif _approval(state, m.approval).decision is None:  # whoever asked finds the decision, and uses it
            raise OmiumError("not_allowed", f"node {m.node} waits for approval {m.approval}.")
    kind = E.NODE_RETRY_STARTED if node.failures else E.NODE_STARTED
    data: dict[str, Any] = {"node": m.node, "generation": m.generation, "attempt": node.attempt + 1}
    if m.key is not None:
        data["key"] = m.key
    if m.tree is not None:
        data["tree"] = m.tree
    if m.approval is not None:
        data["approval"] = m.approval
    if m.agent is not None:
        data["agent"] = m.agent
    drafts.append((kind, data))
    return drafts


def _consume(state: RunState, approval_id: str) -> Draft:
    approval = _approval(state, approval_id)
    if approval.decision is None or approval.consumed:
        what = "was used before" if approval.consumed else "is not decided"
        raise OmiumError("not_allowed", f"approval {approval_id} {what}.")
    return (E.APPROVAL_CONSUMED, {"approval": approval_id})


def _use(state: RunState, m: c.UseDecision, at: int) -> list[Draft]:
    approval = _approval(state, m.approval)
    if (approval.node, approval.generation) != (m.node, m.generation):
        raise OmiumError("not_allowed", f"approval {m.approval} is of another node than {m.node}, or an older one.")
    return [_consume(state, m.approval)]


def _consume_for(state: RunState, m: c.IntendEffect) -> list[Draft]:
    """The decision that an intent rests on, used up with it. One that this very call used covers its repeats, as long
    as the call is not known to have been made."""
    if m.approval is None:
        return []
    approval = _approval(state, m.approval)
    if (approval.node, approval.generation) != (m.node, m.generation) or approval.decision not in ("approve", "modify"):
        raise OmiumError("not_allowed", f"approval {m.approval} does not allow {m.call!r} of node {m.node}.")
    known = state.effects.get(m.effect)
    if approval.consumed and known is not None and known.approval == m.approval and known.outcome != "failed":
        return []
    return [_consume(state, m.approval)]


def _approval(state: RunState, approval_id: str) -> ApprovalState:
    approval = state.approvals.get(approval_id)  # type: ignore[call-overload]
    if approval is None:
        raise OmiumError("not_found", f"approval {approval_id} is not one of run {state.run_id}.")
    return approval  # type: ignore[no-any-return]


def _wait_node(state: RunState, m: c.WaitNode, at: int) -> list[Draft]:
    data = present(node=m.node, generation=m.generation, due_at=m.due_at, signal=m.signal, child=m.child)
    return [(E.NODE_WAITING, data)]


def _expand(state: RunState, m: c.ExpandNode, at: int) -> list[Draft]:
    data = present(
        node=m.node,
        generation=m.generation,
        count=m.count,
        first=m.first or None,
        items=m.items,
        keys=list(m.keys) if m.keys is not None else None,
        plan=m.plan,
    )
    return [(E.NODE_EXPANDED, data)]


def _progress(state: RunState, m: c.NoteProgress, at: int) -> list[Draft]:
    data = {"node": m.node, "generation": m.generation, "attempt": m.attempt, "text": m.text}
    return [(E.NODE_PROGRESS, data)]


def _complete_node(state: RunState, m: c.CompleteNode, at: int) -> list[Draft]:
    drafts: list[Draft] = []
    node = state.nodes.get(m.node) or state.node(m.node)
    if node.status is N.WAITING_APPROVAL or m.approval is not None:
        drafts.append(_consume(state, m.approval or node.approval or ""))
    data: dict[str, Any] = {"node": m.node, "generation": m.generation, "output": m.output, "size": m.size}
    if m.attempt is not None:
        data["attempt"] = m.attempt
    if m.key is not None:
        data["key"] = m.key
    if m.tree is not None:
        data["tree"] = m.tree
    if m.usage:
        data["usage"] = dict(m.usage)
    if m.ms is not None:
        data["ms"] = m.ms
    drafts.append((E.NODE_COMPLETED, data))
    if node.failures:
        told = {"node": m.node, "generation": m.generation, "attempt": node.attempt}
        drafts.append((E.NODE_RETRY_SUCCEEDED, told))
    return drafts


def _reuse(state: RunState, m: c.ReuseNode, at: int) -> list[Draft]:
    found = state.reusable.get(m.key, {}).get(m.source)
    if found is None:
        raise OmiumError("not_found", f"run {state.run_id} has no result of {m.source} with key {m.key} to reuse.")
    data = present(
        node=m.node,
        generation=m.generation,
        output=found.output,
        size=found.size,
        key=m.key,
        source=f"{found.node}@{found.seq}",
        tree=found.tree,
    )
    return [(E.NODE_REUSED, data)]


def _fail_attempt(state: RunState, m: c.FailAttempt, at: int) -> list[Draft]:
    which = {"node": m.node, "generation": m.generation, "attempt": m.attempt}
    category = str(m.error.get("category", "unknown"))
    drafts: list[Draft] = [(E.NODE_ATTEMPT_FAILED, present(**which, error=dict(m.error), rule=m.rule))]
    if m.retry_at is not None:
        drafts.append((E.NODE_RETRY_BACKOFF, {**which, "due_at": m.retry_at, "category": category}))
        return drafts
    if m.retries:
        drafts.append((E.NODE_RETRY_EXHAUSTED, {**which, "category": category}))
    if m.rule is not None:
        return drafts
    drafts.append((E.NODE_FAILED, {**which, "error": dict(m.error)}))
    return drafts


def _fail_node(state: RunState, m: c.FailNode, at: int) -> list[Draft]:
    drafts: list[Draft] = []
    approval = state.approvals.get(m.approval) if m.approval is not None else None
    if approval is not None and approval.decision not in (None, "expired") and not approval.consumed:
        drafts.append((E.APPROVAL_CONSUMED, {"approval": m.approval}))
    drafts.append((E.NODE_FAILED, {"node": m.node, "generation": m.generation, "error": dict(m.error)}))
    return drafts


def _skip(state: RunState, m: c.SkipNode, at: int) -> list[Draft]:
    drafts: list[Draft] = []
    if state.node(m.node).status is N.WAITING_APPROVAL:
        drafts.append(_consume(state, m.approval or ""))
    drafts.append((E.NODE_SKIPPED, present(node=m.node, generation=m.generation, reason=m.reason, cause=m.cause)))
    return drafts


def _interrupt(state: RunState, m: c.InterruptNode, at: int) -> list[Draft]:
    data = {"node": m.node, "generation": m.generation, "attempt": m.attempt, "reason": m.reason}
    return [(E.NODE_INTERRUPTED, data)]


def _recover(state: RunState, m: c.RecoverRun, at: int) -> list[Draft]:
    drafts: list[Draft] = [(E.RUN_RECOVERED, present(fence=m.fence, interrupted=len(m.interrupted) or None))]
    for node_id in m.interrupted:
        node = state.node(node_id)
        if not node.in_flight:
            raise OmiumError("conflict", f"node {node_id} of run {state.run_id} is not in flight.")
        told = {"node": node_id, "generation": node.generation, "attempt": node.attempt, "reason": m.reason}
        drafts.append((E.NODE_INTERRUPTED, told))
    return drafts


def _request_approval(state: RunState, m: c.RequestApproval, at: int) -> list[Draft]:
    if m.approval in state.approvals:
        raise OmiumError("conflict", f"approval {m.approval} exists.")
    data = present(
        approval=m.approval,
        generation=m.generation,
        scope=m.scope,
        question=m.question.replace("\0", "\N{SYMBOL FOR NULL}"),  # not every database can hold the real one in a text
        options=list(m.options),
        expires_at=m.expires_at,
        min_assurance=m.min_assurance,
        binding=m.binding,
        details=dict(m.details) if m.details else None,
    )
    return [(E.APPROVAL_REQUESTED, {**data, "node": m.node})]


def _wait(state: RunState, m: c.WaitRun, at: int) -> list[Draft]:
    """Whoever waits for the run would take it for a question, where there is none any more."""
    stands = m.generation in (None, state.generation) and not state.setbacks and state.answered() is None
    asks = any(approval.decision is None for approval in state.approvals.values())
    return [(E.RUN_WAITING, {})] if stands and asks else []


def _complete(state: RunState, m: c.CompleteRun, at: int) -> list[Draft]:
    _check_course(state, m.generation)
    return [(E.RUN_COMPLETED, {"output": m.output, "size": m.size})]


def _fail(state: RunState, m: c.FailRun, at: int) -> list[Draft]:
    _check_course(state, m.generation)
    return [(E.RUN_FAILED, {"error": dict(m.error)})]


def _check_course(state: RunState, generation: int | None) -> None:
    """What has ended is the course that the engine has seen: one that somebody has set since goes on."""
    if generation not in (None, state.generation):
        told = f"run {state.run_id} is of generation {state.generation}: what has ended is of {generation}."
        raise OmiumError("conflict", told)


def _decide_approval(state: RunState, m: c.Decide, at: int) -> list[Draft]:
    approval = _approval(state, m.approval)
    if approval.decision is not None:
        raise OmiumError(
            "already_decided",
            f"approval {m.approval} was decided before: {approval.decision} by {approval.by or 'nobody'}.",
            decision=approval.decision,
            by=approval.by,
            decided_at=approval.decided_at,
        )
    if state.status in RUN_TERMINAL:
        raise _refused(state, c.Decide)
    if at >= approval.expires_at:
        raise OmiumError("already_decided", f"approval {m.approval} has expired.", decision="expired")
    if m.decision not in approval.options:
        raise OmiumError(
            "invalid_argument",
            f"{m.decision!r} is not an option of approval {m.approval}.",
            f"Options: {', '.join(approval.options)}.",
            options=approval.options,
        )
    data = present(
        approval=m.approval,
        decision=m.decision,
        by=m.by,
        assurance=m.assurance,
        feedback=m.feedback,
        arguments=m.arguments,
    )
    return [(E.APPROVAL_DECIDED, data), *_go_on(state)]


def _go_on(state: RunState) -> list[Draft]:
    """A run that stood still for this decision goes on; one that is paused stays so."""
    return [(E.RUN_RESUMED, {"reason": "decided"})] if state.status is R.WAITING_APPROVAL else []


def _expire(state: RunState, m: c.ExpireApproval, at: int) -> list[Draft]:
    approval = _approval(state, m.approval)
    if approval.decision is not None or at < approval.expires_at:
        raise OmiumError("not_allowed", f"approval {m.approval} does not expire now.")
    return [(E.APPROVAL_EXPIRED, {"approval": m.approval}), *_go_on(state)]


def _intend(state: RunState, m: c.IntendEffect, at: int) -> list[Draft]:
    known = state.effects.get(m.effect)
    if known is not None and known.outcome == "done":
        raise OmiumError("conflict", f"effect {m.call!r} of node {m.node} is known to be {known.outcome}.")
    data = present(
        effect=m.effect,
        node=m.node,
        generation=m.generation,
        attempt=m.attempt,
        call=m.call,
        kind=m.kind,
        on_unknown=m.on_unknown,
        compensate=m.compensate,
        detail=dict(m.detail) if m.detail else None,
        approval=m.approval,
    )
    return [*_consume_for(state, m), (E.EFFECT_INTENDED, data)]


def _settle(state: RunState, m: c.SettleEffect, at: int) -> list[Draft]:
    known = state.effects.get(m.effect)
    if known is None:  # an unsettled intent stays known, whatever became of its node
        raise OmiumError("conflict", f"effect {m.effect} of run {state.run_id} is settled, or was never intended.")
    if m.outcome == "unknown" and known.outcome is not None:
        return []  # that is no news, or less than is known
    if known.outcome not in (None, "unknown"):
        if (known.outcome, known.result) == (m.outcome, m.result):
            return []  # written before by one who was not told that it was
        raise OmiumError("conflict", f"effect {m.effect} is settled: {known.outcome}.", outcome=known.outcome)
    data = present(
        effect=m.effect,
        outcome=m.outcome,
        result=m.result,
        size=m.size or None,
        error=dict(m.error) if m.error else None,
        tree=m.tree,
    )
    return [(E.EFFECT_SETTLED, data)]


def _label(state: RunState, m: c.Label, at: int) -> list[Draft]:
    if not 1 <= m.at <= state.seq:
        raise OmiumError("invalid_argument", f"position {m.at} is not in the log of run {state.run_id}.")
    tree = m.tree if m.tree is not None or m.at != state.seq else state.tree
    data = present(at=m.at, label=m.label, note=m.note, tree=tree, valid=m.valid)
    return [(E.CHECKPOINT_CREATED, data)]


_DECIDE: Mapping[type, Callable[[RunState, Any, int], list[Draft]]] = {
    c.CreateRun: _create,
    c.PlanRun: lambda s, m, at: [(E.RUN_PLANNING, {})],
    c.StartRun: lambda s, m, at: [(E.RUN_STARTED, {})],
    c.WaitRun: _wait,
    c.PauseRun: _pause,
    c.ResumeRun: lambda s, m, at: [(E.RUN_RESUMED, present(reason=m.reason))],
    c.CancelRun: lambda s, m, at: [(E.RUN_CANCELLED, present(reason=m.reason))],
    c.CompleteRun: _complete,
    c.FailRun: _fail,
    c.RecoverRun: _recover,
    c.RollBack: _roll_back,
    c.EndUndoing: lambda s, m, at: [(E.RUN_UNDONE, {"rollback": m.rollback})] if m.rollback in s.owed else [],
    c.PlayFrom: courses.play_from,
    c.NoteBranch: courses.note_branch,
    c.CloseBranch: courses.close_branch,
    c.Adopt: courses.adopt,
    c.StartNode: _start_node,
    c.WaitNode: _wait_node,
    c.ExpandNode: _expand,
    c.NoteProgress: _progress,
    c.CompleteNode: _complete_node,
    c.ReuseNode: _reuse,
    c.FailAttempt: _fail_attempt,
    c.FailNode: _fail_node,
    c.SkipNode: _skip,
    c.InterruptNode: _interrupt,
    c.RequestApproval: _request_approval,
    c.Decide: _decide_approval,
    c.UseDecision: _use,
    c.ExpireApproval: _expire,
    c.IntendEffect: _intend,
    c.SettleEffect: _settle,
    c.NoteCompensation: records.compensation,
    c.Signal: lambda s, m, at: [(E.SIGNAL_RECEIVED, {"name": m.name, "payload": m.payload, "size": m.size})],
    c.Label: _label,
    c.CaptureWorkspace: lambda s, m, at: [(E.WORKSPACE_CAPTURED, present(tree=m.tree, reason=m.reason, node=m.node))],
    c.StartRestore: lambda s, m, at: [(E.WORKSPACE_RESTORE_STARTED, {"tree": m.tree, "reason": m.reason})],
    c.FinishRestore: lambda s, m, at: [
        (E.WORKSPACE_RESTORED, {"tree": m.tree, "changed": m.changed, "removed": m.removed, "added": m.added})
    ],
    c.SaveArtifact: records.artifact,
    c.KeepState: records.keep,
    c.SetPoint: records.set_point,
    c.EndPoint: records.end_point,
    c.NoteUsage: records.note_usage,
    c.NoteBudget: records.note_budget,
    c.NoteDecision: records.note_decision,
    c.DrawValue: records.draw,
    c.Erase: courses.erase,
}
