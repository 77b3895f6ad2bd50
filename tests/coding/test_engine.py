"""Claude Code as a node of a run: policy decides each of its calls, and the run goes on whatever ends in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.coding.executor import CodingExecutor
from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.definition.load import load_workflow
from omium.orchestration.engine.engine import Engine, EngineConfig
from omium.orchestration.gates.deciding import Policies
from omium.orchestration.gates.policy import PolicySource, read_policy
from omium.orchestration.ids import RunId
from omium.orchestration.ports_workspace import WorkspaceSpec
from omium.orchestration.service.catalog import CommandEntry
from omium.orchestration.service.core import Core
from tests.coding.help import Node, claude_spec, processes_of
from tests.coding.model import Blocks, Model, Talk, bash, model, text
from tests.integration.engine.worlds import ME, Machine, Processes, Store, World, check_world
from tests.workspace_help import git, make_repository

pytestmark = pytest.mark.anyio

POLICY = """
apiVersion: omium.dev/policy/v1
default: deny
rules:
- {id: look, effect: allow, match: {action: permission, tool: Read}}
- {id: shell, effect: allow, match: {action: permission, tool: Bash}}
- {id: git, effect: require_approval, match: {action: permission, tool: Bash}, when: {args.command: {re: git}},
   approval: {ttl: 2h}}
"""
FLOW = """
name: flow
nodes:
- {id: code, kind: cli, use: claude, with: {prompt: Write it.}}
- {id: after, kind: cli, use: claude, needs: [code],
   with: {prompt: And then?, session: "${{ nodes.code.output.session }}"}}
"""


class CodingWorld(World):
    """A world whose machines run Claude Code in workspaces."""

    def __init__(self, path: Path, api: Model) -> None:
        super().__init__(path, [load_workflow(FLOW)], {})
        self.policies = PolicySource(read_policy(POLICY, "policy.yaml"))
        self.spec = claude_spec(api.url)
        catalog: Any = self.catalog
        catalog.commands["claude"] = CommandEntry("claude", ("claude",))
        catalog.workspaces["repository"] = WorkspaceSpec("git", str(make_repository(path / "source")))

    async def start(self, **config: Any) -> Machine:
        number = next(self._pids)
        store = await Store.open(self.path / "omium.db", clock=self.clock, durability="normal")
        core = Core(store, self.catalog, clock=self.clock, policies=self.policies)
        home = self.path / "home"
        engine = Engine(
            store,
            {"cli": CodingExecutor({"claude": self.spec}, home, environment={"THE_KEY": "key-of-the-operator"})},
            processes=Processes(self, number),
            create_child=core.create_child,
            check_names=core.check_names,
            workspaces=GitWorkspaces(home),
            specs=core.catalog.workspaces,
            config=EngineConfig(**{"beat_s": 0.05, **config}),
            clock=self.clock,
            rng=random.Random(number),
            policies=Policies(store.value, self.policies),
        )
        core.bind(engine)
        machine = Machine(number, store, engine, core)
        self.machines.append(machine)
        await self._tasks.start(self._host, machine)
        return machine

    def left(self, run: RunId) -> int:
        return len(processes_of(Node(self.path, run_id=run)))

    async def file(self, run: RunId, name: str) -> bytes:
        state = await self.machine.store.state(run)
        return await self.machine.engine.workspaces.read(str(state.tree), name)


@asynccontextmanager
async def coding_world(path: Path, answer: Callable[[Talk], Blocks]) -> AsyncIterator[tuple[CodingWorld, Model]]:
    async with model(answer) as api:
        made = CodingWorld(path, api)
        async with made._tasks:
            await made.start()
            try:
                yield made, api
                for machine in made.machines:
                    await check_world(machine.core)
            finally:
                with anyio.CancelScope(shield=True):
                    for machine in list(made.machines):
                        await made.stop(machine)


async def test_an_approval_takes_an_hour_and_the_worker_is_gone_by_then(tmp_path: Path) -> None:
    who = "git -c user.name=a -c user.email=a@example.org"
    command = f"echo new > new.txt && git add -A && {who} commit -qm written"

    def answer(talk: Talk) -> Blocks:
        if talk.prompt == "And then?":
            return [text(" / ".join(talk.prompts))]
        return [text("It is written.")] if talk.results else [text("Let me see."), bash(command)]

    with anyio.fail_after(90):
        async with coding_world(tmp_path, answer) as (w, api):
            run = await w.run("flow", workspace="repository")
            await w.status(run, "waiting_approval")
            (asked,) = await w.core.list_approvals(ME, run_id=run)
            assert asked.details is not None and asked.details["preview"] == f"Bash: {command}"
            await w.idle()
            assert w.left(run) == 0
            await w.crash(w.machine)
            w.advance(3_600)
            await w.start()
            await w.core.decide(ME, asked.id, "approve", assurance="elicited")
            view = await w.finished(run)
            output = view.output["after"]
            assert output["result"].startswith("Write it. / ") and output["result"].endswith(" / And then?")
            nodes = {node.id: node for node in view.nodes}
            code: Any = await w.machine.store.value((await w.machine.store.state(run)).nodes["code"].output)  # type: ignore[arg-type]
            assert code["result"] == "It is written."
            assert [one["subject"] for one in code["commits"]] == ["written"]
            assert await w.file(run, "new.txt") == b"new\n"
            effects = [effect for effect in await w.machine.store.effects(run) if effect.kind == "permission"]
            assert [(effect.outcome, effect.approval) for effect in effects] == [("done", asked.id)]
            assert nodes["code"].usage is not None and nodes["code"].usage["tokens"] == 40
            assert w.left(run) == 0
            assert len([talk for talk in api.talks if not talk.results]) == 1  # it did not begin anew


async def test_a_worker_that_is_gone_in_the_middle_of_a_tool(tmp_path: Path) -> None:
    def answer(talk: Talk) -> Blocks:
        if talk.prompt == "And then?":
            return [text("done")]
        return [text(talk.results[-1])] if talk.results else [bash("echo free > free.txt; tail -f /dev/null")]

    with anyio.fail_after(90):
        async with coding_world(tmp_path, answer) as (w, api):
            run = await w.run("flow", workspace="repository")
            path = tmp_path / "home" / "workspaces" / "trees" / run / "free.txt"
            while not path.exists():
                await anyio.sleep(0.02)  # real time: another process makes it
            await w.crash(w.machine)
            await w.start()
            await w.finished(run)
            told = next(talk for talk in api.talks if "was interrupted" in talk.prompt)
            assert told.prompts[0] == "Write it."
            assert await w.file(run, "free.txt") == b"free\n"  # what it had written is still there
            assert w.left(run) == 0


async def test_a_call_that_policy_denies_does_not_fail_the_node(tmp_path: Path) -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Write", "input": {"file_path": "x.txt", "content": "x"}}

    def answer(talk: Talk) -> Blocks:
        return [text("Then not.")] if talk.results or talk.prompt == "And then?" else [call]

    with anyio.fail_after(90):
        async with coding_world(tmp_path, answer) as (w, api):
            run = await w.run("flow", workspace="repository")
            await w.finished(run)
            refused = next(talk for talk in api.talks if talk.results).results[0]
            assert "Write is not allowed" in refused
            (decision,) = await w.machine.store.decisions(run_id=run, effects=["deny"])
            assert (decision.action, decision.tool, decision.agent) == ("permission", "Write", "claude")


async def test_a_node_that_is_played_in_a_branch_has_another_directory_and_begins_anew(tmp_path: Path) -> None:
    with anyio.fail_after(90):
        async with coding_world(tmp_path, lambda talk: [text(" / ".join(talk.prompts))]) as (w, _):
            run = await w.run("flow", workspace="repository")
            first = (await w.finished(run)).output["after"]
            assert first["result"] == "Write it. / And then?"
            child = await w.core.play_from_node(ME, run, "after")
            again = (await w.finished(child.run.id)).output["after"]
            assert "earlier conversation that is lost" in again["result"] and "And then?" in again["result"]
            assert "> Write it." in again["result"]  # the last words of the node that was not played again
            assert again["session"]["id"] != first["session"]["id"]
            assert git(tmp_path / "source", "status", "--porcelain") == ""
