"""Adopting a branch: its parent takes over what it gave, and its files, and can go back to its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.definition import ApprovalSpec, Need, NodeDef, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt, Write
from omium.orchestration.ports_workspace import RestoreReport, Tree
from omium.storage.maintenance import keeper, rebuild, verify
from tests.history_core import ME, HistoryCore, opened

pytestmark = pytest.mark.anyio

FILES = WorkflowDef(
    "files",
    (
        NodeDef("w", "function", use="write", workspace="write", input={"text": "${{ inputs.text }}"}),
        NodeDef("end", "function", use="last", input={"text": "${{ inputs.text }}"}, needs=(Need("w"),)),
    ),
)
PLAIN = WorkflowDef("plain", (NodeDef("end", "function", use="f", input={"text": "${{ inputs.text }}"}),))


async def write(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    assert attempt.workspace is not None
    (attempt.workspace / "text").write_text(inputs["text"])
    (attempt.workspace / f"only-{inputs['text']}").touch()
    return inputs["text"]


async def last(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    if inputs["text"] == "wait":
        await anyio.sleep_forever()
    return f"said {inputs['text']}"


@asynccontextmanager
async def place(path: Path) -> AsyncIterator[HistoryCore]:
    functions = {"write": write, "last": last}
    async with opened(path, FILES, PLAIN, functions=functions, executing=True, workspaces=True) as (core, _):
        yield core
        assert await verify(keeper(core.store)) == []


async def parted(core: HistoryCore, workflow: str = "files", names: tuple[str, ...] = ("b",)) -> tuple[RunId, ...]:
    """A run that has completed, and branches of it with other inputs, likewise."""
    run = await core.run_workflow(ME, workflow, {"text": "mine"})
    await core.wait(ME, run.id, 20)
    made = [run.id]
    for name in names:
        changed = {"inputs": {"text": name}}
        before = "before:w" if workflow == "files" else "before:end"
        branch = await core.branch(ME, run.id, before, name=name, overrides=changed)
        await core.wait(ME, branch.run.id, 20)
        made.append(branch.run.id)
    return tuple(made)


async def directory(core: HistoryCore, run_id: RunId) -> Path:
    assert core.engine is not None
    return await core.engine.workspaces.open(await core.store.state(run_id))


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


async def events(core: HistoryCore, run_id: RunId) -> list[Any]:
    return await core.store.events(run_id, limit=1000)


async def test_the_parent_gets_the_files_and_what_the_branch_gave_and_can_go_back(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, branch = await parted(core)
        home = await directory(core, run)
        (home / "stray").write_text("nobody captured this")
        closed = await core.close_branch(ME, branch, "adopted", "better")
        assert closed.run.closed == "adopted"
        assert [(one["path"], one["status"]) for one in closed.files] == [
            ("only-b", "added"), ("only-mine", "removed"), ("stray", "removed"), ("text", "modified"),
        ]  # fmt: skip
        assert names(home) == ["only-b", "text"] and (home / "text").read_text() == "b"
        [adopted] = [event.data for event in await events(core, run) if event.type is E.RUN_ADOPTED]
        state = await core.store.state(branch)
        assert (adopted["child"], adopted["at"] < state.seq, adopted["name"]) == (branch, True, "b")
        assert adopted["output"] == state.output and adopted["reason"] == "better"
        outputs = await core.store.value(adopted["outputs"])
        assert outputs == {
            one: {"output": state.nodes[one].output, "source": f"{branch}@{state.nodes[one].seq}"}  # type: ignore[index]
            for one in ("w", "end")
        }
        parent = await core.store.state(run)
        assert (parent.tree, parent.restoring) == (state.tree, None)
        assert parent.status == "completed" and (await core.get_run(ME, run, detail=True)).output == {
            "end": "said mine"
        }

        assert closed.back_to == "before-adopted/b"
        await core.rollback(ME, run, closed.back_to)
        assert names(home) == ["only-mine", "stray", "text"] and (home / "text").read_text() == "mine"
        await core.rollback(ME, run, "adopted/b")
        assert names(home) == ["only-b", "text"]


async def test_what_is_adopted_survives_a_rebuild(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, branch = await parted(core)
        await core.close_branch(ME, branch, "adopted")
        before = await core.store.state(run)
        assert (await rebuild(keeper(core.store))).runs == 2
        assert await core.store.state(run) == before
        assert (await core.replay(ME, run)).divergence is None
        assert (await core.compare(ME, run, branch)).files == []


async def test_without_files_only_the_outputs_are_taken_over(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, branch = await parted(core, "plain")
        closed = await core.close_branch(ME, branch, "adopted")
        assert (closed.files, closed.back_to, closed.notes) == ((), None, ())
        kinds = [event.type for event in await events(core, run)]
        assert kinds.count(E.RUN_ADOPTED) == 1 and E.WORKSPACE_RESTORE_STARTED not in kinds


async def test_an_abandoned_branch_is_not_adopted_nor_a_second_one(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, a, b, c = await parted(core, names=("a", "b", "c"))
        await core.close_branch(ME, a, "abandoned")
        await refused(core, a, "not_allowed")
        await core.close_branch(ME, b, "adopted")
        await refused(core, b, "not_allowed")
        head = (await core.get_run(ME, run)).seq
        await refused(core, c, "conflict")
        assert (await core.get_run(ME, run)).seq == head


async def refused(core: HistoryCore, run_id: RunId, code: str) -> None:
    with pytest.raises(OmiumError) as error:
        await core.close_branch(ME, run_id, "adopted")
    assert error.value.code == code


async def test_a_parent_that_works_keeps_its_files_until_it_is_paused(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run = await core.run_workflow(ME, "files", {"text": "wait"})
        with anyio.fail_after(20):
            while (await core.store.state(run.id)).node("end").status != "running":  # type: ignore[arg-type]
                await anyio.sleep(0.01)  # real time: until the node is in flight
        branch = await core.branch(ME, run.id, "before:w", name="b", overrides={"inputs": {"text": "b"}})
        await core.wait(ME, branch.run.id, 20)
        await refused(core, branch.run.id, "not_allowed")
        assert (await core.get_run(ME, branch.run.id)).closed is None
        await core.pause(ME, run.id, interrupt=True)
        await core.cancel(ME, run.id)
        assert (await core.close_branch(ME, branch.run.id, "adopted")).files
        assert (await directory(core, run.id) / "text").read_text() == "b"


async def test_a_parent_that_waits_for_a_person_gets_the_files_and_goes_on_with_them(tmp_path: Path) -> None:
    workflow = WorkflowDef(
        "asking",
        (
            *FILES.nodes[:1],
            NodeDef("ok", "approval", approval=ApprovalSpec("?"), needs=(Need("w"),)),
            NodeDef("end", "function", use="look", workspace="read", needs=(Need("ok"),)),
        ),
    )

    async def look(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        assert attempt.workspace is not None
        return (attempt.workspace / "text").read_text()

    functions = {"write": write, "look": look}
    async with opened(tmp_path, workflow, functions=functions, executing=True, workspaces=True) as (core, _):
        run = await core.run_workflow(ME, "asking", {"text": "mine"})
        await core.wait(ME, run.id, 20)
        branch = await core.branch(ME, run.id, "before:w", name="b", overrides={"inputs": {"text": "b"}})
        for one in (branch.run.id, run.id):
            assert (await core.wait(ME, one, 20)).status == "waiting_approval"
            if one == run.id:
                assert (await core.close_branch(ME, branch.run.id, "adopted")).files
            [asked] = await core.list_approvals(ME, run_id=one)
            await core.decide(ME, asked.id, "approve", assurance="elicited")
            assert (await core.wait(ME, one, 20, detail=True)).output == {"end": "b"}


async def test_a_repeat_with_the_same_key_changes_nothing_more(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, branch = await parted(core)
        await core.close_branch(ME, branch, "adopted", idempotency_key="k")
        kinds = [event.type for event in await events(core, run)]
        await core.close_branch(ME, branch, "adopted", idempotency_key="k")
        assert [event.type for event in await events(core, run)] == kinds


@pytest.mark.parametrize("at", ["restoring", "restored", "closing"])
async def test_what_was_cut_off_is_finished_by_adopting_again(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = GitWorkspaces.restore

    async def dies(self: GitWorkspaces, run_id: RunId, tree: Tree) -> RestoreReport:
        if at == "restored":
            await restore(self, run_id, tree)
        raise KeyboardInterrupt

    async with place(tmp_path) as core:
        run, branch = await parted(core)
        if at == "closing":
            put = core.store.write

            async def cut(write: Write) -> Any:
                if write.run_id == branch:
                    raise KeyboardInterrupt
                return await put(write)

            monkeypatch.setattr(core.store, "write", cut)
        else:
            monkeypatch.setattr(GitWorkspaces, "restore", dies)
        with pytest.raises(KeyboardInterrupt):
            await core.close_branch(ME, branch, "adopted")
        monkeypatch.undo()
        assert (await core.get_run(ME, branch)).closed is None
        assert (await core.store.state(run)).adopted is not None
        closed = await core.close_branch(ME, branch, "adopted")
        assert closed.run.closed == "adopted"
        home = await directory(core, run)
        assert names(home) == ["only-b", "text"]
        assert (await core.store.state(run)).restoring is None
        await core.rollback(ME, run, "before-adopted/b")
        assert names(home) == ["only-mine", "text"]
        kinds = [event.type for event in await events(core, run)]
        assert kinds.count(E.RUN_ADOPTED) == 1


async def test_a_process_that_executes_nothing_leaves_the_files_alone(tmp_path: Path) -> None:
    async with place(tmp_path) as core:
        run, branch = await parted(core)
        core.engine = None
        await refused(core, branch, "unsupported")
        assert (await core.store.state(run)).adopted is None
