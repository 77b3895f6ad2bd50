"""Files for those who run a project: they are written out, to be read and changed by whoever uses them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from omium.orchestration.errors import OmiumError

_SUFFIX: Final = ".j2"


def names() -> list[str]:
    """What is written, by name."""
    folder = files("omium.server.deploying") / "files"
    return sorted(one.name.removesuffix(_SUFFIX) for one in folder.iterdir() if one.name.endswith(_SUFFIX))


def rendered(project: str, home: str, version: str | None) -> dict[str, str]:
    """Name and text of each. home: the directory of the environment, whose `current` is served; version: of Omium, None
    for the newest."""
    folder = files("omium.server.deploying") / "files"
    found: dict[str, str] = {}
    for name in names():
        text = (folder / f"{name}{_SUFFIX}").read_text("utf-8")
        for word, value in (("project", project), ("home", home), ("pin", "" if version is None else f"=={version}")):
            text = text.replace(f"[[ {word} ]]", value)
        found[name] = text
    return found


def write_files(directory: Path, project: str, home: Path, version: str | None) -> list[Path]:
    """Write them into the directory, which is made if need be. Raises `conflict` when one of them exists; then nothing
    is written."""
    if not str(home).isprintable() or any(one in str(home) for one in "\"'\\ %$"):
        raise OmiumError("invalid_argument", f"{str(home)!r} is no path for a service.", "Without spaces and quotes.")
    texts = rendered(project, str(home), version)
    there = [name for name in texts if (directory / name).exists()]
    if there:
        told = f"{directory} has a file {there[0]!r} already."
        raise OmiumError("conflict", told, "Nothing was written. Name another directory.", files=there)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise OmiumError("forbidden", f"cannot write into {str(directory)!r}: {error.strerror}.") from error
    return [directory / name for name in texts]
