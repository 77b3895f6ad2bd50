"""A core over a real database for tests of history: tiny functions in this process, and a hand that plays the worker
where a test wants to say itself what happens when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from omium.clients.processes.liveness import HostProcesses
from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.definition import NodeDef, WorkflowDef
from omium.orchestration.definition.schema import to_document
from omium.orchestration.engine.engine import Engine, EngineConfig
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, NodeId, Principal, RunId, Seq, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NODE_TERMINAL, RunState
from omium.orchestration.ports import Attempt, Done, NewBlob, Write
from omium.orchestration.ports_workspace import WorkspaceSpec
from omium.orchestration.service.approvals import ApprovalService
from omium.orchestration.service.catalog import Catalog, FunctionSpec
from omium.orchestration.service.core import RunService
from omium.orchestration.service.history import HistoryService
from omium.orchestration.service.recounting import RecountService
from omium.orchestration.service.views import Caller
from omium.orchestration.values import encode
from omium.storage.sqlite.store import SqliteStore

ME = Caller(Principal("user:ada"))
Function = Callable[[Mapping[str, Any], Attempt], Awaitable[Any]]


class HistoryCore(HistoryService, RecountService, ApprovalService, RunService):
    """The core as it is composed, with its verbs of history."""

    def check_names(self, nodes: Sequence[NodeDef]) -> None:
        """Plans of these tests name what is there."""


class Functions:
    """An executor of functions of this process. `calls`: what was called, in order. `versions`: of their code."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = dict(functions)
        self.versions: dict[str, str] = {}
        self.calls: list[str] = []

    def digest(self, use: str) -> str:
        if use not in self.functions:
            raise OmiumError("not_registered", f"there is no function {use!r}.")
        return self.versions.get(use, "1")

    async def run(self, use: str, inputs: Any, attempt: Attempt) -> Done:
        self.calls.append(attempt.node_id)
        return Done(await self.functions[use](inputs, attempt), {"tokens": 10, "cost_usd": 0.25})


async def echo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    return dict(inputs)


class Hand:
    """Writes what a worker would, step by step."""

    def __init__(self, core: HistoryCore, run_id: RunId, fence: Fence) -> None:
        self.core = core
        self.run_id = run_id
        self.fence = fence

    async def do(self, *commands: c.Command, blobs: Sequence[NewBlob] = ()) -> Seq:
        written = await self.core.store.write(Write(self.run_id, commands, Principal("engine"), self.fence, blobs))
        return written.seq

    async def state(self) -> RunState:
        return await self.core.store.state(self.run_id)

    async def start(self, node: str, **more: Any) -> Seq:
        node_id = NodeId(node)
        return await self.do(c.StartNode(node_id, (await self.state()).node(node_id).generation, **more))

    async def end(self, node: str, value: Any = None, **more: Any) -> Seq:
        node_id, stored = NodeId(node), encode(value)
        known = (await self.state()).node(node_id)
        done = c.CompleteNode(node_id, known.generation, stored.digest, stored.size, known.attempt, **more)
        return await self.do(done, blobs=[NewBlob(stored)])

    async def run(self, *nodes: str, **more: Any) -> Seq:
        """Nodes from start to end; each gives its own name. The position after the last."""
        seq = Seq(0)
        for node in nodes:
            await self.start(node)
            seq = await self.end(node, {"from": node}, **more)
        return seq

    async def effect(
        self,
        node: str,
        call: str,
        *,
        on_unknown: str = "ask",
        outcome: Any = "done",
        effect_kind: str = "tool",
        **more: Any,
    ) -> str:
        """A call in the ledger of a node that runs."""
        from omium.orchestration.engine.attempt import effect_id

        known = (await self.state()).node(NodeId(node))
        identity = effect_id(self.run_id, node, known.generation, call)
        stored = encode({"called": call})
        await self.do(
            c.IntendEffect(
                identity, NodeId(node), known.generation, known.attempt, call, effect_kind, on_unknown, **more
            )
        )
        if outcome is not None:
            settle = c.SettleEffect(identity, outcome, stored.digest if outcome == "done" else None, stored.size)
            await self.do(settle, blobs=[NewBlob(stored)])
        return identity

    async def complete(self) -> Seq:
        stored = encode({"all": "done"})
        return await self.do(c.CompleteRun(stored.digest, stored.size), blobs=[NewBlob(stored)])

    async def let_go(self) -> None:
        """Give the run up, as a worker does that has nothing left to do."""
        state = await self.state()
        assert await self.core.store.release(self.run_id, self.fence, state.seq, None)


@asynccontextmanager
async def opened(
    directory: Path,
    *workflows: WorkflowDef,
    functions: Mapping[str, Function] | None = None,
    executing: bool = False,
    workspaces: bool = False,
    specs: Mapping[str, WorkspaceSpec] | None = None,
) -> AsyncIterator[tuple[HistoryCore, Functions]]:
    """A core over a database in `directory`. `executing`: its engine claims and runs; otherwise a hand does."""
    store = await SqliteStore.open(directory / "omium.db", durability="normal")
    executor = Functions({"f": echo, **(functions or {})})
    catalog = Catalog(
        functions={name: FunctionSpec(name, "tests:f") for name in executor.functions},
        workflows={one.name: one for one in workflows},
        workspaces=specs or {},
    )
    core = HistoryCore(store, catalog)
    engine = Engine(
        store,
        {"function": executor, "cli": executor, "tool": executor, "agent": executor},
        processes=HostProcesses(),
        create_child=core.create_child,
        check_names=core.check_names,
        workspaces=GitWorkspaces(directory / "home") if workspaces else None,
        specs=catalog.workspaces,
        config=EngineConfig(),
    )
    core.bind(engine)
    try:
        if executing:
            async with engine:
                yield core, executor
        else:
            yield core, executor
    finally:
        await store.close()


async def by_hand(core: HistoryCore, workflow: WorkflowDef, inputs: Mapping[str, Any] | None = None) -> Hand:
    """A run that a hand owns, started."""
    from omium.orchestration.ids import new_id

    run_id, document, given = RunId(new_id("run")), encode(to_document(workflow)), encode(dict(inputs or {}))
    create = c.CreateRun(document.digest, workflow.name, given.digest, ME.project)
    written = await core.store.write(
        Write(
            run_id,
            [create, c.PlanRun(), c.StartRun()],
            ME.principal,
            blobs=[NewBlob(document), NewBlob(given)],
            claim=WorkerId("hand"),
        )
    )
    assert written.fence is not None
    return Hand(core, run_id, written.fence)


def ended(state: RunState) -> set[str]:
    return {one for one, node in state.nodes.items() if node.status in NODE_TERMINAL}
