"""Whatever the order of deciding, expiring, cancelling, crashing and calling: no call rests on a decision that is not
there, not in time, of another call, or used up."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omium.orchestration.engine.attempt import effect_id
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.fold import apply
from omium.orchestration.log.state import RUN_TERMINAL, NodeStatus, RunState
from omium.orchestration.log.transitions import decide

WORK = NodeId("work")
CALLS = ("one", "two")


class Calls(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = RunState(RunId("run_1"))
        self.now = 1_000
        self.events: list[Event] = []
        self.asked = 0
        self.used: dict[str, str] = {}  # by approval: the call whose intent it let through
        self.over: set[str] = set()  # approvals whose call is known to have been made
        digest = Digest("d" * 64)
        for command in (c.CreateRun(digest, "w", digest, "p"), c.PlanRun(), c.StartRun(), c.StartNode(WORK, 0)):
            assert self.tell(command)

    def tell(self, command: Any) -> bool:
        """Whether the table took the command."""
        self.now += 1
        try:
            drafts = decide(self.state, command, self.now)
        except OmiumError:
            return False
        for kind, data in drafts:
            event = Event(
                self.state.run_id, Seq(self.state.seq + 1), kind, self.now, Principal("x"), data, b"", b"h" * 32
            )
            self.state = apply(self.state, event)
            self.events.append(event)
        return True

    @property
    def node(self) -> Any:
        return self.state.node(WORK)

    @rule(call=st.sampled_from(CALLS), ttl=st.integers(1, 40))
    def ask(self, call: str, ttl: int) -> None:
        self.asked += 1
        request = c.RequestApproval(
            ApprovalId(f"apr_{self.asked}"), WORK, self.node.generation, "call", "?", ("approve", "reject", "modify"),
            self.now + ttl, "elicited", Digest(call),
        )  # fmt: skip
        live = self.state.status not in RUN_TERMINAL and self.node.status in (NodeStatus.RUNNING, NodeStatus.PENDING)
        assert self.tell(request) == live

    @rule(which=st.integers(1, 8), decision=st.sampled_from(["approve", "reject", "modify"]))
    def decided(self, which: int, decision: str) -> None:
        approval = self.state.approvals.get(ApprovalId(f"apr_{which}"))
        open_ = approval is not None and approval.decision is None and self.state.status not in RUN_TERMINAL
        in_time = approval is not None and self.now + 1 < approval.expires_at
        took = self.tell(c.Decide(ApprovalId(f"apr_{which}"), decision, "user:a", "elicited"))
        assert took == (open_ and in_time)

    @rule(which=st.integers(1, 8))
    def expire(self, which: int) -> None:
        self.tell(c.ExpireApproval(ApprovalId(f"apr_{which}")))

    @rule(by=st.integers(1, 50))
    def time_goes_on(self, by: int) -> None:
        self.now += by

    @rule()
    def cancel(self) -> None:
        if self.asked > 3:  # rarely: nothing happens behind it
            self.tell(c.CancelRun())

    @precondition(lambda self: self.node.status is NodeStatus.WAITING_APPROVAL)
    @rule()
    def start_again(self) -> None:
        approval = self.state.approvals[self.node.approval]
        took = self.tell(c.StartNode(WORK, self.node.generation, approval=self.node.approval))
        assert took == (approval.decision is not None and self.state.status.value == "executing")

    @precondition(lambda self: self.node.in_flight)
    @rule()
    def crash(self) -> None:
        if self.tell(c.RecoverRun(2, (WORK,))):
            self.tell(c.StartNode(WORK, self.node.generation))

    @rule(call=st.sampled_from(CALLS), which=st.integers(1, 8))
    def intend(self, call: str, which: int) -> None:
        name = f"apr_{which}"
        identity = effect_id(self.state.run_id, WORK, self.node.generation, call)
        approval, running = self.state.approvals.get(ApprovalId(name)), self.node.status is NodeStatus.RUNNING
        command = c.IntendEffect(
            identity, WORK, self.node.generation, self.node.attempt, call, "tool", "ask", approval=ApprovalId(name)
        )
        if not self.tell(command):
            return
        assert running and approval is not None and approval.decision in ("approve", "modify")
        assert name not in self.over
        assert self.used.setdefault(name, call) == call, "a decision served two calls"

    @rule(call=st.sampled_from(CALLS), outcome=st.sampled_from(["done", "failed", "not_sent", "unknown"]))
    def settle(self, call: str, outcome: Any) -> None:
        identity = effect_id(self.state.run_id, WORK, self.node.generation, call)
        effect = self.state.effects.get(identity)
        if self.tell(c.SettleEffect(identity, outcome)) and outcome in ("done", "failed"):
            assert effect is not None and effect.approval is not None
            self.over.add(effect.approval)

    @invariant()
    def each_is_consumed_once(self) -> None:
        consumed = [event.data["approval"] for event in self.events if event.type is E.APPROVAL_CONSUMED]
        assert len(consumed) == len(set(consumed))
        assert set(consumed) == {name for name, one in self.state.approvals.items() if one.consumed} == set(self.used)


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
