"""Credentials that are handed on: which variables hold one, and how they are taken out."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.external.redact import HIDDEN
from omium.clients.functions.failure import FunctionError
from omium.clients.processes.credentials import Credentials, credentials_in
from omium.orchestration.errors import OmiumError

KEY = "s3cr+t/of-the=operator"


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "PGPASSWORD",
        "DB_PASS",
        "NPM_AUTH",
        "apikey",
        "SESSION_COOKIE",
        "SENTRY_DSN",
    ],
)
def test_a_name_says_that_it_holds_one(name: str) -> None:
    assert credentials_in({name: KEY}) == [KEY]


@pytest.mark.parametrize(
    "name",
    ["AUTHOR", "MONKEY", "KEYBOARD", "PWD", "PATIENCE", "COMPASS", "MODE", "SSL_KEY_FILE", "TOKEN_URL", "TOKEN_TTL"],
)
def test_other_names_do_not(name: str) -> None:
    assert credentials_in({name: "Ada Lovelace"}) == []


def test_a_password_within_an_address_is_one_whatever_the_variable_is_called() -> None:
    found = credentials_in({"DATABASE_URL": "postgresql://ada:lovelace9@db/app", "PAGE": "https://example.org/a:b@c"})
    assert found == ["lovelace9"]


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        quote(KEY, safe=""),
        KEY.encode().hex(),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"user:{KEY}".encode()).decode(),
        base64.urlsafe_b64encode(f"u:{KEY}:x".encode()).decode(),
    ],
)
def test_it_is_found_as_it_is_commonly_written(written: str) -> None:
    told = Credentials([KEY]).text(f"Authorization: {written}!")
    assert HIDDEN in told and told.startswith("Authorization: ") and told.endswith("!")
    assert KEY not in told and len(told) < len(f"Authorization: {written}!") + len(HIDDEN)


def test_a_key_of_several_lines_is_found_line_by_line() -> None:
    lines = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEF", "short", "-----END KEY-----"]
    credentials = Credentials(["\n".join(lines)])
    assert [credentials.text(line) for line in lines] == [HIDDEN, HIDDEN, "short", HIDDEN]


def test_every_part_of_a_value_is_cleaned() -> None:
    value = {"a": [f"x{KEY}y", 1, None, True], KEY: {"b": f"<{KEY}>".encode()}}
    assert Credentials([KEY]).value(value) == {
        "a": [f"x{HIDDEN}y", 1, None, True],
        HIDDEN: {"b": f"<{HIDDEN}>".encode()},
    }


def test_an_error_stays_what_it_is() -> None:
    failure = {"error_type": "builtins.ValueError", "mro": ["builtins.ValueError"], "message": f"no {KEY}"}
    error = FunctionError("m:f", {**failure, "traceback": f"raise ValueError({KEY!r})", "cause": None})
    Credentials([KEY]).clean(error)
    assert isinstance(error, FunctionError) and error.error_type == "builtins.ValueError"
    assert (error.code, error.message) == ("process_failed", f"m:f raised builtins.ValueError: no {HIDDEN}")
    assert KEY not in f"{error}{error.args}{error.as_dict()}{error.traceback}"
    plain = OmiumError("process_failed", "x", stderr=f"[{KEY}]", exit_code=3)
    Credentials([KEY]).clean(plain)
    assert plain.data == {"stderr": f"[{HIDDEN}]", "exit_code": 3}


@pytest.mark.parametrize("value", ["enabled", "Required", "password", "oauth2", "true"])
def test_a_word_that_chooses_something_is_none(value: str) -> None:
    assert not Credentials.of({"API_AUTH": value})


def test_without_credentials_nothing_is_done_and_short_ones_are_none() -> None:
    for credentials in (Credentials(), Credentials([""]), Credentials(["  a "]), Credentials.of({"API_KEY": "12345"})):
        assert not credentials and credentials.text("a 12345") == "a 12345"


@given(
    st.text(),
    st.text(min_size=6, alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs"])),
    st.text(),
)
def test_wherever_it_stands_it_is_gone(before: str, credential: str, after: str) -> None:
    assert credential not in Credentials([credential]).text(before + credential + after).replace(HIDDEN, "\n")
