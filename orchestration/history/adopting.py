"""Adopting: what a branch came to becomes its parent's, outputs with where they came from, and files.

The parent's log says so first, with what is to be restored, so that a crash leaves nothing half done that cannot be
finished: by adopting the same branch again, or, for the files, by whoever goes on with the parent. The parent's own
files are captured before and have a checkpoint of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.ids import RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import AT_REST, NodeStatus, RunState, RunStatus
from omium.orchestration.ports import NewBlob, RunQuery, RunRow, Write
from omium.orchestration.service.views import Caller
from omium.orchestration.values import Encoded, encode

_BRANCHES = 1_000  # of one run


@dataclass(frozen=True, slots=True)
class Adopted:
    """files: what the adoption changes in the parent's workspace; back_to: the label of what was there before."""

    files: Sequence[Mapping[str, Any]] = ()
    back_to: str | None = None
    notes: Sequence[str] = ()


async def adopt(ground: Ground, caller: Caller, branch: RunRow, reason: str | None, again: bool) -> Adopted:
    """Take a branch that has completed over into its parent, or finish that. `again`: the same request came before.

    Raises `not_allowed` and `conflict` as `HistoryService.close_branch` does."""
    assert branch.parent_run is not None
    child, parent = await ground.state(branch.id), await ground.state(branch.parent_run)
    name = branch.branch or branch.id
    begun = parent.adopted is not None and parent.adopted["run"] == branch.id
    if not begun:
        await _check(ground, branch, parent)
    elif branch.closed == "adopted" and parent.restoring is None and not again:
        raise OmiumError("not_allowed", f"branch {branch.id} is adopted.")
    files: Sequence[Mapping[str, Any]] = ()
    back_to = notes = None
    if begun:
        if parent.restoring is not None:
            notes = await _bring(ground, parent.run_id, None)
    elif _has_other_files(parent, child):
        if parent.status not in AT_REST:
            raise _at_work(parent)
        bringing = _Bringing(caller, branch, child, name, reason)
        notes = await _bring(ground, parent.run_id, bringing)
        files, back_to = bringing.files, f"before-adopted/{name}"
    else:
        await _write(ground, caller, parent.run_id, _command(branch, child, name, reason))
    await _label(ground, caller, branch, parent.run_id, name)
    return Adopted(files, back_to, () if notes is None else (notes,))


async def _check(ground: Ground, branch: RunRow, parent: RunState) -> None:
    if branch.closed is not None:
        raise OmiumError("not_allowed", f"branch {branch.id} is {branch.closed}.")
    if branch.status != RunStatus.COMPLETED:
        raise OmiumError(
            "not_allowed",
            f"branch {branch.id} is {branch.status}.",
            "A branch is adopted once it has completed.",
            state=branch.status,
        )
    for other in await ground.store.runs(RunQuery(parent=parent.run_id, limit=_BRANCHES)):
        if other.closed == "adopted" and other.id != branch.id:
            raise OmiumError(
                "conflict", f"of run {parent.run_id} the branch {other.branch} was adopted already.", run=other.id
            )


def _has_other_files(parent: RunState, child: RunState) -> bool:
    """Both have a workspace, and what is in them differs: else there is nothing to bring."""
    mine = parent.restoring or parent.tree
    return mine is not None and child.tree is not None and child.tree != mine


def _at_work(parent: RunState) -> OmiumError:
    return OmiumError(
        "not_allowed",
        f"run {parent.run_id} is {parent.status}: its files cannot be exchanged while it works.",
        "Pause it, then adopt the branch.",
        state=str(parent.status),
    )


# --- the log ------------------------------------------------------------------------------------------------------


def _command(branch: RunRow, child: RunState, name: str, reason: str | None) -> tuple[c.Adopt, Encoded]:
    outputs = encode(
        {
            node_id: {"output": node.output, "source": f"{branch.id}@{node.seq}"}
            for node_id, node in child.nodes.items()
            if node.status is NodeStatus.COMPLETED and node.output is not None
        }
    )
    return c.Adopt(branch.id, child.seq, name, child.output, outputs.digest, reason=reason), outputs


async def _write(ground: Ground, caller: Caller, run_id: RunId, what: tuple[c.Adopt, Encoded]) -> None:
    command, outputs = what
    await ground.store.write(Write(run_id, [command], caller.principal, blobs=[NewBlob(outputs)]))


async def _label(ground: Ground, caller: Caller, branch: RunRow, run_id: RunId, name: str) -> None:
    """Where the adoption ended has a name too, unless it has been given that before."""
    label = f"adopted/{name}"
    if any(one.label == label for one in await ground.store.labels(run_id)):
        return
    parent = await ground.store.run(run_id)
    if parent is not None:
        note = f"{branch.id}@{branch.seq}: {branch.hypothesis or ''}".rstrip(": ")
        await ground.store.write(Write(run_id, [c.Label(parent.seq, label, note)], caller.principal))


# --- files --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Bringing:
    """An adoption that brings files; `files`: what it changed, once it is in the log."""

    caller: Caller
    branch: RunRow
    child: RunState
    name: str
    reason: str | None
    files: Sequence[Mapping[str, Any]] = ()


async def _bring(ground: Ground, run_id: RunId, bringing: _Bringing | None) -> str | None:
    """Own the parent while its files are exchanged: note what is to be done, unless that is noted, and do it. What is
    still to be done, if it could not be."""
    if ground.files is None or not ground.files.available:
        raise OmiumError("unsupported", "this process cannot exchange files.", "Adopt the branch where runs execute.")
    async with ground.held(run_id) as ours:
        if not ours:
            raise OmiumError("conflict", f"run {run_id} is held by another worker.", "Try again in a moment.")
        if bringing is not None:
            await _note(ground, run_id, bringing)
        state = await ground.state(run_id)
        if state.restoring is None:
            return None
        try:
            await ground.files.finish_restore(run_id, state.restoring)
        except OmiumError as error:
            if error.code == "storage_unavailable":
                raise
            return f"The files could not be brought ({error}); adopt the branch again to have it finished."
    return None


async def _note(ground: Ground, run_id: RunId, bringing: _Bringing) -> None:
    assert ground.files is not None
    parent = await ground.state(run_id)
    if parent.restoring is not None:  # an earlier operation was cut off: its files come first
        await ground.files.finish_restore(run_id, parent.restoring)
        parent = await ground.state(run_id)
    before = await ground.files.present(run_id) or parent.tree
    bringing.files = await ground.changed_files(before, bringing.child.tree)
    command, outputs = _command(bringing.branch, bringing.child, bringing.name, bringing.reason)
    exchanged = c.Adopt(
        command.child, command.at, command.name, command.output, command.outputs, bringing.child.tree, before,
        command.reason,
    )  # fmt: skip
    await _write(ground, bringing.caller, run_id, (exchanged, outputs))
