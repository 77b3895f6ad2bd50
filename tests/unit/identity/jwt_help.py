"""An issuer of JWTs for tests: its keys, tokens, and what it publishes."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anyio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import SystemClock
from omium.server.identity.fetching import Fetch

ISSUER = "https://login.example.com/"
NOW = 1_800_000_000


class Clock(SystemClock):
    """A clock that the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def monotonic(self) -> float:
        return self.now


@cache
def rsa_key(name: str = "one", bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def published(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The public half, as a JWKS lists it."""
    public = key.public_key()
    kind = {rsa.RSAPublicKey: RSAAlgorithm, ec.EllipticCurvePublicKey: ECAlgorithm}
    algorithm = next((one for of, one in kind.items() if isinstance(public, of)), OKPAlgorithm)
    return {**json.loads(algorithm.to_jwk(public)), "kid": kid, "use": "sig", **more}


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token, but for what is changed; None takes one out."""
    told = {
        "iss": ISSUER,
        "aud": "omium",
        "sub": "ada",
        "iat": NOW,
        "exp": NOW + 300,
        "omium_role": "operator",
        **changed,
    }
    return {name: value for name, value in told.items() if value is not None}


def signed(key: Any, algorithm: str = "RS256", kid: str | None = "one", headers: Any = None, **changed: Any) -> str:
    """The value of an Authorization header."""
    more = {**({"kid": kid} if kid is not None else {}), **(headers or {})}
    return "Bearer " + jwt.encode(claims(**changed), key, algorithm=algorithm, headers=more)


def part(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(header: Mapping[str, Any], said: Any, signature: str = "AAAA") -> str:
    """A token whose parts are put together by hand."""
    return f"Bearer {part(dict(header))}.{part(said)}.{signature}"


@dataclass
class Known:
    """Keys that are simply there. `asked`: the ids that were asked for."""

    keys: Sequence[Mapping[str, Any]]
    asked: list[str | None] = field(default_factory=list)

    async def candidates(self, kid: str | None) -> Sequence[Mapping[str, Any]]:
        self.asked.append(kid)
        return [key for key in self.keys if kid is None or key["kid"] == kid]


class Pages(Fetch):
    """What stands at which address; `asked` in order. A page that is an error is raised."""

    def __init__(self, pages: Mapping[str, Any]) -> None:
        super().__init__()
        self.pages = dict(pages)
        self.asked: list[str] = []

    async def json(self, url: str) -> dict[str, Any]:
        self.asked.append(url)
        await anyio.lowlevel.checkpoint()
        self._checked(url)
        page = self.pages.get(url, OmiumError("unsupported", "404"))
        if isinstance(page, OmiumError):
            raise page
        assert isinstance(page, dict)
        return page
