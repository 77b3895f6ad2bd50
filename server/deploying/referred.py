"""Which files of a project are part of it: what its definitions, agents, policies and commands refer to, and the code
behind its functions. Whatever else lies in its directory (editors' copies, caches, notes) is not.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omium.clients.functions.code import Sources
from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from omium.server.project import Project

LOADED: Final = "loaded"
"""Definitions and code: that a name of theirs sounds like a secret's says nothing."""
NAMED: Final = "named"


def referred(project: Project, file: Path) -> dict[Path, str]:
    """Absolute paths of files below the project's directory, each `LOADED` or `NAMED`. What is imported by a name that
    only exists at run time, and what code reads by itself, is not among them."""
    found: dict[Path, str] = {}
    for path in _named(project, file):
        for one in _files(path):
            found[one] = NAMED
    for path in (file, *_definitions(project), *_code(project)):
        found[path.absolute()] = LOADED
    return {path: kind for path, kind in found.items() if path.is_relative_to(project.directory) and path.is_file()}


def _definitions(project: Project) -> Iterator[Path]:
    from omium.server.declared.agents import manifests

    yield from (Path(source) for source in project.sources.values())
    yield from manifests(project.directory)
    yield from (path.resolve() for path in project.agents_beside)


def _code(project: Project) -> Iterator[Path]:
    """Of functions, and of what makes agents."""
    sources = Sources(project.path)
    refs = [spec.ref for spec in project.functions.values()]
    for agent in _agents(project):
        if agent.factory is not None:
            refs.append(agent.factory)
        if agent.worker is not None:
            yield agent.worker.script
    for module in sorted({ref.partition(":")[0] for ref in refs}):
        yield from _module(sources, module)
    for argv, directory in _programs(project):
        for before, argument in itertools.pairwise(("", *argv)):
            if before == "-m":
                yield from _module(Sources((directory or project.directory, *project.path)), argument)
            elif argument.endswith(".py") and (script := _file(argument, directory)) is not None:
                yield script
                yield from _module(Sources((script.parent, *project.path)), script.stem)


def _module(sources: Sources, name: str) -> list[Path]:
    try:
        return sources.files(name)
    except OmiumError as error:
        if error.code != "not_found":
            raise
        return []  # built in, or gone


def _programs(project: Project) -> Iterator[tuple[tuple[str, ...], Path | None]]:
    """Argument vectors, and where they start; None for a run's own directory."""
    for command in project.commands.values():
        yield command.argv, command.cwd if isinstance(command.cwd, Path) else None
    for server in project.servers.specs.values():
        yield server.command, server.cwd


def _agents(project: Project) -> Iterator[Any]:
    for name in project.agents.names():
        yield from project.agents.versions(name)


def _named(project: Project, file: Path) -> Iterator[Path]:
    """Files and directories that declarations name."""
    for agent in _agents(project):
        if agent.model is not None and agent.model.script is not None:
            yield agent.model.script
    for argv, directory in _programs(project):
        yield from (path for argument in argv if (path := _file(argument, directory)) is not None)
    for cli in project.coding.values():
        yield Path(cli.program)
        yield from (path for path in (cli.mcp, cli.system_prompt) if path is not None)
        yield from (path for _, path in cli.configs)
    for workspace in project.workspaces.values():
        if workspace.kind == "directory" and workspace.source is not None:
            yield Path(workspace.source)
    for policy in (project.policy.policy, project.policy.shadow):
        if isinstance(policy, Path):
            yield policy
    yield from _imports(project, file)


def _file(argument: str, directory: Path | None) -> Path | None:
    """An argument that is a file: by absolute path, or from the directory that the program starts in."""
    if not 0 < len(argument) < 4_096 or "\0" in argument:
        return None
    path = Path(argument) if directory is None else directory / argument
    return path if path.is_absolute() and path.is_file() else None


def _imports(project: Project, file: Path) -> Iterator[Path]:
    """Files of other clients that `mcp_servers` takes its servers from."""
    from omium.orchestration.definition.document import read_file

    said = read_file(file).value
    servers = said.get("mcp_servers") if isinstance(said, dict) else None
    given = servers.get("import") if isinstance(servers, dict) else None
    for one in [given] if isinstance(given, str) else given or []:
        if isinstance(one, str):
            yield project.directory / one


def _files(path: Path) -> Iterator[Path]:
    """The file, or those below a directory; hidden ones only if they are named themselves."""
    path = Path(os.path.normpath(path.absolute()))
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.startswith((".", "__pycache__")))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
