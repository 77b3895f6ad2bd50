"""What is said to a line that is no message of the protocol."""

from __future__ import annotations

import json

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, jsonrpc_message_adapter

from omium.server.unreadable import TOO_LONG, Readable, answer_to

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


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("line", "answered"),
    [
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', True),
        ('{"jsonrpc":"2.0","id":{},"method":"ping"}', True),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', True),
        ('{"jsonrpc":"2.0","id":1,"method":"ping"}', False),
        ('{"jsonrpc":"2.0","method":"ping","params":{"id":1.5}}', False),
        ('{"jsonrpc":"2.0","id":null,"method":"notifications/initialized"}', False),
    ],
)
async def test_a_request_whose_id_is_none_is_refused_and_a_notification_is_not(line: str, answered: bool) -> None:
    give, messages = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    answers, said = anyio.create_memory_object_stream[SessionMessage](1)
    with give, messages, answers, said:
        readable = Readable(messages, answers)  # type: ignore[arg-type]
        readable.taken(line)
        give.send_nowait(SessionMessage(jsonrpc_message_adapter.validate_json(line)))
        give.close()
        received = [item async for item in readable]
        assert len(received) == (not answered)
        if answered:
            error = said.receive_nowait().message
            assert isinstance(error, JSONRPCError) and (error.id, error.error.code) == (None, INVALID)


@given(st.text())
def test_every_text_is_answered_in_what_can_be_sent(line: str) -> None:
    answer = answer_to(line)
    assert answer is None or answer.model_dump_json()
