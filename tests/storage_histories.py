"""Histories that nobody would think of: numbers in, a database full of runs out.

Each number picks a run, a thing to do to it and its details; what the transition table refuses is simply not done.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, EffectId, Fence, NodeId, Principal, RunId, Seq, WorkerId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NodeState, NodeStatus, RunState
from omium.orchestration.ports import NewBlob, Write
from omium.orchestration.values import Encoded, encode

NODES = tuple(NodeId(name) for name in ("a", "b", "c", "fan", "fan[0]", "fan[1]"))
OPTIONS = ("approve", "reject")
NAMES = (
    "SELECT run_id, digest FROM links UNION SELECT brought_by, digest FROM blobs"
    " WHERE EXISTS (SELECT 1 FROM events WHERE events.run_id = brought_by)"
)
"""Which run's log names which blob, whatever table says so."""
LATE = 4_000_000_000_000_000


@dataclass
class Life:
    """Runs of one store, and what was done to them."""

    store: Any
    runs: list[RunId] = field(default_factory=list)
    fences: dict[RunId, Fence] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def create(self, **changes: Any) -> RunId:
        run_id = RunId(new_id("run"))
        definition, inputs = encode({"nodes": list(NODES)}), encode({"run": len(self.runs)})
        blobs = [NewBlob(definition), NewBlob(inputs), *changes.pop("blobs", ())]
        project = changes.pop("project", "default")
        create = c.CreateRun(definition.digest, "wf", inputs.digest, project, **changes)
        write = Write(run_id, [create, c.PlanRun(), c.StartRun()], Principal("u"), blobs=blobs, claim=WorkerId("w"))
        written = await self.store.write(write)
        assert written.fence is not None
        self.runs.append(run_id)
        self.fences[run_id] = written.fence
        return run_id

    async def do(self, run_id: RunId, *commands: c.Command, blobs: Sequence[NewBlob] = ()) -> None:
        fence = self.fences[run_id] if any(type(command) in c.EXECUTION for command in commands) else None
        await self.store.write(Write(run_id, list(commands), Principal("engine"), fence=fence, blobs=blobs))

    async def finish(self, run_id: RunId, *nodes: str, value: Any = None) -> None:
        """Complete these nodes, one after the other, each with a value of its own."""
        for name in nodes:
            node, out = NodeId(name), encode({"of": run_id, "node": name, "value": value})
            generation = (await self.store.state(run_id)).node(node).generation
            await self.do(run_id, c.StartNode(node, generation))
            await self.do(run_id, c.CompleteNode(node, generation, out.digest, out.size), blobs=[NewBlob(out)])

    async def end(self, run_id: RunId) -> Encoded:
        out = encode({"result of": run_id})
        await self.do(run_id, c.CompleteRun(out.digest, out.size), blobs=[NewBlob(out)])
        return out

    async def live(self, numbers: Sequence[int]) -> None:
        """Three at a time, as they gather in front of a commit."""
        if not self.runs:
            await self.create()
        for start in range(0, len(numbers), 3):
            await asyncio.gather(*(self._step(number) for number in numbers[start : start + 3]))

    async def _step(self, number: int) -> None:
        number, run = divmod(number, len(self.runs))
        number, which = divmod(number, len(_STEPS))
        run_id, step = self.runs[run], _STEPS[which]
        state = await self.store.state(run_id)
        try:
            await step(self, state, number)
        except OmiumError as refusal:
            if refusal.code not in ("not_allowed", "conflict", "already_decided", "invalid_argument", "not_found"):
                raise
        else:
            self.done.append(step.__name__)

    def value(self, number: int) -> Encoded:
        """Few small values, so that runs share some, and a large one that is kept as a patch."""
        if number % 5 == 4:
            return encode({"text": "lorem ipsum " * 1000, "number": number})
        return encode({"number": number % 3})

    def number(self) -> int:
        return int(next(self._numbers))


def _node(state: RunState, number: int, *wanted: NodeStatus) -> NodeId:
    """A node in one of these states if there is one: most steps would be refused otherwise."""
    fitting = [node for node in NODES if state.node(node).status in wanted]
    return (fitting or NODES)[number % len(fitting or NODES)]


async def _at_work(life: Life, state: RunState, number: int) -> tuple[NodeId, NodeState]:
    """A node that runs; one is started, if none does."""
    node = _node(state, number, NodeStatus.RUNNING)
    if state.node(node).status is not NodeStatus.RUNNING:
        node = _node(state, number, NodeStatus.PENDING, NodeStatus.PAUSED)
        await life.do(state.run_id, c.StartNode(node, state.node(node).generation))
        state = await life.store.state(state.run_id)
    return node, state.node(node)


async def start(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.PENDING, NodeStatus.PAUSED)
    key = f"{number % 4:064}" if number % 2 else None
    await life.do(state.run_id, c.StartNode(node, state.node(node).generation, key=key))


async def complete(life: Life, state: RunState, number: int) -> None:
    node, out = _node(state, number, NodeStatus.RUNNING), life.value(number)
    usage = {"cost_usd": 0.1, "tokens": number % 7} if number % 3 == 0 else None
    base = next((n.output for n in state.nodes.values() if n.output), None)
    command = c.CompleteNode(
        node, state.node(node).generation, out.digest, out.size, key=state.node(node).key, usage=usage
    )
    await life.do(state.run_id, command, blobs=[NewBlob(out, base)])


async def fail_attempt(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.RUNNING)
    known = state.node(node)
    retry_at = LATE if number % 2 else None
    error = {"category": "timeout", "message": "späť"}
    await life.do(state.run_id, c.FailAttempt(node, known.generation, known.attempt, error, retry_at, retries=True))


async def fall_back(life: Life, state: RunState, number: int) -> None:
    """A node fails under a rule, and the run goes back for it; now and then only later, if nothing comes between."""
    if not state.setbacks:
        node, known = await _at_work(life, state, number)
        error = {"category": "timeout", "message": "no"}
        await life.do(state.run_id, c.FailAttempt(node, known.generation, known.attempt, error, rule=number % 3))
        if number % 4 == 3:
            return
        state = await life.store.state(state.run_id)
        if not state.setbacks:  # another step of this life has changed the run's course meanwhile
            return
    cause, why = next(iter(state.setbacks.items()))
    to = Seq(1 + number % state.seq)
    await life.do(state.run_id, c.RollBack(to, "again", None, None, "automatic", why["rule"], cause, why["category"]))


async def skip(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.PENDING)
    await life.do(state.run_id, c.SkipNode(node, state.node(node).generation, "condition"))


async def interrupt(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.RUNNING)
    known = state.node(node)
    await life.do(state.run_id, c.InterruptNode(node, known.generation, known.attempt, "paused"))


async def expand(life: Life, state: RunState, number: int) -> None:
    items = encode([number, number + 1])
    command = c.ExpandNode(NodeId("fan"), state.node(NodeId("fan")).generation, 2, items=items.digest, keys=("x", "y"))
    await life.do(state.run_id, command, blobs=[NewBlob(items)])


async def reuse(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.PENDING)
    results = [(key, source) for key, by in sorted(state.reusable.items()) for source in sorted(by)]
    key, source = results[number % len(results)] if results else ("none", node)
    await life.do(state.run_id, c.ReuseNode(node, state.node(node).generation, key, source))


async def ask(life: Life, state: RunState, number: int) -> None:
    node = _node(state, number, NodeStatus.PENDING)
    approval = ApprovalId(new_id("appr"))
    command = c.RequestApproval(
        approval, node, state.node(node).generation, "step", "Really?", OPTIONS, LATE, "none", details={"n": number}
    )
    await life.do(state.run_id, command)


async def decide(life: Life, state: RunState, number: int) -> None:
    open_ = sorted(name for name, approval in state.approvals.items() if approval.decision is None)
    approval = open_[number % len(open_)] if open_ else ApprovalId("none")
    await life.do(state.run_id, c.Decide(approval, OPTIONS[number % 2], "user:ada", "elicited", feedback="well"))


async def intend(life: Life, state: RunState, number: int) -> None:
    node, known = await _at_work(life, state, number)
    call = f"call {number % 3}"
    effect = EffectId(f"{state.run_id}/{node}/{known.generation}/{call}")
    command = c.IntendEffect(effect, node, known.generation, known.attempt, call, "tool", "ask", detail={"to": "x"})
    await life.do(state.run_id, command)


async def settle(life: Life, state: RunState, number: int) -> None:
    open_ = sorted(name for name, effect in state.effects.items() if effect.outcome in (None, "unknown"))
    if not open_:
        return await intend(life, state, number)
    effect, result = open_[number % len(open_)], life.value(number)
    outcome = ("done", "failed", "unknown", "done")[number % 4]
    command = c.SettleEffect(effect, outcome, result.digest, result.size)  # type: ignore[arg-type]
    await life.do(state.run_id, command, blobs=[NewBlob(result)])


async def label(life: Life, state: RunState, number: int) -> None:
    await life.do(state.run_id, c.Label(Seq(1 + number % state.seq), f"label {life.number()}", note="here"))


async def point(life: Life, state: RunState, number: int) -> None:
    """A function sets a checkpoint in the middle of its node, and says now and then what came of it."""
    node, known = await _at_work(life, state, number)
    held, call = life.value(number), f"charge#{1 + number % 2}"
    where = (node, known.generation, known.attempt, "charge", call)
    await life.do(state.run_id, c.SetPoint(*where, held.digest, held.size), blobs=[NewBlob(held)])
    if number % 2:
        await life.do(state.run_id, c.EndPoint(*where, "failed", {"type": "x", "message": "no"}))


async def adopt(life: Life, state: RunState, number: int) -> None:
    if len(life.runs) < 2:
        return
    outputs = life.value(number)
    tree, before = (f"{number % 7:040}", f"{number % 5:040}") if number % 2 else (None, None)
    command = c.Adopt(life.runs[1], Seq(1), "other", None, outputs.digest, tree, before, "better")
    await life.do(state.run_id, command, blobs=[NewBlob(outputs)])


async def signal(life: Life, state: RunState, number: int) -> None:
    payload = life.value(number)
    await life.do(state.run_id, c.Signal("go", payload.digest, payload.size), blobs=[NewBlob(payload)])


async def artifact(life: Life, state: RunState, number: int) -> None:
    node, content = _node(state, number, NodeStatus.RUNNING), life.value(number)
    command = c.SaveArtifact(node, state.node(node).generation, "report.md", content.digest, content.size)
    await life.do(state.run_id, command, blobs=[NewBlob(content)])


async def pause(life: Life, state: RunState, number: int) -> None:
    await life.do(state.run_id, c.PauseRun("lunch", interrupt=bool(number % 2)))


async def resume(life: Life, state: RunState, number: int) -> None:
    await life.do(state.run_id, c.ResumeRun())


async def roll_back(life: Life, state: RunState, number: int) -> None:
    await life.do(state.run_id, c.RollBack(Seq(1 + number % state.seq), reason="try again"), c.ResumeRun())


async def play_from(life: Life, state: RunState, number: int) -> None:
    affected = NODES[number % len(NODES) :]
    nodes = encode(list(affected))
    overrides = {"inputs": {"topic": number % 4}}
    command = c.PlayFrom(affected[0], nodes.digest, affected, overrides=overrides, reuse="unchanged")
    await life.do(state.run_id, command, blobs=[NewBlob(nodes)])


async def branch(life: Life, state: RunState, number: int) -> None:
    if len(life.runs) >= 6:
        return
    at = Seq(1 + number % state.seq)
    reset = NODES[number % len(NODES) :][:2]
    nodes = encode(list(reset))
    child = await life.create(
        parent={"run": state.run_id, "seq": at}, reset=nodes.digest, reset_nodes=reset, branch="other",
        hypothesis="cheaper", blobs=[NewBlob(nodes)],
    )  # fmt: skip
    await life.do(state.run_id, c.NoteBranch(child, at, "other"))


async def call(life: Life, state: RunState, number: int) -> None:
    if len(life.runs) < 6:
        await life.create(caller={"run": state.run_id, "node": "a", "generation": 0})


async def end(life: Life, state: RunState, number: int) -> None:
    if number % 4:
        return await _work(life, state, number)
    if number % 3 == 0:
        await life.do(state.run_id, c.FailRun({"category": "timeout", "message": "no"}))
    elif number % 3 == 1:
        await life.do(state.run_id, c.CancelRun("enough"))
    else:
        await life.end(state.run_id)


async def _work(life: Life, state: RunState, number: int) -> None:
    """A run that ends too often has little history."""
    await start(life, state, number)
    await complete(life, await life.store.state(state.run_id), number)


_STEPS = (
    start, complete, start, complete, start, complete, fail_attempt, skip, interrupt, expand, reuse, ask, decide,
    intend,
    settle, label, signal, artifact, pause, resume, roll_back, play_from, branch, call, end,
    fall_back, point, adopt,
)  # fmt: skip
