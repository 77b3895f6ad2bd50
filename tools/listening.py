"""`subscriptions/listen` of today's protocol, `resources/subscribe` of the older one: streams of notifications.

Both drain a mailbox of the hub (tools/subscriptions.py) at the speed of their client. A stream ends with its request,
a legacy client's subscriptions with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
    event_to_notification,
)
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    EmptyResult,
    Notification,
    NotificationParams,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from omium.orchestration.service.views import Caller
from omium.tools.desk import Desk, desk_of
from omium.tools.refusals import answering, context_of, unknown_resource
from omium.tools.subscriptions import Change, Hub, Mailbox, Member, MemberChanged, Note
from omium.tools.uris import SCHEME

_log = logging.getLogger(__name__)

RequestContext = ServerRequestContext[Any, Any]


def offer_subscriptions(server: MCPServer[Desk], hub: Hub, members: Sequence[Member] = ()) -> None:
    """Have the server, made with `subscriptions=hub`, tell of changes in both eras. members: what extensions add to
    the filter."""
    lowlevel = server._lowlevel_server
    streams, older = _Streams(server, hub, members), _Older(server, hub)
    lowlevel.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, answering(streams.listen))
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, answering(older.subscribe))
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, answering(older.unsubscribe))
    lowlevel.add_notification_handler("notifications/initialized", NotificationParams, older.initialized)
    # The transports of the SDK ask for the options without saying what changes, each in its own place.
    lowlevel.create_initialization_options = functools.partial(  # type: ignore[method-assign]
        lowlevel.create_initialization_options, NotificationOptions(resources_changed=True)
    )


async def offered_elsewhere(server: MCPServer[Desk], uri: str) -> bool:
    """Whether the server has this resource although it is none of ours (`ui://...`)."""
    if uri in {resource.uri for resource in await server.list_resources()}:
        return True
    templates = server._resource_manager.list_templates()
    return any(template.parsed_template.match(uri) is not None for template in templates)


# --- today's protocol ------------------------------------------------------------------------------------------------


class _Streams:
    """The handler of `subscriptions/listen`: a call is a stream."""

    def __init__(self, server: MCPServer[Desk], hub: Hub, members: Sequence[Member]) -> None:
        self._server = server
        self._hub = hub
        self._members: Mapping[str, Member] = {member.name: member for member in members}

    async def listen(self, ctx: RequestContext, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen needs a request id")
        core, caller = desk_of(context_of(self._server, ctx))
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        mailbox = self._hub.open(caller)
        try:
            ids = await self._admitted(ctx, caller, params.notifications)
            self._hub.add_all(mailbox, (MemberChanged(name, one) for name, some in ids.items() for one in some))
            honored = await self._honored(core, mailbox, params.notifications, ids)
            async with anyio.create_task_group() as following:
                for name, some in ids.items():
                    following.start_soon(self._follow, ctx, caller, name, some, mailbox)
                # Nothing else is written before the stream is drained, so this is the first that the client gets.
                await ctx.session.send_notification(
                    SubscriptionsAcknowledgedNotification(
                        params=SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
                    ),
                    related_request_id=ctx.request_id,
                )
                await self._drain(ctx, caller, mailbox, meta)
                following.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._hub.leave(mailbox)
        return SubscriptionsListenResult(_meta=meta)

    async def _admitted(self, ctx: RequestContext, caller: Caller, wanted: SubscriptionFilter) -> dict[str, list[str]]:
        """The ids of extensions' kinds that are listened for, by the name of their member."""
        core, _ = desk_of(context_of(self._server, ctx))
        found: dict[str, list[str]] = {}
        for name, asked in (wanted.model_extra or {}).items():
            member = self._members.get(name)
            if member is None:
                continue
            if not isinstance(asked, list) or not all(isinstance(one, str) for one in asked):
                raise MCPError(INVALID_PARAMS, f"{name} is a list of ids")
            found[name] = await member.admit(ctx, core, caller, list(dict.fromkeys(asked)))
        return {name: ids for name, ids in found.items() if ids}

    async def _honored(
        self, core: Any, mailbox: Mailbox, wanted: SubscriptionFilter, ids: Mapping[str, Sequence[str]]
    ) -> SubscriptionFilter:
        """Begin to listen for what there is. What there is not, for this caller, is missing from the answer."""
        uris = list(dict.fromkeys(wanted.resource_subscriptions or ()))
        foreign = [uri for uri in uris if not uri.startswith(SCHEME) and await offered_elsewhere(self._server, uri)]
        self._hub.add_all(mailbox, [ResourceUpdated(uri) for uri in foreign])
        changes: list[Change] = [ResourceUpdated(uri) for uri in uris if uri.startswith(SCHEME)]
        if wanted.resources_list_changed:
            changes.append(ResourcesListChanged())
        granted = await self._hub.want(core, mailbox, changes)
        if wanted.tools_list_changed:
            self._hub.add(mailbox, ToolsListChanged())
        if wanted.prompts_list_changed:
            self._hub.add(mailbox, PromptsListChanged())
        heard = [uri for uri in uris if uri in foreign or ResourceUpdated(uri) in granted]
        return SubscriptionFilter(
            tools_list_changed=wanted.tools_list_changed or None,
            prompts_list_changed=wanted.prompts_list_changed or None,
            resources_list_changed=wanted.resources_list_changed or None,
            resource_subscriptions=heard or None,
            **{name: list(some) for name, some in ids.items()},
        )

    async def _follow(
        self, ctx: RequestContext, caller: Caller, name: str, ids: Sequence[str], mailbox: Mailbox
    ) -> None:
        core, _ = desk_of(context_of(self._server, ctx))
        await self._members[name].follow(ctx, core, caller, ids, lambda one: mailbox.put(MemberChanged(name, one)))

    async def _drain(self, ctx: RequestContext, caller: Caller, mailbox: Mailbox, meta: dict[str, Any]) -> None:
        """Tell what changes until the mailbox is closed. While the client does not read, this waits and nothing
        grows."""
        core, _ = desk_of(context_of(self._server, ctx))
        last: dict[MemberChanged, Note] = {}
        while (change := await mailbox.take()) is not None:
            if not isinstance(change, MemberChanged):
                await ctx.session.send_notification(event_to_notification(change, meta), ctx.request_id)
                continue
            note = await self._members[change.member].note(ctx, core, caller, change.id)
            if note is not None and note != last.get(change):
                last[change] = note
                await ctx.session.send_notification(_on_the_wire(note, meta), ctx.request_id)


def _on_the_wire(note: Note, meta: Mapping[str, Any]) -> Any:
    """A notification that is not of the SDK's own."""
    params = {**note.params, "_meta": {**note.params.get("_meta", {}), **meta}}
    return Notification[dict[str, Any], str](method=note.method, params=params)


# --- the older protocol ----------------------------------------------------------------------------------------------

_STATE = "omium.subscriptions"


class _Older:
    """The handlers of `resources/subscribe` and `resources/unsubscribe`. A connection has one mailbox."""

    def __init__(self, server: MCPServer[Desk], hub: Hub) -> None:
        self._server = server
        self._hub = hub

    async def initialized(self, ctx: RequestContext, params: NotificationParams) -> None:
        """A client that can be told gets to know when there is another run in the list of resources."""
        connection = _connection(ctx)
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or not connection.has_standalone_channel:
            return
        core, _ = desk_of(context_of(self._server, ctx))
        await self._hub.want(core, self._mailbox(ctx, connection), [ResourcesListChanged()])

    async def subscribe(self, ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        connection, uri = _connection(ctx), str(params.uri)
        if not connection.has_standalone_channel:
            raise MCPError(INVALID_REQUEST, "This connection has no way back: nothing can be told to it.")
        core, _ = desk_of(context_of(self._server, ctx))
        mailbox = self._mailbox(ctx, connection)
        if not uri.startswith(SCHEME):
            if not await offered_elsewhere(self._server, uri):
                raise unknown_resource(uri)
            self._hub.add(mailbox, ResourceUpdated(uri))
        elif not await self._hub.want(core, mailbox, [ResourceUpdated(uri)]):
            raise unknown_resource(uri)
        return EmptyResult()

    async def unsubscribe(self, ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        mailbox: Mailbox | None = _connection(ctx).state.get(_STATE)
        if mailbox is not None:
            await self._hub.unwant(mailbox, [ResourceUpdated(str(params.uri))])
        return EmptyResult()

    def _mailbox(self, ctx: RequestContext, connection: Connection) -> Mailbox:
        """The connection's mailbox, made and emptied from the first time on until the connection closes."""
        mailbox: Mailbox | None = connection.state.get(_STATE)
        if mailbox is None:
            _, caller = desk_of(context_of(self._server, ctx))
            mailbox = connection.state[_STATE] = self._hub.open(caller)
            task = asyncio.create_task(_tell(connection, mailbox), name="omium-legacy-subscriptions")

            async def end() -> None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await self._hub.leave(mailbox)

            connection.exit_stack.push_async_callback(end)
        return mailbox


def _connection(ctx: RequestContext) -> Connection:
    """What outlives the request; the SDK shows it to nobody."""
    return ctx.session._connection


async def _tell(connection: Connection, mailbox: Mailbox) -> None:
    """Tell a connection what changes until it closes."""
    try:
        while (change := await mailbox.take()) is not None:
            match change:
                case ResourceUpdated(uri):
                    await connection.send_resource_updated(uri)
                case ResourcesListChanged():
                    await connection.send_resource_list_changed()
    except Exception:  # nobody waits for this task
        _log.exception("a client cannot be told of changes any more")
