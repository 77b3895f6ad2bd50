"""From the configuration to who asks: open loopback, and nowhere else without a credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal
from omium.orchestration.ports import SystemClock
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.config import Config, load_config
from omium.server.identity.composing import authority_for, is_loopback, rate_limits_for
from omium.server.identity.issuers import AuthSettings, IssuerSettings
from omium.server.identity.limits import RequestLimits
from omium.server.identity.tokens import create_token, revoke_token
from omium.storage.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

EVERYWHERE = ["0.0.0.0", "::", "[::]", "192.168.1.5", "example.com", "", "localhost.example.com", "127.0.0.1.evil.com"]
HERE = ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"]
CORP = IssuerSettings("https://login.example.com/", "omium")


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    store = await SqliteStore.open(tmp_path / "omium.db", durability="normal")
    yield Core(store, Catalog(), clock=SystemClock())
    await store.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(tmp_path, {"OMIUM_HOME": str(tmp_path)})


def local(config: Config) -> Caller:
    return Caller(Principal("user:ada"), config.project.id)


async def refused(call: object, code: str) -> OmiumError:
    with pytest.raises(OmiumError) as error:
        await call  # type: ignore[misc]
    assert error.value.code == code
    return error.value


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_a_bind_to_anywhere_else_needs_authentication(core: Core, config: Config, host: str) -> None:
    assert not is_loopback(host)
    error = await refused(authority_for(config, core, host, local(config)), "forbidden")
    assert "omium token create" in error.hint
    made = await create_token(core.store, local(config), core.clock, "viewer")
    authority = await authority_for(config, core, host, local(config))
    await refused(authority.caller_of(None), "unauthenticated")
    assert (await authority.caller_of(f"Bearer {made.secret}")).role == "viewer"
    await revoke_token(core.store, local(config), core.clock, made.token.id)
    await refused(authority_for(config, core, host, local(config)), "forbidden")


@pytest.mark.parametrize("host", HERE)
async def test_loopback_is_open_unless_it_is_closed(core: Core, config: Config, host: str) -> None:
    assert is_loopback(host)
    authority = await authority_for(config, core, host, local(config))
    assert await authority.caller_of(None) == local(config)
    assert not (await authority.caller_of(None)).authenticated
    await refused(authority.caller_of("Bearer x"), "unauthenticated")
    closed = replace(config, auth=AuthSettings(open_loopback=False))
    await refused(authority_for(closed, core, host, local(config)), "forbidden")
    await create_token(core.store, local(config), core.clock, "viewer")
    await refused((await authority_for(closed, core, host, local(config))).caller_of(None), "unauthenticated")


async def test_an_issuer_is_authentication_enough(core: Core, config: Config) -> None:
    trusting = replace(config, auth=AuthSettings(issuers=((CORP, False),)))
    authority = await authority_for(trusting, core, "0.0.0.0", local(config))
    await refused(authority.caller_of(None), "unauthenticated")


# --- what the file and the environment say ----------------------------------------------------------------------------

FILE = """
project: mine
limits: {requests: {reads: 100, concurrent: 3}}
server:
  auth:
    open_loopback: false
    jwt:
    - issuer: https://login.example.com/
      audience: omium
      role_claim: [access, groups]
      roles: {ops: operator}
      leeway: 10s
    - {issuer: "http://127.0.0.1:9/", audience: dev, name: dev, role_claim: role, allow_loopback: true}
"""


def loaded(path: Path, text: str, **env: str) -> Config:
    (path / "omium.yaml").write_text(text)
    return load_config(path, {"OMIUM_HOME": str(path), **env})


def test_the_file_says_who_is_trusted(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILE)
    assert config.limits.requests == RequestLimits(reads=100, concurrent=3)
    assert not config.auth.open_loopback
    (corp, corp_here), (dev, dev_here) = config.auth.issuers
    assert (corp.role_claim, dict(corp.roles), corp.leeway_s, corp_here) == (
        ("access", "groups"), {"ops": "operator"}, 10.0, False,
    )  # fmt: skip
    assert (dev.short, dev.role_claim, dev_here) == ("dev", ("role",), True)
    assert rate_limits_for(config, SystemClock()).limits.reads == 100


def test_the_environment_goes_first_and_adds_an_issuer(tmp_path: Path) -> None:
    told = {
        "OMIUM_OPEN_LOOPBACK": "yes",
        "OMIUM_READS": "7",
        "OMIUM_CHANGES": "8",
        "OMIUM_STARTS": "9",
        "OMIUM_CONCURRENT": "10",
        "OMIUM_JWT_ISSUER": "https://other.example.com/",
        "OMIUM_JWT_AUDIENCE": "omium",
        "OMIUM_JWT_ROLE_CLAIM": "https://omium.dev/role",
    }
    config = loaded(tmp_path, FILE, **told)
    assert config.auth.open_loopback
    assert config.limits.requests == RequestLimits(7, 8, 9, 10)
    assert [one.issuer for one, _ in config.auth.issuers][2:] == ["https://other.example.com/"]
    assert config.auth.issuers[2][0].role_claim == ("https://omium.dev/role",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMIUM_JWT_ISSUER", "https://login.example.com/"),  # without an audience
        ("OMIUM_JWT_AUDIENCE", "omium"),
        ("OMIUM_OPEN_LOOPBACK", "perhaps"),
        ("OMIUM_READS", "0"),
        ("OMIUM_CONCURRENT", "many"),
    ],
)
def test_a_variable_without_a_valid_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(OmiumError) as error:
        loaded(tmp_path, "project: mine", **{name: value})
    assert error.value.code == "invalid_argument"
    assert "OMIUM_" in error.value.message


@pytest.mark.parametrize(
    "auth",
    [
        "{jwt: [{issuer: x, audience: omium}]}",
        "{jwt: [{issuer: 'https://a.example.com/'}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, algorithms: [HS256]}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, algorithms: []}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, roles: {a: root}}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, name: 'a:b'}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, leeway: 1h}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, role_claim: []}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o, secret: x}]}",
        "{jwt: [{issuer: 'https://a.example.com/', audience: o}, {issuer: 'https://a.example.com/', audience: p}]}",
        "{open_loopback: sometimes}",
        "{tokens: false}",
    ],
    ids=range(12),
)
def test_what_the_file_may_not_say(tmp_path: Path, auth: str) -> None:
    with pytest.raises(OmiumError) as error:
        loaded(tmp_path, f"project: mine\nserver: {{auth: {auth}}}\n")
    assert error.value.code == "invalid_definition"
