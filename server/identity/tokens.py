"""Bearer tokens that Omium makes itself: shown once, and known afterwards by their SHA-256 only.

A token is `omium_<id>_<secret>`: the id names it in lists and logs, the secret has 256 random bits. A lookup by the
digest of the whole needs no comparison, so there is none whose time could tell anything.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final, Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, new_id
from omium.orchestration.ports import Clock, Store, TokenRow
from omium.orchestration.service import roles
from omium.orchestration.service.views import Caller, Role
from omium.server.identity.authority import bearer, known_role, unauthenticated

PREFIX: Final = "omium_"
_SECRET: Final = re.compile(r"omium_([0-9A-HJKMNP-TV-Z]{26})_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_BYTES: Final = 32
_LONGEST_NOTE: Final = 200
_ONCE_PER_LIFE_S: Final = 10 * 365 * 86_400.0

Sees = Literal["own", "project"]


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it may be shown; times are microseconds since the epoch."""

    id: str
    principal: Principal
    role: str
    sees: Sees
    note: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    status: Literal["valid", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token and its secret, of which nobody keeps a copy."""

    token: TokenView
    secret: str

    def __repr__(self) -> str:
        return f"NewToken(token={self.token!r}, secret=...)"


def digest_of(secret: str) -> str:
    """What is stored of a secret: its SHA-256, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def default_sees(role: Role) -> Sees:
    """An operator sees the runs that they started, the others those of the project."""
    return "own" if role == "operator" else "project"


async def create_token(
    store: Store,
    caller: Caller,
    clock: Clock,
    role: str,
    *,
    name: str | None = None,
    sees: Sees | None = None,
    expires_s: float | None = None,
    note: str = "",
) -> NewToken:
    """A new token of the caller's project. name: of its principal, `token:<name>`, which several may share; the token's
    own id unless given. Raises `forbidden`, and `invalid_argument` for what has no valid form."""
    roles.check(caller, "create_token")
    given = known_role(role)
    if given is None:
        raise OmiumError("invalid_argument", f"{role!r} is no role.", f"Roles: {', '.join(roles.ROLES)}.")
    if name is not None and not _NAME.fullmatch(name):
        what = "1 to 64 letters, digits and . _ @ -, beginning with a letter or digit"
        raise OmiumError("invalid_argument", f"{name!r} cannot name a principal.", f"Give {what}.")
    if expires_s is not None and not 1 <= expires_s <= _ONCE_PER_LIFE_S:
        raise OmiumError("invalid_argument", f"a token cannot be good for {expires_s} s.", "From 1 s to 10 years.")
    if len(note) > _LONGEST_NOTE or not note.isprintable():
        raise OmiumError("invalid_argument", f"a note is one line of at most {_LONGEST_NOTE} characters.")
    now = clock.now_us()
    token_id = new_id("tok", now // 1000)
    secret = f"{PREFIX}{token_id.removeprefix('tok_')}_{secrets.token_urlsafe(_BYTES)}"
    row = TokenRow(
        id=token_id,
        digest=digest_of(secret),
        project=caller.project,
        principal=Principal(f"token:{name or token_id}"),
        role=given,
        sees=sees or default_sees(given),
        note=note,
        created_at=now,
        expires_at=None if expires_s is None else now + int(expires_s * 1e6),
        revoked_at=None,
    )
    await store.put_token(row, caller.principal)
    return NewToken(_view(row, now), secret)


async def list_tokens(store: Store, caller: Caller, clock: Clock) -> list[TokenView]:
    """The tokens of the caller's project, oldest first, also those that are good for nothing any more."""
    roles.check(caller, "list_tokens")
    now = clock.now_us()
    return [_view(row, now) for row in await store.tokens(caller.project)]


async def revoke_token(store: Store, caller: Caller, clock: Clock, token_id: str) -> TokenView:
    """Take a token's worth away, for good and at once. A repeat changes nothing. Raises `forbidden`, `not_found`."""
    roles.check(caller, "revoke_token")
    await store.revoke_token(caller.project, token_id, clock.now_us(), caller.principal)
    for view in await list_tokens(store, caller, clock):
        if view.id == token_id:
            return view
    raise OmiumError("not_found", f"there is no token {token_id!r:.80}.", "List them: omium token list")


def _view(row: TokenRow, now: int) -> TokenView:
    status: Literal["valid", "expired", "revoked"] = "valid"
    if row.revoked_at is not None:
        status = "revoked"
    elif row.expires_at is not None and row.expires_at <= now:
        status = "expired"
    return TokenView(
        row.id, row.principal, row.role, row.sees, row.note, row.created_at, row.expires_at, row.revoked_at, status
    )


class Tokens:
    """The authority over the tokens of one project. Each request is looked up, so a revocation counts at once."""

    def __init__(self, store: Store, project: ProjectId, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._clock = clock

    async def caller_of(self, authorization: str | None) -> Caller:
        secret = bearer(authorization)
        if not secret.startswith(PREFIX):
            raise unauthenticated("foreign", "this is no token of Omium.")
        if not _SECRET.fullmatch(secret):
            raise unauthenticated("malformed", "this is no whole token.", "It was shown once, when it was created.")
        row = await self._store.token(digest_of(secret))
        if row is None or row.project != self._project:
            raise unauthenticated("unknown", "there is no such token.", "Make one: omium token create --role operator")
        view = _view(row, self._clock.now_us())
        if view.status != "valid":
            raise unauthenticated(view.status, f"the token {row.id} is {view.status}.", token=row.id)
        role = known_role(row.role)
        if role is None:
            raise OmiumError("forbidden", f"the token {row.id} has no role that there is.", reason="role", token=row.id)
        return Caller(row.principal, row.project, role, sees=row.sees, authenticated=True)
