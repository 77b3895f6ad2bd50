"""Beginning a project from a template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Final

from omium.orchestration.definition.names import name_problem
from omium.orchestration.errors import OmiumError

TEMPLATES: Final[Mapping[str, str]] = {
    "release-notes": "Drafts release notes, asks, and publishes them.",
    "research": "Asks many sources at once; branch it to look from another angle.",
    "epic": "Takes a goal through plan, code, tests, review and merge, with agents and people.",
    "pipeline": "Extracts, cleans in parts, loads once, reports.",
}
_SUFFIX: Final = ".j2"


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What was written: paths below the directory, and the workflow to start with."""

    directory: Path
    template: str
    project: str
    files: tuple[str, ...]


def scaffold(template: str, directory: Path, project: str | None = None) -> Scaffold:
    """Write a template's files into the directory, which is made if need be. Nothing is written over.

    project: its name; that of the directory unless given. Raises `not_found` for a template that there is not,
    `invalid_argument` for a name that is none, `conflict` when one of the files exists, `forbidden` when the directory
    cannot be written."""
    if template not in TEMPLATES:
        raise OmiumError("not_found", f"there is no template {template!r:.60}.", f"There are: {', '.join(TEMPLATES)}.")
    name = project or _name_of(directory)
    problem = name_problem(name)
    if problem:
        raise OmiumError("invalid_argument", f"the name of a project: {problem}.", "Give one with --name.")
    rendered = {path: _rendered(text, name) for path, text in _files(template)}
    there = [path for path in rendered if (directory / path).exists()]
    if there:
        raise OmiumError(
            "conflict",
            f"{directory} has a file {there[0]!r} already.",
            "Nothing was written. Begin in an empty directory.",
            files=there,
        )
    try:
        for path, text in rendered.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise OmiumError("forbidden", f"cannot write into {str(directory)!r}: {error.strerror}.") from error
    return Scaffold(directory, template, name, tuple(rendered))


def _name_of(directory: Path) -> str:
    kept = "".join(one if one.isascii() and (one.isalnum() or one in "_.-") else "-" for one in directory.name)
    return kept.strip("-.") or "project"


def _files(template: str) -> Iterator[tuple[str, str]]:
    """Path and text of each file, in the order of their paths."""
    root = files("omium.server.templates") / template
    yield from sorted(_below(root, PurePosixPath()))


def _below(folder: Traversable, at: PurePosixPath) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, at / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield str(at / entry.name.removesuffix(_SUFFIX)), entry.read_text("utf-8")


def _rendered(text: str, project: str) -> str:
    """Only the project's name is filled in, so this is no work for a template engine, whose braces are ours too."""
    return text.replace("[[ project ]]", project)
