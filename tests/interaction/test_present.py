"""How text and values are shown: harmless, bounded, and exact where exactness is promised."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unicodedata import category

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import TextContent

from omium.orchestration.values import decode
from omium.tools.models import Answer, ListedRun, RunsOut
from omium.tools.present import (
    LINE,
    TEXT,
    as_text,
    fit,
    harmless,
    line,
    paragraph,
    some,
    value_text,
    when,
)
from omium.tools.show import value_out
from omium.tools.tool import answer_result

ANYTHING = st.text(st.characters(), max_size=400)  # lone surrogates too
JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | JSON_TEXT | st.binary(max_size=20) | st.just(datetime(2026, 11, 20, tzinfo=UTC)) | st.just(Decimal("1.50")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXT, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def visible(text: str, *, also: str = "") -> bool:
    return all(character in also or category(character) not in UNSEEN for character in text)


def test_every_character_that_is_no_visible_text_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        if category(chr(code)) in UNSEEN:
            assert line(chr(code)).startswith("\\"), hex(code)


@given(ANYTHING)
def test_a_line_is_one_harmless_line(text: str) -> None:
    shown = line(text)
    assert visible(shown)
    assert len(shown) <= 2 * LINE + 40


@given(ANYTHING)
def test_a_paragraph_is_harmless(text: str) -> None:
    assert visible(paragraph(text), also="\t\n")
    assert len(paragraph(text * 50)) <= 2 * TEXT + 40


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界", "emoji 👍🏽 ❤️", "non\u00a0breaking"])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert line(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb", "a\\nb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb", "a\\u200bb"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("a\ud800b", "a\\ud800b"),
        ("a\x00b", "a\\x00b"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_is_no_visible_text_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert line(text) == shown


def test_what_is_cut_says_so() -> None:
    assert line("x" * (LINE + 1)).endswith(f"... [cut, {LINE + 1} characters]")
    assert line("x" * LINE) == "x" * LINE


@given(VALUES)
def test_the_text_of_a_value_is_harmless_and_exact(value: Any) -> None:
    text = value_text(value)
    assert visible(text)
    assert decode(b"\x01" + orjson.dumps(json.loads(text), option=orjson.OPT_SORT_KEYS)) == value


@given(VALUES)
def test_a_value_given_as_json_is_the_value(value: Any) -> None:
    shown = value_out(value, limit=10_000)
    if shown.value is None:
        assert shown.text == value_text(value)
    else:
        assert visible(json.dumps(shown.value, ensure_ascii=False))
        assert decode(b"\x01" + orjson.dumps(shown.value)) == value


@given(VALUES, st.integers(1, 50))
def test_the_pieces_of_a_value_make_the_whole(value: Any, limit: int) -> None:
    pieces: list[str] = []
    offset: int | None = 0
    while offset is not None:
        piece = value_out(value, offset=offset, limit=limit)
        if piece.value is not None:
            return
        assert piece.text is not None
        pieces.append(piece.text)
        offset = piece.next_offset
    assert "".join(pieces) == value_text(value)


@given(
    st.recursive(st.none() | st.integers() | ANYTHING, lambda inner: st.lists(inner) | st.dictionaries(ANYTHING, inner))
)
def test_a_tree_of_data_is_made_harmless(tree: Any) -> None:
    assert visible(json.dumps(harmless(tree), ensure_ascii=False), also="\n\t")


def run(title: str) -> ListedRun:
    return ListedRun(run_id="run_x", workflow="w", title=title, status="completed")


@given(st.lists(ANYTHING, max_size=80))
def test_a_page_has_room_for_what_it_has(titles: list[str]) -> None:
    page = fit((run(title) for title in titles), 2_000)
    assert bool(page) == bool(titles)
    assert len(page) == 1 or sum(len(one.model_dump_json(exclude_none=True)) for one in page) <= 2_000


def test_a_list_of_names_says_how_many_are_left_out() -> None:
    names = [f"node-{n}" for n in range(1_000)]
    shown = some(names, 100)
    assert shown[-1] == "... 1000 in all"
    assert shown[:-1] == names[: len(shown) - 1]


@given(ANYTHING)
def test_a_line_of_the_text_form_starts_with_a_name_of_ours(text: str) -> None:
    shown = as_text({"question": paragraph(text), "items": [{"title": line(text), "question": paragraph(text)}]})
    for part in shown.split("\n"):
        assert part.startswith(("question:", "  | ", "items:", "- title: "))


def test_no_answer_is_too_long_whatever_it_holds() -> None:
    class Careless(Answer):
        everything: list[str]

    result = answer_result(Careless(everything=["x" * 100] * 110))
    assert isinstance(result.content[0], TextContent)
    assert len(result.content[0].text) + len(json.dumps(result.structured_content)) < 20_000
    assert "[cut" in result.content[0].text


def test_the_longest_page_of_runs_stays_within_the_bound() -> None:
    runs = fit((run("\u202e" * 240) for _ in range(50)), 8_000)
    result = answer_result(RunsOut(runs=runs))
    assert isinstance(result.content[0], TextContent)
    assert "[cut:" not in result.content[0].text
    assert len(result.content[0].text) + len(json.dumps(result.structured_content)) < 20_000


def test_times_are_iso_8601_in_utc() -> None:
    assert when(1_795_132_800_000_000) == "2026-11-20T00:00:00Z"
    assert when(None) is None
