"""Resources: what can be read by URI. Each read goes through the core with the request's caller.

What a run's log says once it says for ever, so pages of it may be kept long; what may still change is not to be kept.
Everything but the catalogue of templates belongs to its caller.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Annotations,
    BlobResourceContents,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, is_id
from omium.orchestration.service.views import Caller, RunView
from omium.tools import pages
from omium.tools.desk import Desk, desk_of
from omium.tools.pages import Page
from omium.tools.present import line, when
from omium.tools.refusals import answering, context_of, unknown_resource
from omium.tools.subscriptions import RECENT
from omium.tools.uris import SCHEME, STATIC, TEMPLATES, Kind, Ref, Template, parse, run_uri, workflow_uri

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
Read: TypeAlias = "Callable[[Core, Caller, Ref], Awaitable[Page]]"

_HOUR_MS: Final = 3_600_000
PAGE: Final = 50  # resources of a list

# What does not depend on who asks may be shared; the tools are those of this server, whoever may come to use them.
CACHE_HINTS: Final[Mapping[CacheableMethod, CacheHint]] = {
    "tools/list": CacheHint(_HOUR_MS, "private"),
    "prompts/list": CacheHint(_HOUR_MS, "public"),
    "resources/templates/list": CacheHint(_HOUR_MS, "public"),
    "server/discover": CacheHint(_HOUR_MS, "public"),
}

READERS: Final[Mapping[Kind, Read]] = {
    "workflows": pages.workflows,
    "workflow": pages.workflow,
    "runs": pages.runs,
    "approvals": pages.approvals,
    "audit": pages.audit,
    "run": pages.run,
    "graph": pages.graph_page,
    "graph.mmd": pages.graph_page,
    "graph.dot": pages.graph_page,
    "events": pages.events,
    "timeline": pages.timeline,
    "checkpoints": pages.checkpoints,
    "branches": pages.branches,
    "node": pages.node,
    "artifacts": pages.artifacts,
    "artifact": pages.artifact,
}


def offer_resources(server: MCPServer[Desk]) -> None:
    """Have the server list and read our resources, beside those that were registered with it in the SDK's way."""
    lowlevel = server._lowlevel_server
    inherited = lowlevel.get_request_handler("resources/read")
    assert inherited is not None
    shelf = _Shelf(server, inherited.handler)
    lowlevel.add_request_handler("resources/list", PaginatedRequestParams, answering(shelf.listed))
    lowlevel.add_request_handler("resources/templates/list", PaginatedRequestParams, answering(shelf.templates))
    lowlevel.add_request_handler("resources/read", ReadResourceRequestParams, answering(shelf.read))


async def read(core: Core, caller: Caller, uri: str) -> Page:
    """What a URI shows a caller. Raises `not_found` for what there is not, and for what is somebody else's."""
    ref = parse(uri)
    if ref is None:
        raise OmiumError("not_found", f"there is no {line(uri)}.")
    return await READERS[ref.kind](core, caller, ref)


class _Shelf:
    def __init__(
        self, server: MCPServer[Desk], inherited: Callable[[RequestContext, Any], Awaitable[HandlerResult]]
    ) -> None:
        self._server = server
        self._inherited = inherited

    async def read(self, ctx: RequestContext, params: ReadResourceRequestParams) -> HandlerResult:
        uri = str(params.uri)
        if not uri.startswith(SCHEME):
            return await self._inherited(ctx, params)
        core, caller = desk_of(context_of(self._server, ctx, params))
        try:
            page = await read(core, caller, uri)
        except OmiumError as error:
            if error.code == "not_found":
                raise unknown_resource(uri) from error
            raise
        return ReadResourceResult(contents=[_contents(uri, page)], ttl_ms=page.ttl_ms, cache_scope=page.scope)

    async def templates(self, _: RequestContext, params: PaginatedRequestParams) -> ListResourceTemplatesResult:
        if params.cursor is not None:
            raise _unknown_cursor()
        ours = [
            ResourceTemplate(
                uri_template=one.template,
                name=one.kind,
                title=one.title,
                description=one.description,
                mime_type=one.mime_type,
            )
            for one in TEMPLATES
        ]
        return ListResourceTemplatesResult(resource_templates=[*ours, *await self._server.list_resource_templates()])

    async def listed(self, ctx: RequestContext, params: PaginatedRequestParams) -> ListResourcesResult:
        """What stands always, then the workflows, then the newest runs: a page of each request."""
        core, caller = desk_of(context_of(self._server, ctx))
        standing = [
            *(_static(one) for one in STATIC),
            *await self._server.list_resources(),
            *[_workflow(one.name, one.description) for one in await core.list_workflows(caller)],
        ]
        kind, start = _cursor(params.cursor)
        if kind == "standing":
            shown = standing[start : start + PAGE]
            if not shown:
                raise _unknown_cursor()
            end = start + PAGE
            following = f"standing:{end}" if end < len(standing) else None
            if following is None and (await core.list_runs(caller, limit=1)).runs:
                following = "runs:0"
            return ListResourcesResult(resources=shown, next_cursor=following)
        before = _before(params.cursor)
        page = await core.list_runs(caller, before=before, limit=PAGE)
        given = start + len(page.runs)
        more = page.next is not None and given < RECENT
        return ListResourcesResult(
            resources=[_run(one) for one in page.runs], next_cursor=f"runs:{given}:{page.next}" if more else None
        )


def _contents(uri: str, page: Page) -> TextResourceContents | BlobResourceContents:
    meta = dict(page.meta) or None
    if isinstance(page.content, str):
        return TextResourceContents(uri=uri, mime_type=page.mime_type, text=page.content, _meta=meta)
    blob = base64.b64encode(page.content).decode()
    return BlobResourceContents(uri=uri, mime_type=page.mime_type, blob=blob, _meta=meta)


# --- lists -----------------------------------------------------------------------------------------------------------


def _static(one: Template) -> Resource:
    return Resource(
        uri=one.template, name=one.kind, title=one.title, description=one.description, mime_type=one.mime_type
    )


def _workflow(name: str, description: str) -> Resource:
    return Resource(
        uri=workflow_uri(name),
        name=name,
        title=line(name),
        description=line(description) or None,
        mime_type="application/json",
    )


def _run(run: RunView) -> Resource:
    return Resource(
        uri=run_uri(run.id),
        name=run.id,
        title=line(run.title or run.workflow),
        description=line(f"Run of {run.workflow}, created {when(run.created_at)}"),
        mime_type="application/json",
        annotations=Annotations(last_modified=when(run.updated_at)),
    )


def _unknown_cursor() -> MCPError:
    return MCPError(INVALID_PARAMS, "Unknown cursor: it is not one that this list has given.")


def _cursor(cursor: str | None) -> tuple[str, int]:
    """The part of the list and how much of it was given. Cursors are ours to read, and anybody's to make up."""
    kind, _, rest = (cursor if cursor is not None else "standing:0").partition(":")
    number = rest.partition(":")[0]
    if kind not in ("standing", "runs") or not (number.isascii() and number.isdigit() and len(number) < 6):
        raise _unknown_cursor()
    return kind, int(number)


def _before(cursor: str | None) -> RunId | None:
    text = (cursor or "").split(":", 2)[2:]
    if not text:
        return None
    if not is_id(text[0], "run"):
        raise _unknown_cursor()
    return RunId(text[0])
