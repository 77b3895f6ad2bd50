"""Random workflows, steered at random, on machines that die at random: nothing is repeated, nothing gets stuck."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from omium.orchestration.definition.load import load_workflow
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log.state import RUN_TERMINAL
from omium.orchestration.ports import Attempt
from tests.integration.engine.worlds import ME, World, world

WITHIN_S = 60.0
RETRY = {"max_attempts": 4, "initial": 5, "jitter": 0}


@st.composite
def documents(draw: Any, depth: int = 0) -> dict[str, Any]:
    """A workflow of a few nodes of every kind, some within others."""
    size = draw(st.integers(1, 5 if depth == 0 else 2))
    nodes: list[dict[str, Any]] = []
    for place in range(size):
        node = draw(vertices(depth))
        node["id"] = f"n{place}"
        needs = draw(st.lists(st.sampled_from(range(place)), unique=True, max_size=2)) if place else []
        if needs:
            node["needs"] = [{"node": f"n{one}", "optional": draw(st.booleans())} for one in needs]
        nodes.append(node)
    if depth or not draw(st.booleans()):
        return {"nodes": nodes}
    rules = st.fixed_dictionaries({"do": st.sampled_from(["ask", "abort", "fail"]), "nodes": st.just(["n1*"])})
    back = st.fixed_dictionaries(
        {"do": st.just("rollback"), "to": st.sampled_from(["previous", "start", "node:n0"]), "max": st.integers(1, 2)}
    )
    last = draw(st.lists(back, min_size=1, max_size=1))
    return {"nodes": nodes, "on_failure": [*(draw(st.lists(rules, max_size=1)) if size > 1 else []), *last]}


@st.composite
def vertices(draw: Any, depth: int) -> dict[str, Any]:
    kinds = ["ok", "ok", "flaky", "boom", "effect", "slow", "approval", "gated", "timer", "signal"]
    kind = draw(st.sampled_from([*kinds, "group", "group"] if depth < 2 else kinds))
    if kind == "group":
        node: dict[str, Any] = {"kind": "group", **draw(documents(depth + 1))}
    elif kind == "approval":
        return {"kind": "approval", "approval": {"prompt": "ok?", "expires": "1h"}}
    elif kind == "timer":
        return {"kind": "wait", "wait": {"for": draw(st.sampled_from([0, 1, 30]))}}
    elif kind == "signal":
        return {"kind": "wait", "wait": {"signal": "go"}}
    elif kind == "gated":
        node = {"kind": "function", "use": "ok", "approval": {"prompt": "?", "options": ["approve", "skip", "reject"]}}
    else:
        node = {
            "kind": "function",
            "use": kind,
            "retry": RETRY,
            "on_pause": draw(st.sampled_from(["finish", "interrupt"])),
        }
    shape = draw(st.sampled_from(["one", "one", "fan", "loop"]))
    if shape == "fan":
        width = draw(st.sampled_from([None, 1, 2]))
        node["for_each"] = {"items": [1, 2, 3], "on_failure": draw(st.sampled_from(["fail", "continue"]))}
        if width:
            node["for_each"]["max_parallel"] = width
    elif shape == "loop":
        node["repeat"] = {"until": "iteration >= 1", "max": 3}
    return node


class Steered(RuleBasedStateMachine):
    """The rules act on a world that lives in a loop of its own; between them it goes on as it likes."""

    runs = Bundle("runs")

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="omium-test-"))
        self.names = itertools.count()
        self.started: list[RunId] = []
        self.effects: list[tuple[str, str, int]] = []
        self._portal = start_blocking_portal()
        self.portal = self._portal.__enter__()
        functions = {"ok": self._ok, "slow": self._slow, "effect": self._effect}
        self._world = self.portal.wrap_async_context_manager(world(self.path, functions=functions, slots=4))
        self.world: World = self._world.__enter__()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.portal.call(self._finish)
            self._world.__exit__(None, None, None)
            keys = [(call.run, call.node, call.generation, call.attempt) for call in self.world.calls]
            assert len(keys) == len(set(keys)), "an attempt was executed twice"
        finally:
            self._portal.__exit__(None, None, None)
            shutil.rmtree(self.path, ignore_errors=True)

    # --- functions --------------------------------------------------------------------------------------------------

    async def _ok(self, attempt: Attempt) -> str:
        return attempt.node_id

    async def _slow(self, attempt: Attempt) -> str:
        for _ in range(20):
            await anyio.sleep(0.001)  # real time: something to be killed in the middle of
        return attempt.node_id

    async def _effect(self, attempt: Attempt) -> Any:
        async def call() -> int:
            self.effects.append((attempt.run_id, attempt.node_id, attempt.generation))
            return 1

        await attempt.effect("one", call, kind="x")
        if attempt.attempt == 1:
            raise ConnectionError("after the call")
        return await attempt.effect("one", call, kind="x")

    # --- rules ------------------------------------------------------------------------------------------------------

    def act(self, verb: Any, *args: Any, **more: Any) -> None:
        """Do something that the run may refuse by now."""

        async def do() -> None:
            try:
                await getattr(self.world.core, verb)(ME, *args, **more)
            except OmiumError as refused:
                assert refused.code in ("not_allowed", "already_decided"), refused
            await anyio.lowlevel.checkpoint()

        self.portal.call(do)

    @rule(target=runs, document=documents())
    def start(self, document: dict[str, Any]) -> RunId:
        name = f"w{next(self.names)}"
        workflow = load_workflow(json.dumps({"name": name, **document}))

        async def create() -> RunId:
            run = await self.world.run(self.world.add(workflow))
            self.started.append(run)
            return run

        return self.portal.call(create)

    @rule(run=runs, interrupt=st.booleans())
    def pause(self, run: RunId, interrupt: bool) -> None:
        self.act("pause", run, interrupt=interrupt)

    @rule(run=runs)
    def resume(self, run: RunId) -> None:
        self.act("resume", run)

    @rule(run=runs, sure=st.integers(0, 3))
    def cancel(self, run: RunId, sure: int) -> None:
        if sure == 0:
            self.act("cancel", run)

    @rule(run=runs)
    def signal(self, run: RunId) -> None:
        self.act("signal", run, "go", 1)

    @rule(which=st.integers(0, 5))
    def decide(self, which: int) -> None:
        async def decide() -> None:
            await self._decide_one(which)

        self.portal.call(decide)

    @rule(seconds=st.sampled_from([1, 6, 60]))
    def go_on(self, seconds: int) -> None:
        async def advance() -> None:
            self.world.advance(seconds)
            await anyio.sleep(0.01)  # real time: what is due has a moment to happen before the next rule

        self.portal.call(advance)

    @rule()
    def crash(self) -> None:
        async def crash() -> None:
            await self.world.crash(self.world.machine)
            await self.world.start(slots=4)

        self.portal.call(crash)

    @rule()
    def hand_over(self) -> None:
        async def hand_over() -> None:
            first = self.world.machine
            await self.world.start(slots=4)
            await self.world.stop(first)

        self.portal.call(hand_over)

    async def _decide_one(self, which: int, *, back: bool = True) -> None:
        """`back`: also by having the run taken back, of which there is no end."""
        pending = await self.world.core.list_approvals(ME)
        if pending:
            approval = pending[which % len(pending)]
            options = [one for one in approval.options if back or one != "rollback"]
            decision = options[which % len(options)]
            try:
                await self.world.core.decide(ME, approval.id, decision, assurance="elicited")
            except OmiumError as refused:
                assert refused.code == "already_decided", refused

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Give every run what it waits for, until all have ended."""
        core, store = self.world.core, self.world.machine.store
        turn = 0
        with anyio.fail_after(WITHIN_S):
            while open_runs := [r for r in self.started if (await self._status(r)) not in RUN_TERMINAL]:
                turn += 1
                for run in open_runs:
                    status = await self._status(run)
                    try:
                        if status == "paused":
                            await core.resume(ME, run)
                        elif any(
                            (n.wait or {}).get("kind") == "signal" for n in (await store.state(run)).nodes.values()
                        ):
                            await core.signal(ME, run, "go", turn)
                    except OmiumError as refused:
                        assert refused.code == "not_allowed", refused
                await self._decide_one(turn, back=False)
                self.world.advance(10)
                await anyio.sleep(0.02)  # real time: the engine works meanwhile
        assert all(self.effects.count(one) <= 1 + self._crashes(one) for one in self.effects)

    def _crashes(self, effect: tuple[str, str, int]) -> int:
        """How often the node was under way when a machine ended, so that its call may have been made again."""
        attempts = [c for c in self.world.calls if (c.run, c.node, c.generation) == effect]
        return len({call.machine for call in attempts}) - 1

    async def _status(self, run: RunId) -> str:
        row = await self.world.machine.store.run(run)
        assert row is not None
        return row.status


Steered.TestCase.settings = settings(
    max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSteered = Steered.TestCase
