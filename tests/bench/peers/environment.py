"""The peers' virtual environment, apart from ours so that neither's dependencies touch the other's.

It lives in the user's cache directory, is made once for a set of pins and a Python version, and holds nothing of this
repository. Only the standard library here: the peers' own processes import this package too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = (
    "aiosqlite==0.22.1",
    "dbos==3.4.0",
    "langgraph==1.2.22",
    "langgraph-checkpoint-postgres==3.2.0",
    "langgraph-checkpoint-sqlite==3.1.2",
    "psycopg[binary]==3.3.9",
)
INSTALL_SECONDS = 600


def location() -> Path:
    """Where the environment is or will be: one directory for each set of pins and version of Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256("\n".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:12]
    return cache / "omium-bench" / f"peers-{key}"


def interpreter() -> Path:
    """The Python of the environment, which is made first when it is missing. Raises RuntimeError that says why not."""
    home = location()
    python = home / "bin" / "python"
    complete = home / "versions.json"
    if complete.exists():
        return python
    shutil.rmtree(home, ignore_errors=True)  # a half-made one
    try:
        venv.create(home, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS, capture_output=True, text=True)
        complete.write_text(json.dumps(_versions(python)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise RuntimeError(
            f"The peers could not be installed into {home}: {''.join(reason)} "
            f"Check the network, or install them by hand: {python} -m pip install {' '.join(REQUIREMENTS)}"
        ) from error
    return python


def unavailable() -> str | None:
    """Why the peers cannot be measured here, after trying to install them; None when they can."""
    try:
        interpreter()
    except RuntimeError as error:
        return str(error)
    return None


def versions() -> dict[str, str]:
    """The installed version of each pinned package. Raises RuntimeError that says why not."""
    interpreter()
    found: dict[str, str] = json.loads((location() / "versions.json").read_text())
    return found


def enter(module: str) -> None:
    """Continues this process as `python -m module` in the environment, unless it runs there already."""
    python = interpreter()
    if Path(sys.prefix).resolve() != location().resolve():
        os.execv(python, [str(python), "-m", module, *sys.argv[1:]])


def _versions(python: Path) -> dict[str, str]:
    names = [requirement.split("==")[0].split("[")[0] for requirement in REQUIREMENTS]
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    result = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(result.stdout)
    return found
