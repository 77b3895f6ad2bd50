"""Captured trees on their way to another machine, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import WorkspaceSpec
from tests.workspace_help import fill, new_run, shown

pytestmark = pytest.mark.anyio
EMPTY = WorkspaceSpec()


async def test_captured_trees_come_back_on_another_machine(workspaces: GitWorkspaces, tmp_path: Path) -> None:
    runs, trees = [new_run(), new_run()], []
    for run_id in runs:
        fill(root := await workspaces.open(run_id, EMPTY))
        trees.append(await workspaces.capture(run_id, "full"))
        (root / "more").write_text(run_id)
        trees.append(await workspaces.capture(run_id, "more"))
    full = shown(root)
    bundle = tmp_path / "bundle"
    assert await workspaces.export([runs[1], new_run()], bundle) == 1
    assert bundle.stat().st_mode & 0o777 == 0o600
    elsewhere = GitWorkspaces(tmp_path / "elsewhere")
    assert await elsewhere.take_in(bundle) == 1
    assert shown(await elsewhere.open(runs[1], EMPTY, trees[3])) == full
    assert "more" not in shown(await elsewhere.open(new_run(), EMPTY, trees[2]))
    with pytest.raises(OmiumError):
        await elsewhere.files(trees[1])
    # Only what it was asked for, and for good.
    await elsewhere.drop([new_run()])
    assert await elsewhere.files(trees[3])
    await elsewhere.drop([runs[1]])
    with pytest.raises(OmiumError):
        await elsewhere.files(trees[3])


async def test_what_went_on_meanwhile_stays_beside_what_comes_back(workspaces: GitWorkspaces, tmp_path: Path) -> None:
    run_id, elsewhere = new_run(), GitWorkspaces(tmp_path / "elsewhere")
    root = await workspaces.open(run_id, EMPTY)
    first = await workspaces.capture(run_id, "first")
    assert await workspaces.export([run_id], tmp_path / "one") == 1
    assert await elsewhere.take_in(tmp_path / "one") == 1
    other = await elsewhere.open(run_id, EMPTY, first)
    (root / "here").touch()
    (other / "there").touch()
    here, there = await workspaces.capture(run_id, "here"), await elsewhere.capture(run_id, "there")
    await elsewhere.export([run_id], tmp_path / "two")
    for bundle in ("one", "two", "two"):
        assert await workspaces.take_in(tmp_path / bundle) == 1
    await workspaces.drop([new_run()])  # collects what nothing pins
    for tree in (first, here, there):
        await workspaces.restore(run_id, tree)
    assert [path.name for path in root.iterdir()] == ["there"]


async def test_there_may_be_nothing_to_take_along_and_a_damaged_file_is_refused(
    workspaces: GitWorkspaces, tmp_path: Path
) -> None:
    assert await workspaces.export([new_run()], tmp_path / "none") == 0
    fill(await workspaces.open(run_id := new_run(), EMPTY))
    await workspaces.capture(run_id, "full")
    assert await workspaces.export([new_run()], tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()
    bundle = tmp_path / "bundle"
    assert await workspaces.export([run_id], bundle) == 1
    content = bytearray(bundle.read_bytes())
    content[-40] ^= 1
    bundle.write_bytes(content)
    elsewhere = GitWorkspaces(tmp_path / "elsewhere")
    with pytest.raises(OmiumError) as refused:
        await elsewhere.take_in(bundle)
    assert refused.value.code == "integrity"
