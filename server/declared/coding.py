"""`coding:` of `omium.yaml`: coding CLIs that nodes of kind `cli` name as they name commands.

coding:
  claude:
    kind: claude                        # claude, codex or gemini
    model: claude-sonnet-4-5
    tools: [Bash, Edit, Read, Write]    # what exists for it at all
    permissions: every                  # ask policy before every tool call; needed: where its own rules want leave
    max_turns: 100
    api_key_env: ANTHROPIC_API_KEY      # reaches the CLI, and none of the commands that it runs
    system_prompt: prompts/reviewer.md
    configs: [.editorconfig]            # files of the project that the workspace is given
    timeout: 1h
    idle_timeout: 15m
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from omium.clients.coding.spec import DEFAULT_TOOLS, SESSION_TTL_S, CodingSpec, Kind, Permissions, Sandbox
from omium.clients.workspaces.configs import check_config
from omium.orchestration.definition.problems import Problem
from omium.orchestration.definition.schema import Duration, FileModel, Prose
from omium.orchestration.errors import OmiumError
from omium.server.project import Project

Text = Annotated[str, Field(min_length=1, max_length=4_096)]


def _size(value: Any) -> Any:
    from omium.server.project_file import size_bytes  # which imports this module

    return size_bytes(value)


class CodingFile(FileModel):
    kind: Kind
    program: Text | None = None
    wrap: Annotated[list[Text], Field(max_length=200)] = Field(default_factory=list)
    model: Text | None = None
    tools: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = None
    permissions: Permissions = "every"
    sandbox: Sandbox = "workspace-write"
    max_turns: Annotated[int, Field(ge=1, le=10_000)] = 100
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: list[str] = Field(default_factory=list)
    timeout: Duration | None = 3_600.0
    idle_timeout: Duration | None = 900.0
    memory_limit: Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)] | None = None
    output_limit: Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)] = 256 * 1024 * 1024
    mcp: Text | None = None
    system_prompt: Text | None = None
    api_key_env: Text | None = None
    configs: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)
    reserve_tokens: Annotated[int, Field(ge=0, le=1_000_000_000)] = 50_000
    session_ttl: Duration | None = SESSION_TTL_S
    description: Prose = ""


def register_coding(project: Project, declared: Mapping[str, CodingFile]) -> Iterator[Problem]:
    """Register what the file declares; what is wrong with it. A name may be that of a CLI or a command, not of both."""
    for name, one in declared.items():
        here = f"coding.{name}"
        for key in ("mcp", "system_prompt"):
            path = getattr(one, key)
            if path is not None and not _under(project, path).is_file():
                yield Problem(f"{here}.{key}", f"there is no file {path!r}", f"a path below {project.directory}")
        try:
            project.add_coding(_spec(project, name, one))
        except OmiumError as error:
            yield Problem(here, error.message.rstrip("."), error.hint.rstrip("."))


def _spec(project: Project, name: str, one: CodingFile) -> CodingSpec:
    return CodingSpec(
        name,
        one.kind,
        _program(project, one.program),
        wrap=tuple(_program(project, part) for part in one.wrap),
        model=one.model,
        tools=DEFAULT_TOOLS if one.tools is None else tuple(one.tools),
        permissions=one.permissions,
        sandbox=one.sandbox,
        max_turns=one.max_turns,
        pass_env=tuple(one.pass_env),
        env=one.env,
        timeout_s=one.timeout,
        idle_timeout_s=one.idle_timeout,
        memory_limit_bytes=one.memory_limit,
        output_limit_bytes=one.output_limit,
        mcp=None if one.mcp is None else _under(project, one.mcp),
        system_prompt=None if one.system_prompt is None else _under(project, one.system_prompt),
        api_key_env=one.api_key_env,
        configs=tuple((check_config(path), project.directory / path) for path in one.configs),
        reserve_tokens=one.reserve_tokens,
        session_ttl_s=one.session_ttl,
        description=one.description,
    )


def _program(project: Project, text: str | None) -> str:
    """A name on PATH stays one; `{project}/...` is a file of the project's."""
    if text is None:
        return ""
    return str(project.directory) + text.removeprefix("{project}") if text.startswith("{project}/") else text


def _under(project: Project, text: str) -> Path:
    return (project.directory / Path(text).expanduser()).resolve()
