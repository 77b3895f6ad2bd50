"""The external tools of a project: offered as they are pinned, called under policy, approvals, budget and ledger."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import anyio
import mcp_types as types

from omium.clients.external.connection import Session
from omium.clients.external.definitions import Definition, checkable, depth_of, display, flat_name
from omium.clients.external.pins import PinBook, findings, refusal
from omium.clients.external.pool import ServerPool, is_transport_failure
from omium.clients.external.results import value_of
from omium.clients.external.scan import harmless
from omium.clients.external.spec import ServerSpec
from omium.orchestration.definition.json_schema import checker_of
from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.definition.problems import Problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import IDEMPOTENT, READ_ONLY, Allowed, Call, ToolDef
from omium.orchestration.ports_gates import PinRow
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

IDEMPOTENCY_META: Final = "omium.dev/idempotencyKey"
_NEVER_AGAIN: Final = frozenset({"is_error", "too_large", "input_required", "protocol", "endless_list"})
_PREVIEW: Final = 600

CouldAllow = Callable[[Attempt, str, str], Awaitable[bool]]


class ExternalTools:
    """See `ports_calls.Tools`.

    could_allow: whether the policy of an attempt's run could ever allow a tool; without it all are offered, and the
    gate decides about each call. skipped: servers that were declared and cannot be used, with the reason.
    """

    def __init__(
        self,
        pool: ServerPool,
        book: PinBook,
        *,
        skipped: Mapping[str, str] | None = None,
        could_allow: CouldAllow | None = None,
    ) -> None:
        self._pool = pool
        self._book = book
        self._skipped = dict(skipped or {})
        self._could_allow = could_allow
        self._met: dict[str, Mapping[str, Definition]] = {}
        self._meeting = anyio.Lock()
        self._checks: dict[str, Callable[[Any, str], list[Problem]]] = {}  # of arguments, by pin
        self._previews: dict[str, tuple[PinRow, str]] = {}  # by name: what a row says, while it is the present one

    # --- what there is --------------------------------------------------------------------------------------------

    def digest(self, name: str) -> str:
        """The pin of a tool, as part of a node's key; of one that was never seen, only its name. Raises
        `not_registered` for a server that is not declared."""
        self._spec(name.partition("/")[0])
        row = self._book.known(name)
        return f"{row.digest}:{row.status}" if row is not None else f"unpinned:{name}"

    def pins(self, patterns: Sequence[str]) -> dict[str, str]:
        """The pins, as this process knows them, of the tools that match: what a change of makes another node of one
        that may call them."""
        rows = self._book.rows()
        return {name: rows[name].digest for name in sorted(rows) if any(fnmatchcase(name, one) for one in patterns)}

    async def offered(self, patterns: Sequence[str], attempt: Attempt) -> list[ToolDef]:
        found: dict[str, ToolDef] = {}
        for server in self._pool.specs:
            if not any(fnmatchcase(server, pattern.partition("/")[0]) for pattern in patterns):
                continue
            try:
                await self._definitions(server)
            except OmiumError as error:
                _log.warning("tools of %s are not offered: %s", server, error.message)
                continue
            for name, row in (await self._book.read()).items():
                wanted = row.server == server and any(fnmatchcase(name, pattern) for pattern in patterns)
                present = row.tool in self._met.get(server, ())
                if wanted and present and row.status == "pinned" and await self._may_be_offered(attempt, row):
                    found[name] = as_tool(row)
        return _without_collisions(found)

    async def _may_be_offered(self, attempt: Attempt, row: PinRow) -> bool:
        return self._could_allow is None or await self._could_allow(attempt, row.server, row.tool)

    @property
    def book(self) -> PinBook:
        return self._book

    async def session(self, server: str) -> Session:
        """The connection to a server, without holding what it offers against the pins. Raises what `call` raises when
        it cannot be reached."""
        return await self._pool.connection(self._spec(server).name).session()

    async def discover(
        self, server: str, by: Principal | None = None, *, pin: bool = False
    ) -> tuple[Session, list[PinRow]]:
        """Connect to a server and hold what it offers against its pins. pin: see `PinBook.meet`. Raises what `call`
        raises when a server cannot be reached."""
        session = await self.session(server)
        offered = await session.definitions()
        async with self._meeting:
            written = await self._book.meet(self._spec(server), offered, *([by] if by else []), pin=pin)
            self._met[server] = offered
        return session, written

    async def _definitions(self, server: str) -> tuple[Session, Mapping[str, Definition]]:
        """The session and what it offers, with every change of that on record."""
        standing = self._standing(server)
        if standing is not None:
            return standing, standing.listed
        session = await self._pool.connection(server).session()
        offered = await session.definitions()
        if self._met.get(server) is not offered:
            async with self._meeting:
                if self._met.get(server) is not offered:
                    await self._book.meet(self._pool.specs[server], offered)
                    self._met[server] = offered
        return session, offered

    def _standing(self, server: str) -> Session | None:
        """The session, if nothing has to be waited for: it stands, and what it lists is on record."""
        session = self._pool.connection(server).standing
        return session if session is not None and self._met.get(server) is session.listed else None

    # --- calls ----------------------------------------------------------------------------------------------------

    async def call(
        self, name: str, arguments: Mapping[str, Any], attempt: Attempt, *, key: str, agent: str | None = None
    ) -> Value:
        server, _, tool = name.partition("/")
        spec = self._spec(server)
        row = await self._pinned(name)
        self._check_arguments(name, row, dict(arguments))
        definition: Mapping[str, Any] = row.document["definition"]
        call = Call(
            key=key,
            action="tool",
            tool=tool,
            arguments=dict(arguments),
            server=server,
            pin=row.digest,
            preview=self._preview(name, row),
            agent=agent,
            usd=spec.price(tool) or 0.0,
            hints=dict(definition.get("annotations") or {}),
        )

        async def action(allowed: Allowed) -> Value:
            return await self._call(spec, tool, row, allowed, call.arguments)

        return await attempt.call(call, action, kind="tool")

    def _spec(self, server: str) -> ServerSpec:
        spec = self._pool.specs.get(server)
        if spec is None:
            why = self._skipped.get(server)
            raise OmiumError(
                "not_registered",
                f"the server {server!r} {f'is not used: {why}' if why else 'is not declared'}.",
                "Servers are declared under mcp_servers in omium.yaml.",
                sent=False,
            )
        return spec

    async def _pinned(self, name: str) -> PinRow:
        """The pin of a tool that may be called. Raises `denied` for one that is disabled, `not_registered` for none."""
        row = (await self._book.read()).get(name)
        if row is None or row.status != "pinned":  # it may just have been approved, or never have been looked at
            await self._definitions(name.partition("/")[0])
            row = (await self._book.read(now=True)).get(name)
        if row is None:
            raise OmiumError("not_registered", f"the server has no tool {name!r}.", sent=False)
        if row.status != "pinned":
            raise refusal(name, row)
        return row

    def _check_arguments(self, name: str, row: PinRow, arguments: Value) -> None:
        """Hold arguments against the tool's own schema. Raises `invalid_argument`."""
        if depth_of(arguments, MAX_DEPTH) > MAX_DEPTH:
            raise OmiumError(
                "invalid_argument", f"the arguments of {name} are nested deeper than {MAX_DEPTH}.", sent=False
            )
        if not isinstance(arguments, Mapping):
            raise OmiumError("invalid_argument", f"the arguments of {name} are no object.", sent=False)
        check = self._checks.get(row.digest)
        if check is None:
            check = self._checks[row.digest] = checker_of(checkable(row.document["definition"]["inputSchema"]))
        problems = check(arguments, "arguments")
        if problems:
            raise OmiumError(
                "invalid_argument",
                f"the arguments do not fit the tool {name}: {harmless('; '.join(map(str, problems[:5])), 1_000)}.",
                problems=[harmless(str(one), 300) for one in problems[:20]],
                tool=name,
                sent=False,
            )

    def _preview(self, name: str, row: PinRow) -> str:
        known = self._previews.get(name)
        if known is None or known[0] is not row:
            known = self._previews[name] = (row, _preview(name, row))
        return known[1]

    async def _call(self, spec: ServerSpec, tool: str, row: PinRow, allowed: Allowed, asked: Value) -> Value:
        """What the gate has allowed: exactly these arguments, within these limits."""
        if allowed.arguments is not asked:  # a person has changed them
            self._check_arguments(f"{spec.name}/{tool}", row, allowed.arguments)
        result = await self._answer(spec, tool, row, allowed)
        redactor = self._pool.redactor(spec.name).with_kinds(allowed.redact)
        return value_of(result, spec, tool, allowed.limits, redactor)

    async def _answer(self, spec: ServerSpec, tool: str, row: PinRow, allowed: Allowed) -> types.CallToolResult:
        """Send the call, again where that is safe: it did not go out, or the operator's policy (never the server's own
        hint) says that a repeat does no harm."""
        safe = bool(allowed.trusts & {READ_ONLY, IDEMPOTENT})
        timeout_s = spec.call_s if allowed.limits.timeout_s is None else allowed.limits.timeout_s
        deadline = time.monotonic() + timeout_s
        tried, pause = 0, spec.retries.initial_s
        while True:
            tried += 1
            try:
                return await self._once(spec, tool, row, allowed, deadline)
            except OmiumError as error:
                again = error.data.get("sent") is False or safe
                final = error.code not in ("tool_failed", "timeout") or error.data.get("reason") in _NEVER_AGAIN
                left = deadline - time.monotonic() - pause
                if final or not again or tried >= spec.retries.attempts or left <= 0:
                    raise
                _log.info("the call of %s/%s is made again: %s", spec.name, tool, error.message)
            await anyio.sleep(pause)
            pause = min(pause * 2, spec.retries.max_s)

    async def _once(
        self, spec: ServerSpec, tool: str, row: PinRow, allowed: Allowed, deadline: float
    ) -> types.CallToolResult:
        breaker = self._pool.breaker(spec.name)
        if (wait_s := breaker.left_s()) > 0:
            raise OmiumError(
                "tool_failed",
                f"the server {spec.name!r} has failed too often; it is left alone for {wait_s:.0f} s.",
                f"Try it: omium mcp test {spec.name}",
                server=spec.name,
                reason="breaker_open",
                retry_after_s=wait_s,
                sent=False,
            )
        try:
            session = await self._ready(spec, tool, row, deadline)
            meta = {IDEMPOTENCY_META: allowed.idempotency_key} if allowed.idempotency_key else {}
            assert isinstance(allowed.arguments, Mapping)  # checked
            left_s = max(deadline - time.monotonic(), 0.001)
            result = await session.call(tool, allowed.arguments, meta, left_s)
        except OmiumError as error:
            if is_transport_failure(error):
                breaker.failed()
            elif error.data.get("reason") in _NEVER_AGAIN:
                breaker.succeeded()  # it lives, and answers badly
            else:
                breaker.given_up()
            raise
        except BaseException:
            breaker.given_up()
            raise
        breaker.succeeded()
        return result

    async def _ready(self, spec: ServerSpec, tool: str, row: PinRow, deadline: float) -> Session:
        """The session, with the tool defined there as it was approved. Raises `denied` when it is not."""
        name = f"{spec.name}/{tool}"
        standing = self._standing(spec.name)
        if standing is not None:
            session, offered = standing, standing.listed
        else:
            try:
                with anyio.fail_after(deadline - time.monotonic()):
                    session, offered = await self._definitions(spec.name)
            except TimeoutError:
                raise OmiumError(
                    "timeout", f"the server {spec.name!r} was not ready in time.", server=spec.name, sent=False
                ) from None
        present = (await self._book.read()).get(name)
        definition = offered.get(tool)
        if definition is None:
            raise OmiumError("not_registered", f"the server offers the tool {name!r} no more.", sent=False)
        if present is not None and present.status != "pinned":
            raise refusal(name, present)
        # The pin that the gate decided about, not the present one: who approves a call approves what it then was.
        if definition.digest != row.digest or definition.problem:
            raise OmiumError(
                "denied",
                f"the tool {name} is not what it was when this call was allowed.",
                f"Look at it: omium mcp approve {name}",
                rule="pin",
                reason="changed",
                tool=name,
                sent=False,
            )
        return session


def as_tool(row: PinRow) -> ToolDef:
    """A pinned tool as agents see it: without hidden characters, and with nothing that was not pinned."""
    definition = display(row.document["definition"])
    return ToolDef(
        name=f"{row.server}/{row.tool}",
        description=str(definition.get("description", "")),
        input_schema=definition["inputSchema"],
        output_schema=definition.get("outputSchema"),
        pin=row.digest,
        title=definition.get("title"),
        hints=dict(definition.get("annotations") or {}),
    )


def _without_collisions(found: Mapping[str, ToolDef]) -> list[ToolDef]:
    """Tools whose names an agent could not tell apart are not offered at all."""
    by_flat: dict[str, list[ToolDef]] = {}
    for name, tool in found.items():
        by_flat.setdefault(flat_name(name).lower(), []).append(tool)
    kept = []
    for same in by_flat.values():
        if len(same) == 1:
            kept += same
        else:
            _log.warning("these tools have one name for an agent and are not offered: %s", [one.name for one in same])
    return kept


def _preview(name: str, row: PinRow) -> str:
    """What a person is shown beside the arguments."""
    definition = row.document["definition"]
    said = harmless(str(definition.get("description", "")), _PREVIEW)
    found = sorted({one["kind"] for one in findings(row)})
    warned = f"\nIts definition looks suspicious: {', '.join(found)}." if found else ""
    return f"{name}: {said}{warned}"
