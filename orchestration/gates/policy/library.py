"""Policies to begin with: each a file with its test cases beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omium.orchestration.definition.document import read_file
from omium.orchestration.errors import OmiumError

FOLDER: Final = Path(__file__).parent / "templates"
_CASES: Final = ".cases.yaml"


@dataclass(frozen=True, slots=True)
class Template:
    """name; description; the policy's file, and that of its cases."""

    name: str
    description: str
    path: Path
    cases: Path

    def text(self) -> str:
        return self.path.read_text("utf-8")


def templates() -> list[Template]:
    """All of them, by name."""
    found = []
    for cases in sorted(FOLDER.glob(f"*{_CASES}")):
        name = cases.name.removesuffix(_CASES)
        path = FOLDER / f"{name}.yaml"
        found.append(Template(name, str(read_file(path).value.get("description", "")), path, cases))
    return found


def template(name: str) -> Template:
    """One of them. Raises `not_found`."""
    known = templates()
    for one in known:
        if one.name == name:
            return one
    raise OmiumError("not_found", f"There is no template {name!r}.", f"Use {', '.join(one.name for one in known)}.")
