"""What is taken out of results: credentials in every form, known secrets, addresses; and nothing else."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.external.redact import HIDDEN, Redactor

KEY = "correct-horse-battery-staple"
OURS = Redactor([KEY])
SECRETS = Redactor([], ["secrets"])


@pytest.mark.parametrize(
    "text",
    [
        f"it is {KEY}.",
        quote(KEY + "/?", safe=""),
        "".join(f"%{byte:02x}" for byte in KEY.encode()),
        "".join(f"%{byte:02X}" for byte in KEY.encode()),
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(b"x" + KEY.encode() + b"y").decode(),
        base64.b64encode(b"xy" + KEY.encode()).decode(),
        "\n".join(base64.b64encode(b"key: " + KEY.encode() * 3).decode()[at : at + 20] for at in range(0, 120, 20)),
        "\u200b".join(KEY),
        " ".join(KEY),
    ],
)
def test_a_credential_is_found_in_every_form(text: str) -> None:
    told = OURS.text(f"before {text} after")
    assert HIDDEN in told and told.startswith("before ") and told.endswith(" after")
    bare = "".join(told.split()).replace("\u200b", "")
    assert "battery" not in bare and KEY.encode().hex()[:20] not in bare.lower().replace("%", "")


@given(st.text(max_size=20), st.lists(st.integers(0, len(KEY)), max_size=4), st.text(max_size=20))
def test_a_credential_that_is_split_over_texts_is_found(before: str, cuts: list[int], after: str) -> None:
    edges = [0, *sorted(cuts), len(KEY)]
    pieces = [KEY[a:b] for a, b in pairwise(edges)]
    pieces[0], pieces[-1] = before + pieces[0], pieces[-1] + after
    assert KEY not in "".join(OURS.texts(pieces))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_a_value_without_secrets_stays_as_it_is(value: Any) -> None:
    assert OURS.value(value) == value


def test_a_credential_in_a_value_is_found_in_keys_and_over_values() -> None:
    told = OURS.value({KEY: 1, "a": [KEY[:10], {"between": KEY[10:]}], "n": 5})
    assert told == {HIDDEN: 1, "a": [HIDDEN, {"between": HIDDEN}], "n": 5}


def test_what_stands_under_the_name_of_a_secret_goes() -> None:
    given = {"password": "hunter2hunter2", "deep": [{"api_key": "zzzzzzzz", "secrets": 3}], "note": "password: none"}
    told = {"password": HIDDEN, "deep": [{"api_key": HIDDEN, "secrets": 3}], "note": "password: none"}
    assert SECRETS.value(given) == SECRETS.shown(given) == told
    assert OURS.value(given) == given


def test_what_a_person_decides_on_keeps_the_names_of_its_arguments() -> None:
    given = {"text": "use sk-live-" + "ab12" * 6, "table": "orders", "to": "jane@example.com"}
    assert SECRETS.shown(given) == {**given, "text": f"use {HIDDEN}"}


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1" * 18,
        "sk-ant-" + "x9" * 20,
        "xoxb-1234567890-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        'password = "hunter2hunter2"',
        "postgres://ada:hunter22@db/x",
        base64.b64encode(b"the key AKIAIOSFODNN7EXAMPLE is").decode(),
    ],
)
def test_known_forms_of_secrets_are_taken_out(text: str) -> None:
    told = SECRETS.text(f"see {text} there")
    assert HIDDEN in told and told.startswith("see ") and told.endswith(" there")
    for piece in ("IOSFODNN7", "a1a1a1", "x9x9x9", "1234567890", "c2lnbmF0dXJl", "MIIE", "hunter2"):
        assert piece not in told


def test_a_secret_that_is_split_is_found() -> None:
    assert SECRETS.texts(["key: AKIAIOSF", "ODNN7EXAMPLE."]) == [f"key: {HIDDEN}", f"{HIDDEN}."]


@pytest.mark.parametrize("text", ["a commit 3f2a9c1d5e6b7a8f9c0d", "tokens: 12345", "the password policy", "sk-short"])
def test_what_is_none_stays(text: str) -> None:
    assert SECRETS.text(text) == text


def test_addresses_go_only_where_that_is_asked() -> None:
    text = "write to ada.lovelace+x@example.co.uk today"
    assert SECRETS.text(text) == text
    assert SECRETS.with_kinds(("email",)).text(text) == f"write to {HIDDEN} today"


def test_a_credential_too_short_to_be_told_from_words_is_left() -> None:
    assert Redactor(["abc"]).text("abcdef") == "abcdef"
