"""The clients that this knows: where each keeps its servers, and what an entry of ours looks like there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, Literal

from omium.orchestration.errors import OmiumError
from omium.server.install.formats import ConfigFormat, JsonConfig, TomlConfig

Scope = Literal["user", "project"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where a user's files are: their home directory, and the environment that may name others. platform: as
    `sys.platform` has it; the paths are of its kind."""

    directory: PurePath
    environ: Mapping[str, str]
    platform: str = sys.platform

    def named(self, variable: str, otherwise: PurePath) -> PurePath:
        """The directory that a variable names. A relative one is nobody's, since clients start anywhere."""
        given = type(self.directory)(self.environ.get(variable, "").strip())
        return given if given.is_absolute() else otherwise


@dataclass(frozen=True, slots=True)
class Client:
    """user: its configuration file in a home; project: the same in a project's directory, None where it has none.
    then: what its user does for it to see a change."""

    name: str
    title: str
    format: ConfigFormat
    user: Callable[[Home], PurePath]
    project: str | None
    typed: bool  # whether an entry says `type: stdio`
    then: str

    def path(self, scope: Scope, home: Home, directory: Path) -> Path:
        """The file of a scope. Raises `unsupported` when the client has no such scope."""
        if scope == "user":
            return Path(self.user(home))
        if self.project is None:
            raise OmiumError(
                "unsupported", f"{self.title} has no configuration of its own for a project.", "Use --scope user."
            )
        return directory / self.project

    def entry(self, command: str, args: list[str]) -> dict[str, Any]:
        """Our entry in its configuration."""
        return {**({"type": "stdio"} if self.typed else {}), "command": command, "args": args}


def _claude_code(home: Home) -> PurePath:
    return home.named("CLAUDE_CONFIG_DIR", home.directory) / ".claude.json"


def _claude_desktop(home: Home) -> PurePath:
    if home.platform == "darwin":
        settings = home.directory / "Library" / "Application Support"
    elif home.platform == "win32":
        settings = home.named("APPDATA", home.directory / "AppData" / "Roaming")
    else:
        settings = home.named("XDG_CONFIG_HOME", home.directory / ".config")
    return settings / "Claude" / "claude_desktop_config.json"


def _cursor(home: Home) -> PurePath:
    return home.directory / ".cursor" / "mcp.json"


def _codex(home: Home) -> PurePath:
    return home.named("CODEX_HOME", home.directory / ".codex") / "config.toml"


def _gemini(home: Home) -> PurePath:
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
