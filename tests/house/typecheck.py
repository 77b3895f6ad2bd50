"""Type-checks the product as it is installed: `python -m tests.house.typecheck [mypy's options or targets]`.

Without arguments it checks the whole of `omium`; `-m omium.tools.runs` or `-p omium.storage` checks a part.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.house.tree import ROOMS, ROOT, lay_out, run_in

CACHE = ROOT / ".mypy_cache"


def typecheck(tree: Path, targets: Sequence[str], cache: Path = CACHE) -> subprocess.CompletedProcess[str]:
    """Strict mypy, with this interpreter's libraries, on the `omium` laid out in `tree`."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--no-error-summary", *targets]
    return run_in(tree, command)


def findings(result: subprocess.CompletedProcess[str]) -> str:
    """What mypy said, naming the files that one edits and not their links in a tree (of an earlier run, if cached)."""
    return re.sub(rf"(?m)^\S*/omium/(?=({'|'.join(ROOMS)})/)", "", result.stdout + result.stderr)


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="omium-types-") as directory:
        result = typecheck(lay_out(Path(directory)), arguments or ["-p", "omium"])
    print(findings(result), end="")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
