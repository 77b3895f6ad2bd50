"""One server's connection, supervised: made on first use, made again after it broke, closed at the end.

The session lives in one task from its first to its last moment (`Connection.serve`); whoever calls only waits for that
task to have it ready, and sends requests over it. A server that dies takes with it the calls that were under way, and
nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import mcp_types as types
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from omium.clients.external.definitions import Definition, definition_of, without_doubles
from omium.clients.external.link import BROKEN, NOT_SENT, REFUSED, TOO_LARGE, Link
from omium.clients.external.spec import ServerSpec
from omium.orchestration.errors import OmiumError

_log = logging.getLogger(__name__)

_CLIENT: Final = types.Implementation(name="omium", version="1")
_PAGES: Final = 100
_TOOLS: Final = 1_000
_ROUNDS: Final = 10
_ROUND_PAUSE_S: Final = 0.25
_BACKOFF_MAX_S: Final = 60.0
_STOOD_S: Final = 10.0
_TOLD: Final = 2_000
_PLACE: Final = 120
_ANSWER: Final[TypeAdapter[types.CallToolResult | types.InputRequiredResult]] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

Opened = Callable[[], Link]


class Session:
    """A connection that stands. `definitions`: its tools, as they were last listed."""

    def __init__(self, spec: ServerSpec, client: Client, link: Link, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._client = client
        self._clock = clock
        self._listing = anyio.Lock()
        self._listed_at = -math.inf
        self._definitions: dict[str, Definition] = {}
        self._busy = anyio.CapacityLimiter(spec.concurrent)
        self.link = link
        self.over = anyio.Event()

    @property
    def protocol(self) -> str:
        return self._client.protocol_version

    @property
    def idle(self) -> bool:
        return self._busy.borrowed_tokens == 0

    @property
    def listed(self) -> Mapping[str, Definition]:
        """What was last listed."""
        return self._definitions

    @property
    def is_stale(self) -> bool:
        """Whether the tools are listed anew before they are next used."""
        return self._clock() - self._listed_at > self._spec.refresh_s

    def stale(self) -> None:
        """What was listed may have changed."""
        self._listed_at = -math.inf

    async def definitions(self) -> Mapping[str, Definition]:
        """The server's tools by name; the same object as long as nothing has changed. Lists them anew when the server
        has said that they changed, or it is long ago. Raises `tool_failed` with `sent` False."""
        if not self.is_stale:
            return self._definitions
        async with self._listing:
            began = self._clock()
            if began - self._listed_at > self._spec.refresh_s:
                self._listed_at = began  # a change that is told of while we list makes it stale again
                try:
                    with anyio.fail_after(self._spec.connect_s):
                        found = await self._list()
                except (MCPError, ValidationError) as error:
                    self.stale()
                    raise self.failure(error, sent=False) from error
                except TimeoutError:
                    self.stale()
                    raise self.error("it does not list its tools", reason="unavailable", sent=False) from None
                except BaseException:
                    self.stale()
                    raise
                if found != self._definitions:  # whoever has the same object knows that nothing has changed
                    self._definitions = found
        return self._definitions

    async def _list(self) -> dict[str, Definition]:
        listed: list[Definition] = []
        cursor: str | None = None
        seen: set[str] = set()
        for _ in range(_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            for tool in page.tools:
                listed.append(
                    definition_of(self._spec.name, tool.model_dump(by_alias=True, mode="json", exclude_unset=True))
                )
            cursor = page.next_cursor
            if not cursor or cursor in seen or len(listed) > _TOOLS:
                break
            seen.add(cursor)
        if cursor or len(listed) > _TOOLS:
            raise self.error(
                f"its list of tools does not end: {len(listed)} tools so far", reason="endless_list", sent=False
            )
        return {one.tool: one for one in without_doubles(listed)}

    async def call(
        self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, Any], timeout_s: float
    ) -> types.CallToolResult:
        """One call. Raises OmiumError: `timeout`, or `tool_failed` with `data["reason"]`, and `data["sent"]`, which is
        False when the server surely has not got it. With `data["unclear"]` nobody knows whether the call was made."""
        sent = False
        state: str | None = None
        try:
            with anyio.fail_after(timeout_s):
                async with self._busy:
                    for _ in range(_ROUNDS):
                        sent = True
                        answer = await self._ask(tool, arguments, meta, state)
                        if isinstance(answer, types.CallToolResult):
                            return answer
                        if answer.input_requests:
                            raise self._refused(answer.input_requests)
                        state = answer.request_state
                        await anyio.sleep(_ROUND_PAUSE_S)  # it asks for nothing but to be asked again
        except TimeoutError:
            raise OmiumError(
                "timeout",
                f"the tool {self._spec.name}/{tool} has not answered within {round(timeout_s, 2):g} s.",
                sent=sent,
                unclear=sent,
                server=self._spec.name,
                tool=tool,
            ) from None
        except (MCPError, ValidationError) as error:
            raise self.failure(error, sent=sent) from error
        raise self.error("it has put off its answer too often", reason="input_required", sent=True)

    async def _ask(
        self, tool: str, arguments: Mapping[str, Any], meta: Mapping[str, Any], state: str | None
    ) -> types.CallToolResult | types.InputRequiredResult:
        # Not `call_tool`: that checks results with the server's own output schema, whose patterns may backtrack.
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(
                name=tool,
                arguments=dict(arguments),
                request_state=state,
                _meta=dict(meta),  # type: ignore[arg-type]  # a typed dict that is open
            )
        )
        return await self._client.session.send_request(request, _ANSWER)

    def _refused(self, requests: Mapping[str, types.InputRequest]) -> OmiumError:
        asked = sorted({one.method for one in requests.values()})
        return self.error(
            f"in the middle of the call it asks for {', '.join(asked)}, which is refused",
            "Servers may not ask the model or the user through Omium.",
            reason="input_required",
            sent=True,
        )

    def failure(self, error: Exception, *, sent: bool) -> OmiumError:
        """What a protocol failure means to whoever called."""
        if isinstance(error, ValidationError):
            wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = self.link.shown(".".join(map(str, wrong["loc"])))[:_PLACE]
            told = f"its answer does not have the form of the protocol (wrong at {where or 'its top'})"
            return self.error(told, reason="protocol", sent=sent, unclear=sent)
        assert isinstance(error, MCPError)
        code, message = error.error.code, self.link.shown(error.error.message)[:_TOLD]
        if code == types.CONNECTION_CLOSED:
            self.over.set()
            trouble = self.link.trouble()
            return self.error(
                f"the connection ended{f': {trouble}' if trouble else ''}",
                reason="disconnected",
                sent=sent,
                unclear=sent,
            )
        if "Session terminated" in message and code == types.INVALID_REQUEST:  # of the SDK, for a session's HTTP 404
            self.over.set()
            return self.error("it has forgotten the session", reason="disconnected", sent=False)
        reasons = {NOT_SENT: "not_sent", BROKEN: "disconnected", REFUSED: "refused", TOO_LARGE: "too_large"}
        reached = sent and code not in (NOT_SENT, REFUSED)
        unclear = reached and code in (BROKEN, TOO_LARGE)  # of the transport; everything else is the server's answer
        told = message.rstrip(".") if code in reasons else f"it answers: {message}"
        return self.error(told, reason=reasons.get(code, "protocol"), sent=reached, unclear=unclear, rpc=code)

    def error(self, what: str, hint: str = "", **data: Any) -> OmiumError:
        return OmiumError(
            "tool_failed", f"the server {self._spec.name!r}: {what}.", hint, server=self._spec.name, **data
        )


class _Turn:
    """One try to connect: who waits for it, and what came of it."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.session: Session | None = None
        self.error: OmiumError | None = None


class Connection:
    """The connection to one server. `opened` makes a new transport; `clock` gives monotonic seconds."""

    def __init__(self, spec: ServerSpec, opened: Opened, clock: Callable[[], float]) -> None:
        self.spec = spec
        self._opened = opened
        self._clock = clock
        self._turn = _Turn()
        self._wanted = anyio.Event()
        self._failures = 0
        self._closed = False

    @property
    def standing(self) -> Session | None:
        """The session, if it stands and nothing has to be listed first."""
        session = self._turn.session
        usable = session is not None and not (session.over.is_set() or session.is_stale or session.link.worn())
        return session if usable else None

    async def session(self) -> Session:
        """The session, made first if there is none. Raises `tool_failed` (`sent` False) when it cannot be made."""
        if self._closed:
            raise self._unavailable("this process is leaving")
        turn = self._turn
        session = turn.session
        if session is not None and (session.over.is_set() or (session.idle and session.link.worn())):
            session.over.set()
            turn = self._turn = _Turn()
        self._wanted.set()
        if not turn.settled.is_set():
            with anyio.move_on_after(self.spec.connect_s + self._pause_s()):
                await turn.settled.wait()
        if turn.session is not None:
            return turn.session
        raise turn.error or self._unavailable(f"no connection within {self.spec.connect_s:g} s")

    async def serve(self) -> None:
        """Own the session, one after the other, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted = anyio.Event()
                turn = self._turn
                if turn.settled.is_set():
                    continue
                if self._failures:
                    await anyio.sleep(self._pause_s())
                await self._live(turn)
        finally:
            self._closed = True
            self._settle(self._turn, self._unavailable("this process is leaving"))

    def _pause_s(self) -> float:
        if not self._failures:
            return 0.0
        return float(min(self.spec.backoff_s * 2 ** min(self._failures - 1, 20), _BACKOFF_MAX_S))

    async def _live(self, turn: _Turn) -> None:
        """One session from beginning to end. What goes wrong is told to those who wait, and never raised."""
        error: OmiumError | None = None
        link: Link | None = None
        began = self._clock()
        try:
            link = self._opened()
            with anyio.CancelScope(deadline=anyio.current_time() + self.spec.connect_s) as scope:
                await self._session(link, turn, scope)
            if scope.cancelled_caught:
                told = link.trouble()
                error = self._unavailable(
                    f"no connection within {self.spec.connect_s:g} s{f' ({told})' if told else ''}"
                )
        except OmiumError as raised:
            error = raised
        except Exception as raised:  # boundary: transports raise whatever their libraries do, in groups
            error = _anticipated(raised) or self._unavailable(self._told(raised, link))
            _log.warning("the external server %s: %s", self.spec.name, error.message)
        if turn.session is None:
            self._failures += 1
            error = error or self._unavailable("the connection ended before it stood")
        else:
            turn.session.over.set()
            # One that broke at once is little better than one that never stood.
            self._failures = 0 if self._clock() - began > _STOOD_S else self._failures + 1
        if self._turn is turn:
            self._turn = _Turn()
        self._settle(turn, error)

    async def _session(self, link: Link, turn: _Turn, scope: anyio.CancelScope) -> None:
        heard: Callable[[], None] | None = None

        async def hear(message: Any) -> None:
            if isinstance(message, types.ToolListChangedNotification) and heard is not None:
                heard()

        client = Client(
            link.streams(),
            mode="legacy" if self.spec.era == "legacy" or self.spec.transport == "sse" else "auto",
            cache=None,
            client_info=_CLIENT,
            message_handler=hear,
        )
        async with client:
            session = Session(self.spec, client, link, self._clock)
            heard = session.stale
            await session.definitions()  # before any call: it may be another server than the last time
            scope.deadline = math.inf
            turn.session = session
            self._settle(turn, None)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, client, session)
                tasks.start_soon(_until_over, link, session)
                await session.over.wait()
                tasks.cancel_scope.cancel()

    async def _listen(self, client: Client, session: Session) -> None:
        """Hear of changes from a server of the present protocol; older ones send notifications anyway."""
        told = client.server_capabilities.tools
        if session.protocol not in MODERN_PROTOCOL_VERSIONS or told is None or not told.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as subscription:
                session.stale()  # what changed before the subscription stood
                async for _ in subscription:
                    session.stale()
        except (MCPError, RuntimeError) as error:  # it is listed again every so often all the same
            _log.info("the external server %s tells of no changes: %s", self.spec.name, session.link.shown(str(error)))

    def _settle(self, turn: _Turn, error: OmiumError | None) -> None:
        turn.error = error
        turn.settled.set()

    def _told(self, error: BaseException, link: Link | None) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        trouble = link.trouble() if link is not None else ""
        text = str(error) if not isinstance(error, MCPError) else error.error.message
        shown = link.shown(text) if link is not None else type(error).__name__
        return f"{shown[:_TOLD]}{f' ({trouble})' if trouble and trouble not in shown else ''}" or type(error).__name__

    def _unavailable(self, what: str) -> OmiumError:
        return OmiumError(
            "tool_failed",
            f"the server {self.spec.name!r} cannot be reached: {what}.",
            f"Try it: omium mcp test {self.spec.name}",
            server=self.spec.name,
            reason="unavailable",
            sent=False,
        )


async def _until_over(link: Link, session: Session) -> None:
    await link.ended()
    session.over.set()


def _anticipated(error: BaseException) -> OmiumError | None:
    """The OmiumError within a group, if there is one."""
    if isinstance(error, OmiumError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _anticipated(one)) is not None), None)
    return None
