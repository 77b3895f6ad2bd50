"""A run that goes back by itself takes its files along, also when its worker dies in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.definition import Need, NodeDef, WorkflowDef
from omium.orchestration.definition.model import FailureRule
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_workspace import RestoreReport, Tree
from tests.history_core import ME, HistoryCore, opened

pytestmark = pytest.mark.anyio

FILES = WorkflowDef(
    "files",
    (
        NodeDef("write", "function", use="write", workspace="write"),
        NodeDef("spoil", "function", use="spoil", workspace="write", needs=(Need("write"),)),
        NodeDef("check", "function", use="check", workspace="read", needs=(Need("spoil"),)),
    ),
    on_failure=(FailureRule("rollback", to="node:write", max=2),),
)


async def write(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    assert attempt.workspace is not None
    (attempt.workspace / "kept").write_text("v0")


async def spoil(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    assert attempt.workspace is not None
    assert (attempt.workspace / "kept").read_text() == "v0", "the files as of the checkpoint"
    assert not (attempt.workspace / "rubbish").exists()
    (attempt.workspace / "kept").write_text("spoilt")
    (attempt.workspace / "rubbish").write_text(str(attempt.generation))


async def check(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    assert attempt.workspace is not None
    if attempt.generation < 2:
        raise ConnectionError("refused")
    return (attempt.workspace / "rubbish").read_text()


FUNCTIONS = {"write": write, "spoil": spoil, "check": check}


async def ended(core: HistoryCore, run_id: RunId) -> Any:
    with anyio.fail_after(20):
        view = await core.wait(ME, run_id, 20, detail=True)
    assert view.status == "completed", view.error
    return view.output


async def test_the_files_go_back_with_the_state(tmp_path: Path) -> None:
    async with opened(tmp_path, FILES, functions=FUNCTIONS, executing=True, workspaces=True) as (core, functions):
        run = await core.run_workflow(ME, "files")
        assert await ended(core, run.id) == {"check": "2"}
        assert functions.calls.count("write") == 1
        kinds = [event.type for event in await core.store.events(run.id, limit=1000)]
        assert kinds.count(E.WORKSPACE_RESTORED) == kinds.count(E.RUN_ROLLED_BACK) == 2


@pytest.mark.parametrize("done", [False, True])
async def test_a_restore_that_was_cut_off_is_finished_before_anything_starts(
    tmp_path: Path, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker dies before or after the files are back; the log says neither."""
    restore, died = GitWorkspaces.restore, anyio.Event()

    async def dies(self: GitWorkspaces, run_id: RunId, tree: Tree) -> RestoreReport:
        if done:
            await restore(self, run_id, tree)
        died.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with opened(tmp_path, FILES, functions=FUNCTIONS, executing=True, workspaces=True) as (core, _):
        monkeypatch.setattr(GitWorkspaces, "restore", dies)
        run = await core.run_workflow(ME, "files")
        with anyio.fail_after(20):
            await died.wait()
        assert (await core.store.state(run.id)).restoring is not None

        async def nothing() -> None:
            """As in a crash, nothing is settled or released."""

        monkeypatch.setattr(core.engine, "stop", nothing)
    monkeypatch.setattr(GitWorkspaces, "restore", restore)
    async with opened(tmp_path, FILES, functions=FUNCTIONS, executing=True, workspaces=True) as (core, _):
        assert await ended(core, run.id) == {"check": "2"}


async def test_without_a_whole_checkpoint_a_person_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = replace(FILES, on_failure=(FailureRule("rollback"),))
    async with opened(tmp_path, workflow, functions=FUNCTIONS, executing=True, workspaces=True) as (core, _):

        async def damaged(state: Any) -> Any:
            raise OmiumError("integrity", f"position {state.seq} cannot be read.")

        monkeypatch.setattr(core._ground, "check_loadable", damaged)
        run = await core.run_workflow(ME, "files")
        with anyio.fail_after(20):
            view = await core.wait(ME, run.id, 20)
        assert view.status == "waiting_approval"
        [asked] = await core.list_approvals(ME, run_id=run.id)
        assert "cannot be taken back" in asked.question and "rollback" not in asked.options


async def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = replace(FILES, on_failure=(FailureRule("rollback", max=2),))
    async with opened(tmp_path, workflow, functions=FUNCTIONS, executing=True, workspaces=True) as (core, _):
        check_loadable = core._ground.check_loadable

        async def damaged(state: Any) -> Any:
            if "spoil" in state.nodes and state.nodes["spoil"].ended_at is not None:
                raise OmiumError("integrity", "what spoil gave cannot be read.")
            return await check_loadable(state)

        monkeypatch.setattr(core._ground, "check_loadable", damaged)
        run = await core.run_workflow(ME, "files")
        assert await ended(core, run.id) == {"check": "2"}
