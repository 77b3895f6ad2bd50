"""Capture, restore, compare, branch: what a directory held comes back, exactly and alone."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omium.clients.workspaces import GitWorkspaces, Limits, checkout, reading, restore
from omium.clients.workspaces.locks import file_lock
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import RestoreReport, Tree, Workspaces, WorkspaceSpec
from tests.workspace_help import fill, git, new_run, shown

pytestmark = pytest.mark.anyio
EMPTY = WorkspaceSpec()


async def test_what_a_directory_holds_comes_back_and_nothing_else(workspaces: GitWorkspaces) -> None:
    run: Workspaces = workspaces
    run_id = new_run()
    root = await run.open(run_id, EMPTY)
    assert root.stat().st_mode & 0o777 == 0o700
    before = await run.capture(run_id, "empty")
    fill(root)
    full, tree = shown(root), await run.capture(run_id, "full")

    (root / "plain.txt").write_text("other\n")
    (root / "script.sh").chmod(0o644)
    (root / "key").chmod(0o644)
    (root / "inside").unlink()
    (root / "inside").mkdir()
    (root / "inside" / "file").write_text("a directory where a link was")
    (root / "empty" / "deep").rmdir()
    (root / "empty" / "deep").write_text("a file where a directory was")
    (root / "later").write_text("later")
    report = await run.restore(run_id, tree)

    assert shown(root) == full
    assert report == RestoreReport(changed=3, removed=3, added=1)
    assert await run.restore(run_id, tree) == RestoreReport(0, 0, 0)
    assert await run.capture(run_id, "again") == tree
    await run.restore(run_id, before)
    assert shown(root) == {}


names = st.sampled_from([b"a", b"b", b".git", b"%x", b"\xff", b"c d", b".gitattributes"])
contents = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=40), st.sampled_from([0o644, 0o755, 0o600, 0o500])),
    st.tuples(st.just("link"), st.sampled_from([b"a", b"../..", b"/etc"]), st.just(0)),
    st.tuples(st.just("directory"), st.just(b""), st.sampled_from([0o755, 0o700])),
)
trees = st.dictionaries(st.lists(names, min_size=1, max_size=3).map(tuple), contents, max_size=8)


def write_tree(root: Path, tree: dict[tuple[bytes, ...], tuple[str, bytes, int]]) -> None:
    for parts, (kind, content, mode) in sorted(tree.items()):
        path = Path(os.fsdecode(b"/".join((os.fsencode(root), *parts))))
        if any(above.is_symlink() or above.is_file() for above in [path, *path.parents]):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link" and not path.exists():
            path.symlink_to(os.fsdecode(content))
        elif kind == "file" and not path.exists():
            path.write_bytes(content)
            path.chmod(mode)
        elif kind == "directory":
            path.mkdir(exist_ok=True)
            path.chmod(mode)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=trees, second=trees)
async def test_any_tree_can_be_exchanged_for_any_other(
    first: dict[tuple[bytes, ...], tuple[str, bytes, int]], second: dict[tuple[bytes, ...], tuple[str, bytes, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        workspaces = GitWorkspaces(Path(directory))
        one, two = new_run(), new_run()
        root_one, root_two = await workspaces.open(one, EMPTY), await workspaces.open(two, EMPTY)
        write_tree(root_one, first)
        write_tree(root_two, second)
        seen_one, seen_two = shown(root_one), shown(root_two)
        tree_one, tree_two = await workspaces.capture(one, "one"), await workspaces.capture(two, "two")
        assert (tree_one == tree_two) == (seen_one == seen_two)
        await workspaces.restore(one, tree_two)
        assert shown(root_one) == seen_two
        assert await workspaces.capture(one, "exchanged") == tree_two
        await workspaces.restore(one, tree_one)
        assert shown(root_one) == seen_one
        listed = {entry.path for entry in await workspaces.files(tree_one)}
        assert listed == {path for path, (kind, _, _) in seen_one.items() if kind != "directory"}
        changed = {change.path for change in await workspaces.diff(tree_one, tree_two, patch_limit=1000)}
        expected = {
            path
            for path in {*seen_one, *seen_two}
            if seen_one.get(path) != seen_two.get(path)
            and "directory" not in {seen_one.get(path, ("",))[0], seen_two.get(path, ("",))[0]}
        }
        assert expected <= changed


async def test_an_unchanged_directory_adds_nothing(workspaces: GitWorkspaces, home: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    fill(root)
    tree = await workspaces.capture(run_id, "why it was taken")
    assert await workspaces.capture(run_id, "again") == tree
    store = home / "workspaces" / "store.git"
    assert git(store, "log", "--format=%s", f"refs/omium/{run_id}") == "why it was taken"
    assert git(store, "fsck", "--full", "--strict") == ""


async def test_a_change_shows_although_size_and_time_stay(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    file = await workspaces.open(run_id, EMPTY) / "file"
    file.write_text("aaaa")
    await workspaces.capture(run_id, "a")
    status = file.stat()
    file.write_text("bbbb")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await workspaces.read(await workspaces.capture(run_id, "b"), "file") == b"bbbb"


async def test_a_change_shows_that_follows_a_capture_at_once(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    file = await workspaces.open(run_id, EMPTY) / "file"
    for number in range(10):
        for text in (f"{number}-", f"{number}+"):
            with file.open("r+" if file.exists() else "w") as stream:
                stream.write(text)
            assert await workspaces.read(await workspaces.capture(run_id, text), "file") == text.encode()


async def test_a_restore_touches_only_what_differs(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    for name in ("same", "other"):
        (root / name).write_text("x")
    tree = await workspaces.capture(run_id, "x")
    (root / "other").write_text("y")
    same = (root / "same").stat()
    assert await workspaces.restore(run_id, tree) == RestoreReport(changed=1, removed=0, added=0)
    assert (root / "same").stat() == same


async def test_what_is_excluded_is_neither_taken_nor_touched(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, WorkspaceSpec(exclude=("node_modules", "*.pyc", "build/*/out")))
    before = await workspaces.capture(run_id, "empty")
    kept = ["node_modules/x", "deep/node_modules/y", "a.pyc", "build/1/out/z"]
    for name in [*kept, "build/1/in", "deep/file", "out"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    tree = await workspaces.capture(run_id, "full")
    assert [entry.path for entry in await workspaces.files(tree)] == ["build/1/in", "deep/file", "out"]
    await workspaces.restore(run_id, before)
    assert sorted(path for path, (kind, _, _) in shown(root).items() if kind == "file") == sorted(kept)
    assert await workspaces.capture(run_id, "empty again") == before


async def test_directories_and_files_that_forbid_writing(workspaces: GitWorkspaces, home: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "closed" / "deep").mkdir(parents=True)
    for name in ("closed/file", "closed/gone", "closed/deep/file"):
        (root / name).write_text(name)
        (root / name).chmod(0o400)
    for name in ("closed/deep", "closed"):
        (root / name).chmod(0o500)
    before, tree = shown(root), await workspaces.capture(run_id, "closed")
    (root / "closed").chmod(0o700)
    (root / "closed" / "gone").unlink()
    (root / "closed" / "more").touch()
    (root / "closed" / "file").chmod(0o000)
    (root / "closed" / "deep").chmod(0o700)
    (root / "closed" / "deep" / "new").mkdir(mode=0o500)
    (root / "closed" / "deep").chmod(0o500)
    (root / "closed").chmod(0o500)
    await workspaces.restore(run_id, tree)
    assert shown(root) == before
    await workspaces.release(run_id)
    assert not root.exists()
    assert list((home / "workspaces" / "trash").iterdir()) == []


async def test_special_files_are_left_out_and_that_is_said(
    workspaces: GitWorkspaces, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "d").mkdir()
    os.mkfifo(root / "d" / "pipe")
    monkeypatch.chdir(root)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listener, caplog.at_level(logging.WARNING):
        listener.bind("socket")
        tree = await workspaces.capture(run_id, "special")
        assert "2 sockets, pipes or devices" in caplog.text
        assert await workspaces.files(tree) == []
        assert await workspaces.restore(run_id, tree) == RestoreReport(0, 0, 0)
        assert set(shown(root)) == {"d", "d/pipe", "socket"}


async def test_limits_are_refused_by_name(home: Path) -> None:
    run_id = new_run()
    workspaces = GitWorkspaces(home, limits=Limits(files=3, bytes=10))
    root = await workspaces.open(run_id, EMPTY)
    (root / "big").write_bytes(b"x" * 11)
    with pytest.raises(OmiumError, match="11 bytes"):
        await workspaces.capture(run_id, "too big")
    (root / "big").unlink()
    for number in range(5):
        (root / "d" / str(number)).mkdir(parents=True)
        (root / "d" / str(number) / "f").touch()
    with pytest.raises(OmiumError, match="more than 3 files"):
        await workspaces.capture(run_id, "too many")


async def test_a_child_starts_at_its_parents_tree_and_keeps_it(workspaces: GitWorkspaces) -> None:
    parent, child = new_run(), new_run()
    root = await workspaces.open(parent, EMPTY)
    fill(root)
    tree = await workspaces.capture(parent, "branch point")
    (root / "plain.txt").write_text("the parent goes on")
    only_parents = await workspaces.capture(parent, "later")
    child_root = await workspaces.open(child, EMPTY, tree)
    (child_root / "plain.txt").write_text("the child differs")
    assert (root / "plain.txt").read_text() == "the parent goes on"

    await workspaces.drop([parent, new_run()])
    assert await workspaces.path(parent) is None
    with pytest.raises(OmiumError) as refused:
        await GitWorkspaces(root.parents[2]).files(only_parents)
    assert refused.value.code == "not_found"
    await workspaces.restore(child, tree)
    assert (child_root / "plain.txt").read_text() == "plain\n"


async def test_opening_again_changes_nothing(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "file").write_text("x")
    tree = await workspaces.capture(run_id, "x")
    (root / "file").write_text("not captured yet")
    assert await workspaces.open(run_id, WorkspaceSpec(exclude=("file",)), tree) == root
    assert (root / "file").read_text() == "not captured yet"
    await workspaces.release(run_id)
    assert (await workspaces.path(run_id), root.exists()) == (None, False)
    with pytest.raises(OmiumError) as refused:
        await workspaces.capture(run_id, "gone")
    assert refused.value.code == "not_found"
    await workspaces.open(run_id, EMPTY, tree)
    assert (root / "file").read_text() == "x"


async def test_an_unfinished_opening_is_done_again(
    workspaces: GitWorkspaces, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, other = new_run(), new_run()
    (await workspaces.open(other, EMPTY) / "file").write_text("x")
    tree = await workspaces.capture(other, "x")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device", "file")

    with monkeypatch.context() as patched:
        patched.setattr(restore, "_place", full_disk)
        with pytest.raises(OmiumError, match="No space left"):
            await workspaces.open(run_id, EMPTY, tree)
    assert await workspaces.path(run_id) is None
    (home / "workspaces" / "trees" / run_id / "left over").write_text("by the first try")
    assert list(shown(await workspaces.open(run_id, EMPTY, tree))) == ["file"]


async def test_a_copy_of_a_directory(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "node_modules").mkdir(parents=True)
    (project / "node_modules" / "x").write_text("x")
    (project / "main.py").write_text("pass\n")
    (project / "link").symlink_to("/etc/hostname")
    workspaces = GitWorkspaces(project / ".omium")
    spec = WorkspaceSpec(source=str(project), exclude=("node_modules",))
    first = await workspaces.open(new_run(), spec)
    assert set(shown(first)) == {"main.py", "link"}
    (first / "main.py").write_text("changed by the run\n")
    assert (project / "main.py").read_text() == "pass\n"
    (project / "main.py").write_text("pass  # newer\n")
    assert (await workspaces.open(new_run(), spec) / "main.py").read_text() == "pass  # newer\n"
    with pytest.raises(OmiumError) as refused:
        await workspaces.open(new_run(), WorkspaceSpec(source=str(tmp_path / "nowhere")))
    assert refused.value.code == "not_found"


async def test_differences(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / ".github").mkdir()
    (root / ".github" / "a.txt").write_text("one\ntwo\n")
    (root / "binary").write_bytes(b"\0" * 10)
    (root / "gone").write_text("gone\n")
    (root / "mode").write_text("mode\n")
    (root / "long").write_text("x\n")
    (root / "turned").write_text("plain.txt")
    before = await workspaces.capture(run_id, "before")
    (root / ".github" / "a.txt").write_text("one\n2\n")
    (root / "binary").write_bytes(b"\0" * 11)
    (root / "gone").unlink()
    (root / "mode").chmod(0o640)
    (root / "long").write_text("y\n" * 1000)
    (root / "new").write_text("diff --git a/x b/x\n")
    (root / "turned").unlink()
    (root / "turned").symlink_to("plain.txt")
    after = await workspaces.capture(run_id, "after")

    found = {change.path: change for change in await workspaces.diff(before, after, patch_limit=500)}
    assert [(c.path, c.status, c.old_size, c.new_size) for c in found.values()] == [
        (".github/a.txt", "modified", 8, 6),
        ("binary", "modified", 10, 11),
        ("gone", "removed", 5, None),
        ("long", "modified", 2, 2000),
        ("mode", "modified", 5, 5),
        ("new", "added", None, 19),
        ("turned", "modified", 9, 9),
    ]
    assert found[".github/a.txt"].patch == "--- a/.github/a.txt\n+++ b/.github/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    assert found["new"].patch == "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+diff --git a/x b/x\n"
    assert [found[path].patch for path in ("binary", "long", "mode")] == [None, None, None]
    assert all(change.patch is None for change in await workspaces.diff(before, after, patch_limit=0))
    assert await workspaces.diff(after, after, patch_limit=500) == []


async def test_reading_a_tree(workspaces: GitWorkspaces) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    fill(root)
    tree = await workspaces.capture(run_id, "full")
    for entry in await workspaces.files(tree):
        content = await workspaces.read(tree, entry.path)
        assert (len(content), content) == (entry.size, shown(root)[entry.path][1])
    for path in ("nothing", "../plain.txt", "closed", "manifest"):
        with pytest.raises(OmiumError) as refused:
            await workspaces.read(tree, path)
        assert refused.value.code == "not_found"
    with pytest.raises(OmiumError) as refused:
        await workspaces.files(Tree("--upload-pack=x"))
    assert refused.value.code == "invalid_argument"
    with pytest.raises(OmiumError) as refused:
        await workspaces.restore(run_id, Tree("0" * 40))
    assert refused.value.code == "not_found"


async def test_a_flipped_byte_is_never_restored(workspaces: GitWorkspaces, home: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "file").write_bytes(os.urandom(100_000))
    (root / "small").write_text("first")
    tree = await workspaces.capture(run_id, "right")
    (root / "file").write_text("changed since")
    (root / "small").write_text("second")
    [pack] = (home / "workspaces" / "store.git" / "objects" / "pack").glob("*.pack")
    pack.chmod(0o600)
    with pack.open("r+b") as stream:
        stream.seek(50_000)
        byte = stream.read(1)
        stream.seek(50_000)
        stream.write(bytes([byte[0] ^ 1]))
    before = shown(root)
    with pytest.raises(OmiumError) as refused:
        await workspaces.restore(run_id, tree)
    assert refused.value.code in {"integrity", "workspace"}
    assert shown(root) == before


async def test_a_cancelled_capture_stops_and_harms_nothing(
    workspaces: GitWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "file").write_text("x")
    sending = threading.Event()

    def endless(_1: object, _2: object, _3: object, _4: object, stop: threading.Event) -> str:
        sending.set()
        assert stop.wait(10)
        raise BrokenPipeError

    with anyio.fail_after(10):
        with monkeypatch.context() as patched:
            patched.setattr(checkout, "send_file", endless)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(workspaces.capture, run_id, "cancelled")
                await anyio.to_thread.run_sync(sending.wait)
                tasks.cancel_scope.cancel()
        tree = await workspaces.capture(run_id, "done")
    assert await workspaces.read(tree, "file") == b"x"


async def test_a_file_that_keeps_changing_is_not_captured_half(
    workspaces: GitWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    (root / "file").write_text("x")
    interruptions = 2

    def changing(*args: object) -> object:
        nonlocal interruptions
        seen = reading.look(*args)  # type: ignore[arg-type]
        if interruptions:
            interruptions -= 1
            with (root / "file").open("a") as stream:
                stream.write("x")
        return seen

    monkeypatch.setattr(checkout, "look", changing)
    assert await workspaces.read(await workspaces.capture(run_id, "settles"), "file") == b"xxx"
    interruptions = 100
    (root / "file").write_text("new")
    with pytest.raises(OmiumError, match="changed while it was read"):
        await workspaces.capture(run_id, "never settles")


KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
from omium.clients.workspaces import GitWorkspaces, restore

left = int(sys.argv[4])
def counted(function):
    def step(*args):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return step
for name in ("_remove", "_remove_dir", "_place", "stage"):
    setattr(restore, name, counted(getattr(restore, name)))
from omium.clients.workspaces import checkout
checkout.stage = restore.stage
anyio.run(GitWorkspaces(Path(sys.argv[1])).restore, sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("steps", [0, 4, 9, 12, 15, 19])
async def test_a_killed_restore_is_repeated(workspaces: GitWorkspaces, home: Path, steps: int) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    for number in range(8):
        (root / f"d{number}").mkdir()
        (root / f"d{number}" / "file").write_text(f"first {number}")
    wanted, tree = shown(root), await workspaces.capture(run_id, "first")
    for number in range(8):
        (root / f"d{number}" / "file").write_text(f"second {number}")
    for number in range(3):
        (root / f"more{number}").mkdir()
        (root / f"more{number}" / "file").touch()
    second, later = shown(root), await workspaces.capture(run_id, "second")
    done = await anyio.run_process(
        [sys.executable, "-c", KILLED, str(home), run_id, tree, str(steps)], check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == -9, done.stderr.decode()
    if steps < 8:
        assert shown(root) == second  # still staging: the directory is untouched
    await workspaces.restore(run_id, tree)
    assert shown(root) == wanted
    await workspaces.restore(run_id, later)
    assert shown(root) == second


async def test_runs_do_not_disturb_each_other(workspaces: GitWorkspaces, home: Path) -> None:
    runs = [new_run() for _ in range(6)]

    async def work(number: int) -> None:
        root = await workspaces.open(runs[number], EMPTY)
        for turn in range(3):
            (root / "shared").write_text(f"turn {turn}")
            (root / "own").write_text(f"{number} {turn}")
            tree = await workspaces.capture(runs[number], f"turn {turn}")
            (root / "own").write_text("x")
            await workspaces.restore(runs[number], tree)
            assert (root / "own").read_text() == f"{number} {turn}"

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(len(runs)):
                tasks.start_soon(work, number)
            tasks.start_soon(workspaces.drop, [])
    assert git(home / "workspaces" / "store.git", "fsck", "--full") == ""


async def test_a_sweep_removes_what_nobody_knows(home: Path) -> None:
    now = 0.0
    workspaces = GitWorkspaces(home, now=lambda: now)
    live, dead, busy = new_run(), new_run(), new_run()
    for run_id in (live, dead, busy):
        (await workspaces.open(run_id, EMPTY) / "file").write_text(run_id)
    tree = await workspaces.capture(dead, "before it died")
    left = home / "workspaces" / "trash" / "left" / "x"
    left.mkdir(parents=True)
    left.chmod(0o500)
    (home / "workspaces" / "trees" / "notes").mkdir()
    async with file_lock(home / "workspaces" / "locks" / f"{busy}.lock"):
        assert await workspaces.sweep({live}) == [dead]
    assert left.exists()
    now = left.parent.stat().st_mtime + 3601
    assert await workspaces.sweep({live}) == [busy]
    assert sorted(path.name for path in (home / "workspaces" / "trees").iterdir()) == sorted([live, "notes"])
    assert not left.exists()
    assert [entry.path for entry in await workspaces.files(tree)] == ["file"]


async def test_many_captures_do_not_leave_many_packs(workspaces: GitWorkspaces, home: Path) -> None:
    run_id = new_run()
    root = await workspaces.open(run_id, EMPTY)
    trees = []
    for number in range(52):
        (root / "file").write_text(str(number))
        trees.append(await workspaces.capture(run_id, str(number)))
    packs = home / "workspaces" / "store.git" / "objects" / "pack"
    assert len(list(packs.glob("*.pack"))) == 52
    await workspaces.release(run_id)
    assert len(list(packs.glob("*.pack"))) == 1
    assert await workspaces.read(trees[7], "file") == b"7"


async def test_without_git_it_says_what_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(OmiumError) as refused:
        await GitWorkspaces(home).open(new_run(), EMPTY)
    assert refused.value.code == "unsupported"
