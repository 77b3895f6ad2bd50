"""Reading YAML and JSON strictly, with lines."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from omium.orchestration.definition import read_document, read_file, validate
from omium.orchestration.errors import OmiumError


def problems(text: str, format: Literal["yaml", "json"] = "yaml") -> list[dict[str, Any]]:
    with pytest.raises(OmiumError) as caught:
        read_document(text, "f", format)
    assert caught.value.code == "invalid_definition"
    found: list[dict[str, Any]] = caught.value.data["problems"]
    assert all(problem["file"] == "f" for problem in found)
    return found


def test_plain_yaml_scalars_follow_the_core_schema() -> None:
    text = """
    text: [on, off, yes, no, 12:30:45, 2026-01-02, 1_000, "1", '~', 0b11, 1e, +, -, ., =, 0x]
    numbers: [1, -2, +3, 010, 0o17, 0x1F, 1.5, .5, 5., 1e3, -1.5e-3]
    words: [true, True, FALSE, null, ~, Null]
    empty:
    block: |
      a
      b
    """
    assert read_document(text, "f").value == {
        "text": [
            "on",
            "off",
            "yes",
            "no",
            "12:30:45",
            "2026-01-02",
            "1_000",
            "1",
            "~",
            "0b11",
            "1e",
            "+",
            "-",
            ".",
            "=",
            "0x",
        ],
        "numbers": [1, -2, 3, 10, 15, 31, 1.5, 0.5, 5.0, 1000.0, -0.0015],
        "words": [True, True, False, None, None, None],
        "empty": None,
        "block": "a\nb\n",
    }


def test_an_empty_text_is_nothing() -> None:
    assert read_document("", "f").value is None
    assert read_document("# only this\n", "f").value is None


YAML = "name: x\nnodes:\n- id: a\n  needs: [b,\n    c]\n- id: b\n"
JSON = '{"name": "x",\n "nodes": [\n  {"id": "a",\n   "needs": ["b",\n    "c"]},\n  {"id": "b"}\n]}'


@pytest.mark.parametrize(
    ("text", "format", "lines"),
    [(YAML, "yaml", (1, 3, 3, 4, 5, 6, 6)), (JSON, "json", (1, 3, 3, 4, 5, 6, 6))],
)
def test_everything_has_a_line(text: str, format: Literal["yaml", "json"], lines: tuple[int, ...]) -> None:
    document = read_document(text, "f", format)
    paths = (
        "name",
        "nodes[0]",
        "nodes[0].id",
        "nodes[0].needs[0]",
        "nodes[0].needs[1]",
        "nodes[1].id",
        "nodes[1].x.y[3]",
    )
    assert tuple(map(document.line_of, paths)) == lines


def test_duplicate_keys_are_all_reported_with_lines() -> None:
    found = problems("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert [(problem["line"], problem["path"]) for problem in found] == [(2, "b.c"), (3, "a")]
    found = problems('{"a": 1,\n"b": [{"c": 1,\n"c": 2}],\n"a": 2}', "json")
    assert [(problem["line"], problem["path"]) for problem in found] == [(3, "b[0].c"), (4, "a")]


def test_syntax_errors_have_lines() -> None:
    assert problems("a: 1\nb: [\n")[0]["line"] == 3
    assert problems('{"a": 1,\n"b": }', "json")[0]["line"] == 2
    assert problems("a: \t- b: c: d")[0]["line"] == 1


def test_a_file_is_read_by_its_suffix(tmp_path: Path) -> None:
    for name, text in (("a.yaml", "n: on"), ("a.yml", "n: on"), ("a.json", '{"n": "on"}')):
        path = tmp_path / name
        path.write_text(text)
        document = read_file(path)
        assert document.value == {"n": "on"}
        assert document.source == str(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_file(path).value == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as caught:
        read_file(tmp_path / "none.yaml")
    assert caught.value.code == "not_found"
    with pytest.raises(OmiumError) as caught:
        read_file(tmp_path)
    assert caught.value.code == "not_found"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9")
    with pytest.raises(OmiumError) as caught:
        read_file(latin)
    assert caught.value.data["problems"][0]["line"] == 2
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(OmiumError) as caught:
        read_file(large)
    assert caught.value.code == "invalid_definition"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int
    colour: Literal["red", "blue"] = "red"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    inner: list[Inner] = []


def test_any_model_is_validated_with_lines_and_expectations() -> None:
    good = validate(read_document("name: a\ninner:\n- size: 1\n", "f"), Outer)
    assert good == Outer(name="a", inner=[Inner(size=1)])
    text = "nmae: a\ninner:\n- size: '1'\n- colour: green\n  size: 2\n  weight: 3\n- 7\n"
    with pytest.raises(OmiumError) as caught:
        validate(read_document(text, "f"), Outer)
    found = [(p["line"], p["path"], p["message"], p["expected"]) for p in caught.value.data["problems"]]
    assert found == [
        (1, "", "the key 'name' is missing", "name: ..."),
        (1, "nmae", "unknown key 'nmae'", "'name'"),
        (3, "inner[0].size", "is '1'", "integer"),
        (4, "inner[1].colour", "is 'green'", "'red' or 'blue'"),
        (6, "inner[1].weight", "unknown key 'weight'", "one of size, colour"),
        (7, "inner[2]", "is 7", "a mapping"),
    ]
    assert "f:3: inner[0].size: is '1'; expected integer" in caught.value.message


def test_a_message_escapes_what_steers_a_terminal() -> None:
    with pytest.raises(OmiumError) as caught:
        validate(read_document('"\\e[31mname\\u202e": 1', "f"), Outer)
    assert "\x1b" not in caught.value.message and "\u202e" not in caught.value.message


plain_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_texts, inner, max_size=4),
    max_leaves=15,
)


@given(plain)
def test_json_reads_back(value: Any) -> None:
    assert read_document(json.dumps(value), "f", "json").value == value


@given(plain, st.randoms(use_true_random=False))
def test_lines_of_json_are_right(value: Any, rng: random.Random) -> None:
    document = read_document(json.dumps({"k": value}, indent=rng.choice([None, 1])), "f", "json")
    line = document.line_of("k")
    assert line is not None and line >= 1


@given(st.text(max_size=60), st.sampled_from(["yaml", "json"]))
def test_any_text_is_data_or_a_problem(text: str, format: Literal["yaml", "json"]) -> None:
    try:
        read_document(text, "f", format)
    except OmiumError as error:
        assert error.code == "invalid_definition"
        assert error.data["problems"]
