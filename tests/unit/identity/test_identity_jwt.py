"""JWTs of an issuer: only those that it signed with its own key, for us, now, with a role."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.service.views import Caller
from omium.server.identity.authority import AnyOf
from omium.server.identity.issuers import ALGORITHMS, IssuerSettings, JwtIssuer
from tests.unit.identity.jwt_help import (
    ISSUER,
    NOW,
    Clock,
    Known,
    claims,
    ec_key,
    ed_key,
    forged,
    part,
    published,
    rsa_key,
    signed,
)

pytestmark = pytest.mark.anyio

P = ProjectId("p")
SHORT = hashlib.sha256(ISSUER.encode()).hexdigest()[:12]


def issuer(keys: Any = None, clock: Clock | None = None, **told: Any) -> JwtIssuer:
    settings = IssuerSettings(ISSUER, "omium", **told)
    return JwtIssuer(settings, P, Known([published(rsa_key(), "one")]) if keys is None else keys, clock or Clock())


async def refused(authority: Any, header: str | None, code: str = "unauthenticated") -> OmiumError:
    with pytest.raises(OmiumError) as error:
        await authority.caller_of(header)
    assert error.value.code == code, error.value
    return error.value


async def test_a_good_token_makes_a_caller() -> None:
    caller = await issuer().caller_of(signed(rsa_key()))
    assert caller == Caller(Principal(f"jwt:{SHORT}:ada"), P, "operator", sees="own", authenticated=True)
    named = await issuer(name="corp").caller_of(signed(rsa_key(), omium_role="approver"))
    assert (named.principal, named.role, named.sees) == ("jwt:corp:ada", "approver", "project")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(rsa_key, "RS256"), (rsa_key, "RS512"), (rsa_key, "PS256"), (ec_key, "ES256"), (ed_key, "EdDSA")],
)
async def test_asymmetric_signatures_count(key: Any, algorithm: str) -> None:
    for more in ({}, {"alg": algorithm}):
        authority = issuer(Known([published(key(), "one", **more)]))
        assert (await authority.caller_of(signed(key(), algorithm))).role == "operator"


async def test_a_key_without_an_id_is_used_when_there_is_only_one() -> None:
    assert (await issuer().caller_of(signed(rsa_key(), kid=None))).role == "operator"
    two = Known([published(rsa_key(), "one"), published(ec_key(), "two")])
    assert (await refused(issuer(two), signed(rsa_key(), kid=None))).data["reason"] == "key"


# --- forgeries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "NONE", "nOnE", "", None, 5, ["RS256"], {"a": 1}])
@pytest.mark.parametrize("signature", ["AAAA", ""])
async def test_no_signature_is_no_signature(algorithm: Any, signature: str) -> None:
    await refused(issuer(), forged({"alg": algorithm, "kid": "one"}, claims(), signature))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_the_public_key_is_no_shared_secret(algorithm: str) -> None:
    """Whoever has the public key could otherwise sign with it."""
    public = rsa_key().public_key()
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published(rsa_key(), "one")).encode(),
    ]
    for secret in secrets:
        text = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(claims())}"
        mac = hmac.new(secret, text.encode(), digest).digest()
        header = f"Bearer {text}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert (await refused(issuer(), header)).data["reason"] == "algorithm"


async def test_a_published_shared_secret_verifies_nothing() -> None:
    oct_key = {"kty": "oct", "kid": "one", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256"}
    text = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims())}"
    mac = hmac.new(b"secretsecretsecretsecretsecret", text.encode(), hashlib.sha256).digest()
    header = f"Bearer {text}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    await refused(issuer(Known([oct_key])), header)


def test_weak_algorithms_cannot_be_configured() -> None:
    for names in (["HS256"], ["none"], [], ["RS256", "HS512"]):
        with pytest.raises(OmiumError) as error:
            issuer(algorithms=names)
        assert error.value.code == "invalid_argument"
    assert not {name for name in ALGORITHMS if name.startswith("HS") or name == "none"}


async def test_another_key_under_the_same_id() -> None:
    assert (await refused(issuer(), signed(rsa_key("two")))).data["reason"] == "signature"


async def test_a_key_that_the_token_brings_itself_is_not_looked_at() -> None:
    own = published(rsa_key("two"), "one")
    for headers in ({"jwk": own}, {"jku": "https://evil.example.com/keys"}, {"x5u": "https://evil.example.com/c"}):
        await refused(issuer(), signed(rsa_key("two"), headers=headers))


async def test_a_key_for_another_algorithm_or_family() -> None:
    bound = Known([published(rsa_key(), "one", alg="RS512")])
    assert (await refused(issuer(bound), signed(rsa_key()))).data["reason"] == "algorithm"
    await refused(issuer(Known([published(ec_key(), "one")])), signed(rsa_key()))
    await refused(issuer(algorithms=["ES256"]), signed(rsa_key()))


@pytest.mark.filterwarnings("ignore:The RSA key is")  # this is what we refuse, PyJWT signs with it all the same
async def test_a_short_key() -> None:
    short = rsa_key("short", 1024)
    await refused(issuer(Known([published(short, "one")])), signed(short))


@pytest.mark.parametrize(
    "headers",
    [{"crit": ["exp"]}, {"typ": "JOSE"}, {"typ": "logout+jwt"}, {"b64": False, "crit": ["b64"]}],
)
async def test_headers_that_mean_something_else(headers: dict[str, Any]) -> None:
    await refused(issuer(), signed(rsa_key(), headers=headers))


async def test_a_changed_part_breaks_the_signature() -> None:
    good = signed(rsa_key())
    head, body, tail = good.removeprefix("Bearer ").split(".")
    for changed in (f"{head}.{part(claims(omium_role='admin'))}.{tail}", f"{head}.{body}.{tail[:-8]}AAAAAAAA"):
        assert (await refused(issuer(), f"Bearer {changed}")).data["reason"] == "signature"


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "malformed"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": [NOW + 300]}, "malformed"),
        ({"nbf": NOW + 31}, "early"),
        ({"nbf": "now"}, "malformed"),
        ({"iat": NOW + 31}, "early"),
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["another", "omium2"]}, "audience"),
        ({"aud": {"omium": True}}, "audience"),
        ({"sub": None}, "malformed"),
        ({"sub": ""}, "malformed"),
        ({"sub": "ada\n"}, "malformed"),
        ({"sub": "a" * 256}, "malformed"),
        ({"iss": "https://evil.example.com/"}, "foreign"),
        ({"iss": ISSUER.rstrip("/")}, "foreign"),
    ],
)
async def test_claims_that_do_not_hold(changed: dict[str, Any], reason: str) -> None:
    header = "Bearer " + _encoded(changed)
    assert (await refused(issuer(), header)).data["reason"] == reason


def _encoded(changed: dict[str, Any]) -> str:
    """Signed over any claims, also such as PyJWT refuses to put into a token."""
    from jwt import PyJWS

    return PyJWS().encode(json.dumps(claims(**changed)).encode(), rsa_key(), "RS256", {"kid": "one"})


async def test_the_clocks_may_differ_a_little() -> None:
    clock = Clock()
    authority = issuer(clock=clock)
    for changed in ({"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 29}, {"aud": ["x", "omium"]}):
        await authority.caller_of("Bearer " + _encoded(changed))
    token = signed(rsa_key())
    await authority.caller_of(token)
    clock.now += 330
    assert (await refused(authority, token)).data["reason"] == "expired"


@pytest.mark.parametrize("value", [None, "root", "", "Admin", 5, {"admin": True}, [], ["root"], [["admin"]], True])
async def test_without_a_role_there_is_no_access(value: Any) -> None:
    error = await refused(issuer(), signed(rsa_key(), omium_role=value), "forbidden")
    assert error.data["reason"] == "role"
    assert "insufficient_scope" in error.data["challenge"]


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["ops"], "operator"),
        (["ops", "staff", "everybody"], "operator"),
        (["ops", "root"], "admin"),
        ("root", "admin"),
        (["staff"], "viewer"),
        (["everybody"], None),
        (["operator"], None),
        (["ops", "eyes"], None),
    ],
)
async def test_roles_by_the_claim_of_the_issuer(groups: Any, role: str | None) -> None:
    roles: Any = {"ops": "operator", "eyes": "approver", "staff": "viewer", "root": "admin"}
    authority = issuer(role_claim=("access", "groups"), roles=roles)
    header = signed(rsa_key(), access={"groups": groups})
    if role is None:
        await refused(authority, header, "forbidden")
    else:
        assert (await authority.caller_of(header)).role == role


@pytest.mark.parametrize("access", [None, "admin", ["groups"], {"groups": None}, {"x": ["root"]}])
async def test_a_path_that_leads_nowhere_gives_no_role(access: Any) -> None:
    authority = issuer(role_claim=("access", "groups"), roles={"root": "admin"})
    await refused(authority, signed(rsa_key(), access=access), "forbidden")


async def test_subjects_of_two_issuers_are_two_principals() -> None:
    other = IssuerSettings("https://other.example.com/", "omium")
    both = AnyOf([issuer(), JwtIssuer(other, P, Known([published(ec_key(), "one")]), Clock())])
    first = await both.caller_of(signed(rsa_key()))
    second = await both.caller_of(signed(ec_key(), "ES256", iss=other.issuer))
    assert first.principal != second.principal
    await refused(both, signed(rsa_key(), iss=other.issuer))
    await refused(both, signed(ec_key(), "ES256"))


# --- text that is no token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c", "....", "eyJ.eyJ.", "W10.W10.AAAA", "bnVsbA.bnVsbA.AAAA", "MQ.MQ.AAAA", "e30.e30.AAAA",
        f"e30.{part({'iss': ISSUER})}.AAAA", f"{'A' * 4000}.{'A' * 4000}.AAAA",
        f"{part({'alg': 'RS256', 'kid': 5})}.{part({'iss': ISSUER})}.AAAA",
        f"{part({'alg': 'RS256', 'kid': ['one']})}.{part({'iss': ISSUER})}.AAAA",
    ],
)  # fmt: skip
async def test_text_that_is_no_token(token: str) -> None:
    await refused(issuer(), f"Bearer {token}")


async def test_nesting_without_end() -> None:
    deep = urlsafe_b64encode(b'{"iss":' + b"[" * 5_000 + b"]" * 5_000 + b"}").rstrip(b"=").decode()
    await refused(issuer(), f"Bearer e30.{deep}.AAAA")


@given(st.text(alphabet="abcXYZ019-_.=eyJ", max_size=60))
async def test_any_text_is_refused_in_the_one_way(text: str) -> None:
    error = await refused(issuer(Known([])), f"Bearer {text}")
    assert error.data["reason"] in ("malformed", "foreign", "algorithm", "key")
