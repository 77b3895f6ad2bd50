"""Where the keys of an issuer come from, and how seldom they are asked for."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId
from omium.server.identity.issuers import IssuerSettings, JwtIssuer, PublishedKeys
from tests.unit.identity.jwt_help import ISSUER, Clock, Pages, ec_key, published, rsa_key, signed

pytestmark = pytest.mark.anyio

JWKS = "https://login.example.com/keys"


def keys(pages: Pages, clock: Clock, jwks: str | None = JWKS) -> PublishedKeys:
    return PublishedKeys(IssuerSettings(ISSUER, "omium", jwks), pages, clock)


async def test_keys_are_fetched_once_and_remembered_for_an_hour() -> None:
    pages, clock = Pages({JWKS: {"keys": [published(rsa_key(), "one")]}}), Clock()
    found = keys(pages, clock)
    for _ in range(100):
        assert [key["kid"] for key in await found.candidates("one")] == ["one"]
    clock.now += 3_599
    await found.candidates("one")
    assert len(pages.asked) == 1
    clock.now += 1
    await found.candidates("one")
    assert len(pages.asked) == 2


async def test_an_unknown_key_has_them_fetched_again_at_most_once_a_minute() -> None:
    pages, clock = Pages({JWKS: {"keys": [published(rsa_key(), "one")]}}), Clock()
    found = keys(pages, clock)
    await found.candidates("one")
    pages.pages[JWKS] = {"keys": [published(rsa_key(), "one"), published(ec_key(), "two")]}
    for number in range(500):
        assert await found.candidates(f"guess-{number}") == []
    assert len(pages.asked) == 1
    clock.now += 60
    assert [key["kid"] for key in await found.candidates("two")] == ["two"]
    for number in range(500):
        await found.candidates(f"guess-{number}")
    assert len(pages.asked) == 2


async def test_many_at_once_fetch_once() -> None:
    pages, clock = Pages({JWKS: {"keys": [published(rsa_key(), "one")]}}), Clock()
    found = keys(pages, clock)
    results: list[Any] = []

    async def ask() -> None:
        results.append(await found.candidates("one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
    assert len(pages.asked) == 1
    assert all(len(one) == 1 for one in results)


async def test_while_the_issuer_is_away_its_keys_are_good_for_a_day() -> None:
    pages, clock = Pages({JWKS: {"keys": [published(rsa_key(), "one")]}}), Clock()
    found = keys(pages, clock)
    await found.candidates("one")
    pages.pages[JWKS] = OmiumError("timeout", "it does not answer.")
    clock.now += 86_399
    assert len(await found.candidates("one")) == 1
    clock.now += 1
    assert len(await found.candidates("one")) == 0


async def test_an_issuer_that_cannot_be_reached_lets_nobody_in() -> None:
    pages, clock = Pages({JWKS: OmiumError("timeout", "it does not answer.")}), Clock()
    settings = IssuerSettings(ISSUER, "omium", JWKS)
    authority = JwtIssuer(settings, ProjectId("p"), PublishedKeys(settings, pages, clock), clock)
    for _ in range(20):
        with pytest.raises(OmiumError) as refused:
            await authority.caller_of(signed(rsa_key()))
        assert refused.value.code == "unauthenticated"
    assert len(pages.asked) == 1
    clock.now += 60
    pages.pages[JWKS] = {"keys": [published(rsa_key(), "one")]}
    assert (await authority.caller_of(signed(rsa_key()))).role == "operator"


async def test_a_revoked_key_is_gone_within_the_hour() -> None:
    pages, clock = Pages({JWKS: {"keys": [published(rsa_key(), "one")]}}), Clock()
    found = keys(pages, clock)
    await found.candidates("one")
    pages.pages[JWKS] = {"keys": [published(ec_key(), "two")]}
    clock.now += 3_600
    assert await found.candidates("one") == []


@pytest.mark.parametrize(
    "listed",
    [
        [{"kty": "oct", "kid": "one", "k": "AAAA"}],
        [{"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB", "d": "AQAB"}],
        [{"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB", "use": "enc"}],
        [{"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB", "key_ops": ["encrypt"]}],
        ["one", None, 5],
        {"one": {}},
        None,
        [],
    ],
)
async def test_what_is_no_public_key_for_signatures_is_left_out(listed: Any) -> None:
    pages = Pages({JWKS: {"keys": listed}})
    assert await keys(pages, Clock()).candidates("one") == []
    assert await keys(pages, Clock()).candidates(None) == []


async def test_a_key_that_cannot_be_built_refuses_its_tokens() -> None:
    clock = Clock()
    settings = IssuerSettings(ISSUER, "omium", JWKS)
    for broken in ({"kty": "RSA", "n": "!", "e": 5}, {"kty": "EC", "crv": "P-1"}, {"kty": "OKP", "crv": "Ed25519"}):
        pages = Pages({JWKS: {"keys": [{**broken, "kid": "one"}]}})
        authority = JwtIssuer(settings, ProjectId("p"), PublishedKeys(settings, pages, clock), clock)
        with pytest.raises(OmiumError) as refused:
            await authority.caller_of(signed(rsa_key()))
        assert refused.value.code == "unauthenticated"


# --- discovery --------------------------------------------------------------------------------------------------------

METADATA = "https://login.example.com/.well-known/openid-configuration"


async def test_keys_are_discovered() -> None:
    pages = Pages({METADATA: {"issuer": ISSUER, "jwks_uri": JWKS}, JWKS: {"keys": [published(rsa_key(), "one")]}})
    assert len(await keys(pages, Clock(), None).candidates("one")) == 1
    assert pages.asked == [METADATA, JWKS]


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.example.com/", "jwks_uri": JWKS},
        {"jwks_uri": JWKS},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 5},
        {"issuer": ISSUER, "jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"issuer": ISSUER, "jwks_uri": "https://[::1]/keys"},
        {"issuer": ISSUER, "jwks_uri": "https://2130706433/keys"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
    ],
)
async def test_metadata_that_leads_elsewhere(said: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    pages = Pages({METADATA: said, JWKS: {"keys": [published(rsa_key(), "one")]}})
    assert await keys(pages, Clock(), None).candidates("one") == ()
    assert "cannot be fetched" in caplog.text
