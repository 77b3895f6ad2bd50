"""Programs that fetch and run a package: whether the version is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

_VERSION: Final = re.compile(r"\A[vV]?\d")
_TAKES_VALUE: Final = frozenset(
    {"-p", "--package", "--from", "--with", "--python", "--index", "--index-url", "--registry", "-c", "--call"}
)
_NAMES_PACKAGE: Final = frozenset({"-p", "--package", "--from"})


def unpinned(command: Sequence[str]) -> str | None:
    """The package that a command would fetch in whichever version is published; None if it fetches none, or says which.

    Known are npx, bunx, `npm exec`, `pnpm dlx`, `yarn dlx`, uvx, `uv tool run` and `pipx run`.
    """
    program = PurePath(command[0]).name.lower().removesuffix(".exe").removesuffix(".cmd")
    rest = list(command[1:])
    if program in ("npx", "bunx"):
        return _of_npm(rest)
    if program in ("npm", "pnpm", "yarn") and rest[:1] in (["exec"], ["x"], ["dlx"]):
        return _of_npm(rest[1:])
    if program == "uvx":
        return _of_python(rest)
    if program == "uv" and rest[:2] == ["tool", "run"]:
        return _of_python(rest[2:])
    if program == "pipx" and rest[:1] == ["run"]:
        return _of_python(rest[1:])
    return None


def _package(rest: Sequence[str]) -> str | None:
    """What is run: named by an option, or the first argument that is none."""
    skip = False
    first: str | None = None
    for index, one in enumerate(rest):
        if skip:
            skip = False
            continue
        name, equals, value = one.partition("=")
        if name in _NAMES_PACKAGE:
            return value if equals else rest[index + 1] if index + 1 < len(rest) else None
        if one == "--":
            continue
        if name in _TAKES_VALUE and not equals:
            skip = True
        elif not one.startswith("-"):
            first = one
            break
    return first


def _of_npm(rest: Sequence[str]) -> str | None:
    package = _package(rest)
    if package is None or package.startswith((".", "/", "~")):
        return None
    at = package.rfind("@")
    return None if at > 0 and _VERSION.match(package[at + 1 :]) else package


def _of_python(rest: Sequence[str]) -> str | None:
    package = _package(rest)
    if package is None or package.startswith((".", "/", "~")):
        return None
    version = re.split(r"===?|@", package, maxsplit=1)
    exact = len(version) == 2 and ("==" in package or "@" in package)
    # A URL behind @ is pinned where it names a commit or an archive.
    if exact and (_VERSION.match(version[1].strip()) or re.search(r"@[0-9a-f]{40}\b|\.whl\b|\.tar\.gz\b", package)):
        return None
    return package
