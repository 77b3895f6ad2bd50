"""`omium demo`: a real workflow over real files that dies, resumes, waits, branches and goes back, in under a minute.

Everything it shows is what a user would do: the example project `release_notes`, worker processes of its own, a
SIGKILL, and the verbs of the core. It needs Python and git, and no network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import anyio

from omium.clients.processes.detached import start_detached
from omium.clients.processes.identity import ProcessIdentity, is_alive
from omium.clients.processes.supervisor import Command, run_process
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Principal, RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.commands.base import INTERRUPTED
from omium.server.config import Config, load_config
from omium.storage.maintenance import keeper, verify

_COMMITS = (
    ("ada", "feat: import recipes from a photo"),
    ("bo", "fix: the timer no longer stops when the phone locks"),
    ("ada", "feat: share a shopping list"),
    ("cy", "docs: how to add a kitchen scale"),
    ("bo", "perf: the search answers while one types"),
    ("ada", "fix: umlauts in recipe names"),
    ("cy", "feat: metric and imperial units side by side"),
    ("bo", "chore: newer dependencies"),
    ("ada", "fix: two lists with the same name"),
    ("cy", "feat: dark mode"),
    ("bo", "perf: photos are loaded when they are seen"),
    ("ada", "docs: frequently asked questions"),
)
_PATIENCE_S = 60.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Figures:
    """What the end of the demo reports."""

    began: float = field(default_factory=time.perf_counter)
    killed_after: int = 0  # nodes that had completed when the worker was killed
    to_next_node_s: float = 0.0  # from the kill to the first node that started after it
    branch_ms: float = 0.0
    rollback_ms: float = 0.0


async def run_demo(directory: Path | None = None, *, say: Say) -> int:
    """Run it in `directory` (kept afterwards), or in a temporary one. Gives an exit code: 0 when all held. A signal to
    go ends its workers and takes the temporary directory away, as the end does."""
    git = shutil.which("git")
    if git is None:
        raise OmiumError("unsupported", "the demo shows files going back in time, which needs git.", "Install git.")
    place = directory or Path(tempfile.mkdtemp(prefix="omium-demo-"))
    code = INTERRUPTED
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise OmiumError("conflict", f"{place} is not empty.", "Name a directory that is, or none.")
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with anyio.create_task_group() as tasks:

                async def heed() -> None:
                    async for _ in signals:
                        tasks.cancel_scope.cancel()

                tasks.start_soon(heed)
                demo = Demo(place, say)
                await demo.prepare()
                code = await demo.play()
                tasks.cancel_scope.cancel()
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
    return code


class Demo:
    """One showing, in one directory."""

    def __init__(self, place: Path, say: Say) -> None:
        self._place = place
        self._say = say
        self._outbox = place / "outbox"
        self._repository = place / "repository"
        self._figures = Figures()
        self._caller = Caller(Principal(f"user:{os.environ.get('USER', 'you')}"))
        self._ok = True

    # --- the stage ------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """A repository with a history, the example project, and an outbox that stands for the outside world."""
        self._outbox.mkdir()
        with as_file(files("omium.examples.release_notes")) as source:
            shutil.copytree(source, self._place / "project", ignore=shutil.ignore_patterns("__pycache__"))
        self._repository.mkdir()
        await self._git("init", "--quiet", "--initial-branch=main")
        for number, (author, subject) in enumerate(_COMMITS):
            (self._repository / "recipes.txt").write_text(f"{subject}\n" * (number + 1), encoding="utf-8")
            await self._git("add", "recipes.txt")
            await self._git(
                "-c",
                f"user.name={author}",
                "-c",
                f"user.email={author}@example.org",
                "commit",
                "--quiet",
                "-m",
                subject,
            )

    async def _git(self, *arguments: str) -> None:
        argv = ("git", "-c", "commit.gpgsign=false", *arguments)
        ended = await run_process(
            Command(argv=argv, cwd=self._repository, env={"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"})
        )
        if ended.code != 0:
            raise OmiumError("process_failed", f"git {arguments[0]} failed: {ended.stderr.text()[-500:]}")

    def _config(self) -> Config:
        environment = {
            "OMIUM_HOME": str(self._place / "home"),
            "OMIUM_DATABASE": str(self._place / "home" / "omium.db"),
            "OMIUM_PROCESSES": "2",
        }
        return load_config(self._place / "project", environment)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[ProcessIdentity]:
        """A process that executes runs, as `omium worker` does."""
        config = self._config()
        argv = [sys.executable, "-P", "-m", "omium.server.worker", "--idle", "60"]
        log = self._place / "worker.log"
        worker = start_detached(argv, cwd=self._place, log=log, env=config.environment())
        try:
            yield worker
        finally:
            with anyio.CancelScope(shield=True):
                await _end(worker)

    # --- the play -------------------------------------------------------------------------------------------------

    async def play(self) -> int:
        config = self._config()
        self._caller = Caller(self._caller.principal, config.project.id)
        async with open_omium(config, engine=False) as core:
            run_id = await self._start(core)
            await self._die(core, run_id)
            async with self._worker():
                await self._resume_and_approve(core, run_id)
        async with open_omium(config) as core:  # from here on this process executes as well
            child = await self._branch(core, run_id)
            await self._compare(core, run_id, child)
            await self._go_back(core, run_id)
            await self._verify(core)
        self._sum_up()
        return 0 if self._ok else 1

    def _check(self, holds: bool, what: str) -> None:
        self._say(f"   {'ok' if holds else 'NOT SO'}  {what}")
        self._ok = self._ok and holds

    async def _start(self, core: Core) -> RunId:
        self._say("1. Start: collect a git history, classify each commit, draft release notes, ask, publish")
        run = await core.run_workflow(
            self._caller,
            "release-notes",
            {"repository": str(self._repository), "outbox": str(self._outbox)},
            title="Release 1.0",
            workspace="site",
            idempotency_key="demo",
        )
        self._say(f"   run {run.id}")
        return run.id

    async def _die(self, core: Core, run_id: RunId) -> None:
        """Kill the worker when half of the commits are classified."""
        async with self._worker() as worker:
            await self._until(
                core, run_id, lambda ended: sum(n.startswith("classify[") for n in ended) >= len(_COMMITS) // 2
            )
            os.kill(worker.pid, signal.SIGKILL)
            await _until_dead(worker)
        self._killed_at = time.perf_counter()
        ended = await self._ended_nodes(core, run_id)
        self._figures.killed_after = sum(ended.values())
        run = await core.get_run(self._caller, run_id, detail=True)
        self._say(f"2. kill -9 {worker.pid}: the worker is gone in the middle, {len(ended)} nodes are done")
        self._check(run.status == "executing", f"the run is still {run.status}; nothing that was done is lost")
        self._head = run.seq

    async def _resume_and_approve(self, core: Core, run_id: RunId) -> None:
        self._say("3. A new worker takes over")
        await self._until_started_after(core, run_id, self._head)
        self._figures.to_next_node_s = time.perf_counter() - self._killed_at
        run = await core.wait(self._caller, run_id, _PATIENCE_S, detail=True)
        ended = await self._ended_nodes(core, run_id)
        twice = [node for node, count in ended.items() if count > 1]
        calls = _lines(self._outbox / "calls.jsonl")
        self._check(not twice, f"{sum(ended.values())} nodes completed, each of them once")
        repeated = len(calls) - len({call["commit"] for call in calls})
        self._check(
            repeated <= 2,
            f"{len(calls)} model calls for {len(_COMMITS)} commits: only what was in flight was made again",
        )
        self._check(run.status == "waiting_approval", f"the run is {run.status}")
        self._say("4. A decision is needed")
        approval = run.approvals[0]
        self._say(f"   {approval.id}: {approval.question}")
        await self._approve(core, approval.id)
        run = await core.wait(self._caller, run_id, _PATIENCE_S, detail=True)
        self._check(run.status == "completed", f"approved; the run is {run.status}: {json.dumps(run.output)}")

    async def _approve(self, core: Core, approval_id: ApprovalId) -> None:
        await core.decide(self._caller, approval_id, "approve", assurance="elicited")

    async def _branch(self, core: Core, run_id: RunId) -> RunId:
        self._say("5. Branch: would a friendlier tone be better? From before the draft; the commits stay classified")
        changes = {"inputs": {"tone": "friendly", "version": "1.0-friendly"}}
        plan = await core.preview_branch(self._caller, run_id, "before:draft", changes)
        for deed in plan.repeated_effects:
            self._say(f"   will call again: {deed.call} of {deed.node}, for the other version")
        began = time.perf_counter()
        result = await core.branch(
            self._caller,
            run_id,
            "before:draft",
            name="friendly",
            hypothesis="a friendly tone reads better",
            overrides=changes,
            plan_token=plan.plan_token,
        )
        self._figures.branch_ms = (time.perf_counter() - began) * 1000
        child = result.run.id
        calls = len(_lines(self._outbox / "calls.jsonl"))
        run = await core.wait(self._caller, child, _PATIENCE_S, detail=True)
        if run.approvals:
            await self._approve(core, run.approvals[0].id)
            run = await core.wait(self._caller, child, _PATIENCE_S, detail=True)
        again = len(_lines(self._outbox / "calls.jsonl")) - calls
        self._check(run.status == "completed", f"branch {child} is {run.status}")
        self._check(again == 0, f"{again} of the {len(_COMMITS)} model calls were made again")
        return child

    async def _compare(self, core: Core, run_id: RunId, child: RunId) -> None:
        self._say("6. Compare")
        found = await core.compare(self._caller, run_id, child)
        changed = [one.node for one in found.nodes if one.change == "changed"]
        self._check(
            found.first_divergence == "draft", f"they part at {found.first_divergence}; changed: {', '.join(changed)}"
        )
        for file in found.files:
            self._say(f"   {file['status']:9} {file['path']}")

    async def _go_back(self, core: Core, run_id: RunId) -> None:
        self._say("7. Roll back to before the publication, with the files")
        before = await _tree(core, self._place, run_id)
        plan = await core.preview_rollback(self._caller, run_id, "node:draft")
        for deed in plan.undone_effects:
            self._say(f"   will undo: {deed.call} of {deed.node} ({deed.compensate})")
        began = time.perf_counter()
        result = await core.rollback(
            self._caller, run_id, "node:draft", reason="the date was wrong", plan_token=plan.plan_token
        )
        self._figures.rollback_ms = (time.perf_counter() - began) * 1000
        after = await _tree(core, self._place, run_id)
        self._check(result.run.status == "paused", f"the run is {result.run.status}")
        gone = sorted(before - after)
        self._check(
            "site/1.0.html" in gone and "NOTES.md" in after,
            f"files gone: {', '.join(gone)}; kept: {', '.join(sorted(after))}",
        )
        announcements = _lines(self._outbox / "announcements.jsonl")
        self._check(
            any("retracted" in one for one in announcements), "the announcement was retracted by its compensation"
        )

    async def _verify(self, core: Core) -> None:
        self._say("8. Verify the log")
        damage = await verify(keeper(core.store))
        runs = await core.list_runs(self._caller)
        events = sum(run.seq for run in runs.runs)
        self._check(not damage, f"{events} events in {len(runs.runs)} runs: every chain and every blob holds")

    def _sum_up(self) -> None:
        f = self._figures
        self._say("")
        self._say(
            f"In {time.perf_counter() - f.began:.1f} s: killed after {f.killed_after} nodes,"
            f" next node {f.to_next_node_s:.2f} s after the kill (new process included),"
            f" branch in {f.branch_ms:.0f} ms, rollback with files in {f.rollback_ms:.0f} ms."
        )

    # --- watching -------------------------------------------------------------------------------------------------

    async def _ended_nodes(self, core: Core, run_id: RunId) -> Counter[str]:
        """How often each node completed."""
        events = await core.events(self._caller, run_id, limit=10_000)
        return Counter(event.data["node"] for event in events if event.type == "node.completed")

    async def _until(self, core: Core, run_id: RunId, enough: Callable[[Counter[str]], bool]) -> None:
        with anyio.fail_after(_PATIENCE_S):
            while not enough(await self._ended_nodes(core, run_id)):
                run = await core.get_run(self._caller, run_id)
                if run.status != "executing":
                    raise OmiumError("internal", f"the demo's run is {run.status}: {run.error}")
                await anyio.sleep(0.02)

    async def _until_started_after(self, core: Core, run_id: RunId, seq: int) -> None:
        with anyio.fail_after(_PATIENCE_S):
            while True:
                for event in await core.events(self._caller, run_id, after=seq):
                    if event.type in ("node.started", "node.retry_started"):
                        return
                await anyio.sleep(0.01)


async def _end(worker: ProcessIdentity) -> None:
    if is_alive(worker):
        os.kill(worker.pid, signal.SIGTERM)
    with anyio.move_on_after(10):
        await _until_dead(worker)


async def _until_dead(worker: ProcessIdentity) -> None:
    while is_alive(worker):
        await anyio.sleep(0.01)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def _tree(core: Core, place: Path, run_id: RunId) -> set[str]:
    """The files of the run's workspace, as they lie on the disk."""
    from omium.clients.workspaces import GitWorkspaces

    root = await GitWorkspaces(place / "home").path(run_id)
    if root is None:
        return set()
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
