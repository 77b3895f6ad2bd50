"""Tools that show the registered agents. Nothing here starts one: agents work as nodes of workflows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from omium.orchestration.service.agents import AgentUsage, AgentView
from omium.orchestration.service.catalog import AgentSpec
from omium.tools.desk import Ctx, desk_of
from omium.tools.models import Answer, Line, Text, ValueOut
from omium.tools.present import fit, line
from omium.tools.show import value_out

Words = Annotated[list[str] | None, Field(max_length=20)]


class AgentVersionOut(Answer):
    version: Line
    default: bool
    framework: Line
    model: Line | None = None
    description: Text | None = None
    capabilities: list[Line] | None = None
    tags: list[Line] | None = None
    tools: list[Line] | None = None
    handoffs: list[Line] | None = None
    input: ValueOut | None = None
    output: ValueOut | None = None


class AgentUsageOut(Answer):
    version: Line
    nodes: int
    completed: int
    failed: int
    runs: int
    cost_usd: float
    tokens: int
    median_ms: float | None = None
    priced: bool


class AgentOut(Answer):
    name: Line
    versions: list[AgentVersionOut]
    usage: list[AgentUsageOut] | None = None
    problem: Text | None = None
    next: Line | None = None


class AgentsOut(Answer):
    agents: list[AgentOut]
    after: str | None = None
    next: Line | None = None


async def list_agents(
    ctx: Ctx,
    text: Annotated[str | None, Field(description="In name, description, capabilities or tags", max_length=200)] = None,
    capabilities: Annotated[Words, Field(description="All of these")] = None,
    tags: Annotated[Words, Field(description="Any of these")] = None,
    after: Annotated[str | None, Field(description="Next page", max_length=300)] = None,
) -> AgentsOut:
    """List the registered agents that workflows can use. Changes nothing."""
    core, caller = desk_of(ctx)
    views = await core.list_agents(caller, text=text or "", capabilities=capabilities or (), tags=tags or ())
    rest = [view for view in views if after is None or view.name > after]
    shown = fit(_agent_out(view, detail=False) for view in rest)
    return AgentsOut(
        agents=shown,
        after=shown[-1].name if len(shown) < len(rest) else None,
        next="get_agent(name) shows schemas and how it has done" if shown else _NOTHING,
    )


_NOTHING = "none matches; the operator registers agents in omium.yaml or as agents/<name>/agent.yaml"


async def get_agent(
    ctx: Ctx,
    name: Annotated[str, Field(description="From list_agents", min_length=1, max_length=300)],
) -> AgentOut:
    """Show an agent: versions, schemas, tools, and what became of the nodes it ran lately. Changes nothing."""
    core, caller = desk_of(ctx)
    return _agent_out(await core.get_agent(caller, name), detail=True)


def _agent_out(view: AgentView, *, detail: bool) -> AgentOut:
    versions = view.versions if detail else view.versions[:3]
    return AgentOut(
        name=line(view.name),
        versions=fit(_version_out(one, detail=detail) for one in versions),
        usage=fit(_usage_out(one) for one in view.usage) if view.usage else None,
        problem=(view.problem or None) if detail else None,
    )


def _version_out(one: AgentSpec, *, detail: bool) -> AgentVersionOut:
    def schema(given: dict[str, Any] | None) -> ValueOut | None:
        return value_out(given, limit=4_000) if detail and given is not None else None

    return AgentVersionOut(
        version=line(one.version),
        default=one.default,
        framework=line(one.framework),
        model=line(one.model) if one.model else None,
        description=one.description or None,
        capabilities=list(one.capabilities) or None,
        tags=list(one.tags) or None,
        tools=list(one.tools) if detail and one.tools else None,
        handoffs=list(one.handoffs) if detail and one.handoffs else None,
        input=schema(one.input_schema),
        output=schema(one.output_schema),
    )


def _usage_out(one: AgentUsage) -> AgentUsageOut:
    return AgentUsageOut(
        version=line(one.version),
        nodes=one.nodes,
        completed=one.completed,
        failed=one.failed,
        runs=one.runs,
        cost_usd=one.cost_usd,
        tokens=one.tokens,
        median_ms=one.median_ms,
        priced=one.priced,
    )
