"""Workspaces that are clones: the right commit, apart from each other, and commits that follow a rollback."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import Head, WorkspaceSpec
from tests.workspace_help import git, make_repository, new_run, shown

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source")


def spec(source: Path, ref: str | None = None) -> WorkspaceSpec:
    return WorkspaceSpec(kind="git", source=str(source), ref=ref)


@pytest.mark.parametrize(
    ("ref", "branch", "files"),
    [
        (None, "main", {"one.txt", "two.txt"}),
        ("main", "main", {"one.txt", "two.txt"}),
        ("topic", "topic", {"one.txt"}),
        ("v1", "HEAD", {"one.txt"}),
    ],
)
async def test_the_ref_is_checked_out(
    workspaces: GitWorkspaces, source: Path, ref: str | None, branch: str, files: set[str]
) -> None:
    for _ in range(2):  # without a cache, then with one
        root = await workspaces.open(new_run(), spec(source, ref))
        assert git(root, "rev-parse", "--abbrev-ref", "HEAD") == branch
        assert git(root, "rev-parse", "HEAD") == git(source, "rev-parse", ref or "HEAD")
        assert {path.name for path in root.iterdir()} == files | {".git"}
        assert git(root, "status", "--porcelain") == ""
        assert root.stat().st_mode & 0o777 == 0o700


async def test_a_commit_is_checked_out_and_a_newer_one_is_fetched(workspaces: GitWorkspaces, source: Path) -> None:
    first = git(source, "rev-parse", "v1")
    root = await workspaces.open(new_run(), spec(source, first))
    assert git(root, "rev-parse", "HEAD") == first
    git(source, "commit", "-q", "--allow-empty", "-m", "third")
    root = await workspaces.open(new_run(), spec(source))
    assert git(root, "log", "-1", "--format=%s") == "third"


@pytest.mark.parametrize("ref", ["nothing", "0" * 40, "one.txt"])
async def test_an_unknown_ref_is_not_found(workspaces: GitWorkspaces, source: Path, ref: str) -> None:
    run_id = new_run()
    with pytest.raises(OmiumError) as refused:
        await workspaces.open(run_id, spec(source, ref))
    assert refused.value.code == "not_found"
    assert "main" in refused.value.hint  # which branches there are
    assert await workspaces.path(run_id) is None


async def test_files_are_checked_out_byte_for_byte(workspaces: GitWorkspaces, source: Path) -> None:
    (source / "ident").write_bytes(b"$Id$\nunix\n")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "plain")
    (source / ".gitattributes").write_text("* text eol=crlf ident\n")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "attributes")
    root = await workspaces.open(new_run(), spec(source))
    assert (root / "ident").read_bytes() == b"$Id$\nunix\n"
    assert git(root, "status", "--porcelain") == ""


async def test_commits_and_head_follow_a_rollback(workspaces: GitWorkspaces, source: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, spec(source))
    start = await workspaces.capture(run_id, "start")
    base = git(root, "rev-parse", "HEAD")
    assert await workspaces.head(start) == Head("main", base)
    assert await workspaces.commits(run_id) == []

    git(root, "checkout", "-qb", "feature")
    (root / "three.txt").write_text("three\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "third")
    (root / "four.txt").write_text("four\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "fourth")
    (root / "staged.txt").write_text("staged\n")
    git(root, "add", "staged.txt")
    done, before = await workspaces.capture(run_id, "done"), shown(root)
    tip = git(root, "rev-parse", "HEAD")
    assert await workspaces.head(done) == Head("feature", tip)
    assert [(c.id, c.subject) for c in await workspaces.commits(run_id)] == [
        (git(root, "rev-parse", "HEAD~"), "third"),
        (tip, "fourth"),
    ]

    await workspaces.restore(run_id, start)
    assert git(root, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert git(root, "rev-parse", "HEAD") == base
    assert git(root, "branch", "--list", "feature") == ""
    assert git(root, "status", "--porcelain") == ""
    await workspaces.restore(run_id, done)
    assert shown(root) == before
    assert git(root, "log", "-1", "--format=%s") == "fourth"
    assert git(root, "status", "--porcelain") == "A  staged.txt"
    assert git(root, "fsck", "--full") == ""


async def test_a_packed_branch_is_read_too(workspaces: GitWorkspaces, source: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, spec(source))
    git(root, "pack-refs", "--all")
    assert await workspaces.head(await workspaces.capture(run_id, "packed")) == Head(
        "main", git(root, "rev-parse", "HEAD")
    )
    git(root, "checkout", "-q", "--detach")
    detached = await workspaces.capture(run_id, "detached")
    assert await workspaces.head(detached) == Head(None, git(root, "rev-parse", "HEAD"))
    shutil.rmtree(root / ".git")
    assert await workspaces.head(await workspaces.capture(run_id, "no repository")) is None
    assert await workspaces.commits(run_id) == []
    await workspaces.restore(run_id, detached)
    assert git(root, "log", "-1", "--format=%s") == "second"


async def test_a_child_works_without_its_parent_and_its_source(workspaces: GitWorkspaces, source: Path) -> None:
    parent, child = new_run(), new_run()
    root = await workspaces.open(parent, spec(source))
    (root / "three.txt").write_text("three\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "third")
    tree = await workspaces.capture(parent, "third")
    shutil.rmtree(source)
    await workspaces.release(parent)
    child_root = await workspaces.open(child, spec(source), tree)
    assert git(child_root, "log", "--format=%s").split() == ["third", "second", "first"]
    assert git(child_root, "fsck", "--full") == ""
    assert [commit.subject for commit in await workspaces.commits(child)] == ["third"]


async def test_runs_share_nothing_that_they_can_write(workspaces: GitWorkspaces, source: Path) -> None:
    one = await workspaces.open(new_run(), spec(source))
    two = await workspaces.open(new_run(), spec(source))
    git(one, "config", "core.hooksPath", "/tmp")
    git(one, "update-ref", "-d", "refs/heads/main")
    assert git(two, "log", "-1", "--format=%s") == "second"
    assert "hookspath" not in git(two, "config", "--list").lower()


async def test_ten_openings_at_once(workspaces: GitWorkspaces, source: Path, home: Path) -> None:
    runs = [new_run() for _ in range(10)]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for run_id in runs:
                tasks.start_soon(workspaces.open, run_id, spec(source))
    for run_id in runs:
        root = await workspaces.path(run_id)
        assert root is not None
        assert git(root, "log", "-1", "--format=%s") == "second"
    [cache] = (home / "workspaces" / "cache").glob("*.git")
    assert git(cache, "fsck", "--full") == ""


async def test_a_branch_that_the_source_rewrote_stays_readable(workspaces: GitWorkspaces, source: Path) -> None:
    old = new_run()
    root = await workspaces.open(old, spec(source))
    git(source, "reset", "-q", "--hard", "v1")
    git(source, "branch", "-D", "topic")
    git(source, "branch", "topic/deeper")
    newer = await workspaces.open(new_run(), spec(source, "topic/deeper"))
    assert git(newer, "log", "-1", "--format=%s") == "first"
    assert git(root, "log", "-1", "--format=%s") == "second"
    assert git(root, "fsck", "--full") == ""


async def test_an_address_keeps_its_password_to_itself(workspaces: GitWorkspaces) -> None:
    with pytest.raises(OmiumError) as refused:
        await workspaces.open(
            new_run(), WorkspaceSpec(kind="git", source="https://ada:hunter2@127.0.0.1:9/x.git", ref="main")
        )
    assert refused.value.code == "workspace"
    assert "hunter2" not in str(refused.value)
