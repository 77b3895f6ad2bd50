"""Packages as an installer leaves them: code beside real metadata, in a directory that is on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def install(into: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], **modules: str) -> Path:
    """A distribution with modules of its own package; `__init__` may be among them. The package's directory."""
    package = into / name
    package.mkdir(parents=True)
    for module, text in {"__init__": "", **modules}.items():
        (package / f"{module}.py").write_text(text)
    info = into / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (info / "INSTALLER").write_text("tests\n")
    return package


@contextmanager
def on_path(directory: Path) -> Iterator[None]:
    """Have this process find what is installed there; forget its modules afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        names = {one.name for one in directory.iterdir()}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in names:
                del sys.modules[name]
        importlib.invalidate_caches()
