"""A database file that is deleted or replaced under a running process: nothing more is acknowledged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId, WorkerId
from omium.orchestration.log.commands import NoteProgress, StartNode
from omium.orchestration.ports import RunQuery
from omium.storage.sqlite import writer as writing
from omium.storage.sqlite.standing import LOOK_S, Standing
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import A, executing
from tests.conformance.store.databases import TestClock

pytestmark = pytest.mark.anyio


def _delete(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _replace(path: Path) -> None:
    shutil.copyfile(path, path.with_name("other.db"))
    path.with_name("other.db").replace(path)


def _move_the_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [_delete, _replace, _move_the_directory])
async def test_writes_claims_and_reads_are_refused_from_then_on(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "home" / "omium.db"
    store = await SqliteStore.open(path, clock=TestClock())
    run = await executing(store)
    harm(path)
    with pytest.raises(OmiumError) as refused:
        await store.claim(WorkerId("wrk_1"), [ProjectId("p")], 1, 2**60)
    assert refused.value.code == "storage_unavailable" and refused.value.data["gone"]
    assert "deleted or replaced" in refused.value.message and "restart" in refused.value.hint
    for asked in (run.do(StartNode(A, 0)), store.run(run.id), store.runs(RunQuery())):
        with pytest.raises(OmiumError, match="deleted or replaced"):
            await asked
    await store.close()


async def test_commits_in_place_look_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_QUICK_S", 60.0)  # whatever this disk is like
    path = tmp_path / "omium.db"
    store = await SqliteStore.open(path, clock=TestClock())
    now = 0.0
    store._writer.standing = Standing(path, clock=lambda: now)
    store._writer._commit_s = 0.0
    run = await executing(store)
    await run.do(StartNode(A, 0))
    _delete(path)
    await run.do(NoteProgress(A, 0, 1, "nobody has looked yet"))
    now = LOOK_S + 0.1
    with pytest.raises(OmiumError, match="deleted or replaced"):
        await run.do(NoteProgress(A, 0, 1, "a second later"))
    await store.close()


def test_a_file_that_was_lost_stays_lost(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    path.touch()
    standing = Standing(path)
    standing.check()
    path.rename(tmp_path / "away")
    with pytest.raises(OmiumError):
        standing.check()
    (tmp_path / "away").rename(path)
    with pytest.raises(OmiumError):
        standing.check()
