"""What the tests of history share: a log in memory that runs the real transitions and the real fold, and small
graphs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from hypothesis import strategies as st

from omium.orchestration.definition import Need, NodeDef, Structure, WorkflowDef
from omium.orchestration.ids import Digest, NodeId, Principal, RunId, Seq, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.events import Event
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.load import NeedEvents, NeedSnapshot, append, load
from omium.orchestration.log.state import RunState
from omium.orchestration.values import encode

WHO = Principal("user:ada")


class Log:
    """Runs in memory. `looks` is what is known of each node by who looks only at those that an event is said to
    touch."""

    def __init__(self) -> None:
        self.events: dict[RunId, list[Event]] = {}
        self.values: dict[Digest, Any] = {}
        self.looks: dict[RunId, dict[NodeId, Any]] = {}
        self._at = 1_000_000

    def put(self, value: Any) -> Digest:
        encoded = encode(value)
        self.values[encoded.digest] = value
        return encoded.digest

    def _drive(self, generator: Generator[Any, Any, Any]) -> Any:
        try:
            need = next(generator)
            while True:
                need = generator.send(self._answer(need))
        except StopIteration as done:
            return done.value

    def _answer(self, need: Any) -> Any:
        if isinstance(need, NeedSnapshot):
            return None
        if isinstance(need, NeedEvents):
            upto = need.upto if need.upto is not None else 10**9
            return [e for e in self.events.get(need.run_id, []) if need.after < e.seq <= upto]
        return self.values[need.digest]

    def state(self, run_id: RunId, upto: int | None = None) -> RunState:
        state: RunState = self._drive(load(run_id, None if upto is None else Seq(upto)))
        return state

    def write(self, run_id: RunId, *commands: c.Command) -> RunState:
        """Append what the commands become; the state afterwards. A refusal changes nothing."""
        self._at += 1_000
        touched = Touched()
        state = self.state(run_id)
        appended = self._drive(append(state, commands, actor=WHO, at=self._at, chain=Chain(), touched=touched))
        self.events.setdefault(run_id, []).extend(appended.events)
        after: RunState = appended.folded
        self.looks.setdefault(run_id, {}).update({one: look(after, one) for one in touched.nodes})
        return after

    def new_run(self, workflow: str = "w") -> RunId:
        run_id = RunId(new_id("run"))
        digest = self.put({})
        self.write(run_id, c.CreateRun(digest, workflow, digest, "default"), c.PlanRun(), c.StartRun())
        return run_id

    def play(self, run_id: RunId, node: NodeId, listed: Sequence[NodeId]) -> RunState:
        return self.write(run_id, c.PlayFrom(node, self.put(list(listed)), tuple(listed)))

    def branch(self, run_id: RunId, at: int, reset: Sequence[NodeId] = ()) -> RunId:
        child = RunId(new_id("run"))
        self.write(run_id, c.NoteBranch(child, Seq(at), child))
        first = self.events[run_id][0].data
        listed = self.put(list(reset)) if reset else None
        command = c.CreateRun(
            first["definition"],
            first["workflow"],
            first["inputs"],
            "default",
            parent={"run": run_id, "seq": at},
            reset=listed,
            reset_nodes=tuple(reset),
        )
        self.write(child, command, c.PlanRun(), c.StartRun())
        return child


def look(state: RunState, node_id: NodeId) -> tuple[Any, ...]:
    """What stands of a node."""
    node = state.node(node_id)
    return node.status, node.generation, node.attempt, node.seq, node.output, node.expansion


def node(node_id: str, *needs: str, **more: Any) -> NodeDef:
    return NodeDef(node_id, "function", use="f", needs=tuple(Need(need) for need in needs), **more)


def structure_of(*nodes: NodeDef) -> Structure:
    return Structure(WorkflowDef("w", nodes))


@st.composite
def dags(draw: st.DrawFn, most: int = 8) -> tuple[NodeDef, ...]:
    """Graphs of a few nodes, each needing some of those before it."""
    count = draw(st.integers(1, most))
    found = []
    for place in range(count):
        needs = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        found.append(node(f"n{place}", *(f"n{up}" for up in sorted(needs))))
    return tuple(found)


def step(log: Log, run_id: RunId, structure: Structure, choice: int) -> bool:
    """Let something happen in the run: a node starts, or one that runs ends. False when nothing can."""
    state = log.state(run_id)
    moves: list[tuple[c.Command, ...]] = []
    for node_id in structure.children_of(None):
        known = state.node(node_id)
        generation = known.generation
        if known.status.value == "running":
            output = log.put([node_id, generation, choice])
            moves.append((c.CompleteNode(node_id, generation, output, 1, known.attempt, key=f"{node_id}{choice % 3}"),))
            moves.append((c.FailAttempt(node_id, generation, known.attempt, {"category": "unknown", "message": ""}),))
        elif known.status.value == "pending":
            ups = [state.node(up).status.value for up in structure.needs_of(node_id)]
            if all(up == "completed" for up in ups):
                moves.append((c.StartNode(node_id, generation, key=f"{node_id}{choice % 3}"),))
            elif all(up in ("completed", "failed", "skipped") for up in ups):
                moves.append((c.SkipNode(node_id, generation, "upstream_failed"),))
    if not moves or state.status.value != "executing":
        return False
    log.write(run_id, *moves[choice % len(moves)])
    return True
