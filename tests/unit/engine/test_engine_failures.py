"""What kind of failure it was: a labelled corpus, and what follows from the category."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition.model import Retry
from omium.orchestration.engine.failures import CATEGORIES, TRANSIENT, backoff_s, classify, describe, may_retry
from omium.orchestration.errors import ERROR_CODES, OmiumError


class Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HTTPStatusError(Exception):
    """As HTTP clients raise it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.response = Response(status)


def failed(message: str, **data: Any) -> OmiumError:
    """A process that ended badly."""
    return OmiumError("process_failed", message, **data)


def bad_json() -> Exception:
    try:
        json.loads("{")
    except ValueError as error:
        return error
    raise AssertionError


def grouped(*errors: Exception) -> Exception:
    return ExceptionGroup("several", list(errors))


CORPUS: list[tuple[BaseException, str]] = [
    # by the type, whatever the words say
    (ValueError("bad timeout value"), "value_error"),
    (ValueError("file was not found in memory after connection timeout"), "value_error"),
    (KeyError("permission"), "key_error"),
    (IndexError("list index out of range"), "index_error"),
    (AttributeError("'NoneType' object has no attribute 'memory'"), "attribute_error"),
    (TypeError("unsupported operand type(s)"), "type_error"),
    (FileNotFoundError(2, "No such file or directory"), "file_not_found"),
    (NotADirectoryError(20, "Not a directory"), "file_not_found"),
    (OmiumError("not_found", "the repository has no branch, tag or commit 'x'."), "file_not_found"),
    (PermissionError(13, "Permission denied"), "permission_error"),
    (ModuleNotFoundError("No module named 'pandas'"), "import_error"),
    (ImportError("cannot import name 'x' from 'y'"), "import_error"),
    (ConnectionRefusedError(111, "Connection refused"), "connection_error"),
    (ConnectionResetError(104, "Connection reset by peer"), "connection_error"),
    (BrokenPipeError(32, "Broken pipe"), "connection_error"),
    (socket.gaierror(-2, "Name or service not known"), "connection_error"),
    (TimeoutError("took too long"), "timeout"),
    (MemoryError(), "memory_error"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "value_error"),
    (bad_json(), "value_error"),
    (AssertionError("totals differ"), "validation"),
    (sqlite3.OperationalError("database is locked"), "api_error"),
    (grouped(PermissionError("no")), "permission_error"),
    (grouped(grouped(TimeoutError()), ValueError()), "timeout"),
    # by the status that an exception carries
    (HTTPStatusError("Too Many Requests", 429), "rate_limited"),
    (HTTPStatusError("Server error '503 Service Unavailable'", 503), "api_error"),
    (HTTPStatusError("Client error '404 Not Found'", 404), "api_error"),
    # by the words, but only where they stand first
    (Exception("Conference room booking"), "unknown"),
    (Exception("profile was not found"), "unknown"),
    (Exception("the room has a timeout of ten minutes"), "unknown"),
    (Exception("memory of the conference"), "unknown"),
    (Exception("import duties were permission enough"), "unknown"),
    (Exception("429 apples were sold"), "unknown"),
    (Exception("500 internal memos"), "unknown"),
    (Exception("connection between two ideas"), "unknown"),
    (Exception("key error in the score of the song"), "unknown"),
    (Exception(""), "unknown"),
    (Exception("HTTP 429"), "rate_limited"),
    (Exception("HTTP 429 Too Many Requests"), "rate_limited"),
    (Exception("429 Too Many Requests"), "rate_limited"),
    (Exception("Error code: 429 - {'error': 'slow down'}"), "rate_limited"),
    (Exception("Error code: 500 - internal"), "api_error"),
    (Exception("HTTP 503"), "api_error"),
    (Exception("HTTP/1.1 502 Bad Gateway"), "api_error"),
    (Exception("503 Service Unavailable"), "api_error"),
    (Exception("status code: 401"), "api_error"),
    (Exception("Connection refused"), "connection_error"),
    (Exception("[Errno 104] Connection reset by peer"), "connection_error"),
    (Exception("Connection timed out"), "connection_error"),
    (Exception("could not resolve host: example.org"), "connection_error"),
    (Exception("Request timed out."), "timeout"),
    (Exception("timed out"), "timeout"),
    (Exception("No such file or directory: 'a.txt'"), "file_not_found"),
    (Exception("cat: a.txt: No such file or directory"), "file_not_found"),
    (Exception("sh: 1: frobnicate: command not found"), "file_not_found"),
    (Exception("mkdir: cannot create directory 'x': Permission denied"), "permission_error"),
    (Exception("out of memory"), "memory_error"),
    (Exception("Cannot allocate memory"), "memory_error"),
    (Exception("No module named 'yaml'"), "import_error"),
    # by the name that a traceback of another process ends with
    (failed("ValueError: bad timeout value"), "value_error"),
    (failed("KeyError: 'id'"), "key_error"),
    (failed("ModuleNotFoundError: No module named 'yaml'"), "import_error"),
    (failed("ConnectionRefusedError: [Errno 111] Connection refused"), "connection_error"),
    (failed("json.decoder.JSONDecodeError: Expecting value"), "value_error"),
    (failed("OSError: [Errno 2] No such file or directory"), "file_not_found"),
    (failed("RuntimeError: nobody knows"), "unknown"),
    # by what is known of a process
    (failed("it ended", exit_code=127), "file_not_found"),
    (failed("it ended", exit_code=126), "permission_error"),
    (failed("it broke the approval protocol", reason="protocol_error", exit_code=126), "validation"),
    (failed("it asked the same question 4 times", reason="max_resumes"), "validation"),
    (failed("it ended", category="rate_limited", exit_code=126), "rate_limited"),
    (failed("it ended", category="bad luck", exit_code=126), "permission_error"),
    (failed("it ended", category=["timeout"], reason=["memory"], exit_code=126), "permission_error"),
    (failed("it was killed", exit_code=137), "memory_error"),
    (failed("it was stopped", reason="hard_timeout"), "timeout"),
    (failed("it was stopped", reason="idle_timeout"), "timeout"),
    (failed("it was stopped", reason="memory"), "memory_error"),
    (failed("it ended", exit_code=1), "unknown"),
    (failed("it raised", error_type="builtins.KeyError"), "key_error"),
    (failed("it raised", mro=["app.Odd", "builtins.TimeoutError"]), "timeout"),
    # by our own codes
    (OmiumError("timeout", "the node was stopped"), "timeout"),
    (OmiumError("forbidden", "policy says no"), "permission_error"),
    (OmiumError("rate_limited", "slow down"), "rate_limited"),
    (OmiumError("precondition_failed", "it does not hold"), "validation"),
    (OmiumError("invalid_definition", "a cycle"), "validation"),
    (OmiumError("not_registered", "rm"), "import_error"),
    (OmiumError("storage_unavailable", "the database is locked"), "api_error"),
]


def test_the_corpus_is_classified() -> None:
    wrong = [(repr(error), expected, classify(error)) for error, expected in CORPUS if classify(error) != expected]
    assert len(CORPUS) >= 60
    assert len(wrong) <= len(CORPUS) * 0.05, wrong


def test_the_cases_that_loose_words_get_wrong() -> None:
    assert classify(Exception("Conference room booking")) == "unknown"
    assert classify(Exception("profile was not found")) == "unknown"
    assert classify(Exception("HTTP 429")) == "rate_limited"
    assert classify(ValueError("bad timeout value")) == "value_error"
    assert classify(failed("ValueError: bad timeout value")) == "value_error"


def test_every_category_is_declared_and_every_code_has_one() -> None:
    assert {classify(error) for error, _ in CORPUS} <= set(CATEGORIES)
    assert {classify(OmiumError(code, "x")) for code in ERROR_CODES} <= set(CATEGORIES)  # type: ignore[arg-type]
    assert set(CATEGORIES) >= TRANSIENT


@given(st.text())
def test_any_text_has_a_category(text: str) -> None:
    assert classify(Exception(text)) in CATEGORIES


def test_only_what_can_help_is_tried_again() -> None:
    policy = Retry(max_attempts=3)
    assert [category for category in CATEGORIES if may_retry(policy, category, 1)] == [
        category for category in CATEGORIES if category in TRANSIENT
    ]
    for category in ("import_error", "permission_error", "type_error", "value_error", "validation"):
        assert not may_retry(policy, category, 1)


@given(st.integers(1, 20), st.integers(1, 30), st.sampled_from(CATEGORIES))
def test_never_more_attempts_than_allowed(most: int, failures: int, category: str) -> None:
    assert not may_retry(Retry(max_attempts=most), category, failures) or failures < most
    assert may_retry(Retry(max_attempts=most, on=(category,)), category, failures) == (failures < most)


@given(
    initial=st.floats(0, 100),
    factor=st.floats(1, 10),
    most=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 60),
    seed=st.integers(),
)
def test_backoffs_grow_to_their_maximum_and_jitter_around_it(
    initial: float, factor: float, most: float, jitter: float, failures: int, seed: int
) -> None:
    policy = Retry(5, initial, factor, most, jitter)
    plain = min(initial * factor ** (failures - 1), most)
    found = backoff_s(policy, failures, random.Random(seed))
    assert found >= 0
    assert plain * (1 - jitter) - 1e-6 <= found <= plain * (1 + jitter) + 1e-6


def test_the_default_doubles_up_to_a_minute() -> None:
    class Middle(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 0.0

    waits = [backoff_s(Retry(), failures, Middle()) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_failure_is_described_within_bounds() -> None:
    def deep(number: int) -> None:
        if number:
            deep(number - 1)
        raise ValueError("x" * 50_000)

    try:
        deep(50)
    except ValueError as error:
        told = describe(error)
    assert told["category"] == "value_error" and told["type"] == "builtins.ValueError"
    assert len(told["message"]) == 4_000 and len(told["traceback"]) <= 16_000
    json.dumps(told)


def test_our_own_failures_keep_code_hint_and_what_a_process_left() -> None:
    error = failed("it ended", exit_code=3, stderr="e" * 9_000, traceback="t" * 20_000)
    error.hint = "look there"
    told = describe(error)
    assert (told["code"], told["hint"], told["exit_code"]) == ("process_failed", "look there", 3)
    assert len(told["stderr"]) == 4_000 and len(told["traceback"]) == 16_000


def test_a_vote_that_decided_nothing_keeps_who_voted_for_what() -> None:
    votes = {"ada": {"choice": "yes", "output": "yes"}, "bob": {"error": "it was late"}}
    told = describe(OmiumError("precondition_failed", "the vote decided nothing", votes=votes))
    assert (told["category"], told["votes"]) == ("validation", votes)


@pytest.mark.parametrize(("voters", "words"), [(2, 100_000), (1_000, 100)])
def test_long_votes_are_cut(voters: int, words: int) -> None:
    votes = {f"voter-{number}": {"choice": number, "output": "word " * words} for number in range(voters)}
    told = describe(OmiumError("precondition_failed", "the vote decided nothing", votes=votes))
    assert told["votes"]["voter-1"]["cut"].startswith('{"choice": 1, "output": "word word')
    assert len(json.dumps(told)) < 30_000


def test_a_group_is_described_by_its_first_error_and_keeps_the_whole_trace() -> None:
    try:
        raise grouped(PermissionError("no"), ValueError("bad"))
    except Exception as error:
        told = describe(error)
    assert (told["type"], told["message"]) == ("builtins.PermissionError", "no")
    assert "ExceptionGroup" in told["traceback"] and "bad" in told["traceback"]


@pytest.mark.parametrize("error", [Exception(), ValueError()])
def test_a_failure_without_words_still_says_something(error: Exception) -> None:
    assert describe(error)["message"] == type(error).__name__
