"""The agents of a project while a process lives: read again when their files change, for runs that are created then.

As with policies, the files are looked at when a run is created; one that is broken changes nothing, and is said once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from omium.clients.agents.registry import Registry
from omium.clients.agents.spec import AgentDef
from omium.clients.agents.stored import document_of
from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.definition.problems import located
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_agents import AgentsNow
from omium.orchestration.service.catalog import Catalog, refusal
from omium.orchestration.stamps import Stamps, look
from omium.orchestration.values import Encoded, encode
from omium.server.declared.agents import agent_problems, manifests, register_agents
from omium.server.plugins import AGENTS_GROUP, anew, files_behind, files_of, offered_agent, points

if TYPE_CHECKING:
    from omium.server.project import Project

_log = logging.getLogger(__name__)


class HotAgents:
    """See `ports_agents.AgentSource`.

    project: as it was loaded from `file`, its `omium.yaml`; its functions and servers stay, so an agent that names
    others than those is refused. catalog: as it was made of it, whose workflows have to fit the agents.
    """

    def __init__(
        self, project: Project, file: Path, catalog: Catalog, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._project = project
        self._file = file
        self._catalog = catalog
        self._now_ns = now_ns
        self._packages = _by_package(points(AGENTS_GROUP))
        self._offered = dict(project.offered_agents)  # by entry point: the last good ones
        self._unusable: dict[str, str] = {}  # by package: why what it offers is not in force
        self._searched: dict[str, list[Path]] = {}  # by package: its files, where it could not be imported
        for top, offers in self._packages.items():
            broken = [project.left_out[one] for one in offers if one in project.left_out]
            if broken:
                self._unusable[top], self._searched[top] = broken[0], files_of(top)
        self._code = {top: _digests(self._files(top)) for top in self._packages}
        self._beside = tuple(project.agents_beside)
        self._stamps, self._settled = self._look()
        self._contents: dict[Path, str] | None = None  # by file; None: as they were when the project was loaded
        self._uses = project.agents.by_use()
        try:
            document = _document(self._uses)
        except OmiumError as error:  # options that are no data, from the operator's own Python
            _log.warning("runs cannot keep the agents of %s: %s", project.id, error.message)
            document = None
        self._now = AgentsNow(document, catalog.agents, "\n".join(self._unusable.values()))

    def current(self) -> AgentsNow:
        stamps, settled = self._look()
        if stamps != self._stamps or not self._settled:
            self._stamps, self._settled = stamps, settled
            contents = _digests(stamps)
            if contents != self._contents:
                self._contents = contents
                self._read(contents)
        return self._now

    def present(self) -> Mapping[str, AgentDef]:
        """By what a workflow may call them, as they were when `current` was last asked."""
        return self._uses

    def _read(self, contents: Mapping[Path, str]) -> None:
        self._import_changed(contents)
        try:
            agents = self._registered()
            specs, uses = agents.specs(), agents.by_use()
            replace(self._catalog, agents=specs).check()
            document = _document(uses)
        except OmiumError as error:
            self._tell(error.message)
            return
        if document != self._now.document:
            _log.info("the agents of %s have changed, for new runs", self._project.id)
            self._uses, self._now = uses, AgentsNow(document, specs, self._now.problem)
        self._tell("")

    def _tell(self, problem: str) -> None:
        """Note what is wrong, and say it if it is new."""
        told = "\n".join(one for one in (problem, *self._unusable.values()) if one)
        if told and told != self._now.problem:
            _log.error("agents of %s stay as they were: %s", self._project.id, told)
        self._now = replace(self._now, problem=told)

    def _import_changed(self, contents: Mapping[Path, str]) -> None:
        """Import the packages anew whose files have changed; what one offers now, or, if it is broken, did before."""
        for top, offers in self._packages.items():
            code = {path: contents.get(path, "") for path in self._files(top)}
            if code == self._code[top]:
                continue
            self._code[top] = code
            try:
                with anew(offers):
                    found = {point.name: offered_agent(point) for point in offers}
            except OmiumError as error:
                self._unusable[top] = error.message
                continue
            self._unusable.pop(top, None)
            self._searched.pop(top, None)
            self._offered |= found
            self._code[top] = _digests(self._files(top))

    def _registered(self) -> Registry:
        """The agents as the files say now. Raises what loading a project raises for its agents."""
        from omium.server.project import Project
        from omium.server.project_file import ProjectFile

        live = self._project
        document = read_file(self._file)
        file = validate(document, ProjectFile)
        fresh = Project(live.id, directory=live.directory, path=live.path)
        fresh.functions, fresh.servers = live.functions, live.servers
        found = located(register_agents(fresh, file.agents, document.source), document.source, document.line_of)
        self._beside = tuple(fresh.agents_beside)
        if found:
            raise refusal(found, False)
        for name in live.agents.names():  # of the operator's own Python, which no file says anything about
            for one in live.agents.versions(name):
                if one.source is None:
                    fresh.agents.add(one)
        fresh.take_offered(self._offered)
        unfit = agent_problems(fresh, file.agents, document.source, set(live.servers.entries))
        if unfit:
            raise refusal(located(unfit, document.source, document.line_of), False)
        return fresh.agents

    def _files(self, top: str) -> list[Path]:
        """What the agents of a package are made of."""
        return [*files_behind(self._packages[top]), *self._searched.get(top, ())]

    def _look(self) -> tuple[Stamps, bool]:
        """(what tells changed files, whether a later change would show)."""
        files = [self._file, *manifests(self._project.directory), *self._beside]
        for top in self._packages:
            files += self._files(top)
        return look(files, self._now_ns())


def _by_package(offers: Iterable[EntryPoint]) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in offers:
        found.setdefault(point.module.partition(".")[0], []).append(point)
    return found


def _document(uses: Mapping[str, AgentDef]) -> Encoded | None:
    """What runs keep. Raises `invalid_value` for options that are no data."""
    return encode(document_of(uses)) if uses else None


def _digests(files: Iterable[Path]) -> dict[Path, str]:
    return {path: _digest(path) for path in files}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
