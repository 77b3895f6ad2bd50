"""JWTs (RFC 7519) of an issuer that the operator trusts, verified with the keys that it publishes (JWKS, RFC 7517).

Only signatures by a private key count: with a shared secret, or none, whoever can check a token could make one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports import Clock
from omium.orchestration.service.views import Caller, Role
from omium.server.identity.authority import REALM, bearer, known_role, unauthenticated
from omium.server.identity.fetching import Fetch
from omium.server.identity.tokens import default_sees

if TYPE_CHECKING:
    from jwt import PyJWK

_log = logging.getLogger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")
_REFRESH_S: Final = 60.0  # between two attempts to fetch keys, however many unknown ones are named
_FRESH_S: Final = 3_600.0
_STALE_S: Final = 86_400.0  # so long keys are good while their issuer cannot be reached
_MOST_KEYS: Final = 100
_LONGEST_SUB: Final = 255


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """issuer: the exact value of `iss`; jwks: where its keys are, found by OpenID discovery when None. name: stands in
    principals, a hash of the issuer unless given. role_claim: the claim with the role, or the path to it; roles: from
    its values to roles, unless they are the roles' own names. leeway_s: between the clocks."""

    issuer: str
    audience: str
    jwks: str | None = None
    name: str | None = None
    algorithms: Sequence[str] = ALGORITHMS
    role_claim: Sequence[str] = ("omium_role",)
    roles: Mapping[str, Role] = field(default_factory=dict)
    leeway_s: float = 30.0

    @property
    def short(self) -> str:
        return self.name or hashlib.sha256(self.issuer.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """open_loopback: whether a bind to loopback asks for no credential; issuers: whose JWTs are trusted, and whether
    their keys may come from this machine."""

    open_loopback: bool = True
    issuers: Sequence[tuple[IssuerSettings, bool]] = ()


class Keys(Protocol):
    """The public keys of an issuer."""

    async def candidates(self, kid: str | None) -> Sequence[Mapping[str, Any]]:
        """The key of this id; all of them for None. None at all when there is no such key, or it cannot be known."""


class PublishedKeys:
    """The keys at an address, remembered for an hour, and looked for again when one is named that is not among them: at
    most once a minute, so that nobody can have the issuer flooded from here."""

    def __init__(self, settings: IssuerSettings, fetch: Fetch, clock: Clock) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._keys: list[Mapping[str, Any]] = []
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = anyio.Lock()

    async def candidates(self, kid: str | None) -> Sequence[Mapping[str, Any]]:
        if self._age() >= _FRESH_S or not self._named(kid):
            async with self._lock:
                if (self._age() >= _FRESH_S or not self._named(kid)) and self._may_try():
                    await self._look()
        return self._named(kid) if self._age() < _STALE_S else ()

    def _named(self, kid: str | None) -> list[Mapping[str, Any]]:
        return [key for key in self._keys if kid is None or key.get("kid") == kid]

    def _age(self) -> float:
        return self._clock.monotonic() - self._fetched_at

    def _may_try(self) -> bool:
        return self._clock.monotonic() - self._tried_at >= _REFRESH_S

    async def _look(self) -> None:
        self._tried_at = self._clock.monotonic()
        try:
            document = await self._fetch.json(self._settings.jwks or await self._discovered())
        except OmiumError as error:
            _log.warning("the keys of %s cannot be fetched: %s", self._settings.short, error)
            return
        listed = document.get("keys")
        self._keys = [key for key in listed if _may_verify(key)][:_MOST_KEYS] if isinstance(listed, list) else []
        self._fetched_at = self._clock.monotonic()

    async def _discovered(self) -> str:
        """Where the issuer says that its keys are (OpenID Connect Discovery 1.0, section 4)."""
        issuer = self._settings.issuer
        said = await self._fetch.json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != issuer or not isinstance(said.get("jwks_uri"), str):
            raise OmiumError("unsupported", f"the metadata of {issuer} is of another issuer, or names no keys.")
        return str(said["jwks_uri"])


def _may_verify(key: Any) -> bool:
    """Whether it is a public key for signatures. A shared secret is none, nor is a private key that somebody published
    by mistake."""
    return (
        isinstance(key, dict)
        and key.get("kty") in ("RSA", "EC", "OKP")
        and "d" not in key
        and key.get("use", "sig") == "sig"
        and "verify" in key.get("key_ops", ["verify"])
    )


class JwtIssuer:
    """The authority over the tokens of one issuer. A caller's principal is `jwt:<name>:<sub>`."""

    def __init__(self, settings: IssuerSettings, project: ProjectId, keys: Keys, clock: Clock) -> None:
        weak = [name for name in settings.algorithms if name not in ALGORITHMS]
        if weak or not settings.algorithms:
            named = weak[0] if weak else ""
            raise OmiumError("invalid_argument", f"{named!r} is no algorithm to trust.", f"{', '.join(ALGORITHMS)}.")
        self._settings = settings
        self._project = project
        self._keys = keys
        self._clock = clock

    async def caller_of(self, authorization: str | None) -> Caller:
        token = bearer(authorization)
        if not _FORM.fullmatch(token):
            raise unauthenticated("foreign", "this is no signed token.")
        header, said = _part(token, 0), _part(token, 1)
        if said.get("iss") != self._settings.issuer:
            raise unauthenticated("foreign", "no issuer that is trusted here has made this token.")
        claims = await self._verified(token, header)
        self._check_times(claims)
        audience = claims.get("aud")
        if self._settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise self._bad("audience", "this token is for somebody else")
        return Caller(
            self._principal(claims),
            self._project,
            role := self._role(claims),
            sees=default_sees(role),
            authenticated=True,
        )

    def _bad(self, reason: str, message: str) -> OmiumError:
        return unauthenticated(reason, f"{message}.", issuer=self._settings.short)

    async def _verified(self, token: str, header: Mapping[str, Any]) -> Mapping[str, Any]:
        """The claims, once the signature holds."""
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if algorithm not in self._settings.algorithms:
            raise self._bad("algorithm", f"this token is signed by {str(algorithm)[:20]!r}, which is not trusted")
        if "crit" in header or (isinstance(kind, str) and kind.lower() not in _TYPES):
            raise self._bad("malformed", "this token is of a kind that is not understood")
        if kid is not None and not isinstance(kid, str):
            raise self._bad("malformed", "the id of this token's key is no text")
        found = await self._keys.candidates(kid)
        if len(found) != 1:
            what = "is not known" if kid is not None else "is not named"
            raise self._bad("key", f"the key that this token is signed with {what}")
        from jwt import PyJWK, PyJWS
        from jwt.exceptions import PyJWTError

        try:
            if found[0].get("alg", algorithm) != algorithm:
                raise self._bad("algorithm", "this token's key is for another algorithm")
            key: PyJWK = PyJWK.from_dict(dict(found[0]), algorithm)
            options: Any = {"enforce_minimum_key_length": True}
            whole = PyJWS().decode_complete(token, key, [str(algorithm)], options)
        except (PyJWTError, ValueError, TypeError) as error:
            raise self._bad("signature", "the signature of this token does not hold") from error
        claims = orjson.loads(whole["payload"])
        if not isinstance(claims, dict) or claims.get("iss") != self._settings.issuer:
            raise self._bad("malformed", "this token says nothing")
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, leeway = self._clock.now_us() / 1e6, self._settings.leeway_s
        expires = _seconds(claims.get("exp"))
        if expires is None:
            raise self._bad("malformed", "this token does not say when it expires")
        if now >= expires + leeway:
            raise self._bad("expired", "this token is expired")
        for name in ("nbf", "iat"):
            since = _seconds(claims.get(name, 0))
            if since is None:
                raise self._bad("malformed", f"{name} of this token is no time")
            if now < since - leeway:
                raise self._bad("early", "this token is not valid yet")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 1 <= len(subject) <= _LONGEST_SUB or not subject.isprintable():
            raise self._bad("malformed", "this token does not say whose it is")
        return Principal(f"jwt:{self._settings.short}:{subject}")

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The role that the claims name: an admin whatever else they are, a viewer only if nothing else. Raises
        `forbidden` for none, and for an operator who is also an approver: with one credential nobody is both."""
        found: Any = claims
        for step in self._settings.role_claim:
            found = found.get(step) if isinstance(found, dict) else None
        named = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]
        held = {role for one in named if (role := self._meant(one)) is not None}
        if "admin" in held:
            return "admin"
        held -= {"viewer"} if len(held) > 1 else set()
        if len(held) == 1:
            return held.pop()
        where = ".".join(self._settings.role_claim)
        what = "more than one role" if held else "no role"
        raise OmiumError(
            "forbidden",
            f"the claim {where!r} of this token names {what} of Omium.",
            "The issuer has to name one of: viewer, operator, approver, admin.",
            reason="role",
            issuer=self._settings.short,
            challenge=f'{REALM}, error="insufficient_scope"',
        )

    def _meant(self, value: str) -> Role | None:
        return self._settings.roles.get(value) if self._settings.roles else known_role(value)


def _part(token: str, index: int) -> Mapping[str, Any]:
    """A part of a token that nobody has verified."""
    from base64 import urlsafe_b64decode

    text = token.split(".")[index]
    try:
        found = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:  # of either
        found = None
    if not isinstance(found, dict):
        raise unauthenticated("malformed", "this token cannot be read.")
    return found


def _seconds(value: Any) -> float | None:
    """A NumericDate (RFC 7519, section 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
