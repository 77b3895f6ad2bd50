"""Both state machines, every state against every other: what leads where is exactly this, and all else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import FIELDS, Event
from omium.orchestration.log.fold import apply
from omium.orchestration.log.state import (
    AT_REST,
    ApprovalState,
    NodeState,
    NodeStatus,
    Reusable,
    RunState,
    RunStatus,
    from_document,
    to_document,
)
from omium.orchestration.log.transitions import NODE_COMMANDS, RUN_COMMANDS, allowed, decide

NOW = 1_000
RUN, NODE = RunId("run_x"), NodeId("n")
OPEN, YES = ApprovalId("apr_open"), ApprovalId("apr_yes")
ERROR = {"category": "unknown", "message": "m"}
BLOB = Digest("0" * 64)


def approval(node: NodeId | None, decision: str | None) -> ApprovalState:
    return ApprovalState(node, 0, "node", "?", ["approve", "reject"], NOW + 10, "none", 1, decision=decision)


def run_in(status: RunStatus, node: NodeStatus = NodeStatus.PENDING) -> RunState:
    """A run in this state with one node in that one, a question that is open and one that is answered."""
    state = RunState(RUN, Seq(5), status=status, definition=BLOB, generation=0)
    state.nodes[NODE] = NodeState(status=node, attempt=1, approval=YES if node is NodeStatus.WAITING_APPROVAL else None)
    state.approvals = {OPEN: approval(None, None), YES: approval(NODE, "approve")}
    old = NodeId("old")
    state.reusable["key"] = {old: Reusable(old, BLOB, 1, None, 2, None, 0)}
    return state


def after(state: RunState, command: c.Command, at: int = NOW) -> RunState:
    """The state after a command; `state` is used up."""
    for kind, data in decide(state, command, at):
        required, optional = FIELDS[kind]
        assert required <= set(data) <= required | optional, kind
        event = Event(RUN, Seq(state.seq + 1), kind, at, Principal("user:me"), data, b"", b"")
        base = run_in(RunStatus.EXECUTING, NodeStatus.RUNNING) if "to" in data else None
        state = apply(state, event, base=base, nodes=[NODE] if "nodes" in data else [])
    return state


RUN_SAMPLES: list[c.Command] = [
    c.PlanRun(),
    c.StartRun(),
    c.WaitRun(),
    c.PauseRun("why"),
    c.ResumeRun(),
    c.CancelRun(),
    c.CompleteRun(BLOB, 1),
    c.FailRun(ERROR),
    c.RecoverRun(2),
    c.RollBack(Seq(3)),
    c.PlayFrom(NODE, BLOB, (NODE,)),
    c.Decide(OPEN, "approve", "user:me", "none"),
]
R = RunStatus
RUN_EDGES: dict[RunStatus, set[RunStatus]] = {
    R.DRAFT: {R.PLANNING, R.CANCELLED},
    R.PLANNING: {R.EXECUTING, R.WAITING_APPROVAL, R.PAUSED, R.CANCELLED, R.FAILED},
    R.EXECUTING: {R.WAITING_APPROVAL, R.PAUSED, R.COMPLETED, R.FAILED, R.CANCELLED},
    R.PAUSED: {R.EXECUTING, R.FAILED, R.CANCELLED},
    R.WAITING_APPROVAL: {R.EXECUTING, R.PAUSED, R.FAILED, R.CANCELLED},
    # Left by history only: a rollback lands in `paused`, a failed run may be played from a node.
    R.COMPLETED: {R.PAUSED},
    R.FAILED: {R.PAUSED, R.EXECUTING},
    R.CANCELLED: {R.PAUSED},
}


def reached(states: Iterator[RunState]) -> set[Any]:
    return {state.status for state in states}


def outcomes(status: RunStatus, samples: list[c.Command]) -> Iterator[RunState]:
    for command in samples:
        try:
            yield after(run_in(status), command)
        except OmiumError as refused:
            assert refused.code in ("not_allowed", "already_decided")


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_goes_where_the_table_says_and_nowhere_else(status: RunStatus) -> None:
    assert len(RunStatus) == 8
    assert reached(outcomes(status, RUN_SAMPLES)) - {status} == RUN_EDGES[status]


@pytest.mark.parametrize("status", [R.COMPLETED, R.FAILED, R.CANCELLED])
def test_a_run_that_has_ended_is_left_by_history_only(status: RunStatus) -> None:
    others = [sample for sample in RUN_SAMPLES if not isinstance(sample, c.RollBack | c.PlayFrom)]
    assert list(outcomes(status, others)) == []


@pytest.mark.parametrize("status", RunStatus)
@pytest.mark.parametrize("command", RUN_SAMPLES, ids=lambda one: type(one).__name__)
def test_a_refusal_lists_what_is_allowed_now(status: RunStatus, command: c.Command) -> None:
    if status in RUN_COMMANDS[type(command)]:
        return
    with pytest.raises(OmiumError) as refused:
        decide(run_in(status), command, NOW)
    assert refused.value.code == "not_allowed"
    assert refused.value.data["state"] == status
    assert refused.value.data["allowed"] == allowed(status)
    for verb in allowed(status):
        assert verb in refused.value.hint


VERBS: dict[str, c.Command] = {
    "pause": c.PauseRun(),
    "resume": c.ResumeRun(),
    "cancel": c.CancelRun(),
    "rollback": c.RollBack(Seq(3)),
    "play_from_node": c.PlayFrom(NODE, BLOB, (NODE,)),
    "branch": c.NoteBranch("run_y", Seq(3)),
    "checkpoint": c.Label(Seq(3), "here"),
    "signal": c.Signal("go", BLOB, 1),
}


@pytest.mark.parametrize("status", RunStatus)
def test_what_is_said_to_be_allowed_is_and_the_rest_is_not(status: RunStatus) -> None:
    for verb, command in VERBS.items():
        if verb in allowed(status):
            assert decide(run_in(status), command, NOW)
        else:
            with pytest.raises(OmiumError, match="not_allowed"):
                decide(run_in(status), command, NOW)


NODE_SAMPLES: list[c.Command] = [
    c.StartNode(NODE, 0),
    c.StartNode(NODE, 0, approval=YES),
    c.ReuseNode(NODE, 0, "key", NodeId("old")),
    c.SkipNode(NODE, 0, "condition"),
    c.SkipNode(NODE, 0, "decision", approval=YES),
    c.ExpandNode(NODE, 0, 2),
    c.WaitNode(NODE, 0, due_at=NOW + 5),
    c.CompleteNode(NODE, 0, BLOB, 1),
    c.FailAttempt(NODE, 0, 1, ERROR),
    c.FailAttempt(NODE, 0, 1, ERROR, retry_at=NOW + 5),
    c.FailAttempt(NODE, 0, 1, ERROR, rule=0),
    c.FailNode(NODE, 0, ERROR),
    c.SetPoint(NODE, 0, 1, "here", "here#1", BLOB, 1),
    c.EndPoint(NODE, 0, 1, "here", "here#1", "done"),
    c.InterruptNode(NODE, 0, 1, "handover"),
    c.InterruptNode(NODE, 0, 1, "paused"),
    c.RequestApproval(ApprovalId("apr_new"), NODE, 0, "step", "?", ("approve",), NOW + 5, "none"),
    c.RecoverRun(2, (NODE,)),
    c.CancelRun(),
    c.PlayFrom(NODE, BLOB, (NODE,)),
]
OF_NODES = [sample for sample in NODE_SAMPLES if type(sample) in NODE_COMMANDS]
N = NodeStatus
NODE_EDGES: dict[NodeStatus, set[NodeStatus]] = {
    N.PENDING: {N.RUNNING, N.COMPLETED, N.SKIPPED, N.WAITING_APPROVAL, N.CANCELLED},
    N.RUNNING: {N.PENDING, N.PAUSED, N.WAITING_APPROVAL, N.COMPLETED, N.FAILED, N.CANCELLED},
    N.PAUSED: {N.RUNNING, N.CANCELLED, N.PENDING},
    N.WAITING_APPROVAL: {N.RUNNING, N.COMPLETED, N.SKIPPED, N.FAILED, N.CANCELLED, N.PENDING},
    # Left by history only, which makes them pending in a new generation.
    N.COMPLETED: {N.PENDING},
    N.FAILED: {N.PENDING},
    N.SKIPPED: {N.PENDING},
    N.CANCELLED: {N.PENDING},
}


@pytest.mark.parametrize("status", NodeStatus)
def test_a_node_goes_where_the_table_says_and_nowhere_else(status: NodeStatus) -> None:
    assert len(NodeStatus) == 8
    found: set[NodeStatus] = set()
    for command in NODE_SAMPLES:
        state = run_in(R.EXECUTING, status)
        try:
            node = after(state, command).node(NODE)
        except OmiumError as refused:
            assert refused.code in ("not_allowed", "conflict", "not_found")
            continue
        if status in (N.COMPLETED, N.FAILED, N.SKIPPED, N.CANCELLED) and node.status is not status:
            assert isinstance(command, c.PlayFrom) and node.generation == 1
        found.add(node.status)
    assert found - {status} == NODE_EDGES[status]


@pytest.mark.parametrize("status", NodeStatus)
@pytest.mark.parametrize(
    "command", OF_NODES, ids=[f"{type(one).__name__}{place}" for place, one in enumerate(OF_NODES)]
)
def test_what_the_table_does_not_list_is_refused_with_the_nodes_state(status: NodeStatus, command: Any) -> None:
    if status in NODE_COMMANDS[type(command)]:
        return
    with pytest.raises(OmiumError) as refused:
        decide(run_in(R.EXECUTING, status), command, NOW)
    assert (refused.value.code, refused.value.data["state"]) == ("not_allowed", status)


@pytest.mark.parametrize(
    "command", OF_NODES, ids=[f"{type(one).__name__}{place}" for place, one in enumerate(OF_NODES)]
)
def test_the_result_of_an_older_generation_changes_nothing(command: Any) -> None:
    for status in NODE_COMMANDS[type(command)]:
        state = run_in(R.EXECUTING, status)
        state.nodes[NODE].generation = 1
        with pytest.raises(OmiumError) as refused:
            decide(state, command, NOW)
        assert refused.value.code == "conflict"


def test_the_result_of_an_older_attempt_changes_nothing() -> None:
    state = run_in(R.EXECUTING, N.RUNNING)
    state.nodes[NODE].attempt = 2
    for command in (c.FailAttempt(NODE, 0, 1, ERROR), c.CompleteNode(NODE, 0, BLOB, 1, attempt=1)):
        with pytest.raises(OmiumError) as refused:
            decide(state, command, NOW)
        assert refused.value.code == "conflict"


@pytest.mark.parametrize("status", [s for s in RunStatus if s is not R.EXECUTING])
def test_a_node_starts_only_in_a_run_that_executes(status: RunStatus) -> None:
    with pytest.raises(OmiumError, match="not_allowed"):
        decide(run_in(status), c.StartNode(NODE, 0), NOW)


@pytest.mark.parametrize("status", [R.PAUSED, R.WAITING_APPROVAL])
def test_a_node_that_is_in_flight_may_end_while_its_run_stands_still(status: RunStatus) -> None:
    for command in (c.CompleteNode(NODE, 0, BLOB, 1), c.FailAttempt(NODE, 0, 1, ERROR)):
        assert decide(run_in(status, N.RUNNING), command, NOW)


def test_a_run_needs_a_definition_and_is_created_once() -> None:
    empty = c.CreateRun(Digest(""), "w", BLOB, "default")
    with pytest.raises(OmiumError, match="invalid_argument"):
        decide(RunState(RUN), empty, NOW)
    with pytest.raises(OmiumError, match="conflict"):
        decide(run_in(R.DRAFT), c.CreateRun(BLOB, "w", BLOB, "default"), NOW)


def test_a_gate_is_left_by_a_decision_that_is_used_once() -> None:
    undecided = run_in(R.EXECUTING, N.WAITING_APPROVAL)
    undecided.approvals[YES].decision = None
    for command in (c.StartNode(NODE, 0), c.StartNode(NODE, 0, approval=YES), c.CompleteNode(NODE, 0, BLOB, 1)):
        with pytest.raises(OmiumError, match="not_allowed"):
            decide(undecided, command, NOW)
    used = run_in(R.EXECUTING, N.WAITING_APPROVAL)
    used.approvals[YES].consumed = True
    with pytest.raises(OmiumError, match="was used before"):
        decide(used, c.StartNode(NODE, 0, approval=YES), NOW)


def test_a_question_is_decided_once_in_time_and_by_an_option_of_its_own() -> None:
    state = run_in(R.WAITING_APPROVAL)
    with pytest.raises(OmiumError, match="invalid_argument"):
        decide(state, c.Decide(OPEN, "perhaps", "user:me", "none"), NOW)
    with pytest.raises(OmiumError, match="already_decided"):
        decide(state, c.Decide(OPEN, "approve", "user:me", "none"), NOW + 10)
    with pytest.raises(OmiumError, match="already_decided"):
        decide(state, c.Decide(YES, "approve", "user:me", "none"), NOW)
    with pytest.raises(OmiumError, match="not_found"):
        decide(state, c.Decide(ApprovalId("apr_none"), "approve", "user:me", "none"), NOW)
    with pytest.raises(OmiumError, match="not_allowed"):
        decide(state, c.ExpireApproval(OPEN), NOW)
    assert after(state, c.ExpireApproval(OPEN), NOW + 10).status is R.EXECUTING


def test_a_run_is_noted_to_stand_still_only_for_a_question_that_is_open() -> None:
    still = run_in(R.EXECUTING, N.WAITING_APPROVAL)
    assert decide(still, c.WaitRun(0), NOW) == []  # it is answered
    still.approvals[YES].consumed = True
    assert decide(still, c.WaitRun(7), NOW) == []  # somebody has set another course
    still.setbacks[NODE] = {"rule": 1, "category": "timeout"}
    assert decide(still, c.WaitRun(0), NOW) == []  # it is about to be taken back
    still.setbacks.clear()
    assert after(still, c.WaitRun(0)).status is R.WAITING_APPROVAL
    closed = run_in(R.EXECUTING)
    closed.approvals[OPEN].decision = "expired"
    assert decide(closed, c.WaitRun(0), NOW) == []


@pytest.mark.parametrize("end", [c.CompleteRun(BLOB, 1, 1), c.FailRun(ERROR, 1)])
def test_what_ends_is_the_course_that_its_engine_has_seen(end: c.Command) -> None:
    with pytest.raises(OmiumError, match="conflict"):
        decide(run_in(R.EXECUTING), end, NOW)


@pytest.mark.parametrize("end", [c.CancelRun(), c.FailRun(ERROR)])
def test_what_ends_a_run_ends_everything_in_it_at_once(end: c.Command) -> None:
    for status in NodeStatus:
        state = after(run_in(R.EXECUTING, status), end)
        expected = status if status in (N.COMPLETED, N.FAILED, N.SKIPPED) else N.CANCELLED
        assert state.node(NODE).status is expected
        assert state.approvals[OPEN].decision == "cancelled"
        assert state.approvals[YES].decision == "approve"


def set_back(status: RunStatus = R.EXECUTING, **more: Any) -> RunState:
    """A run with a node that failed under a rule that takes it back."""
    state = run_in(status)
    state.setbacks[NODE] = {"rule": 1, "category": "timeout", **more}
    return state


BACK = c.RollBack(Seq(3), trigger="automatic", rule=1, cause=NODE, category="timeout")


@pytest.mark.parametrize(("before", "then"), [(R.EXECUTING, R.EXECUTING), (R.WAITING_APPROVAL, R.EXECUTING)])
def test_a_run_that_goes_back_by_itself_goes_on_and_counts_it(before: RunStatus, then: RunStatus) -> None:
    state = after(set_back(before), BACK)
    assert (state.status, state.setbacks, state.rollbacks) == (then, {}, {"1": 1})
    assert after(set_back(R.PAUSED), BACK).status is R.PAUSED


def test_one_that_a_person_decided_is_not_counted_and_uses_the_decision_up() -> None:
    state = set_back(approval=YES)
    decided = c.RollBack(Seq(3), trigger="decided", rule=1, cause=NODE, approval=YES)
    assert [kind for kind, _ in decide(state, decided, NOW)] == ["approval.consumed", "run.rolled_back"]
    assert after(state, decided).rollbacks == {}


@pytest.mark.parametrize(
    "command",
    [
        c.RollBack(Seq(3), trigger="automatic", rule=0, cause=NODE),
        c.RollBack(Seq(3), trigger="automatic", rule=1, cause=NodeId("other")),
        c.RollBack(Seq(3), trigger="decided", rule=1, cause=NODE, approval=YES),
        c.RollBack(Seq(3), trigger="automatic", rule=1),
    ],
)
def test_a_run_goes_back_by_itself_only_for_what_is_noted(command: c.RollBack) -> None:
    with pytest.raises(OmiumError, match="conflict"):
        decide(set_back(), command, NOW)


@pytest.mark.parametrize("command", [c.RollBack(Seq(3)), c.PlayFrom(NODE, BLOB, (NODE,)), c.CancelRun()])
def test_what_a_person_does_to_the_run_comes_instead(command: c.Command) -> None:
    assert after(set_back(), command).setbacks == {}


def test_what_a_checkpoint_holds_is_given_again_after_a_rollback_to_it_until_it_is_recorded_anew() -> None:
    state = run_in(R.EXECUTING, N.RUNNING)
    for number in (1, 2):
        state = after(state, c.SetPoint(NODE, 0, 1, "here", f"here#{number}", BLOB, 1))
    base, now = from_document(to_document(state)), from_document(to_document(state))
    [(kind, data)] = decide(now, c.RollBack(Seq(6)), NOW)
    back = apply(now, Event(RUN, Seq(8), kind, NOW, Principal("user:me"), data, b"", b""), base=base)
    assert (back.nodes[NODE].points, back.nodes[NODE].restored) == (None, {"here#1": BLOB, "here#2": BLOB})
    back = after(after(back, c.ResumeRun()), c.StartNode(NODE, 1))
    back = after(back, c.SetPoint(NODE, 1, 1, "here", "here#1", BLOB, 1))
    assert (back.nodes[NODE].points, back.nodes[NODE].restored) == ({"here#1": BLOB}, {"here#2": BLOB})
    done = after(back, c.CompleteNode(NODE, 1, BLOB, 1)).nodes[NODE]
    assert (done.points, done.restored) == (None, None)


ADOPT = c.Adopt("run_child", Seq(9), "other", BLOB, BLOB)


@pytest.mark.parametrize("status", RunStatus)
def test_files_are_exchanged_only_while_nothing_works_on_them(status: RunStatus) -> None:
    with_files = replace(ADOPT, tree="new", before="old")
    if status in AT_REST:
        state = after(run_in(status), with_files)
        assert (state.tree, state.restoring) == ("old", "new")
    else:
        with pytest.raises(OmiumError, match="not_allowed"):
            decide(run_in(status), with_files, NOW)
    if status is not R.DRAFT:
        assert after(run_in(status), ADOPT).adopted == {"run": "run_child", "seq": 9, "name": "other"}


def test_one_branch_is_adopted_and_its_parents_files_have_a_checkpoint() -> None:
    state = run_in(R.COMPLETED)
    drafts = decide(state, replace(ADOPT, tree="new", before="old"), NOW)
    assert [(kind, data.get("at")) for kind, data in drafts] == [
        ("workspace.captured", None), ("checkpoint.created", 6), ("run.adopted", 9),
    ]  # fmt: skip
    with pytest.raises(OmiumError, match="conflict"):
        decide(after(state, ADOPT), ADOPT, NOW)
