"""What agents may do to the code, and the steps between them. Plain Python: nothing of Omium is imported."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GIT = ("git", "-c", "user.name=Omium", "-c", "user.email=omium@localhost", "-c", "commit.gpgsign=false")
LONGEST = 200_000  # characters of a file that an agent reads or writes
RISKS = {
    "dependency": r"(^|/)(pyproject\.toml|requirements[^/]*\.txt|package\.json|Cargo\.toml|go\.mod)$",
    "schema": r"\.sql$|(^|/)migrations/",
    "security": r"(auth|secret|password|token|crypt|permission)",
}

# --- tools of the agents


def list_files(ctx: Any) -> list[str]:
    """The paths of all files of the code."""
    return _files(ctx.workspace)


def read_file(ctx: Any, path: str) -> str:
    """The text of one file."""
    return _inside(ctx.workspace, path).read_text(encoding="utf-8")[:LONGEST]


def write_file(ctx: Any, path: str, text: str) -> str:
    """Write one file, in the place of the one that is there."""
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters are too many")
    target = _inside(ctx.workspace, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return f"{path} has {len(text)} characters now"


def _inside(workspace: Path, path: str) -> Path:
    target = (workspace / path).resolve()
    if not target.is_relative_to(workspace.resolve()) or ".git" in target.relative_to(workspace.resolve()).parts:
        raise ValueError(f"{path!r} is not in the code")
    return target


def _files(workspace: Path) -> list[str]:
    found = (path.relative_to(workspace) for path in workspace.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not {".git", "__pycache__"} & set(path.parts))


# --- steps of the workflow


def run_tests(ctx: Any) -> dict[str, Any]:
    """Whether the tests pass, and the end of what they print. Put your own command here."""
    told = subprocess.run(
        [sys.executable, "-m", "unittest", "-q"],
        cwd=ctx.workspace,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return {"passed": told.returncode == 0, "report": (told.stdout + told.stderr)[-4_000:]}


def tested(passed: bool, report: str) -> dict[str, Any]:
    """Fails the phase when the last round of fixing has not helped."""
    if not passed:
        raise ValueError(f"the tests still fail: {report[-1_500:]}")
    return {"passed": True}


def changes(ctx: Any) -> dict[str, Any]:
    """What was changed, as a diff, and which kinds of risk are in it."""
    before, names = _before(ctx.workspace), _files(ctx.workspace)
    diff, changed = "", []
    for name in sorted({*before, *names}):
        old = before.get(name, "")
        new = (ctx.workspace / name).read_text(encoding="utf-8", errors="replace") if name in names else ""
        if old != new or (name in before) != (name in names):
            changed.append(name)
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
            diff += "\n".join(lines) + "\n"
    risks = [risk for risk, pattern in RISKS.items() if any(re.search(pattern, name.lower()) for name in changed)]
    if any(name not in names for name in before):
        risks.append("breaking")
    return {"files": changed, "diff": diff[:100_000], "risks": ", ".join(risks) or "none"}


def _before(workspace: Path) -> dict[str, str]:
    """The text of each file as it was: of the last commit, or of the directory that was copied."""
    if (workspace / ".git").exists():
        names = _git(workspace, "ls-tree", "-r", "--name-only", "-z", "HEAD").split("\0")
        return {name: _git(workspace, "show", f"HEAD:{name}") for name in names if name}
    source = HERE / "code"
    return {name: (source / name).read_text(encoding="utf-8", errors="replace") for name in _files(source)}


def accepted(accept: bool, votes: dict[str, Any]) -> dict[str, str]:
    """What the reviewers say. Fails the phase when most of them refuse."""
    said = {name: str(vote.get("output", {}).get("why", vote.get("error", ""))) for name, vote in votes.items()}
    if accept is not True:
        raise ValueError("the reviewers refuse: " + "; ".join(f"{name}: {why}" for name, why in said.items()))
    return said


def merge(ctx: Any, goal: str) -> dict[str, Any]:
    """Bring the code to where it is wanted. An effect: it is made once."""
    if (ctx.workspace / ".git").exists():
        return ctx.effect("merge", lambda: _merge(ctx.workspace, ctx.run_id, goal))
    return ctx.effect("merge", lambda: _deliver(ctx.workspace))


def _deliver(workspace: Path) -> dict[str, Any]:
    target = HERE / "delivered"
    names = _files(workspace)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((workspace / name).read_bytes())
    return {"into": "delivered", "files": names}


def _merge(workspace: Path, run_id: str, goal: str) -> dict[str, Any]:
    """Commit, hand the commit to the repository that was cloned as a branch, and merge that where it is checked out."""
    repository = Path(_git(workspace, "remote", "get-url", "origin").strip().removeprefix("file://"))
    branch = f"epic/{run_id[-8:].lower()}"
    _git(workspace, "add", "--all")
    _git(workspace, "commit", "--quiet", "--no-verify", "-m", goal.splitlines()[0][:100])
    _git(repository, "fetch", "--quiet", str(workspace), f"HEAD:refs/heads/{branch}")
    _git(repository, "merge", "--quiet", "--no-ff", "--no-verify", "-m", f"Merge {branch}", branch)
    names = _git(repository, "diff", "--name-only", "HEAD^", "HEAD").split()
    return {"into": branch, "commit": _git(repository, "rev-parse", "HEAD").strip(), "files": names}


def _git(directory: Path, *arguments: str) -> str:
    told = subprocess.run([*GIT, *arguments], cwd=directory, capture_output=True, text=True, timeout=120)
    if told.returncode != 0:
        raise RuntimeError(f"git {arguments[0]}: {told.stderr.strip()[:1_000]}")
    return told.stdout
