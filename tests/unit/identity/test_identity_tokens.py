"""Bearer tokens: shown once, stored as a digest, good until they expire or are revoked, and every refusal on record."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports import SystemClock
from omium.orchestration.service.roles import ROLES
from omium.orchestration.service.views import Caller, Role
from omium.server.identity.authority import AnyOf, Audited, OpenLoopback, bearer
from omium.server.identity.tokens import Tokens, create_token, digest_of, list_tokens, revoke_token
from omium.server.logs import hidden
from omium.storage.maintenance import keeper
from omium.storage.maintenance.logs import project_rows
from omium.storage.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

P = ProjectId("p")
ROOT = Caller(Principal("user:root"), P)


class Clock(SystemClock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6

    def pass_s(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "omium.db", clock=clock, durability="normal")
    yield opened
    await opened.close()


async def refused(code: str, call: Any) -> OmiumError:
    with pytest.raises(OmiumError) as error:
        await call
    assert error.value.code == code
    return error.value


async def logged(store: SqliteStore) -> list[tuple[str, str, dict[str, Any]]]:
    rows = await keeper(store).read(lambda tables: list(project_rows(tables, P)))
    return [(row[2], row[4], orjson.loads(row[5])) for row in rows]


@pytest.mark.parametrize("role", ROLES)
async def test_a_token_makes_a_caller(store: SqliteStore, clock: Clock, role: Role) -> None:
    made = await create_token(store, ROOT, clock, role, name="ci")
    caller = await Tokens(store, P, clock).caller_of(f"Bearer {made.secret}")
    sees = "own" if role == "operator" else "project"
    assert caller == Caller(Principal("token:ci"), P, role, sees=sees, authenticated=True)  # type: ignore[arg-type]


async def test_without_a_name_a_token_is_its_own_principal(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "operator", sees="project")
    caller = await Tokens(store, P, clock).caller_of(f"bearer  {made.secret} ")
    assert (caller.principal, caller.sees) == (f"token:{made.token.id}", "project")


async def test_the_secret_has_256_bits_and_is_nowhere_afterwards(
    store: SqliteStore, clock: Clock, tmp_path: Path
) -> None:
    made = [await create_token(store, ROOT, clock, "viewer") for _ in range(20)]
    assert len({one.secret for one in made}) == 20
    for one in made:
        assert re.fullmatch(r"omium_[0-9A-Z]{26}_[A-Za-z0-9_-]{43}", one.secret)
        assert one.secret not in repr(one)
        assert one.token.id.removeprefix("tok_") in one.secret
        row = await store.token(hashlib.sha256(one.secret.encode()).hexdigest())
        assert row is not None
        assert row.id == one.token.id
        await Tokens(store, P, clock).caller_of(f"Bearer {one.secret}")
    await store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for one in made:
        assert one.secret[33:].encode() not in kept


def test_a_secret_in_a_log_line_is_hidden() -> None:
    secret = f"omium_{'0' * 26}_{'a' * 43}"
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
    assert hidden(f"got {secret} and {jwt}.") == "got [hidden] and [hidden]."


async def test_a_token_expires(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "viewer", expires_s=60)
    tokens = Tokens(store, P, clock)
    clock.pass_s(59.9)
    await tokens.caller_of(f"Bearer {made.secret}")
    clock.pass_s(0.1)
    error = await refused("unauthenticated", tokens.caller_of(f"Bearer {made.secret}"))
    assert error.data["reason"] == "expired"
    assert [one.status for one in await list_tokens(store, ROOT, clock)] == ["expired"]


async def test_a_revocation_counts_at_once_and_stays(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "viewer")
    tokens = Tokens(store, P, clock)
    await tokens.caller_of(f"Bearer {made.secret}")
    for _ in range(2):
        assert (await revoke_token(store, ROOT, clock, made.token.id)).status == "revoked"
    error = await refused("unauthenticated", tokens.caller_of(f"Bearer {made.secret}"))
    assert error.data["reason"] == "revoked"
    assert error.data["challenge"] == 'Bearer realm="omium", error="invalid_token"'
    assert [kind for kind, _, _ in await logged(store)] == ["token.created", "token.revoked"]


async def test_a_token_is_good_for_its_own_project_only(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "admin")
    other = Tokens(store, ProjectId("q"), clock)
    assert (await refused("unauthenticated", other.caller_of(f"Bearer {made.secret}"))).data["reason"] == "unknown"
    stranger = replace(ROOT, project=ProjectId("q"))
    assert await list_tokens(store, stranger, clock) == []
    await refused("not_found", revoke_token(store, stranger, clock, made.token.id))
    await Tokens(store, P, clock).caller_of(f"Bearer {made.secret}")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        ("Basic dXNlcjpwYXNz", "malformed"),
        ("Bearer a b", "malformed"),
        ("Bearer a, Bearer b", "malformed"),
        ("Bearer \x00", "malformed"),
        ("Bearer é", "malformed"),
        ("Bearer a\n", "malformed"),
        (f"Bearer {'a' * 20_000}", "malformed"),
        ("Bearer something-else", "foreign"),
        ("Bearer omium_short", "malformed"),
        (f"Bearer omium_{'0' * 26}_{'a' * 43}", "unknown"),
        (f"Bearer omium_{'0' * 26}_{'a' * 44}", "malformed"),
    ],
)
async def test_what_is_no_token_of_ours(store: SqliteStore, clock: Clock, header: str | None, reason: str) -> None:
    error = await refused("unauthenticated", Tokens(store, P, clock).caller_of(header))
    assert error.data["reason"] == reason
    assert str(error.data["challenge"]).startswith('Bearer realm="omium"')
    assert "aaaa" not in str(error)


async def test_every_changed_character_makes_it_unknown(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "admin")
    tokens = Tokens(store, P, clock)
    for place in range(len(made.secret)):
        old = made.secret[place]
        changed = made.secret[:place] + ("B" if old != "B" else "C") + made.secret[place + 1 :]
        await refused("unauthenticated", tokens.caller_of(f"Bearer {changed}"))


async def test_a_row_with_a_role_that_there_is_not_carries_none(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "viewer")
    row = (await store.tokens(P))[0]
    secret = f"omium_{'1' * 26}_{'b' * 43}"
    await store.put_token(replace(row, id="tok_b", digest=digest_of(secret), role="root"), ROOT.principal)
    await refused("forbidden", Tokens(store, P, clock).caller_of(f"Bearer {secret}"))
    await Tokens(store, P, clock).caller_of(f"Bearer {made.secret}")


@pytest.mark.parametrize("role", ["viewer", "operator", "approver"])
async def test_only_an_admin_makes_lists_and_revokes(store: SqliteStore, clock: Clock, role: Role) -> None:
    made = await create_token(store, ROOT, clock, "viewer")
    caller = replace(ROOT, role=role)
    await refused("forbidden", create_token(store, caller, clock, "admin"))
    await refused("forbidden", list_tokens(store, caller, clock))
    await refused("forbidden", revoke_token(store, caller, clock, made.token.id))
    assert [one.status for one in await list_tokens(store, ROOT, clock)] == ["valid"]


@pytest.mark.parametrize(
    "told",
    [
        {"role": "root"},
        {"name": ""},
        {"name": "a:b"},
        {"name": "a\n"},
        {"name": "ada\u202e"},
        {"name": "x" * 65},
        {"expires_s": 0},
        {"expires_s": float("nan")},
        {"expires_s": float("inf")},
        {"note": "two\nlines"},
        {"note": "x" * 201},
    ],
)
async def test_what_has_no_valid_form_makes_no_token(store: SqliteStore, clock: Clock, told: dict[str, Any]) -> None:
    await refused("invalid_argument", create_token(store, ROOT, clock, **{"role": "viewer", **told}))
    assert await store.tokens(P) == []


# --- several authorities, and the record of refusals ------------------------------------------------------------------


async def test_a_bad_credential_is_never_taken_for_none(store: SqliteStore, clock: Clock) -> None:
    both = AnyOf([Tokens(store, P, clock), OpenLoopback(ROOT)])
    assert await both.caller_of(None) == ROOT
    made = await create_token(store, ROOT, clock, "viewer")
    assert (await both.caller_of(f"Bearer {made.secret}")).role == "viewer"
    await revoke_token(store, ROOT, clock, made.token.id)
    for header in (f"Bearer {made.secret}", "Bearer something", "", "Basic eA=="):
        await refused("unauthenticated", both.caller_of(header))


async def test_without_any_credential_the_refusal_says_so(store: SqliteStore, clock: Clock) -> None:
    error = await refused("unauthenticated", AnyOf([Tokens(store, P, clock)]).caller_of(None))
    assert (error.data["reason"], error.data["challenge"]) == ("missing", 'Bearer realm="omium"')
    with pytest.raises(ValueError, match="nobody"):
        AnyOf([])


async def test_refusals_are_recorded_once_a_minute_with_their_number(store: SqliteStore, clock: Clock) -> None:
    made = await create_token(store, ROOT, clock, "viewer", expires_s=1)
    clock.pass_s(2)
    audited = Audited(Tokens(store, P, clock), store, P, clock)
    await refused("unauthenticated", audited.caller_of(None))
    for _ in range(50):
        await refused("unauthenticated", audited.caller_of(f"Bearer {made.secret}"))
    await refused("unauthenticated", audited.caller_of(f"Bearer omium_{'0' * 26}_{'a' * 43}"))
    clock.pass_s(60)
    await refused("unauthenticated", audited.caller_of(f"Bearer {made.secret}"))
    told = [data for kind, _, data in await logged(store) if kind == "access.denied"]
    assert told == [
        {"code": "unauthenticated", "reason": "expired", "token": made.token.id, "before_and_not_written": 0},
        {"code": "unauthenticated", "reason": "unknown", "before_and_not_written": 0},
        {"code": "unauthenticated", "reason": "expired", "token": made.token.id, "before_and_not_written": 49},
    ]
    assert made.secret not in str(await logged(store))


async def test_many_kinds_of_refusals_do_not_fill_the_log(store: SqliteStore, clock: Clock) -> None:
    class Refuses:
        number = 0

        async def caller_of(self, authorization: str | None) -> Caller:
            self.number += 1
            raise OmiumError("unauthenticated", "no.", reason="expired", token=f"tok_{self.number}")

    audited = Audited(Refuses(), store, P, clock)
    for _ in range(600):
        await refused("unauthenticated", audited.caller_of("Bearer x"))
    assert len(await logged(store)) == 256
    clock.pass_s(60)
    for _ in range(10):
        await refused("unauthenticated", audited.caller_of("Bearer x"))
    assert len(await logged(store)) == 257


async def test_who_is_refused_is_told_so_even_when_that_cannot_be_recorded(
    store: SqliteStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    audited = Audited(OpenLoopback(ROOT), store, P, clock)
    await store.close()
    with caplog.at_level(logging.ERROR):
        await refused("unauthenticated", audited.caller_of("Bearer x"))
    assert "could not be recorded" in caplog.text


def test_a_header_holds_one_credential() -> None:
    assert bearer("Bearer abc") == "abc"
    assert bearer("BEARER   a.b-c_d~e+f/g==") == "a.b-c_d~e+f/g=="
