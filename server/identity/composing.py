"""From the configuration to the authority and the limits of a server."""

from __future__ import annotations

import ipaddress

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock, Store
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.config import Config
from omium.server.identity.authority import AnyOf, Audited, Authority, OpenLoopback
from omium.server.identity.fetching import Fetch
from omium.server.identity.issuers import JwtIssuer, PublishedKeys
from omium.server.identity.limits import RateLimits
from omium.server.identity.tokens import Tokens


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to `host`: a loopback address, or `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def authority_for(config: Config, core: Core, host: str, local: Caller) -> Authority:
    """Who asks, for a server bound to `host`: tokens and JWTs always; on loopback, unless the configuration says
    otherwise, `local` for requests without a credential.

    Raises `forbidden` where nobody could authenticate: nothing would protect such a server but its being useless."""
    clock, store, project = core.clock, core.store, config.project.id
    authorities: list[Authority] = [Tokens(store, project, clock)]
    for settings, from_here in config.auth.issuers:
        keys = PublishedKeys(settings, Fetch(allow_loopback=from_here), clock)
        authorities.append(JwtIssuer(settings, project, keys, clock))
    if config.auth.open_loopback and is_loopback(host):
        authorities.append(OpenLoopback(local))
    elif not config.auth.issuers and not await _has_tokens(store, config, clock):
        raise OmiumError(
            "forbidden",
            f"a server on {host} needs authentication, and nobody has a credential for this project.",
            "Make one: omium token create --role operator. Or configure server.auth.jwt, or bind to 127.0.0.1.",
            host=host,
        )
    return Audited(AnyOf(authorities), store, project, clock)


async def _has_tokens(store: Store, config: Config, clock: Clock) -> bool:
    now = clock.now_us()
    return any(
        row.revoked_at is None and (row.expires_at is None or row.expires_at > now)
        for row in await store.tokens(config.project.id)
    )


def rate_limits_for(config: Config, clock: Clock) -> RateLimits:
    return RateLimits(config.limits.requests, clock.monotonic)
