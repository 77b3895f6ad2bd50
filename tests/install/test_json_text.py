from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.server.install.json_text import parse, position, remove_member, set_member

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
INDENTS = st.sampled_from([None, 1, 2, 4, "\t"])
NEWLINES = st.sampled_from(["\n", "\r\n"])


def written(value: Any, indent: int | str | None, newline: str) -> str:
    return json.dumps(value, indent=indent).replace("\n", newline)


@given(VALUES, INDENTS, NEWLINES)
def test_it_reads_what_json_writes(value: Any, indent: int | str | None, newline: str) -> None:
    assert parse(written(value, indent, newline)).value == value


@given(OBJECTS, OBJECTS, VALUES, INDENTS, NEWLINES)
def test_setting_and_removing_touch_nothing_else(
    others: dict[str, Any], servers: dict[str, Any], value: Any, indent: int | str | None, newline: str
) -> None:
    servers.pop("omium", None)
    document = {**others, "mcpServers": servers}
    text = written(document, indent, newline)
    changed = set_member(text, ["mcpServers", "omium"], value)
    assert json.loads(changed) == {**document, "mcpServers": {**servers, "omium": value}}
    assert ("\n" in changed.replace("\r\n", "")) == ("\n" in text.replace("\r\n", ""))  # its own line ends only
    assert json.loads(remove_member(changed, ["mcpServers", "omium"])) == document
    again = set_member(changed, ["mcpServers", "omium"], "other")
    assert json.loads(again) == {**document, "mcpServers": {**servers, "omium": "other"}}


@given(OBJECTS.filter(lambda one: "mcpServers" not in one), VALUES, INDENTS)
def test_objects_on_the_way_are_made(others: dict[str, Any], value: Any, indent: int | str | None) -> None:
    changed = set_member(written(others, indent, "\n"), ["mcpServers", "omium"], value)
    assert json.loads(changed) == {**others, "mcpServers": {"omium": value}}


@given(st.text(max_size=40))
def test_any_text_is_either_read_as_json_reads_it_or_refused(text: str) -> None:
    try:
        value = parse(text).value
    except OmiumError as error:
        assert error.code == "invalid_argument"
        assert 0 <= error.data["at"] <= len(text)
        with pytest.raises(ValueError):
            json.loads(text.removeprefix("\ufeff"), parse_constant=_no_constant)
    else:
        assert value == json.loads(text.removeprefix("\ufeff"))


def _no_constant(name: str) -> None:
    raise ValueError(name)


COMMENTED = """\
// mine
{
  "theme": "dark", /* not light */
  "mcpServers": {
    // the first
    "other": {"command": "x"} // trailing
    // the last word
  }, // behind
}
"""


def test_comments_stay_where_they_are() -> None:
    changed = set_member(COMMENTED, ["mcpServers", "omium"], {"command": "o"}, comments=True)
    assert changed == COMMENTED.replace(
        '"other": {"command": "x"} // trailing\n    // the last word\n',
        '"other": {"command": "x"}, // trailing\n    // the last word\n    "omium": {\n      "command": "o"\n    }\n',
    )
    removed = remove_member(changed, ["mcpServers", "omium"], comments=True)
    assert removed == COMMENTED


def test_removing_keeps_the_comments_of_others() -> None:
    text = '{\n  "a": 1, // of a\n  "b": 2, // of b\n  "c": 3\n}\n'
    assert remove_member(text, ["b"], comments=True) == '{\n  "a": 1, // of a\n  // of b\n  "c": 3\n}\n'
    assert remove_member(text, ["c"], comments=True) == '{\n  "a": 1, // of a\n  "b": 2 // of b\n}\n'
    assert remove_member('{"a": 1, "b": 2}', ["a"]) == '{"b": 2}'
    assert remove_member('{"a": 1}', ["a"]) == "{}"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a": 1,\n "b" 2}', 2, 6),
        ('{"a": 1,}', 1, 9),
        ("{'a': 1}", 1, 2),
        ("{\n  // no\n}", 2, 3),
        ('{"a": "\n"}', 1, 8),
        ('{"a": 01}', 1, 8),
        ("[1, 2", 1, 6),
        ('{"a": 1} x', 1, 10),
        ("[" * 300 + "]" * 300, 1, 202),
        ("/* never closed", 1, 1),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(text: str, line: int, column: int) -> None:
    with pytest.raises(OmiumError) as refused:
        parse(text)
    assert position(text, refused.value.data["at"]) == (line, column)


def test_a_key_that_stands_twice_is_refused_where_it_matters() -> None:
    text = '{"x": 1, "x": 2, "mcpServers": {}, "mcpServers": {}}'
    with pytest.raises(OmiumError, match="second time"):
        set_member(text, ["mcpServers", "omium"], 1)
    assert set_member('{"x": 1, "x": 2}', ["y"], 1) == '{"x": 1, "x": 2, "y": 1}'
