"""Random histories: sequences of commands that the transition table allows, drawn from what the state offers.

Each `_offers_*` gives the commands that make sense now; refusals are welcome too, as long as they change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from omium.orchestration.definition.address import vertex_of
from omium.orchestration.ids import EffectId, NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NodeState, NodeStatus, RunState, RunStatus
from omium.orchestration.values import encode
from tests.conformance.store.acting import INPUTS, OUTPUT, completion, request

NODES = [NodeId(name) for name in ("a", "b", "fan", "fan[0]", "fan[1]", "fix", "fix[0].test", "fix[1].test")]
MAX_ROLLBACKS = 5  # without snapshots, folding takes time exponential in these

Draw = Callable[[Any], Any]
_names = itertools.count()


def choose(draw: Draw, state: RunState, now_us: int) -> c.Command:
    """Something that can be asked of a run in this state, control and execution commands alike; mostly what brings it
    forward, seldom what ends it."""
    begun = [
        node_id for node_id in NODES if state.node(node_id).status in (NodeStatus.RUNNING, NodeStatus.WAITING_APPROVAL)
    ]
    groups = {
        "advance": [o for node_id in begun for o in _offers_of_a_node(state, node_id, state.node(node_id), now_us)],
        "decide": list(_offers_about_approvals(state, now_us)),
        "settle": list(_offers_about_effects(state)),
        "begin": [o for n in NODES if n not in begun for o in _offers_of_a_node(state, n, state.node(n), now_us)],
        "run": list(_offers_of_the_run(state)),
        "end": list(_ends_of_the_run(state)),
    }
    weights = {"advance": 8, "decide": 3, "settle": 3, "begin": 4, "run": 3, "end": 1}
    names = [name for name, group in groups.items() if group for _ in range(weights[name])]
    return draw(st.sampled_from(groups[draw(st.sampled_from(names))]))  # type: ignore[no-any-return]


def _offers_of_the_run(state: RunState) -> Iterator[c.Command]:
    yield c.Label(Seq(max(1, state.seq - 2)), "here", note="a note")
    yield c.CaptureWorkspace(f"tree-{state.seq}", "checkpoint")
    yield c.StartRestore("tree-1", "rollback")
    yield c.FinishRestore("tree-1", 1, 2, 3)
    yield c.Signal("go", INPUTS.digest, INPUTS.size)
    if state.status is RunStatus.EXECUTING:
        yield c.PauseRun("tired", interrupt=state.seq % 2 == 0)
        yield c.WaitRun()
        yield request(f"ap_{next(_names)}", None, scope="plan", expires_at=state.updated_at + state.seq % 2)
        flying = tuple(node_id for node_id, node in state.nodes.items() if node.in_flight)
        yield c.RecoverRun(2, flying, "owner_lost")
    elif state.status is RunStatus.PAUSED:
        yield c.ResumeRun("rested")
        yield c.ResumeRun()
    yield c.NoteBranch("run_x", Seq(1), "try")


def _ends_of_the_run(state: RunState) -> Iterator[c.Command]:
    if state.status is RunStatus.EXECUTING:
        yield c.CompleteRun(OUTPUT.digest, OUTPUT.size)
        yield c.CancelRun("enough")
        yield c.FailRun({"category": "budget", "message": "spent"})


def _offers_about_effects(state: RunState) -> Iterator[c.Command]:
    for effect_id, effect in state.effects.items():
        if effect.outcome in (None, "unknown"):
            yield c.SettleEffect(effect_id, "done", OUTPUT.digest, OUTPUT.size)
            yield c.SettleEffect(effect_id, "unknown")
        else:
            yield c.NoteCompensation(effect_id, "done")


def _offers_about_approvals(state: RunState, now_us: int) -> Iterator[c.Command]:
    for approval_id, approval in state.approvals.items():
        if approval.decision is None:
            yield c.Decide(approval_id, "approve", "user:ada", "elicited", feedback="fine")
            yield c.Decide(approval_id, "reject", "user:ada", "elicited")
            yield c.ExpireApproval(approval_id)


def _offers_of_a_node(state: RunState, node_id: NodeId, node: NodeState, now_us: int) -> Iterator[c.Command]:
    generation, attempt = node.generation, node.attempt
    if node.status in (NodeStatus.PENDING, NodeStatus.PAUSED):
        yield c.StartNode(node_id, generation, key=f"key-{vertex_of(node_id)}", tree=state.tree)
        yield c.SkipNode(node_id, generation, "condition")
        yield request(f"ap_{next(_names)}", node_id, generation=generation, expires_at=now_us + 1_000_000)
        for key, results in state.reusable.items():
            for source in results:
                yield c.ReuseNode(node_id, generation, key, source)
    elif node.status is NodeStatus.WAITING_APPROVAL:
        yield c.StartNode(node_id, generation, approval=node.approval)
        yield completion(node_id, generation, approval=node.approval)
        yield c.SkipNode(node_id, generation, "decision", approval=node.approval)
        yield c.FailNode(node_id, generation, {"category": "rejected"}, approval=node.approval)
    elif node.status is NodeStatus.RUNNING:
        usage = {"tokens": 3, "cost_usd": 0.5}
        yield completion(
            node_id, generation, attempt=attempt, key=f"key-{vertex_of(node_id)}", usage=usage, tree=f"t-{node_id}"
        )
        yield completion(node_id, generation)
        yield c.FailAttempt(node_id, generation, attempt, {"category": "network"}, retry_at=now_us + 5)
        yield c.FailAttempt(node_id, generation, attempt, {"category": "network"}, retries=True)
        yield c.FailNode(node_id, generation, {"category": "x"})
        yield c.InterruptNode(node_id, generation, attempt, "paused")
        yield c.InterruptNode(node_id, generation, attempt, "cancelled_wait")
        yield c.WaitNode(node_id, generation, due_at=now_us + 7)
        yield c.WaitNode(node_id, generation, signal="go")
        yield c.WaitNode(node_id, generation, child="run_child")
        yield c.NoteProgress(node_id, generation, attempt, "half way")
        yield c.DrawValue(node_id, generation, attempt, "now", 17)
        yield c.SaveArtifact(node_id, generation, "report.md", OUTPUT.digest, OUTPUT.size)
        for call in ("first", "second", "third"):
            effect = EffectId(f"{state.run_id}/e{state.seq}")
            yield c.IntendEffect(effect, node_id, generation, attempt, call, "tool", "ask")
        if "[" not in node_id:
            yield c.ExpandNode(node_id, generation, 2, first=0, keys=("x", "y"))
            yield c.ExpandNode(node_id, generation, 1, first=2)


def play_from(draw: Draw) -> tuple[c.PlayFrom, Any]:
    """Any node with any set of others, and the list of them as the blob that the event names."""
    node = draw(st.sampled_from(NODES))
    affected = [node, *draw(st.lists(st.sampled_from([n for n in NODES if n != node]), unique=True, max_size=4))]
    nodes = encode(list(affected))
    overrides = {"inputs": {"topic": 1}} if draw(st.booleans()) else {}
    reuse = draw(st.sampled_from(["none", "unchanged"]))
    return c.PlayFrom(node, nodes.digest, tuple(affected), overrides, reuse, "again"), nodes


def roll_back(draw: Draw, state: RunState) -> c.RollBack:
    restore = draw(st.sampled_from([None, "tree-2"]))
    return c.RollBack(Seq(draw(st.integers(1, state.seq))), "wrong way", restore)


def branch(draw: Draw, parent: RunState) -> tuple[c.CreateRun, Any]:
    """A branch at any position, resetting any nodes."""
    reset = draw(st.lists(st.sampled_from(NODES), unique=True, max_size=3))
    listed = encode(list(reset))
    created = c.CreateRun(
        definition=parent.definition,
        workflow="demo",
        inputs=INPUTS.digest,
        project="default",
        parent={"run": RunId(parent.run_id), "seq": draw(st.integers(1, parent.seq))},
        reset=listed.digest if reset else None,
        reset_nodes=tuple(reset),
        overrides={"nodes": {"a": {"x": 1}}},
        branch="try",
        hypothesis="better",
    )
    return created, listed
