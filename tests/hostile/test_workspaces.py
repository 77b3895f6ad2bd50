"""What an agent inside a workspace, or a caller outside, may try: paths, links, names and repositories that attack."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from omium.clients.workspaces import GitWorkspaces, check_ref, checkout, confine, node_dir, open_beneath, restore
from omium.clients.workspaces.git import Git
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.ports_workspace import Tree, WorkspaceSpec
from tests.workspace_help import git, make_repository, new_run, shown

EMPTY = WorkspaceSpec()

PATHS = [
    *("..", "../x", "a/../../x", "a/..", "..\\x", "a\\..\\x", "/etc/passwd", "//server/share", "\\\\server\\share"),
    *("~", "~/x", "~root/x", "C:", "C:\\x", "c:x", "C:/x", "\\x", "", "a\0b", "a\nb", "a\n", "\u202eb", "a\u200b"),
    *("\ud800", "\uff0e\uff0e/x", "a/\uff0e\uff0e/x", "\uff0fetc", "\u2025/x", "x" * 5000),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "base" / "s1"
    root.mkdir(parents=True)
    (tmp_path / "base" / "s1x").mkdir()
    (tmp_path / "base" / "s1x" / "secret").write_text("secret")
    (root / "file").write_text("file")
    return root


@pytest.mark.parametrize("path", [*PATHS, 7, None, ["a"], b"a"])
def test_paths_that_lead_elsewhere(root: Path, path: str) -> None:
    for use in (confine, open_beneath):
        with pytest.raises(OmiumError) as refused:
            use(root, path)
        assert refused.value.code == "invalid_argument"


def test_paths_that_stay(root: Path) -> None:
    for path in ("file", "./file", "new/deep/file", ".", "a..b", "...", "a~", "ü/é", "%2e%2e"):
        assert confine(root, path) == root / path


def test_links_that_lead_elsewhere(root: Path) -> None:
    (root / "up").symlink_to("..")
    (root / "sibling").symlink_to("../s1x")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("../s1x/not yet")
    (root / "loop").symlink_to("loop")
    (root / "inside").symlink_to("file")
    for path in ("up/s1x/secret", "sibling/secret", "absolute", "dangling", "dangling/x", "loop"):
        with pytest.raises(OmiumError) as refused:
            confine(root, path)
        assert refused.value.code == "invalid_argument"
    assert confine(root, "inside") == root / "file"


def test_a_link_put_in_place_after_the_check_is_not_followed(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "secret").write_text("ours")
    confine(root, "d/secret")
    (root / "d" / "secret").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to("../s1x")
    (root / "last").symlink_to("../s1x/secret")
    for path in ("d/secret", "last"):
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            with pytest.raises(OmiumError) as refused:
                open_beneath(root, path, flags)
            assert refused.value.code == "invalid_argument"
    assert (root.parent / "s1x" / "secret").read_text() == "secret"


def test_a_hard_link_is_not_written_through(root: Path) -> None:
    (root / "hard").hardlink_to(root.parent / "s1x" / "secret")
    with pytest.raises(OmiumError):
        open_beneath(root, "hard", os.O_WRONLY | os.O_TRUNC)
    assert (root.parent / "s1x" / "secret").read_text() == "secret"


def test_only_regular_files_are_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "d").mkdir()
    for path in ("pipe", "d", "."):
        with pytest.raises(OmiumError) as refused:
            open_beneath(root, path)
        assert refused.value.code == "invalid_argument"
    with pytest.raises(OmiumError) as missing:
        open_beneath(root, "missing")
    assert missing.value.code == "not_found"
    with os.fdopen(open_beneath(root, "made", os.O_WRONLY | os.O_CREAT), "w") as stream:
        stream.write("made")
    assert (root / "made").read_text() == "made"


def test_node_directories_stay_apart(tmp_path: Path) -> None:
    run_id = new_run()
    ids = ["a", "fan[3]", "fix[2].test", "..", ".", "a/b", "a%2Fb", "../../x", "~", "é", "A", "%2E"]
    found = [node_dir(tmp_path, run_id, NodeId(node_id), 1) for node_id in ids]
    assert len(set(found)) == len(ids)
    for directory in found:
        assert directory.parents[1] == tmp_path / "runs" / run_id / "nodes"
        assert {path.name for path in directory.iterdir()} == {"data", "outputs", "logs", "tmp"}
        assert directory.stat().st_mode & 0o777 == 0o700
    for node_id, attempt in (("", 1), ("x" * 300, 1), ("a", -1)):
        with pytest.raises(OmiumError):
            node_dir(tmp_path, run_id, NodeId(node_id), attempt)


REFS = [
    *(
        "--upload-pack=x",
        "-x",
        "a..b",
        "a@{1}",
        "@{",
        "@",
        "HEAD",
        "a.lock",
        "a.lock/b",
        ".a",
        "a/.b",
        "a.",
        "/a",
        "a/",
    ),
    *("a//b", "", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a\0", "a\n", "a\x7f", "a\u202eb", "x" * 300),
]


@pytest.mark.parametrize("ref", REFS)
@pytest.mark.anyio
async def test_branch_names_are_refused_before_any_process_starts(tmp_path: Path, ref: str) -> None:
    no_process_can_start = GitWorkspaces(tmp_path / "home", git=Git(str(tmp_path / "no such program")))
    with pytest.raises(OmiumError) as refused:
        await no_process_can_start.open(new_run(), WorkspaceSpec(kind="git", source=str(tmp_path), ref=ref))
    assert refused.value.code == "invalid_argument"


def test_branch_names_that_are_fine() -> None:
    for ref in ("main", "feature/a-b_c", "v1.0", "a@b", "grün", "a.locked"):
        assert check_ref(ref) == ref


@pytest.mark.parametrize(
    "source",
    [
        *("--upload-pack=touch x", "ext::sh -c touch% x", "-x", "relative/path", "host:path", "a@-oProxyCommand=x:y"),
        *("ssh://-oProxyCommand=x/y", "https://host/x\ny", "fd::17", "http:x", "", "a@host:-x"),
    ],
)
@pytest.mark.anyio
async def test_sources_that_would_start_something(tmp_path: Path, source: str) -> None:
    no_process_can_start = GitWorkspaces(tmp_path / "home", git=Git(str(tmp_path / "no such program")))
    with pytest.raises(OmiumError) as refused:
        await no_process_can_start.open(new_run(), WorkspaceSpec(kind="git", source=source, ref="main"))
    assert refused.value.code == "invalid_argument"


@pytest.mark.parametrize("run_id", ["../x", "run_x", "", "run_" + "0" * 25 + "\n", "wf_" + "0" * 26, None])
@pytest.mark.anyio
async def test_run_ids_that_are_paths(tmp_path: Path, run_id: str) -> None:
    workspaces, bad = GitWorkspaces(tmp_path / "home"), RunId(run_id)
    for call in (
        workspaces.open(bad, EMPTY),
        workspaces.capture(bad, "x"),
        workspaces.restore(bad, Tree("0" * 40)),
        workspaces.path(bad),
        workspaces.release(bad),
        workspaces.drop([bad]),
    ):
        with pytest.raises(OmiumError) as refused:
            await call
        assert refused.value.code == "invalid_argument"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exclude", ["../x", "a/../b", "", "/", "a//b", "a\0", 7])
@pytest.mark.anyio
async def test_patterns_that_are_none(tmp_path: Path, exclude: str) -> None:
    with pytest.raises(OmiumError) as refused:
        await GitWorkspaces(tmp_path / "home").open(new_run(), WorkspaceSpec(exclude=(exclude,)))
    assert refused.value.code == "invalid_argument"


def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    (directory / "file").chmod(0o640)
    return directory


@pytest.mark.anyio
async def test_a_restore_writes_through_no_link(tmp_path: Path) -> None:
    workspaces, run_id, target = GitWorkspaces(tmp_path / "home"), new_run(), outside(tmp_path)
    root = await workspaces.open(run_id, EMPTY)
    for name in ("d", "e"):
        (root / name).mkdir()
        (root / name / "file").write_text(f"in {name}")
    (root / "hard").write_text("soft")
    (root / "plain").write_text("plain")
    tree, before = await workspaces.capture(run_id, "before"), shown(root)
    (root / "d" / "file").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to(target)  # in place of a directory
    (root / "plain").unlink()
    (root / "plain").symlink_to(target / "file")  # in place of a file
    (root / "hard").unlink()
    (root / "hard").hardlink_to(target / "file")
    (root / "e" / "extra").symlink_to(target)  # to be removed, not followed
    tree_with_links = await workspaces.capture(run_id, "links")
    await workspaces.restore(run_id, tree)
    assert shown(root) == before
    assert {entry.path for entry in await workspaces.files(tree_with_links)} == {
        *("d", "plain", "hard", "e/file", "e/extra")
    }
    await workspaces.restore(run_id, tree_with_links)
    await workspaces.restore(run_id, tree)
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}


@pytest.mark.anyio
async def test_a_restore_changes_no_mode_through_a_hard_link(tmp_path: Path) -> None:
    workspaces, run_id, target = GitWorkspaces(tmp_path / "home"), new_run(), outside(tmp_path)
    root = await workspaces.open(run_id, EMPTY)
    (root / "file").write_text("untouched")
    (root / "file").chmod(0o644)
    tree = await workspaces.capture(run_id, "0644")
    (root / "file").unlink()
    (root / "file").hardlink_to(target / "file")
    await workspaces.restore(run_id, tree)
    assert (root / "file").stat().st_mode & 0o777 == 0o644
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}


@pytest.mark.parametrize("swapped", ["d", "."])
@pytest.mark.anyio
async def test_a_directory_swapped_in_mid_restore_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    workspaces, run_id, target = GitWorkspaces(tmp_path / "home"), new_run(), outside(tmp_path)
    root = await workspaces.open(run_id, EMPTY)
    (root / "d").mkdir()
    (root / "d" / "file").write_text("ours")
    tree, before = await workspaces.capture(run_id, "before"), shown(root)
    (root / "d" / "file").write_text("changed")

    def swap_then_apply(*args: object) -> None:
        directory = root / swapped
        directory.rename(tmp_path / "away")
        directory.symlink_to(target)
        restore.apply(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(checkout, "apply", swap_then_apply)
        with pytest.raises(OmiumError) as refused:
            await workspaces.restore(run_id, tree)
    assert refused.value.code == "workspace"
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}
    if swapped == "d":
        await workspaces.restore(run_id, tree)
        assert shown(root) == before
    else:
        with pytest.raises(OmiumError):
            await workspaces.capture(run_id, "not this directory")
        await workspaces.release(run_id)
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}


def plant(root: Path, sentinel: Path) -> None:
    """Everything in a workspace by which git could be made to run a program or to change bytes."""
    program = root / "program"
    program.write_text(f"#!/bin/sh\ntouch '{sentinel}'\n")
    program.chmod(0o755)
    (root / ".gitattributes").write_text(
        "* text eol=crlf ident filter=evil diff=evil merge=evil working-tree-encoding=UTF-16\n"
    )
    (root / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ext::sh -c true\n')
    (root / "lines").write_bytes(b"$Id$\r\nmixed\n")
    if not (root / ".git").exists():
        git(root, "init", "-q")
    hooks = root / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc", "post-index-change", "fsmonitor-watchman"):
        (hooks / hook).write_text(program.read_text())
        (hooks / hook).chmod(0o755)
    with (root / ".git" / "config").open("a") as config:
        config.write(
            f"[core]\n\tfsmonitor = {program}\n\tsshCommand = {program}\n\thooksPath = {hooks}\n\tpager = {program}\n"
            f"\tattributesFile = {root}/.gitattributes\n\teditor = {program}\n\talternateRefsCommand = {program}\n"
            f'[filter "evil"]\n\tclean = {program}\n\tsmudge = {program}\n\trequired = true\n'
            f'[diff "evil"]\n\tcommand = {program}\n\ttextconv = {program}\n[diff]\n\texternal = {program}\n'
            f"[uploadpack]\n\tpackObjectsHook = {program}\n[gpg]\n\tprogram = {program}\n"
            "[log]\n\tshowSignature = true\n"
            f"[include]\n\tpath = {root}/.gitmodules\n"
        )


@pytest.mark.parametrize("kind", ["directory", "git"])
@pytest.mark.anyio
async def test_nothing_in_a_workspace_runs_or_changes_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sentinel = tmp_path / "it ran"
    for name in ("GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "GIT_PAGER"):
        monkeypatch.setenv(name, f"touch '{sentinel}'")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    spec = EMPTY
    if kind == "git":
        spec = WorkspaceSpec(kind="git", source=str(make_repository(tmp_path / "source")))
    workspaces, run_id, child = GitWorkspaces(tmp_path / "home"), new_run(), new_run()
    root = await workspaces.open(run_id, spec)
    start = await workspaces.capture(run_id, "start")
    plant(root, sentinel)
    planted, before = await workspaces.capture(run_id, "planted"), shown(root)
    await workspaces.diff(start, planted, patch_limit=1000)
    await workspaces.head(planted)
    await workspaces.commits(run_id)
    await workspaces.restore(run_id, start)
    await workspaces.restore(run_id, planted)
    assert shown(root) == before
    assert await workspaces.read(planted, "lines") == b"$Id$\r\nmixed\n"
    child_root = await workspaces.open(child, spec, planted)
    assert shown(child_root) == before
    await workspaces.drop([run_id])
    await workspaces.sweep({child})
    assert not sentinel.exists()
    # It would have worked: a user's own git, run in there, starts the program.
    monkeypatch.delenv("GIT_DIR")
    root.mkdir()
    (root / "program").write_bytes((child_root / "program").read_bytes())
    (root / "program").chmod(0o755)
    with contextlib.suppress(subprocess.CalledProcessError):
        git(child_root, "status")
    assert sentinel.exists()


@pytest.mark.anyio
async def test_a_repository_that_became_a_link_is_not_written_through(tmp_path: Path) -> None:
    spec = WorkspaceSpec(kind="git", source=str(make_repository(tmp_path / "source")))
    workspaces, run_id, target = GitWorkspaces(tmp_path / "home"), new_run(), outside(tmp_path)
    root = await workspaces.open(run_id, spec)
    (root / ".git").rename(tmp_path / "moved")
    (root / ".git").symlink_to(target)
    tree = await workspaces.capture(run_id, "a link")
    assert (await workspaces.head(tree), await workspaces.commits(run_id)) == (None, [])
    await workspaces.open(new_run(), spec, tree)
    await workspaces.restore(run_id, tree)
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}


@pytest.mark.anyio
async def test_deep_and_closed_directories_are_removed(tmp_path: Path) -> None:
    workspaces, run_id, target = GitWorkspaces(tmp_path / "home"), new_run(), outside(tmp_path)
    root = await workspaces.open(run_id, EMPTY)
    below = os.open(root, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=below)
        deeper = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = deeper
    os.symlink(target, "link", dir_fd=below)
    os.close(below)
    (root / "closed").mkdir(mode=0o000)
    with pytest.raises(OmiumError, match=r"nested deeper|cannot be read"):
        await workspaces.capture(run_id, "deep")
    await workspaces.release(run_id)
    assert not root.exists()
    assert list((tmp_path / "home" / "workspaces" / "trash").iterdir()) == []
    assert shown(target) == {"file": ("file", b"untouched", 0o640)}
