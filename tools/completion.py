"""Completion of the variables of resource templates and of the arguments of prompts.

A variable is completed by what it is, so that `{id}` of a run and the argument `run_id` of a prompt offer the same.
Only what the caller may see is offered; what cannot be completed offers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import CompleteRequestParams, CompleteResult, Completion, ResourceTemplateReference

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, is_id
from omium.orchestration.service.views import Caller
from omium.tools.desk import Desk, desk_of
from omium.tools.prompts import PROMPTS
from omium.tools.refusals import answering, context_of
from omium.tools.uris import TEMPLATES

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

MOST: Final = 100  # values of an answer, by the protocol
Known: TypeAlias = Mapping[str, str]  # what the client has filled in already
Offer: TypeAlias = "Callable[[Core, Caller, str, Known], Awaitable[Sequence[str]]]"

_BY_TEMPLATE: Final[Mapping[str, Mapping[str, str]]] = {one.template: one.variables for one in TEMPLATES}
_BY_PROMPT: Final[Mapping[str, Mapping[str, str]]] = {one.name: one.completed for one in PROMPTS}


def offer_completion(server: MCPServer[Desk]) -> None:
    """Have the server complete what its templates and prompts ask for."""

    async def complete(ctx: ServerRequestContext[Any, Any], params: CompleteRequestParams) -> CompleteResult:
        core, caller = desk_of(context_of(server, ctx))
        if isinstance(params.ref, ResourceTemplateReference):
            variables = _BY_TEMPLATE.get(params.ref.uri, {})
        else:
            variables = _BY_PROMPT.get(params.ref.name, {})
        offer = _OFFERS.get(variables.get(params.argument.name, ""))
        given = dict((params.context.arguments if params.context is not None else None) or {})
        found: Sequence[str] = ()
        if offer is not None:
            try:
                found = await offer(core, caller, params.argument.value, given)
            except OmiumError as error:  # a run that there is not has nothing to offer, and that is an answer
                if error.code != "not_found":
                    raise
        completion = Completion(values=list(found[:MOST]), total=len(found), has_more=len(found) > MOST)
        return CompleteResult(completion=completion)

    server._lowlevel_server.add_request_handler("completion/complete", CompleteRequestParams, answering(complete))


def _fitting(names: Sequence[str], typed: str) -> list[str]:
    """Those that begin with what was typed, then those that contain it, in any case."""
    wanted = typed.casefold()
    first = [name for name in names if name.casefold().startswith(wanted)]
    return first + [name for name in names if wanted in name.casefold() and not name.casefold().startswith(wanted)]


async def _workflows(core: Core, caller: Caller, typed: str, _: Known) -> Sequence[str]:
    return _fitting([view.name for view in await core.list_workflows(caller)], typed)


async def _runs(core: Core, caller: Caller, typed: str, _: Known) -> Sequence[str]:
    """The newest runs with the text in id, workflow or title."""
    page = await core.list_runs(caller, text=typed or None, limit=MOST + 1)
    return [run.id for run in page.runs]


async def _nodes(core: Core, caller: Caller, typed: str, known: Known) -> Sequence[str]:
    view = await core.get_run(caller, _run_of(known), detail=True)
    return _fitting([node.id for node in view.nodes], typed)


async def _artifacts(core: Core, caller: Caller, typed: str, known: Known) -> Sequence[str]:
    view = await core.artifacts(caller, _run_of(known))
    names = [one.name for one in view.values] + [one.path for one in view.files or ()]
    readable = [name for name in dict.fromkeys(names) if os.fsencode(name).decode("utf-8", "replace") == name]
    return _fitting(readable, typed)


async def _positions(core: Core, caller: Caller, typed: str, known: Known) -> Sequence[str]:
    """Runs; behind the `@` of one, its positions, those with a label first."""
    run, at, part = typed.partition("@")
    if not at:
        return await _runs(core, caller, typed, known)
    if not is_id(run, "run"):
        return ()
    page = await core.list_checkpoints(caller, RunId(run), limit=200)
    standing = [one for one in page.checkpoints if not one.superseded and one.valid]
    standing.sort(key=lambda one: one.label is None)
    return [f"{run}@{seq}" for seq in dict.fromkeys(str(one.seq) for one in standing) if seq.startswith(part)]


async def _checkpoints(core: Core, caller: Caller, typed: str, known: Known) -> Sequence[str]:
    """Positions in a log, for where a page of it starts."""
    page = await core.list_checkpoints(caller, _run_of(known), limit=200)
    return [str(one.seq) for one in page.checkpoints if str(one.seq).startswith(typed)]


def _run_of(known: Known) -> RunId:
    """The run that the other variables name. Raises `not_found` when they name none yet."""
    run = known.get("id") or known.get("run_id") or ""
    if not is_id(run, "run"):
        raise OmiumError("not_found", "no run is named yet.")
    return RunId(run)


_OFFERS: Final[Mapping[str, Offer]] = {
    "workflow": _workflows,
    "run": _runs,
    "node": _nodes,
    "artifact": _artifacts,
    "position": _positions,
    "checkpoint": _checkpoints,
}
