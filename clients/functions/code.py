"""Which code is behind a registered function: a digest over the files that it is made of, none of them executed.

The files are those of its module, of the packages around it, and of what they import, as far as that belongs to the
project's own directories or to the same top-level package. What is imported by a name that only exists at run time is
not seen.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from omium.orchestration.errors import OmiumError

_MAX_FILES: Final = 5_000
_MAX_WRAPPED: Final = 32
_MAX_PARSED: Final = 4 * 1024 * 1024  # bytes; a larger file is hashed, not looked into

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Module:
    """Where a module is on disk. file: None for a namespace package, which has only directories to look in."""

    name: str
    file: Path | None
    directories: tuple[Path, ...] = ()  # of a package


class Sources:
    """Modules on a search path: `roots`, the project's own directories, then this interpreter's."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._known: dict[str, tuple[str, dict[Path, Stamp]]] = {}  # module -> digest, and the files it covers
        self._files: dict[Path, tuple[Stamp, str, tuple[str, ...]]] = {}  # file -> stamp, hash, what it imports

    def find(self, name: str) -> Module | None:
        """The module of this name; None when it is not on the path, or has no file of its own (as `sys`)."""
        top = name.partition(".")[0]
        places: Iterable[Path] = (*self._roots, *(Path(entry) for entry in sys.path if entry))
        found = _find_in(places, top) or _installed(top)
        for part in _prefixes(name):
            if found is not None and part != top:
                # The namespace of an editable install has no directory; only the hook that made it knows what is
                # inside.
                hooked = not any(place.is_dir() for place in found.directories)
                found = _find_in(found.directories, part) or (
                    _installed(part) if hooked and found.directories else None
                )
        return found

    def digest(self, module: str) -> str:
        """SHA-256 over the module's files, 64 hexadecimal digits; looks at every file's stamp. Raises `not_found`."""
        known = self._known.get(module)
        if known is not None and all(stamp_of(path) == stamp for path, stamp in known[1].items()):
            return known[0]
        hashes, stamps = hashlib.sha256(), {}
        for name, file in sorted(self._closure(module), key=lambda pair: pair[0]):
            stamp, digest, _ = self._read(name, file)
            stamps[file] = stamp
            hashes.update(f"{name}\0{digest}\n".encode())
        self._known[module] = hashes.hexdigest(), stamps
        return self._known[module][0]

    def files(self, module: str) -> list[Path]:
        """The files that its digest covers. Raises `not_found`."""
        return sorted({file for _, file in self._closure(module)})

    def _closure(self, start: str) -> Iterator[tuple[str, Path]]:
        """(name, file) of the module, the packages around it and what they import of ours."""
        if self.find(start) is None:
            raise OmiumError("not_found", f"there is no module {start!r} in {', '.join(map(str, self._roots))}.")
        top = start.partition(".")[0]
        pending, seen = [start], {start}
        count = 0
        while pending:
            name = pending.pop()
            first = name.partition(".")[0]
            if first != top and _find_in(self._roots, first) is None:
                continue
            module = self.find(name)
            if module is None or (first != top and not self._is_ours(module)):
                continue
            wanted = [parent for parent in _prefixes(name) if parent != name]
            if module.file is not None:
                count += 1
                if count > _MAX_FILES:
                    raise OmiumError("invalid_definition", f"{start} imports more than {_MAX_FILES} files.")
                yield name, module.file
                wanted += self._read(name, module.file)[2]
            for one in wanted:
                if one not in seen:
                    seen.add(one)
                    pending.append(one)

    def _is_ours(self, module: Module) -> bool:
        places = (module.file,) if module.file is not None else module.directories
        return any(
            place.is_relative_to(root) and "site-packages" not in place.relative_to(root).parts
            for place in places
            for root in self._roots
        )

    def _read(self, name: str, file: Path) -> tuple[Stamp, str, tuple[str, ...]]:
        stamp = stamp_of(file)
        known = self._files.get(file)
        if known is not None and known[0] == stamp:
            return known
        try:
            content = file.read_bytes()
        except OSError as error:
            raise OmiumError("not_found", f"{file} cannot be read: {error.strerror}.") from error
        imports = tuple(_imports(content, name, file)) if len(content) <= _MAX_PARSED and file.suffix == ".py" else ()
        self._files[file] = stamp, hashlib.sha256(content).hexdigest(), imports
        return self._files[file]


def stamp_of(path: Path) -> Stamp:
    """What changes when the file does."""
    try:
        status = os.stat(path)  # noqa: PTH116 - looked at before every call, for every file
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def of_callable(function: Any) -> str:
    """A digest of a function that has no module on disk: of its compiled code."""
    hashes = hashlib.sha256()
    around: list[Any] = [function]  # a decorated function is what it is together with what is around it
    while hasattr(around[-1], "__wrapped__") and len(around) < _MAX_WRAPPED:
        around.append(around[-1].__wrapped__)
    pending = [one.__code__ for one in around if getattr(one, "__code__", None) is not None]
    hashes.update(getattr(function, "__qualname__", repr(type(function))).encode())
    while pending:
        one = pending.pop()
        hashes.update(one.co_code)
        hashes.update(repr(one.co_names).encode())
        for constant in one.co_consts:
            if hasattr(constant, "co_code"):
                pending.append(constant)
            else:
                hashes.update(repr(constant).encode())
    return hashes.hexdigest()


def _prefixes(name: str) -> Iterator[str]:
    """`a`, `a.b`, `a.b.c` for `a.b.c`."""
    parts = name.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _find_in(places: Iterable[Path], name: str) -> Module | None:
    """The module `name` in one of these directories, as the import system would choose."""
    last = name.rpartition(".")[2]
    portions: list[Path] = []
    for place in places:
        package = place / last
        if (package / "__init__.py").is_file():
            return Module(name, package / "__init__.py", (package,))
        for suffix in (*EXTENSION_SUFFIXES, ".py"):
            file = place / f"{last}{suffix}"
            if file.is_file():
                return Module(name, file)
        if package.is_dir():
            portions.append(package)
    return Module(name, None, tuple(portions)) if portions else None


def _installed(name: str) -> Module | None:
    """A module that is on no path but known to an import hook, as in editable installs. Imports nothing but a namespace
    that it is in."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    directories = tuple(Path(place) for place in spec.submodule_search_locations or ())
    return Module(name, file, directories) if file is not None or directories else None


def _imports(content: bytes, name: str, file: Path) -> Iterator[str]:
    """The modules that a source may import, by full name; names imported from a module may be modules themselves."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # it will fail when it is called, and say so
        return
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*around, *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
