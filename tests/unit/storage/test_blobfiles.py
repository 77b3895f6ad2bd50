"""Blobs in files: complete or absent, confined to their directory, plain errors when the disk refuses."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.storage.blobfiles import BlobFiles

DATA = b"some packed bytes" * 1000


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


DIGEST = digest_of(DATA)


def path_of(root: Path, digest: Digest = DIGEST) -> Path:
    return root / digest[:2] / digest[2:4] / digest


def temporaries(root: Path) -> list[Path]:
    return sorted(root.glob("??/??/.*.tmp"))


def code_of(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(OmiumError) as caught:
        call(*arguments, **options)
    return caught.value.code


def put_in_child(
    root: Path, *contents: bytes, crash_at: str = "", prelude: str = ""
) -> subprocess.CompletedProcess[str]:
    program = f"""
import hashlib, sys
from pathlib import Path
from omium.orchestration.errors import OmiumError
from omium.storage.blobfiles import BlobFiles
{prelude}
files = BlobFiles(Path(sys.argv[1]))
for text in sys.argv[2:]:
    data = bytes.fromhex(text)
    try:
        files.put(hashlib.sha256(data).hexdigest(), data)
    except OmiumError as error:
        print(error.code, error.data["errno"])
"""
    return subprocess.run(
        [sys.executable, "-c", program, str(root), *(data.hex() for data in contents)],
        env={**os.environ, "OMIUM_CRASH_AT": crash_at},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_blob_is_stored_listed_and_deleted(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "blobs")
    other = digest_of(b"other")
    assert list(files.list()) == []
    assert files.put(DIGEST, DATA) is True
    assert files.put(other, b"") is True
    assert files.get(DIGEST) == DATA
    assert files.get(other) == b""
    assert list(files.list()) == sorted([DIGEST, other])
    assert files.delete(DIGEST) is True
    assert files.delete(DIGEST) is False
    assert code_of(files.get, DIGEST) == "not_found"
    assert list(files.list()) == [other]


def test_another_instance_sees_the_same_files(tmp_path: Path) -> None:
    BlobFiles(tmp_path).put(DIGEST, DATA)
    assert BlobFiles(tmp_path).get(DIGEST) == DATA
    assert BlobFiles(tmp_path).put(DIGEST, DATA) is False


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    before = os.umask(0)
    try:
        BlobFiles(root).put(DIGEST, DATA)
    finally:
        os.umask(before)
    path = path_of(root)
    assert path.stat().st_mode & 0o777 == 0o600
    for directory in (path.parent, path.parent.parent, root):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_second_put_keeps_the_file_and_refreshes_its_age(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    files.put(DIGEST, DATA)
    path = path_of(tmp_path)
    os.utime(path, (1000, 1000))
    inode = path.stat().st_ino
    assert files.put(DIGEST, DATA) is False
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1_000_000


def test_a_file_of_another_size_is_replaced(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    files.put(DIGEST, DATA)
    os.truncate(path_of(tmp_path), 10)
    assert files.put(DIGEST, DATA) is True
    assert files.get(DIGEST) == DATA
    assert temporaries(tmp_path) == []


def test_a_delete_for_age_spares_what_was_put_since(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    files.put(DIGEST, DATA)
    os.utime(path_of(tmp_path), (1000, 1000))
    assert files.delete(DIGEST, untouched_since=1000) is False
    assert files.get(DIGEST) == DATA
    assert files.delete(DIGEST, untouched_since=1001) is True
    assert files.delete(DIGEST, untouched_since=1001) is False


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ab",
        "../../../../etc/passwd",
        "/etc/passwd",
        DIGEST.upper(),
        DIGEST + "0",
        DIGEST + "\n",
        DIGEST[:-1] + "/",
        "../" + DIGEST[3:],
        DIGEST[:-1] + "\0",
        "a" * 63 + "\u0661",
        None,
        b"a" * 64,
    ],
    ids=range(13),
)
def test_malformed_digests_are_refused_everywhere(tmp_path: Path, bad: Any) -> None:
    files = BlobFiles(tmp_path / "blobs")
    assert code_of(files.put, bad, b"") == "invalid_argument"
    assert code_of(files.get, bad) == "invalid_argument"
    assert code_of(files.delete, bad) == "invalid_argument"
    assert not (tmp_path / "blobs").exists()


@given(st.text() | st.text("0123456789abcdef./", min_size=60, max_size=66))
def test_no_text_leads_outside(text: str) -> None:
    files = BlobFiles(Path("/nonexistent"))
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        assert code_of(files.get, text) == "not_found"
    else:
        assert code_of(files.get, text) == "invalid_argument"


def test_a_link_in_the_place_of_a_blob_is_not_followed(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "blobs")
    files.put(DIGEST, DATA)
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    path = path_of(tmp_path / "blobs")
    path.unlink()
    path.symlink_to(secret)
    assert code_of(files.get, DIGEST) == "storage_unavailable"
    files.put(DIGEST, DATA)
    assert files.get(DIGEST) == DATA
    assert not path.is_symlink()
    assert secret.read_bytes() == DATA


def test_foreign_files_are_neither_listed_nor_swept(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    files.put(DIGEST, DATA)
    shard = path_of(tmp_path).parent
    foreign = [shard / ".nfs0001", shard / "README", tmp_path / "notes.tmp", shard / ".x.tmp"]
    for path in foreign:
        path.write_text("mine")
    (tmp_path / "lost+found").mkdir()
    assert list(files.list()) == [DIGEST]
    assert files.sweep_temporaries(0, now=1e12) == 0
    assert all(path.exists() for path in foreign)


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["blob.file.written", "blob.file.synced"])
def test_a_process_killed_before_the_rename_leaves_no_visible_file(tmp_path: Path, point: str) -> None:
    assert put_in_child(tmp_path, DATA, crash_at=point).returncode == -signal.SIGKILL
    files = BlobFiles(tmp_path)
    assert list(files.list()) == []
    assert code_of(files.get, DIGEST) == "not_found"
    (left,) = temporaries(tmp_path)
    assert left.stat().st_mode & 0o777 == 0o600

    written = left.stat().st_mtime
    assert files.sweep_temporaries(3600, now=written + 3600) == 0
    assert files.sweep_temporaries(3600, now=written + 3601) == 1
    assert temporaries(tmp_path) == []
    assert files.put(DIGEST, DATA) is True
    assert files.get(DIGEST) == DATA


def test_a_process_killed_after_the_rename_leaves_the_whole_file(tmp_path: Path) -> None:
    assert put_in_child(tmp_path, DATA, crash_at="blob.file.renamed").returncode == -signal.SIGKILL
    files = BlobFiles(tmp_path)
    assert files.get(DIGEST) == DATA
    assert temporaries(tmp_path) == []
    assert files.put(DIGEST, DATA) is False


def test_the_hit_to_crash_at_can_be_counted(tmp_path: Path) -> None:
    assert put_in_child(tmp_path, b"1", b"2", b"3", crash_at="blob.file.synced:2").returncode == -signal.SIGKILL
    assert list(BlobFiles(tmp_path).list()) == [digest_of(b"1")]
    assert put_in_child(tmp_path, b"4", crash_at="blob.file.synced:2").returncode == 0
    assert BlobFiles(tmp_path).get(digest_of(b"4")) == b"4"


def test_the_file_is_on_disk_before_its_name_and_every_new_directory_entry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "blobs"
    names = {path_of(root).parent: "shard", path_of(root).parent.parent: "upper", root: "root", tmp_path: "above"}
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        same = [name for path, name in names.items() if path.exists() and os.path.samestat(path.stat(), status)]
        steps.append(same[0] if same else "file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files = BlobFiles(root)
    files.put(DIGEST, DATA)
    assert steps == ["above", "root", "upper", "file", "rename", "shard"]
    files.put(DIGEST, DATA)
    assert steps[6:] == ["shard"]
    files.delete(DIGEST)
    files.put(DIGEST, DATA)
    assert steps[7:] == ["file", "rename", "shard"]
    BlobFiles(root).put(DIGEST, DATA)  # as another process would, which cannot know what is on disk
    assert steps[10:] == ["above", "root", "upper", "shard"]


# --- a file system that refuses -------------------------------------------------------------------------------------


def test_a_file_that_the_system_does_not_let_grow_is_storage_unavailable(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"
    done = put_in_child(tmp_path, DATA, b"small", prelude=limit)
    assert done.stdout.split() == ["storage_unavailable", "EFBIG"], done.stderr
    assert list(BlobFiles(tmp_path).list()) == [digest_of(b"small")]
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_full_or_failing_disk_is_storage_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files = BlobFiles(tmp_path)
    files.put(digest_of(b"first"), b"first")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OmiumError) as caught:
            files.put(DIGEST, DATA)
    assert caught.value.code == "storage_unavailable"
    assert caught.value.data["errno"] == errno.errorcode[number]
    assert str(tmp_path) not in str(caught.value)
    assert list(files.list()) == [digest_of(b"first")]
    assert temporaries(tmp_path) == []
    files.put(DIGEST, DATA)
    assert files.get(DIGEST) == DATA


def test_a_root_that_is_no_directory_is_storage_unavailable(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("not a directory")
    files = BlobFiles(root)
    assert code_of(files.put, DIGEST, DATA) == "storage_unavailable"
    assert code_of(files.get, DIGEST) == "storage_unavailable"
    assert code_of(files.delete, DIGEST) == "storage_unavailable"
    assert code_of(lambda: list(files.list())) == "storage_unavailable"
    assert code_of(files.sweep_temporaries, 0, now=0) == "storage_unavailable"


# --- many at once ---------------------------------------------------------------------------------------------------


def test_threads_that_put_the_same_blobs_leave_whole_files(tmp_path: Path) -> None:
    contents = [bytes([at]) * 50_000 for at in range(8)]
    written: list[Digest] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        files = BlobFiles(tmp_path)
        barrier.wait()
        for data in contents:
            if files.put(digest_of(data), data):
                written.append(digest_of(data))
            assert files.get(digest_of(data)) == data

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(written) == {digest_of(data) for data in contents}
    assert set(BlobFiles(tmp_path).list()) == set(written)
    assert temporaries(tmp_path) == []


def test_a_sweep_never_takes_what_a_put_has_just_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at the age and removing, looking at the file and refreshing it, and renaming exclude each other."""
    files = BlobFiles(tmp_path)
    files.put(DIGEST, DATA)
    under_lock: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(path: Path, *arguments: Any, **options: Any) -> Any:
            if path == path_of(tmp_path) or name == "replace":
                with (tmp_path / ".lock").open() as lock, pytest.raises(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                under_lock.append(name)
            return original(path, *arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((Path, "lstat"), (os, "utime"), (Path, "unlink"), (Path, "replace")):
        watch(owner, name)
    files.put(DIGEST, DATA)
    assert under_lock == ["lstat", "utime"]
    assert files.delete(DIGEST, untouched_since=1e12) is True
    assert under_lock[2:] == ["lstat", "unlink"]
    files.put(DIGEST, DATA)
    assert under_lock[4:] == ["lstat", "replace"]
