"""What a project file that cannot be loaded still says: which project it is, and where its runs lie.

An editor leaves a file broken now and then, and a run that executes must be stoppable all the same. Where it is no
YAML at all, its lines are read one by one; what is not quite clear then is not guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from omium.orchestration.definition.document import MAX_BYTES, read_document, read_file
from omium.orchestration.errors import OmiumError
from omium.server.project_file import ProjectFile

SETTINGS: Final = ("project", "database", "durability", "chain_key_file")
_LINE: Final = re.compile(rf"^(?P<quote>[\"']?)({'|'.join(SETTINGS)})(?P=quote)\s*:.*$", re.MULTILINE)


def settings_of(path: Path) -> dict[str, str] | None:
    """Those of `SETTINGS` that the file says; None when the project's name or one of them cannot be told surely."""
    try:
        said = _whole(path)
    except OmiumError:
        said = _by_lines(path)
    if said is None:
        return None
    try:
        form = ProjectFile.model_validate({name: said[name] for name in SETTINGS if name in said})
    except ValidationError:
        return None
    settings: dict[str, str] = form.model_dump(include=set(SETTINGS), exclude_none=True)
    return settings


def _whole(path: Path) -> dict[str, Any] | None:
    value = read_file(path).value
    return value if isinstance(value, dict) else None


def _by_lines(path: Path) -> dict[str, Any] | None:
    """What stands at the left margin, in one line each."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        lines = list(_LINE.finditer(text.decode("utf-8-sig"))) if len(text) <= MAX_BYTES else []
        read = [read_document(line[0], path.name).value for line in lines]
    except (OSError, UnicodeDecodeError, OmiumError):
        return None
    said: dict[str, Any] = {}
    for one in read:
        if not isinstance(one, dict) or set(one) & set(said) or None in one.values():
            return None  # said twice, or in the lines below
        said |= one
    return said
