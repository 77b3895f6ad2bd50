"""What a process logs: on the stream it is given, in the form that is asked for, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from omium.orchestration.errors import OmiumError
from omium.server.logs import HIDDEN, hidden, set_up_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(environ: dict[str, str], level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(level, stream=stream, environ=environ)
    return stream


def test_json_has_one_object_a_line_from_both_libraries() -> None:
    stream = logged({"OMIUM_LOG": "json"})
    logging.getLogger("a").warning("run %s is %s", "run_1", "free", extra={"pid": 7})
    structlog.get_logger("b").info("started", run="run_2")
    logging.getLogger("c").debug("not shown")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["event"], first["level"], first["logger"], first["pid"]) == ("run run_1 is free", "warning", "a", 7)
    assert (second["event"], second["run"], second["logger"]) == ("started", "run_2", "b")
    assert first["timestamp"].endswith("Z")


def test_text_is_the_default_and_the_level_is_the_environments() -> None:
    stream = logged({"OMIUM_LOG_LEVEL": "error"})
    logging.getLogger("a").warning("not shown")
    logging.getLogger("a").error("shown")
    assert "shown" in stream.getvalue()
    assert "not shown" not in stream.getvalue()


def test_secrets_are_hidden_also_in_texts_and_tracebacks() -> None:
    stream = logged({"OMIUM_LOG": "json"})
    structlog.get_logger().warning("called", api_key="canary-1", nested={"Authorization": "canary-2", "tokens": 12})
    try:
        raise RuntimeError("cannot connect to postgresql://ada:canary-3@db/omium with password=canary-4")
    except RuntimeError:
        logging.getLogger("x").exception("the header was Authorization: Bearer canary-5-abcdef")
    assert "canary" not in stream.getvalue()
    assert json.loads(stream.getvalue().splitlines()[0])["nested"] == {"Authorization": HIDDEN, "tokens": 12}
    assert "RuntimeError" in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"access_token": "x", "token_count": 3}, {"access_token": HIDDEN, "token_count": 3}),
        ({"password": None, "n": [1, "a"]}, {"password": None, "n": [1, "a"]}),
        ("https://u:p@host/x", f"https://u:{HIDDEN}@host/x"),
        ('{"client_secret": "abc"}', f'{{"client_secret": {HIDDEN}}}'),
        ("key sk-abcdefghijklmnopqrstuv done", f"key {HIDDEN} done"),
        ("nothing here: run_01ABC is free", "nothing here: run_01ABC is free"),
        (("a", b"b"), ["a", "b'b'"]),
    ],
)
def test_what_is_hidden(value: Any, expected: Any) -> None:
    assert hidden(value) == expected


@pytest.mark.parametrize(("name", "value"), [("OMIUM_LOG", "xml"), ("OMIUM_LOG_LEVEL", "loud")])
def test_a_variable_without_a_valid_value_is_named(name: str, value: str) -> None:
    with pytest.raises(OmiumError, match=name) as refused:
        set_up_logging(stream=io.StringIO(), environ={name: value})
    assert refused.value.code == "invalid_argument"
