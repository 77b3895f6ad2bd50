"""What is said to a line that is no message of the protocol."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.server.unreadable import TOO_LONG, answer_to

PARSE, INVALID = -32700, -32600
DEEP = '{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":' + "[" * 100_000 + "]" * 100_000 + "}}"


@pytest.mark.parametrize(
    ("line", "id_", "code"),
    [
        ("{", None, PARSE),
        (TOO_LONG, None, PARSE),
        (DEEP, None, PARSE),
        ("[]", None, INVALID),
        ("null", None, INVALID),
        ('{"jsonrpc":"2.0","id":"a","method":"x","params":{"t":"\\ud800"}}', "a", PARSE),
        ('{"jsonrpc":"2.0","id":"\\ud800","method":"x"}', None, PARSE),
        ('{"jsonrpc":"2.0","id":true,"method":"x"}', None, INVALID),
        ('{"jsonrpc":"2.0","id":1.5,"method":3}', None, INVALID),
        ('{"jsonrpc":"2.0","id":4,"method":3}', 4, INVALID),
        ('{"id":4}', 4, INVALID),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_sender_is_told_of_its_request(line: str, id_: object, code: int) -> None:
    answer = answer_to(line)
    assert answer is not None
    assert (answer.id, answer.error.code) == (id_, code)
    assert json.loads(answer.model_dump_json(by_alias=True, exclude_unset=True))["id"] == id_


@pytest.mark.parametrize(
    "line",
    ["", "  ", '{"jsonrpc":"2.0","method":"x","params":3}', '{"id":4,"result":3}', '{"id":4,"error":"\\ud800"}'],
)
def test_what_asks_for_nothing_gets_nothing(line: str) -> None:
    assert answer_to(line) is None


@given(st.text())
def test_every_text_is_answered_in_what_can_be_sent(line: str) -> None:
    answer = answer_to(line)
    assert answer is None or answer.model_dump_json()
