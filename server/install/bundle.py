"""An MCPB bundle of this installation: a zip that a host such as Claude Desktop installs with a double click.

Of the kind `uv`: it holds our code and a list of what that needs; the host's uv gets Python and the packages when it is
installed. Nothing has to be built there, since our code lies in the directory that its start script is in.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from omium.orchestration.errors import OmiumError

_ROOMS: Final = ("orchestration", "storage", "clients", "tools", "server", "examples")
_METADATA: Final = ("METADATA", "entry_points.txt")
_START: Final = "src/server.py"
_START_TEXT: Final = '''\
"""Starts the server that lies beside this file."""

from omium.server.cli import main

main()
'''
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same code makes the same bundle


@dataclass(frozen=True, slots=True)
class Bundle:
    file: Path
    size: int  # bytes
    files: int


def write_bundle(output: Path) -> Bundle:
    """Write the bundle of the installed distribution, in the place of an older one.

    Raises `unsupported` when Omium is on the path without being installed, `forbidden` when the file cannot be
    written."""
    installed = _installed()
    contents = {
        "manifest.json": _json(manifest(installed)),
        "pyproject.toml": _pyproject(installed).encode(),
        _START: _START_TEXT.encode(),
        **dict(_code()),
        **dict(_metadata(installed)),
    }
    try:
        output = output.resolve()
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        try:
            with open(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for path, data in sorted(contents.items()):
                    archive.writestr(_member(path), data)
            Path(name).chmod(0o644)  # it holds no secret, and is there to be handed on
            Path(name).replace(output)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise OmiumError("forbidden", f"cannot write {str(output)!r}: {error.strerror}.") from error
    return Bundle(output, output.stat().st_size, len(contents))


def manifest(installed: Distribution) -> dict[str, Any]:
    """The bundle's manifest, of version 0.4 of its specification."""
    from omium.tools.toolsets import TOOLSETS

    about = installed.metadata
    start = ["run", "--directory", "${__dirname}", _START, "serve", "--project", "${user_config.project}"]
    return {
        "manifest_version": "0.4",
        "name": "omium",
        "display_name": "Omium",
        "version": installed.version,
        "description": about["Summary"],
        "author": {"name": about["Author"] or "The Omium contributors"},
        "license": about["License-Expression"] or "Apache-2.0",
        "keywords": [one.strip() for one in (about["Keywords"] or "").split(",") if one.strip()],
        "server": {"type": "uv", "entry_point": _START, "mcp_config": {"command": "uv", "args": start, "env": {}}},
        "tools": [
            {"name": spec.name, "description": " ".join((spec.function.__doc__ or "").split())}
            for spec in TOOLSETS["default"]
        ],
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": about["Requires-Python"]},
        },
        "user_config": {
            "project": {
                "type": "directory",
                "title": "Project",
                "description": "The directory of omium.yaml, which says what workflows may use.",
                "required": True,
            }
        },
    }


def _installed() -> Distribution:
    try:
        return distribution("omium-mcp")
    except PackageNotFoundError:
        raise OmiumError(
            "unsupported", "Omium is not installed as a distribution, so what it needs is not known.", "pip install ."
        ) from None


def _pyproject(installed: Distribution) -> str:
    """A project that uv runs from its directory without building it."""
    needs = [one for one in installed.requires or () if "extra ==" not in one]
    listed = "".join(f"    {json.dumps(one)},\n" for one in needs)
    return (
        f'[project]\nname = "omium-bundle"\nversion = {json.dumps(installed.version)}\n'
        f"requires-python = {json.dumps(installed.metadata['Requires-Python'])}\n"
        f"dependencies = [\n{listed}]\n\n[tool.uv]\npackage = false\n"
    )


def _code() -> Iterator[tuple[str, bytes]]:
    """Our packages, as they are installed."""
    for room in _ROOMS:
        spec = find_spec(f"omium.{room}")
        for place in (spec.submodule_search_locations if spec is not None else None) or ():
            for path in sorted(Path(place).rglob("*")):
                inside = path.relative_to(place)
                if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
                    yield f"src/omium/{room}/{inside.as_posix()}", path.read_bytes()


def _metadata(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    """What says the version, and which entry points there are, beside the code as an installer would put it."""
    for name in _METADATA:
        text = installed.read_text(name)
        if text is not None:
            yield f"src/omium_mcp-{installed.version}.dist-info/{name}", text.encode()


def _member(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o100644 << 16
    return info


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
