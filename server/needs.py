"""What a project needs of the machine that it runs on, and what of it is missing: for `omium doctor`.

Only what its own declarations name: coding CLIs under `coding:`, the code of functions, keys of the models of its
agents; and the plugins that are installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from omium.clients.functions.code import Sources
from omium.orchestration.errors import OmiumError
from omium.server.plugins import survey

if TYPE_CHECKING:
    from omium.clients.agents.spec import AgentDef
    from omium.server.project import Project

_WITH_OPENAI: Final = ("agent-framework", "openai-agents", "pydantic-ai")  # whose default is that provider's service
_INSTALLS: Final = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
    "gemini": "npm install -g @google/gemini-cli",
}


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that is needed. problem: what is wrong with it, empty if nothing is; fix: the command that mends it."""

    name: str
    kind: Literal["program", "code", "variable", "plugin"]
    detail: str
    problem: str = ""
    fix: str = ""


def needs(project: Project, environ: Mapping[str, str]) -> Iterator[Need]:
    """Programs, code, variables, plugins."""
    yield from programs(project, environ)
    yield from code(project)
    yield from keys(project, environ)
    yield from plugins()


def programs(project: Project, environ: Mapping[str, str]) -> Iterator[Need]:
    """The coding CLIs that the project declares, and what starts them."""
    for spec in project.coding.values():
        here = f"coding {spec.name}"
        for name, program in ((here, spec.program), *((f"{here} wrap", first) for first in spec.wrap[:1])):
            where = shutil.which(program, path=environ.get("PATH"))
            if where is not None:
                yield Need(name, "program", where)
                continue
            fix = _INSTALLS[spec.kind] if program == spec.kind else "$EDITOR omium.yaml"
            yield Need(name, "program", "", f"there is no program {program!r}: its nodes cannot run", fix)


def code(project: Project) -> Iterator[Need]:
    """What is behind the project's own functions and cannot be compiled; nothing of it is executed."""
    sources = Sources(project.path)
    names: dict[Path, list[str]] = {}
    for spec in project.functions.values():
        try:
            files = sources.files(spec.ref.partition(":")[0])
        except OmiumError:  # built in, or of a package that is named below
            continue
        for file in files:
            if file.suffix == ".py" and file.is_relative_to(project.directory):
                names.setdefault(file, []).append(spec.name)
    for file, users in sorted(names.items()):
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OSError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            told = f"{file}{line}: {error.msg if isinstance(error, SyntaxError) else error}"
            users_told = ", ".join(users[:5])
            yield Need(f"code {file.name}", "code", "", f"{told}; {users_told} cannot run", f"$EDITOR {file}")


def keys(project: Project, environ: Mapping[str, str]) -> Iterator[Need]:
    """The variables that hold the keys of models and of coding CLIs, each once, with who needs it."""
    wanted: dict[str, list[str]] = {}
    for name in project.agents.names():
        for agent in project.agents.versions(name):
            variable = key_of(agent)
            if variable is not None and name not in wanted.setdefault(variable, []):
                wanted[variable].append(name)
    for spec in project.coding.values():
        if spec.api_key_env is not None:
            wanted.setdefault(spec.api_key_env, []).append(spec.name)
    for variable, users in sorted(wanted.items()):
        told = f"of {', '.join(users[:5])}{f' and {len(users) - 5} more' if len(users) > 5 else ''}"
        if environ.get(variable):
            yield Need(f"key {variable}", "variable", f"set, {told}")
        else:
            yield Need(f"key {variable}", "variable", "", f"it is not set: the key {told}", f"export {variable}=...")


def key_of(agent: AgentDef) -> str | None:
    """The variable that holds the key of an agent's model; None where it needs none, or none that is known here."""
    from omium.clients.agents.ag2_adapter.models import PROVIDERS
    from omium.clients.agents.spec import SCRIPTED

    model = agent.model
    if model is None or model.provider == SCRIPTED:
        return None
    if model.api_key_env is not None or model.base_url is not None:
        return model.api_key_env
    if agent.framework in _WITH_OPENAI:
        return "OPENAI_API_KEY"
    known = PROVIDERS.get(model.provider) if agent.framework == "ag2" else None
    return None if known is None else known[2]


def plugins() -> Iterator[Need]:
    """What installed packages offer. Each is imported, as it would be when it is used."""
    for one in survey():
        name = f"plugin {one.name}"
        if one.problem:
            told = f"{one.group} of {one.package} is left out: {one.problem}"
            yield Need(name, "plugin", "", told, f"pip install --upgrade {one.package}")
        else:
            yield Need(name, "plugin", f"{one.group} of {one.package}")
