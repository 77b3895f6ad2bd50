"""Who asks: each request by its own credential, and by nothing else.

The credential ends here. What lies behind gets the caller, never the header, so that no tool can read it, no log can
hold it and no request of ours can carry it on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.views import Caller
from omium.server.http.failures import refuse
from omium.server.identity.authority import Authority
from omium.server.identity.limits import RateLimits

_CALLER: Final = "omium.caller"
_AGAIN: Final = "omium.again"
METADATA: Final = "/.well-known/oauth-protected-resource"  # RFC 9728


class Again:
    """The same credential, to be looked at once more while a long answer is under way."""

    def __init__(self, authority: Authority, authorization: str | None, caller: Caller) -> None:
        self._authority = authority
        self._authorization = authorization
        self._caller = caller

    async def check(self) -> None:
        """Raises `unauthenticated` or `forbidden` when it is not good any more, or somebody else's."""
        found = await self._authority.caller_of(self._authorization)
        if (found.principal, found.project) != (self._caller.principal, self._caller.project):
            raise OmiumError("unauthenticated", "the credential is somebody else's now.")

    def __repr__(self) -> str:
        return "Again(...)"


class Access:
    """Middleware: finds the caller of a request, or refuses it. public: paths that anybody may get; issuers: whether
    a client can learn from `METADATA` who gives credentials."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authority: Authority,
        limits: RateLimits,
        public: Iterable[str] = (),
        issuers: bool = False,
    ) -> None:
        self._app = AuthContextMiddleware(app)
        self._authority = authority
        self._limits = limits
        self._public = frozenset(public)
        self._issuers = issuers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        try:
            given = Headers(scope=scope).getlist("authorization")
            if len(given) > 1:
                raise OmiumError("invalid_argument", "the request has more than one Authorization header.")
            authorization = given[0] if given else None
            caller = await self._caller(scope, authorization)
        except OmiumError as error:
            await refuse(scope, receive, send, self._pointing(scope, error))
            return
        again = Again(self._authority, authorization, caller)
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        inner = {**scope, "headers": headers, _CALLER: caller, _AGAIN: again, "user": _user(caller)}
        await self._app(inner, receive, send)

    def _pointing(self, scope: Scope, error: OmiumError) -> OmiumError:
        """The refusal, with the place where a client learns whom to ask for a credential."""
        if error.code != "unauthenticated" or not self._issuers:
            return error
        challenge = f'{error.data["challenge"]}, resource_metadata="{base_url(scope)}{METADATA}"'
        return OmiumError(error.code, error.message, error.hint, **{**error.data, "challenge": challenge})

    async def _caller(self, scope: Scope, authorization: str | None) -> Caller:
        address = str((scope.get("client") or ("unknown",))[0])
        self._limits.may_try(address)
        try:
            return await self._authority.caller_of(authorization)
        except OmiumError as error:
            if error.code == "unauthenticated" and authorization is not None:
                self._limits.refused(address)
            raise


def _user(caller: Caller) -> AuthenticatedUser:
    """The caller as the SDK knows one: it holds a session, and the state of a question, to whoever began them."""
    token = AccessToken(token="", client_id=caller.principal, scopes=[], subject=caller.project)
    return AuthenticatedUser(token)


def base_url(scope: Scope) -> str:
    """Where the client reached this server, by its own word; the guard has seen that it is a plain name."""
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{Headers(scope=scope)['host']}"


def caller_in(scope: Scope) -> Caller:
    """The caller that was found for this request. Raises `unauthenticated` when nobody looked."""
    caller = scope.get(_CALLER)
    if not isinstance(caller, Caller):
        raise OmiumError("unauthenticated", "nobody is known to have made this request.")
    return caller


def caller_of(connection: HTTPConnection) -> Caller:
    return caller_in(connection.scope)


def again_of(connection: HTTPConnection) -> Again:
    again = connection.scope[_AGAIN]
    assert isinstance(again, Again)
    return again


def identify(ctx: Context[Any, Any]) -> Caller:
    """The caller of an MCP request: that of the HTTP request which carried it, whatever session it belongs to."""
    return caller_in(getattr(ctx.request_context.request, "scope", {}))
