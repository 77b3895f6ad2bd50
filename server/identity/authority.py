"""Who makes a request: from the value of its Authorization header to a caller.

The header ends here: a caller carries no credential, so none can be logged, stored or sent on to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports import Clock, Store
from omium.orchestration.service.refusals import RefusalLog
from omium.orchestration.service.roles import ROLES
from omium.orchestration.service.views import Caller, Role

REALM: Final = 'Bearer realm="omium"'
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*) *")  # RFC 6750, section 2.1
_LONGEST: Final = 16_384  # characters of a header
_NOT_MINE: Final = ("missing", "foreign")

ACCESS_DENIED: Final = "access.denied"


class Authority(Protocol):
    """Says who asks."""

    async def caller_of(self, authorization: str | None) -> Caller:
        """authorization: the value of the header, None when the request has none.

        Raises `unauthenticated`, with `data["challenge"]` for WWW-Authenticate and `data["reason"]`: `missing`,
        `foreign` (a credential of a kind, or of an issuer, that is not this authority's), `malformed`, `unknown`,
        `expired` and others; and `forbidden` for a credential that is good and carries no role."""


def unauthenticated(reason: str, message: str, hint: str = "", **data: Any) -> OmiumError:
    """The refusal of a credential. `data` names it (a token's id, an issuer), never its content."""
    challenge = REALM if reason == "missing" else f'{REALM}, error="invalid_token"'
    return OmiumError("unauthenticated", message, hint, reason=reason, challenge=challenge, **data)


def bearer(authorization: str | None) -> str:
    """The credential of a header. Raises `unauthenticated`."""
    if authorization is None:
        raise unauthenticated("missing", "this server wants to know who asks.", "Send Authorization: Bearer <token>.")
    found = _BEARER.fullmatch(authorization) if len(authorization) <= _LONGEST else None
    if found is None:
        raise unauthenticated("malformed", "the Authorization header holds no bearer token.", "Bearer <token>")
    return found[1]


def known_role(name: str) -> Role | None:
    """The role of this name, if there is one."""
    return next((role for role in ROLES if role == name), None)


class OpenLoopback:
    """No authentication: whoever reaches the loopback interface is the given user of this machine. Never for another
    bind. A credential that somebody shows is not ignored but refused, since it would be taken for more than it is."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def caller_of(self, authorization: str | None) -> Caller:
        if authorization is not None:
            raise unauthenticated("foreign", "this server takes no such credential.", "Send none, or a good one.")
        return self._caller


class AnyOf:
    """Several authorities, of which the first counts whose kind of credential it is."""

    def __init__(self, authorities: Sequence[Authority]) -> None:
        if not authorities:
            raise ValueError("nobody could say who asks")
        self._authorities = tuple(authorities)

    async def caller_of(self, authorization: str | None) -> Caller:
        refusals: list[OmiumError] = []
        for authority in self._authorities:
            try:
                return await authority.caller_of(authorization)
            except OmiumError as error:
                if error.code != "unauthenticated" or error.data.get("reason") not in _NOT_MINE:
                    raise
                refusals.append(error)
        raise refusals[0]


class Audited:
    """An authority whose refusals are in the project's log. The same refusal is written once a minute at most, with how
    often it came meanwhile, so that nobody fills the log by being refused. A request without any credential is none."""

    def __init__(self, authority: Authority, store: Store, project: ProjectId, clock: Clock) -> None:
        self._authority = authority
        self._project = project
        self._refusals = RefusalLog(store, clock)

    async def caller_of(self, authorization: str | None) -> Caller:
        try:
            return await self._authority.caller_of(authorization)
        except OmiumError as error:
            if error.code in ("unauthenticated", "forbidden") and error.data.get("reason") != "missing":
                await self._note(error)
            raise

    async def _note(self, error: OmiumError) -> None:
        told = {key: error.data[key] for key in ("reason", "token", "issuer", "role") if error.data.get(key)}
        await self._refusals.record(self._project, ACCESS_DENIED, Principal("server"), {"code": error.code, **told})
