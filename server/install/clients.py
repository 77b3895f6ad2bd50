"""The clients that this knows: where each keeps its servers, and what an entry of ours looks like there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from omium.orchestration.errors import OmiumError
from omium.server.install.formats import ConfigFormat, JsonConfig, TomlConfig

Scope = Literal["user", "project"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where a user's files are: their home directory, and the environment that may name others."""

    directory: Path
    environ: Mapping[str, str]

    def named(self, variable: str, otherwise: Path) -> Path:
        """The directory that a variable names. A relative one is nobody's, since clients start anywhere."""
        given = Path(self.environ.get(variable, "").strip())
        return given if given.is_absolute() else otherwise


@dataclass(frozen=True, slots=True)
class Client:
    """user: its configuration file in a home; project: the same in a project's directory, None where it has none.
    then: what its user does for it to see a change."""

    name: str
    title: str
    format: ConfigFormat
    user: Callable[[Home], Path]
    project: str | None
    typed: bool  # whether an entry says `type: stdio`
    then: str

    def path(self, scope: Scope, home: Home, directory: Path) -> Path:
        """The file of a scope. Raises `unsupported` when the client has no such scope."""
        if scope == "user":
            return self.user(home)
        if self.project is None:
            raise OmiumError(
                "unsupported", f"{self.title} has no configuration of its own for a project.", "Use --scope user."
            )
        return directory / self.project

    def entry(self, command: str, args: list[str]) -> dict[str, Any]:
        """Our entry in its configuration."""
        return {**({"type": "stdio"} if self.typed else {}), "command": command, "args": args}


def _claude_code(home: Home) -> Path:
    return home.named("CLAUDE_CONFIG_DIR", home.directory) / ".claude.json"


def _claude_desktop(home: Home) -> Path:
    if sys.platform == "darwin":
        settings = home.directory / "Library" / "Application Support"
    else:
        settings = home.named("XDG_CONFIG_HOME", home.directory / ".config")
    return settings / "Claude" / "claude_desktop_config.json"


def _cursor(home: Home) -> Path:
    return home.directory / ".cursor" / "mcp.json"


def _codex(home: Home) -> Path:
    return home.named("CODEX_HOME", home.directory / ".codex") / "config.toml"


def _gemini(home: Home) -> Path:
    return home.named("GEMINI_CLI_HOME", home.directory) / ".gemini" / "settings.json"


CLIENTS: Final[Mapping[str, Client]] = {
    one.name: one
    for one in (
        Client(
            "claude-code", "Claude Code", JsonConfig(), _claude_code, ".mcp.json", True,
            "Start Claude Code anew; /mcp shows the server.",
        ),
        Client(
            "claude-desktop", "Claude Desktop", JsonConfig(), _claude_desktop, None, False,
            "Quit Claude Desktop and start it again.",
        ),
        Client(
            "cursor", "Cursor", JsonConfig(comments=True), _cursor, ".cursor/mcp.json", True,
            "Cursor reads it at once; Settings, MCP shows the server.",
        ),
        Client(
            "codex", "Codex", TomlConfig(), _codex, ".codex/config.toml", False,
            "Start Codex anew; /mcp shows the server. A project's configuration counts once the project is trusted.",
        ),
        Client(
            "gemini", "Gemini CLI", JsonConfig(comments=True), _gemini, ".gemini/settings.json", False,
            "Start Gemini CLI anew; /mcp shows the server.",
        ),
    )
}  # fmt: skip
