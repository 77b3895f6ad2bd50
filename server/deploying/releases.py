"""An environment: a directory of releases, one of which is current.

    production/releases/<digest>/...   the files of each release, which are never changed
    production/current                 a link to the one that is served
    production/deployed.jsonl          what was installed when, by whom, signed by which key

A process that serves keeps the release that it was started with, so that what a run executes does not change below it;
restart it to serve the new one. Going back is installing the older bundle again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from omium.orchestration.errors import OmiumError
from omium.server.deploying.bundle import Bundle

RELEASES, CURRENT, RECORD = "releases", "current", "deployed.jsonl"
_SHORT: Final = 16  # hexadecimal digits of a release's name


@dataclass(frozen=True, slots=True)
class Release:
    """One installation. at: RFC 3339; current: whether it is what is served now."""

    release: str
    digest: str
    project: str
    omium: str
    at: str
    by: str
    signed_by: str
    current: bool = False


def install(bundle: Bundle, files: dict[str, bytes], environment: Path, at: str, by: str) -> Release:
    """Put a verified bundle into an environment, which is made if need be, and make it current.

    Its project must load there, and be the one that the environment has. Raises what `load_project` raises,
    `conflict`, and `forbidden` when the directory cannot be written; the release that is current then stays so."""
    name = bundle.digest[:_SHORT]
    earlier = releases(environment)
    if earlier and earlier[0].project != bundle.project:
        told = f"{environment} has the project {earlier[0].project!r}, not {bundle.project!r}."
        raise OmiumError("conflict", told, "Use a directory for each project.")
    place = environment / RELEASES / name
    try:
        (environment / RELEASES).mkdir(parents=True, exist_ok=True)
        if not place.exists():
            _unpack(files, place)
        _check(place, bundle)
        link = environment / f".{CURRENT}.{secrets.token_hex(4)}"
        link.symlink_to(Path(RELEASES) / name)
        link.replace(environment / CURRENT)
        release = Release(name, bundle.digest, bundle.project, bundle.omium, at, by, bundle.signed_by)
        told_line = {key: value for key, value in asdict(release).items() if key != "current"}
        with (environment / RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(told_line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OmiumError("forbidden", f"cannot write into {str(environment)!r}: {error.strerror}.") from error
    return Release(**{**told_line, "current": True})


def _unpack(files: dict[str, bytes], place: Path) -> None:
    """The whole release, or nothing of it, under its name."""
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        for path, data in files.items():
            target = partial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o444)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check(place: Path, bundle: Bundle) -> None:
    """The project loads from there, and makes the definitions that were signed."""
    from omium.orchestration.definition.hashing import definition_hash
    from omium.server.project_file import FILE_NAME, load_project

    project = load_project(place / FILE_NAME).project
    made = {name: definition_hash(one) for name, one in project.workflows.items()}
    if made != dict(bundle.workflows):
        differing = sorted(name for name in {*made, *bundle.workflows} if made.get(name) != bundle.workflows.get(name))
        raise OmiumError(
            "integrity",
            f"here the files make other definitions than were signed: {', '.join(differing)}.",
            "Use the version of omium-mcp that made the bundle, and the same installed packages.",
        )


def releases(environment: Path) -> list[Release]:
    """What was installed, newest first. Raises `integrity` for a record that cannot be read."""
    try:
        lines = (environment / RECORD).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    current = environment / CURRENT
    serves = current.readlink().name if current.is_symlink() else ""
    found: list[Release] = []
    for line in lines:
        try:
            found.append(Release(**json.loads(line)))
        except (ValueError, TypeError):
            raise OmiumError("integrity", f"{environment / RECORD} cannot be read: {line[:80]!r}.") from None
    newest = {one.release: one for one in found}.get(serves)
    shown = [Release(**{**asdict(one), "current": one is newest}) for one in found]
    return shown[::-1]
