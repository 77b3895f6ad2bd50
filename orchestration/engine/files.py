"""The workspaces of runs, as the engine uses them: opened before a node, captured after a writer, put back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, Principal, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import Store, Write
from omium.orchestration.ports_workspace import FileChange, FileEntry, Tree, Workspaces, WorkspaceSpec

if TYPE_CHECKING:
    from omium.orchestration.engine.attempt import NodeAttempt
    from omium.orchestration.engine.execution import Execution

_log = logging.getLogger(__name__)

ENGINE = Principal("engine")


class RunFiles:
    """What the engine asks of workspaces. `specs`: the declared ones by name; a run that names none gets an empty
    directory when a node first asks for one."""

    def __init__(self, store: Store, workspaces: Workspaces | None, specs: Mapping[str, WorkspaceSpec]) -> None:
        self._store = store
        self._workspaces = workspaces
        self._specs = specs

    def _need(self) -> Workspaces:
        if self._workspaces is None:
            raise OmiumError("unsupported", "this installation has no workspaces.", "Install git, and start again.")
        return self._workspaces

    def _spec(self, state: RunState) -> WorkspaceSpec:
        if state.workspace is None:
            return WorkspaceSpec()
        spec = self._specs.get(state.workspace)
        if spec is None:
            raise OmiumError("not_registered", f"the workspace {state.workspace!r} is not declared.")
        return spec

    async def open(self, state: RunState) -> Path:
        """The run's directory, made at its tree if it is not there."""
        at = Tree(state.tree) if state.tree is not None else None
        return await self._need().open(state.run_id, self._spec(state), at)

    async def start_tree(self, run: Execution, attempt: NodeAttempt) -> str:
        """The tree from which a node starts, with the directory open and, for a writer that runs again, put back."""
        attempt.workspace = await self.open(run.folded)
        before = run.folded.node(attempt.node_id)
        if attempt.node.workspace == "write" and before.tree_start is not None and before.attempt > 0:
            if before.kept is not None:  # it goes on in the middle, with the files as it left them
                return before.tree_start
            # Calls that are known to have been made are not made again: what they wrote was captured with them.
            await self._need().restore(run.run_id, Tree(before.tree_made or before.tree_start))
            return before.tree_start
        present = run.tree_ahead or run.folded.tree
        if present is not None:
            return present
        tree = await self._need().capture(run.run_id, "start")
        await run.commit([c.CaptureWorkspace(tree, "start")])
        return tree

    async def capture(self, run: Execution, attempt: NodeAttempt) -> str:
        """The tree that a writer left, pinned before its end is committed."""
        tree = await self._need().capture(run.run_id, attempt.node_id)
        crash_point("workspace.captured")
        return tree

    async def capture_call(self, run: Execution, attempt: NodeAttempt) -> str | None:
        """The files as a call of a writer has left them, to be noted with its result: should the node run again, that
        call is not made again. They are the node's only: to the run they count when it completes. An agent goes on from
        where it was, with the files as they are."""
        if attempt.node.workspace != "write" or attempt.node.kind not in ("function", "cli"):
            return None
        try:
            return await self._need().capture(run.run_id, attempt.node_id)
        except OmiumError as error:  # the call was made, and that must be written
            _log.warning(
                "the files of a call of %s in run %s were not captured: %s", attempt.node_id, run.run_id, error
            )
            return None

    async def bring_to(self, run_id: RunId, tree: str) -> None:
        """Make the directory equal to a tree; for a reused node that wrote files."""
        await self._need().restore(run_id, Tree(tree))

    async def present(self, run_id: RunId) -> str | None:
        """The files as they are, captured; None when the directory is not there."""
        workspaces = self._need()
        return await workspaces.capture(run_id, "present") if await workspaces.path(run_id) is not None else None

    async def finish_restore(self, run_id: RunId, tree: str, fence: Fence | None = None) -> None:
        """Do, or repeat after a crash, a restore that a history operation asked for. The present files are captured
        first, so that nothing that somebody left there is lost. fence: of the run's owner; raises `fenced` for one that
        no longer is."""
        workspaces = self._need()
        state = await self._store.state(run_id)
        if await workspaces.path(run_id) is not None:
            present = await workspaces.capture(run_id, "before restore")
            await self._write(
                run_id, fence, c.CaptureWorkspace(present, "before restore"), c.StartRestore(tree, "history")
            )
            crash_point("restore.started")
            report = await workspaces.restore(run_id, Tree(tree))
            crash_point("restore.done")
            await self._write(run_id, fence, c.FinishRestore(tree, report.changed, report.removed, report.added))
        else:
            await self._write(run_id, fence, c.StartRestore(tree, "history"))
            await workspaces.open(run_id, self._spec(state), Tree(tree))
            await self._write(run_id, fence, c.FinishRestore(tree))

    async def diff(self, a: str, b: str, *, patch_limit: int = 0) -> list[FileChange]:
        """What changed from one captured tree to another, by path, with patches of at most `patch_limit` bytes."""
        return await self._need().diff(Tree(a), Tree(b), patch_limit=patch_limit)

    @property
    def available(self) -> bool:
        """Whether there are workspaces at all."""
        return self._workspaces is not None

    async def files(self, tree: str) -> list[FileEntry]:
        """Every file and link of a captured tree, by path."""
        return await self._need().files(Tree(tree))

    async def read(self, tree: str, path: str) -> bytes:
        """The content of one file of a captured tree; of a link its target."""
        return await self._need().read(Tree(tree), path)

    async def _write(self, run_id: RunId, fence: Fence | None, *commands: c.Command) -> None:
        await self._store.write(Write(run_id, commands, ENGINE, fence))

    def scratch(self, attempt: NodeAttempt) -> Path | None:
        """A directory of the attempt's own."""
        if self._workspaces is None:
            return None
        return self._workspaces.node_dir(attempt.run_id, attempt.node_id, attempt.attempt)

    async def release(self, run_id: RunId) -> None:
        """Remove the directory of a run that has ended; its captured trees stay."""
        if self._workspaces is not None:
            await self._workspaces.release(run_id)
