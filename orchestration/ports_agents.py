"""Agents change while a process lives, and a run keeps those that it was created with.

Whoever knows the operator's files says which agents there are now; a run records them as one document by its digest,
and whoever executes it, in whichever process, runs what that document says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from omium.orchestration.definition.model import NodeDef, walk
from omium.orchestration.ids import Digest

if TYPE_CHECKING:
    from omium.orchestration.ports import Executor
    from omium.orchestration.service.catalog import AgentSpec
    from omium.orchestration.values import Encoded

_NEEDS = frozenset({"agent", "consensus", "workflow"})  # a child run has the agents of its parent


@dataclass(frozen=True, slots=True)
class AgentsNow:
    """The registered agents at one moment. document: what a run keeps of them, None where there are none; specs: by
    name and by `name@version`; problem: why what stands in the files now is not in force, empty if it is."""

    document: Encoded | None
    specs: Mapping[str, AgentSpec]
    problem: str = ""


class AgentSource(Protocol):
    """Where a process gets the present agents from."""

    def current(self) -> AgentsNow:
        """The agents for a new run. What has become unreadable leaves the last good ones in force."""


@runtime_checkable
class KeepsAgents(Protocol):
    """An executor of agents."""

    def known(self, agents: Digest) -> Executor | None:
        """The executor of the agents that a run keeps, if this process has met them; spares reading their document."""

    def keeping(self, agents: Digest, document: Any) -> Executor:
        """The same, by the document. Raises `unsupported` for one that another version of Omium has written."""


@runtime_checkable
class NamesAgents(Protocol):
    """An executor whose names stand for versions."""

    def named(self, use: str) -> str:
        """Which version a name means, as `name@version`. Raises `not_registered`."""


def needs_agents(nodes: tuple[NodeDef, ...]) -> bool:
    """Whether a definition can come to name agents: in its nodes, in runs that it starts, or in plans."""
    return any(node.kind in _NEEDS or node.expands for _, node in walk(nodes))
