"""What stands between an agent and an external tool: a pooled call over stdio, plain and with all that we hold it to.

The same server, the same connection, in turn: the bare request; the same through pins, schema, policy, limits and
redaction, but without the log; and as nodes of a run, where the ledger's commits come on top.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from omium.clients.external.pins import PinBook
from omium.clients.external.pool import ServerPool
from omium.clients.external.spec import ServerSpec
from omium.clients.external.tools import ExternalTools
from omium.orchestration.gates.policy import Question
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports import Attempt, SystemClock
from omium.orchestration.ports_calls import Allowed, Call
from omium.orchestration.values import Value
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from omium.storage.open import open_store
from tests.bench.figures import Figure
from tests.bench.ours.commands import environment
from tests.bench.ours.policies import twenty
from tests.bench.ours.work import Work

_WARMING = 20
_BATCH = 5
_SERVER = Path(__file__).parents[2] / "external" / "servers" / "good.py"
_PROJECT = """project: bench
policy: research
mcp_servers: {{fs: {{command: "{python}", args: ["{server}"]}}}}
workflows:
- name: calls
  nodes:
  - {{id: first, kind: tool, use: fs/add, with: {{a: 1, b: 1}}}}
{rest}"""


class _Gate:
    """Decides as an engine does, and writes nothing down."""

    def __init__(self) -> None:
        self._policy = twenty()

    def decide(self, call: Call) -> None:
        question = Question(action=call.action, server=call.server, tool=call.tool, arguments=call.arguments)
        decision = self._policy.decide(question)
        assert decision.policy == self._policy.digest

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        self.decide(call)
        return await action(Allowed(call.arguments, redact=("secrets",), idempotency_key=call.key))


async def tools(work: Work) -> list[Figure]:
    """`times` calls each way; the medians of batches made in turn, so that a busy machine is busy for both."""
    spec = ServerSpec("fs", "stdio", (sys.executable, str(_SERVER)), cwd=work.directory)
    clock = SystemClock()
    plain: list[float] = []
    ours: list[float] = []
    decided: list[float] = []
    store = await open_store(str(work.directory / "pins.db"))
    try:
        async with ServerPool({"fs": spec}, clock) as pool:
            external = ExternalTools(pool, PinBook(store, ProjectId("bench"), clock))
            own = _Gate()
            gate = cast(Attempt, own)
            session, _ = await external.discover("fs")
            arguments: dict[str, Any] = {"a": 1, "b": 2}
            for number in range(0, work.times + _WARMING, _BATCH):
                began = time.perf_counter()
                for _ in range(_BATCH):
                    await session.call("add", arguments, {}, 60.0)
                between = time.perf_counter()
                for each in range(_BATCH):
                    await external.call("fs/add", arguments, gate, key=f"{number}.{each}")
                ended = time.perf_counter()
                for each in range(_BATCH):
                    own.decide(Call(f"{number}.{each}", "tool", "add", arguments, server="fs"))
                decided.append((time.perf_counter() - ended) / _BATCH)
                plain.append((between - began) / _BATCH)
                ours.append((ended - between) / _BATCH)
    finally:
        await store.close()
    warm = _WARMING // _BATCH
    bare, held = statistics.median(plain[warm:]), statistics.median(ours[warm:])
    added = statistics.median(one - two for one, two in zip(ours[warm:], plain[warm:], strict=True))
    return [
        Figure("tool_call_ms", round(bare * 1000, 3), "ms"),
        Figure("tool_held_ms", round(held * 1000, 3), "ms"),
        Figure("tool_policy", round(statistics.median(decided[warm:]) / bare * 100, 2), "%"),
        Figure("tool_overhead", round(max(added, 0.0) / bare * 100, 2), "%"),
        Figure("tool_node_ms", round(await _as_nodes(work), 3), "ms"),
    ]


async def _as_nodes(work: Work) -> float:
    """Milliseconds of a call that is a node of a run: the node's own commits and the ledger's are in it."""
    count = max(work.times // 4, 2)
    names = ["first", *(f"n{number}" for number in range(count))]
    rest = "".join(
        f"  - {{id: {name}, kind: tool, use: fs/add, needs: {before}, with: {{a: 1, b: 2}}}}\n"
        for before, name in pairwise(names)
    )
    text = _PROJECT.format(python=sys.executable, server=_SERVER, rest=rest)
    (work.directory / "omium.yaml").write_text(text)
    config = load_config(work.directory, environment(work))
    async with open_omium(config) as core:
        caller = local_caller(config)
        await core.wait(caller, (await core.run_workflow(caller, "calls")).id, 120)  # starts the server, and pins
        began = time.perf_counter()
        view = await core.wait(caller, (await core.run_workflow(caller, "calls")).id, 120)
        assert view.status == "completed", view.error
        return (time.perf_counter() - began) / len(names) * 1000
