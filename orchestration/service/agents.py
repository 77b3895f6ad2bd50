"""The registered agents as callers see them: what they are, which fit, and how they have done, by the logs of runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from omium.orchestration.errors import OmiumError
from omium.orchestration.log.state import NodeState, NodeStatus
from omium.orchestration.ports import RunQuery
from omium.orchestration.ports_agents import AgentsNow
from omium.orchestration.service import roles
from omium.orchestration.service.catalog import AgentSpec
from omium.orchestration.service.reading import Reading
from omium.orchestration.service.views import Caller

_RUNS = 200


@dataclass(frozen=True, slots=True)
class AgentUsage:
    """What the last runs that the caller may see say of one version. runs: how many of those used it; median_ms: of
    work on completed nodes, waiting left out; priced: whether every cost is known."""

    version: str
    nodes: int
    completed: int
    failed: int
    runs: int
    cost_usd: float
    tokens: int
    median_ms: float | None
    priced: bool = True


@dataclass(frozen=True, slots=True)
class AgentView:
    """versions: the default first. usage: only when it was asked for. problem: why the agents that stand in the files
    now are not in force, and these still are; empty if nothing is wrong."""

    name: str
    versions: Sequence[AgentSpec]
    usage: Sequence[AgentUsage] = ()
    problem: str = ""


class AgentService(Reading):
    """The verbs `list_agents` and `get_agent`."""

    if TYPE_CHECKING:

        def present_agents(self) -> AgentsNow: ...

    async def list_agents(
        self,
        caller: Caller,
        *,
        text: str = "",
        capabilities: Sequence[str] = (),
        tags: Sequence[str] = (),
        framework: str | None = None,
    ) -> list[AgentView]:
        """Agents of which a version has all of the capabilities, any of the tags, and the text in its name,
        description, capabilities or tags; by name."""
        roles.check(caller, "list_agents")
        problem = self.present_agents().problem
        found: dict[str, list[AgentSpec]] = {}
        for one in self._versions():
            if _fits(one, text, capabilities, tags, framework):
                found.setdefault(one.name, []).append(one)
        return [AgentView(name, versions, problem=problem) for name, versions in found.items()]

    async def get_agent(self, caller: Caller, name: str) -> AgentView:
        """One agent with all of its versions and what became of the nodes that it ran, over the last 200 runs. `name`
        may be `name@version`. Raises `not_found` with the nearest names."""
        roles.check(caller, "get_agent")
        problem = self.present_agents().problem
        plain = name.partition("@")[0]
        versions = [one for one in self._versions() if one.name == plain]
        if not versions or name not in self.catalog.agents:
            near = difflib.get_close_matches(name, self.catalog.agents, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else "List the agents."
            if problem:
                hint += f" Not all agents could be read: {problem}"
            raise OmiumError("not_found", f"there is no agent {name[:100]!r}.", hint)
        return AgentView(plain, versions, await self._usage(caller, plain), problem)

    def _versions(self) -> list[AgentSpec]:
        unique = {(one.name, one.version): one for one in self.catalog.agents.values()}
        return sorted(unique.values(), key=lambda one: (one.name, not one.default, one.version))

    async def _usage(self, caller: Caller, name: str) -> list[AgentUsage]:
        query = RunQuery(projects=(caller.project,), owner=caller.only, limit=_RUNS)
        by_version: dict[str, list[tuple[str, NodeState]]] = {}
        for row in await self.store.runs(query):
            state = await self.store.state(row.id)
            structure = await self.structure(state)
            for node_id, node in state.nodes.items():
                definition = structure.node_def(node_id)
                if definition.kind != "agent" or node.attempt == 0:
                    continue
                used, _, version = _used(definition.use or "", node).partition("@")
                if used == name and version:  # without one, it failed before any agent had it
                    by_version.setdefault(version, []).append((row.id, node))
        return [_summed(version, nodes) for version, nodes in sorted(by_version.items())]


def _used(use: str, node: NodeState) -> str:
    """`name@version` as it was recorded when the node began, or when it completed; otherwise what its definition
    says."""
    return str(node.agent or (node.usage or {}).get("agent") or use)


def _summed(version: str, nodes: Sequence[tuple[str, NodeState]]) -> AgentUsage:
    done = [node for _, node in nodes if node.status is NodeStatus.COMPLETED]
    usages: list[Mapping[str, Any]] = [node.usage or {} for _, node in nodes]
    times = list(_times(done))
    return AgentUsage(
        version=version,
        nodes=len(nodes),
        completed=len(done),
        failed=sum(node.status is NodeStatus.FAILED for _, node in nodes),
        runs=len({run for run, _ in nodes}),
        cost_usd=sum(float(usage.get("cost_usd") or 0.0) for usage in usages),
        tokens=sum(int(usage.get("tokens") or 0) for usage in usages),
        median_ms=median(times) if times else None,
        priced=not any(usage.get("price_unknown") or usage.get("unpriced") for usage in usages),
    )


def _times(nodes: Sequence[NodeState]) -> Iterator[float]:
    for node in nodes:
        if node.worked_us:
            yield node.worked_us / 1000
        elif node.started_at is not None and node.ended_at is not None:
            yield (node.ended_at - node.started_at) / 1000


def _fits(one: AgentSpec, text: str, capabilities: Sequence[str], tags: Sequence[str], framework: str | None) -> bool:
    words = "\n".join((one.name, one.description, *one.capabilities, *one.tags)).casefold()
    return (
        text.casefold() in words
        and set(capabilities) <= set(one.capabilities)
        and (not tags or bool(set(tags) & set(one.tags)))
        and framework in (None, one.framework)
    )
