"""What one measurement of ours is asked to do, and the project and the core that it does it with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omium.orchestration.definition.build import Node, workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.ids import NodeId, Principal, ProjectId, RunId
from omium.orchestration.ports_workspace import WorkspaceSpec
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.config import Config
from omium.server.project import Project
from tests.bench.figures import Figure, milliseconds, percentile
from tests.bench.peers import workload
from tests.bench.peers.workload import State

PROJECT = "bench"
CALLER = Caller(Principal("user:bench"), ProjectId(PROJECT))
PATIENCE_S = 600.0

Function = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Work(workload.Work):
    """One measurement of ours: the sizes of the peers' work, which mean the same here, and those that only we have.

    times: how often a single operation is done; files and file_kb: the workspace.
    """

    times: int = 20
    files: int = 1000
    file_kb: int = 100

    @property
    def database(self) -> Path:
        return self.directory / "omium.db"


def as_json(work: Work) -> str:
    return json.dumps({**asdict(work), "directory": str(work.directory)})


def from_json(text: str) -> Work:
    given = json.loads(text)
    return Work(**{**given, "directory": Path(given["directory"])})


@asynccontextmanager
async def opened(
    work: workload.Work,
    functions: Mapping[str, Function],
    workflows: Sequence[WorkflowDef],
    *,
    workspaces: Mapping[str, WorkspaceSpec] | None = None,
    engine: bool = True,
) -> AsyncIterator[Core]:
    """A core over the work's database, with these async functions of this process, and with nothing in it otherwise."""
    project = Project(PROJECT, directory=work.directory)
    for name, function in functions.items():
        project.function(name=name, host="async")(function)
    for definition in workflows:
        project.workflow(definition)
    for name, spec in (workspaces or {}).items():
        project.workspace(name, spec)
    database = work.url or str(work.directory / "omium.db")
    config = Config(project, database, work.directory / "home", detach=False)
    async with open_omium(config, engine=engine) as core:
        yield core


async def ended(core: Core, run_id: RunId, *, status: str = "completed") -> RunView:
    """The run once it has come to rest, which must be in this state."""
    view = await core.wait(CALLER, run_id, PATIENCE_S)
    if view.status != status:
        raise RuntimeError(f"run {run_id} is {view.status}, not {status}: {view.reason} {view.error}")
    return view


async def output(core: Core, run_id: RunId, node: str) -> Any:
    return await core.node_output(CALLER, run_id, NodeId(node))


def chain_of(steps: int, name: str = "chain", function: str = "step") -> WorkflowDef:
    """A chain of nodes `n0`, `n1`, ... that each take the state and return it."""
    built = workflow(name)
    previous: Node | None = None
    for number in range(steps):
        if previous is None:
            previous = built.function(f"n{number}", use=function, with_={"state": built.inputs.state})
        else:
            given = {"state": previous.output}
            previous = built.function(f"n{number}", use=function, with_=given, needs=previous)
    return built.build()


def step(begun: Callable[[int], None] = lambda _: None) -> Function:
    """The no-op step: the whole state in, the whole state out."""

    async def no_op(state: State) -> State:
        begun(state["n"])
        return {**state, "n": state["n"] + 1}

    return no_op


def stored_kb(work: workload.Work) -> float:
    """The KB that the SQLite database and the files of its large values take."""
    blobs = sum(file.stat().st_size for file in (work.directory / "blobs").rglob("*") if file.is_file())
    return workload.sqlite_kb(work.directory / "omium.db") + blobs / 1024


def latency(name: str, seconds: Sequence[float]) -> Figure:
    """The 95th percentile of single operations, in milliseconds."""
    slow = milliseconds(percentile(seconds, 95)) or 0.0
    return Figure(name, slow, "ms", milliseconds(percentile(seconds, 50)), slow, {"count": len(seconds)})
