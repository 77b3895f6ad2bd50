"""How a question is answered at a terminal."""

from __future__ import annotations

import shlex

import pytest

from omium.server.commands.answering import approve_line, typed

APPROVAL = "apr_01M7YPH3D0KXDEJX2CGYRVQ3WB"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["approve", "reject"], []),
        (["retry", "abort"], ["--choice", "retry"]),
        (["night train; rm -rf x", "bus"], ["--choice", "night train; rm -rf x"]),
        (["answer"], ["--feedback", "TEXT"]),
    ],
)
def test_the_line_that_answers_is_what_a_shell_takes(options: list[str], words: list[str]) -> None:
    assert shlex.split(approve_line(APPROVAL, options)) == ["omium", "approve", "GYRVQ3WB", *words]


@pytest.mark.parametrize(
    ("said", "options", "meant"),
    [
        ("approve", ["approve", "reject"], ("approve", "")),
        (" reject the figures are missing \n", ["approve", "reject"], ("reject", "the figures are missing")),
        ("day train, the early one", ["night", "night train"], None),
        ("night train the early one", ["night", "night train"], ("night train", "the early one")),
        ("night", ["night", "night train"], ("night", "")),
        ("approved", ["approve", "reject"], None),
        ("the early one", ["answer"], ("answer", "the early one")),
    ],
)
def test_what_was_typed(said: str, options: list[str], meant: tuple[str, str] | None) -> None:
    assert typed(said, options) == meant
