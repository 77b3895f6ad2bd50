"""What the tests of workspaces share: run ids, trees as plain dictionaries, and git as a user would run it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from omium.orchestration.ids import RunId, new_id

Shown = dict[str, tuple[str, bytes, int]]


def new_run() -> RunId:
    return RunId(new_id("run"))


def shown(root: Path) -> Shown:
    """Everything below a directory: path -> (kind, content, permission bits)."""
    found: Shown = {}
    for above, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(above) / name
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            key = str(path.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                found[key] = ("link", os.fsencode(path.readlink()), 0)
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("directory", b"", mode)
            elif stat.S_ISREG(status.st_mode):
                found[key] = ("file", path.read_bytes(), mode)
            else:
                found[key] = ("special", b"", mode)
    return found


def git(directory: Path, *args: str) -> str:
    """A user's git, with an identity and no settings of this machine."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(["git", *args], cwd=directory, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_repository(directory: Path) -> Path:
    """A repository with two commits on `main`, a branch `topic` at the first and a tag `v1` there."""
    directory.mkdir(parents=True)
    git(directory, "init", "-q", "-b", "main")
    (directory / "one.txt").write_text("one\n")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "first")
    git(directory, "branch", "topic")
    git(directory, "tag", "v1")
    (directory / "two.txt").write_text("two\n")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "second")
    return directory


def fill(root: Path) -> None:
    """One of each kind that has to survive."""
    (root / "plain.txt").write_text("plain\n")
    (root / "script.sh").write_text("#!/bin/sh\n")
    (root / "script.sh").chmod(0o755)
    (root / "key").write_text("secret")
    (root / "key").chmod(0o600)
    (root / "empty" / "deep").mkdir(parents=True)
    (root / "closed").mkdir(mode=0o700)
    (root / "closed" / "zero").touch()
    (root / "inside").symlink_to("plain.txt")
    (root / "dangling").symlink_to("../nowhere")
    (root / ".gitignore").write_text("*\n")
    (root / "ignored.log").write_text("still part of it")
    (root / "nested" / ".git" / "objects").mkdir(parents=True)
    (root / "nested" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (root / ".GIT~1").write_text("a name that git avoids")
    (root / "%odd%").write_text("percent")
    (root / 'new\nline "quoted" \\ back').write_text("name")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"\x00\xff")
    (root / "Case").write_text("upper")
    (root / "case").write_text("lower")
