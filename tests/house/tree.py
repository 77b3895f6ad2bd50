"""The checkout as the house tests see it: its files, its rooms, and a tree where `omium.<room>` really resolves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("orchestration", "storage", "clients", "tools", "server")
PACKAGED = (*ROOMS, "examples")  # the demo is one of the examples, so they come with the product


def files(*folders: str) -> list[Path]:
    """Files of the checkout that git tracks or would track, sorted, relative to ROOT; all, or those under `folders`."""
    # As root in a container the checkout may belong to somebody else; git would refuse to list it.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run([*command, "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = {Path(name) for name in listed.split("\0") if name}
    return sorted(path for path in paths if (ROOT / path).is_file())


def python_files(*folders: str) -> list[Path]:
    """Like `files`, Python sources only."""
    return [path for path in files(*folders) if path.suffix == ".py"]


def lay_out(directory: Path, planted: Mapping[str, str] | None = None) -> Path:
    """Makes `directory/omium/<room>` with a link to every file of the rooms, and returns `directory`.

    An editable install maps `omium.<room>` by an import hook, which a type checker cannot follow; in this tree it sees
    an ordinary package. `planted` adds modules, by path below `omium` (`"tools/planted.py"`), only there.
    """
    for path in files(*ROOMS):
        link = directory / "omium" / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / path)
    for name, source in (planted or {}).items():
        (directory / "omium" / name).write_text(source)
    return directory


def run_in(tree: Path, command: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Runs a checker from ROOT, so that it reads pyproject.toml, with `omium` resolving to `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "MYPYPATH": str(tree), "NO_COLOR": "1"}
    return subprocess.run(
        list(command), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
