"""Values typed on a command line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.server.commands.arguments import document, literal, overrides, pairs

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}}


def test_a_text_stays_a_text_where_the_schema_says_so() -> None:
    assert pairs(["name=1.0", "count=3", "other=[1, 2]", "free=hello=world"], SCHEMA) == {
        "name": "1.0",
        "count": 3,
        "other": [1, 2],
        "free": "hello=world",
    }


@pytest.mark.parametrize("given_", [["name"], ["=1"], ["a=1", "a=2"]])
def test_what_is_no_pair_or_comes_twice_is_refused(given_: list[str]) -> None:
    with pytest.raises(OmiumError) as raised:
        pairs(given_)
    assert raised.value.code == "invalid_argument"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[NaN]", "1e", "", "{", "[" * 100_000])
def test_what_is_not_json_is_text(text: str) -> None:
    assert literal(text) == text


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=5)
)
def test_json_reads_back(value: Any) -> None:
    assert literal(json.dumps(value)) == value


def test_overrides_of_all_kinds_come_together(tmp_path: Path) -> None:
    file = tmp_path / "changes.yaml"
    file.write_text("inputs: {a: 1, b: 2}\nnodes: {draft: {with: {tone: dry, length: 3}}}\n")
    assert overrides(str(file), ["b=3"], ["draft.tone=warm", "fan[2].x=1"], ["review=true"]) == {
        "inputs": {"a": 1, "b": 3},
        "nodes": {
            "draft": {"with": {"tone": "warm", "length": 3}},
            "fan[2]": {"with": {"x": 1}},
            "review": {"output": True},
        },
    }
    assert overrides(None, [], [], []) is None
    texts = {"properties": {"version": {"type": "string"}}}
    assert overrides(None, ["version=2.0"], [], [], texts) == {"inputs": {"version": "2.0"}}
    assert overrides(None, ["version=2.0"], [], []) == {"inputs": {"version": 2.0}}


def test_a_parameter_of_an_inner_node_names_the_whole_node() -> None:
    assert overrides(None, [], ["fix[2].test.strict=true"], []) == {
        "nodes": {"fix[2].test": {"with": {"strict": True}}}
    }


@pytest.mark.parametrize("text", ["[1]", "nodes: [1]", "nodes: {a: 1}", "inputs: 3", "other: {}"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "changes.yaml"
    file.write_text(text)
    with pytest.raises(OmiumError) as raised:
        overrides(str(file), [], [], [])
    assert raised.value.code == "invalid_argument"


def test_a_parameter_without_a_node_is_refused() -> None:
    with pytest.raises(OmiumError) as raised:
        overrides(None, [], ["tone=warm"], [])
    assert raised.value.code == "invalid_argument"


def test_inputs_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("name: ada\ncount: 3\n"))
    assert document("-") == {"name": "ada", "count": 3}


def test_an_empty_standard_input_is_said_to_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(OmiumError) as raised:
        document("-")
    assert raised.value.code == "invalid_argument"
    assert raised.value.message == "standard input is empty, where an object of names and values is expected."


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as raised:
        document(str(tmp_path / "none.yaml"))
    assert raised.value.code == "not_found"
