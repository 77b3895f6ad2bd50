"""Who asks, what they may do, and how often. Every surface that has callers over a network builds on these:

    authority.py   `class Authority(Protocol): async def caller_of(self, authorization: str | None) -> Caller`
                   authorization: the value of the request's Authorization header, None when it has none (a request
                   with two is refused before). Gives who asks; raises `unauthenticated` (no credential, or one that is
                   not good: HTTP 401 with `WWW-Authenticate: ` + `data["challenge"]`) or `forbidden` (a good one that
                   carries no role: 403). `OpenLoopback(caller)`, no authentication, for loopback binds only;
                   `AnyOf(authorities)`; `Audited(authority, ...)`, whose refusals are in the project's log.
    tokens.py      `Tokens(store, project, clock)`: bearer tokens of `omium token create`; `create_token`,
                   `list_tokens`, `revoke_token`.
    issuers.py     `JwtIssuer(settings, project, keys, clock)`: JWTs of one issuer, verified with its JWKS.
    fetching.py    `Fetch(...)`: how those keys are fetched, and from where never.
    limits.py      `RateLimits(limits, monotonic)`: `admit(principal, kind) -> None` with kind `read`, `change` or
                   `start`, raises `rate_limited` with `data["retry_after_s"]` (HTTP 429; Retry-After, rounded up);
                   `async with limits.held(principal):` bounds the calls of one principal that are under way, with the
                   same error; `async with limits.call(principal, kind):` is both. `kind_of(verb, reads_only=...)` says
                   the kind of a tool or REST verb. `may_try(address)` before `caller_of`, and `refused(address)` after
                   it raised `unauthenticated` for a request that had a credential, bound the guessing of one address.
    composing.py   `async authority_for(config, core, host, local) -> Authority`: what `omium.yaml` and the environment
                   say, for a bind to `host`, with `local` as the caller on open loopback. Raises `forbidden` for a bind
                   that is not loopback while nobody could authenticate. `rate_limits_for(config, clock) -> RateLimits`.

The role is enforced by the core itself (`orchestration/service/roles.py`), the scope by its rows: a surface hands on
the caller that it got and decides nothing.
"""
