"""A coding CLI as the operator declared it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from omium.clients.processes.environment import check_declared
from omium.orchestration.errors import OmiumError

Kind = Literal["claude", "codex", "gemini"]
Permissions = Literal["every", "needed"]
Sandbox = Literal["read-only", "workspace-write", "full"]

PROGRAMS: Final[Mapping[Kind, str]] = {"claude": "claude", "codex": "codex", "gemini": "gemini"}
KEYS: Final[Mapping[Kind, str]] = {"claude": "ANTHROPIC_API_KEY", "codex": "CODEX_API_KEY", "gemini": "GEMINI_API_KEY"}
"""The variable that each takes its key from."""
GEMINI_TRUST: Final = "GEMINI_CLI_TRUST_WORKSPACE"
SESSION_TTL_S: Final = 30 * 86_400.0
DEFAULT_TOOLS: Final = ("Bash", "Edit", "Glob", "Grep", "NotebookEdit", "Read", "Write")
OUTPUT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "result": {"type": "string"},
        "session": {
            "type": "object",
            "properties": {
                **{name: {"type": "string"} for name in ("id", "agent", "cwd", "said")},
                "used": {"type": "object", "additionalProperties": {"type": "integer"}},
            },
            "additionalProperties": False,
        },
        "turns": {"type": "integer"},
        "usage": {
            "type": "object",
            "properties": {
                **{
                    name: {"type": "integer"}
                    for name in ("tokens", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
                },
                "cost_usd": {"type": ["number", "null"]},
                "model": {"type": ["string", "null"]},
                "price_unknown": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
        "commits": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "subject": {"type": "string"}},
                "additionalProperties": False,
            },
        },
        "denied": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("tool", "call", "reason")},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
"""What a node of a coding CLI gives; expressions that read it are held against this."""
_SHORTEST_TTL_S: Final = 3_600.0
_WORD: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.:@/\[\]-]{0,199}\Z")
_TOOL: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9_]{0,199}\Z")


@dataclass(frozen=True, slots=True)
class CodingSpec:
    """A coding CLI under a name of the operator's.

    program: the CLI's name on PATH, or its absolute path. wrap: a command that starts it, such as a sandbox with its
    options: the CLI and its arguments follow; `{workspace}` in it is the path of the workspace. model: None leaves it
    to the CLI. tools: those of Claude Code that exist for it at all. permissions: `every` asks policy before every tool
    call; `needed` only where Claude Code's own rules want leave, which lets it read and look around. sandbox: what
    Codex and Gemini, which ask for nothing while they work, may do; policy is asked once. pass_env: variables handed on
    from Omium's environment; env: constants. api_key_env: the variable of Omium's environment that holds the key; with
    one the CLI keeps its sessions in a directory of Omium's, without one it uses the login and the directory of the
    user. mcp: a file of MCP servers for Claude Code, which otherwise has none. system_prompt: a file whose text is
    added to its own. reserve_tokens: how much of the budgets is held before it may begin, and again whenever that is
    used up. session_ttl_s: how long after its last use a conversation can be gone on with; None: for ever. Times are
    seconds.
    Raises OmiumError("invalid_definition") for a specification that is none.
    """

    name: str
    kind: Kind
    program: str = ""
    wrap: tuple[str, ...] = ()
    model: str | None = None
    tools: tuple[str, ...] = DEFAULT_TOOLS
    permissions: Permissions = "every"
    sandbox: Sandbox = "workspace-write"
    max_turns: int | None = 100
    pass_env: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = 3600.0
    idle_timeout_s: float | None = 900.0
    memory_limit_bytes: int | None = None
    output_limit_bytes: int = 256 * 1024 * 1024
    mcp: Path | None = None
    system_prompt: Path | None = None
    api_key_env: str | None = None
    configs: tuple[tuple[str, Path], ...] = ()  # path in the workspace, the operator's file
    reserve_tokens: int = 50_000
    session_ttl_s: float | None = SESSION_TTL_S
    description: str = ""

    def __post_init__(self) -> None:
        if not self.program:
            object.__setattr__(self, "program", PROGRAMS[self.kind])
        if any("\0" in part or not part for part in self.wrap) or (self.wrap and self.wrap[0].startswith("-")):
            _bad(self.name, f"is wrapped by {list(self.wrap)!r}", "A program and its arguments.")
        if self.program.startswith("-") or "\0" in self.program:
            _bad(self.name, f"has the program {self.program!r}", "A name on PATH, or an absolute path.")
        if "/" in self.program and not self.program.startswith("/"):
            _bad(self.name, f"has the relative program {self.program!r}", "A name on PATH, or an absolute path.")
        if self.model is not None and not _WORD.match(self.model):
            _bad(self.name, f"has the model {self.model!r}, which cannot name one")
        for tool in self.tools:
            if not _TOOL.match(tool):
                _bad(self.name, f"has the tool {tool!r}, which cannot name one", "Such as Bash, Edit or Read.")
        if self.kind == "claude":
            if self.sandbox != "workspace-write":
                _bad(self.name, "declares sandbox, which claude does not have", "Its permissions say what it may do.")
        else:
            self._check_headless()
        for name in ("timeout", "idle_timeout"):
            if (limit := getattr(self, f"{name}_s")) is not None and limit <= 0:
                _bad(self.name, f"has the {name} {limit:g}", "More than no time, or null for no limit.")
        ttl_s = self.session_ttl_s
        if ttl_s is not None and (ttl_s < _SHORTEST_TTL_S or ttl_s <= (self.timeout_s or 0)):
            what = f"has the session_ttl {ttl_s:g} s, in which a conversation under way could expire"
            _bad(self.name, what, "More than an hour and its timeout, or null for none.")
        check_declared((*self.pass_env, *self.env))
        if self.api_key_env is not None:
            check_declared((self.api_key_env,))

    def wrapped(self, workspace: Path) -> tuple[str, ...]:
        """What stands before the CLI's own command."""
        return tuple(part.replace("{workspace}", str(workspace)) for part in self.wrap)

    def _check_headless(self) -> None:
        """What only Claude Code has would do nothing."""
        said = {
            "tools": self.tools != DEFAULT_TOOLS,
            "permissions": self.permissions != "every",
            "mcp": self.mcp is not None,
            "system_prompt": self.system_prompt is not None,
            "max_turns": self.max_turns not in (None, 100),
        }
        if wrong := [name for name, is_said in said.items() if is_said]:
            _bad(self.name, f"declares {', '.join(wrong)}, which {self.kind} does not have")
        if self.kind == "gemini" and self.sandbox != "read-only" and self.env.get(GEMINI_TRUST) != "true":
            _bad(
                self.name,
                f"has the sandbox {self.sandbox}, and Gemini writes only in directories that it was told to trust",
                f"env: {{{GEMINI_TRUST}: 'true'}} where you trust the repository: Gemini then follows its settings, its"
                " .env and its MCP servers too. Or sandbox: read-only.",
            )


def _bad(name: str, what: str, hint: str = "") -> NoReturn:
    raise OmiumError("invalid_definition", f"The coding CLI {name!r} {what}.", hint, coding=name)
