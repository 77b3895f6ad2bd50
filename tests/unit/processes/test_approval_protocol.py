"""The approval protocol: what counts as a question, what breaks it, and how an answer reaches the program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.commands import CommandSpec, run_command
from omium.clients.processes import asking
from omium.clients.processes.protocol import (
    LINE_LIMIT,
    Answer,
    Listener,
    Question,
    decision_text,
    schema,
)
from omium.orchestration.errors import OmiumError

pytestmark = pytest.mark.anyio

PLAIN: dict[str, Any] = {"event": "approval_needed", "schema_version": 1, "question": "Deploy?"}
DECISION_SCHEMA = json.loads(
    Path(asking.__file__).with_name("schemas").joinpath("decision.schema.json").read_text("utf-8")
)


def heard(*lines: str, code: int | None = 90, succeeded: bool = False) -> Question | str | None:
    listener = Listener()
    for line in lines:
        listener.hear(line)
    return listener.result(code, succeeded=succeeded)


def line(**changes: Any) -> str:
    return json.dumps({name: value for name, value in {**PLAIN, **changes}.items() if value is not None})


def test_a_question_gets_its_hash_from_the_exact_bytes_and_a_way_to_say_no() -> None:
    text = line(options=["stage", "production"], details={"commit": "abc"})
    asked = heard("starting", text)
    assert asked == Question(
        asking.question_hash(text), "Deploy?", ("stage", "production", "reject"), {"commit": "abc"}
    )
    plain = heard(line())
    assert isinstance(plain, Question) and plain.options == ("approve", "reject")
    ending = heard(line(options=["go", "abort"]))
    assert isinstance(ending, Question) and ending.options == ("go", "abort")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "asked nothing"),
        (["no json at all"], "asked nothing"),
        (['{"event": "approval_needed"'], "not JSON"),
        (['{"event": "approval_needed", "event": "approval_needed"}'], "twice"),
        ([line(question=None)], "question"),
        ([line(question="")], "question"),
        ([line(schema_version=2)], "schema"),
        ([line(schema_version=None)], "schema_version"),
        ([line(id="apr_mine")], "id"),
        ([line(options=[])], "options"),
        ([line(options=["a", "a"])], "options"),
        ([line(options=["--yes"])], "options"),
        ([line(options=["ok\n"])], "options"),
        ([line(options=["x"] * 17)], "options"),
        ([line(details=[1])], "details"),
        ([line(question="x" * 4001)], "question"),
        ([line(details={"x": "y" * LINE_LIMIT})], "bytes"),
        ([line(details={"x": "?"}).replace('"?"', "NaN")], "NaN"),
        ([line(question="half \ud800")], "surrogate"),
        ([line(details={"x": "?"}).replace('"?"', "[" * 40 + "]" * 40)], "deeper"),
        ([line(details={"x": "?"}).replace('"?"', "[" * 9000 + "]" * 9000)], "deep"),
        ([line(), line()], "2 times"),
        ([line(), line(question="Another?")], "2 times"),
        ([line(), line(question=None)], "2 times"),
    ],
)
def test_exit_code_90_without_exactly_one_good_question_breaks_the_protocol(lines: list[str], why: str) -> None:
    problem = heard(*lines)
    assert isinstance(problem, str)
    assert why in problem


def test_a_question_without_the_exit_code_breaks_it_only_when_the_program_claims_success() -> None:
    assert isinstance(heard(line(), code=0, succeeded=True), str)
    assert heard(line(), code=1) is None  # it failed of something else
    assert heard(line(), code=None) is None  # a signal


@pytest.mark.parametrize(
    "noise",
    [
        "approval_needed",
        '["approval_needed"]',
        '{"event": "log", "text": "approval_needed"}',
        '{"event": "approval_needed"',
        '{"text": "approval_needed' + "x" * LINE_LIMIT + '"}',
        "\x1b[31mapproval_needed\x1b[0m \0 \ud800",
        "",
    ],
)
def test_noise_is_no_question(noise: str) -> None:
    assert heard(noise, code=0, succeeded=True) is None
    assert isinstance(heard(noise, line()), Question)


@given(st.text())
def test_no_line_breaks_the_listener(text: str) -> None:
    for code, succeeded in ((90, False), (0, True), (None, False)):
        result = heard(text, code=code, succeeded=succeeded)
        assert not isinstance(result, Question)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(min_size=1, max_size=50), st.dictionaries(st.text(), json_values, max_size=3))
def test_what_the_helper_writes_is_a_question_and_is_answered_by_its_own_hash(
    question: str, details: dict[str, Any]
) -> None:
    text = asking.question_line(question, ("approve", "reject"), details)
    asked = heard(text)
    assert isinstance(asked, Question)
    assert (asked.question, asked.hash) == (question, asking.question_hash(text))


# --- the answer ---


@given(st.lists(st.text(max_size=200), min_size=1, max_size=16))
def test_the_variable_fits_its_schema_and_one_variable_of_the_system(feedbacks: list[str]) -> None:
    answers = [
        Answer(f"apr_{number}", "approve", f"sha256:{number:064x}", text) for number, text in enumerate(feedbacks)
    ]
    text = decision_text(answers)
    told = json.loads(text)
    jsonschema.validate(told, DECISION_SCHEMA)
    assert text.isascii() and "\0" not in text and len(text) < 128 * 1024
    assert (told["approval"], len(told.get("earlier", []))) == (f"apr_{len(feedbacks) - 1}", len(feedbacks) - 1)


def test_the_longest_answer_is_within_what_a_variable_may_hold() -> None:
    answers = [Answer("apr_" + "0" * 40, "x" * 64, "sha256:" + "0" * 64, "\u00e4" * 16_000)] * 16
    assert len(decision_text(answers)) < 128 * 1024


def test_the_shipped_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator.check_schema(DECISION_SCHEMA)


def test_the_helper_answers_only_its_own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    text = asking.question_line("Deploy?", ("stage", "production"))
    other = asking.question_hash(asking.question_line("Delete?", ("stage", "production")))
    for value in ("", "nonsense", "[]", '{"choice": "stage"}', decision_text([Answer("apr_1", "stage", other)])):
        monkeypatch.setenv(asking.VARIABLE, value)
        assert asking.answered(text) is None
        with pytest.raises(SystemExit) as asked:
            asking.ask("Deploy?", ("stage", "production"))
        assert asked.value.code == 90
    mine = Answer("apr_2", "production", asking.question_hash(text), "tonight")
    for answers in ([mine], [mine, Answer("apr_3", "stage", other)]):
        monkeypatch.setenv(asking.VARIABLE, decision_text(answers))
        assert asking.ask("Deploy?", ("stage", "production")) == "production"
    monkeypatch.setenv(asking.VARIABLE, decision_text([mine]))
    assert asking.feedback() == "tonight"
    monkeypatch.setenv(asking.VARIABLE, decision_text([Answer("apr_2", "elsewhere", asking.question_hash(text))]))
    with pytest.raises(SystemExit):
        asking.ask("Deploy?", ("stage", "production"))


def test_the_helper_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    copied = tmp_path / "asking.py"
    copied.write_text(Path(asking.__file__).read_text("utf-8"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import asking; "
         "asking.ask('Go?')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 90
    assert isinstance(heard(done.stderr.strip()), Question)


# --- with a process ---


async def ended(code: str, tmp_path: Path, **options: Any) -> OmiumError:
    spec = CommandSpec("tool", (sys.executable, "-c", code), stdin="none", output="text")
    with anyio.fail_after(20), pytest.raises(OmiumError) as caught:
        await run_command(spec, None, workspace=tmp_path, marker={"run_id": "r"}, **options)
    return caught.value


async def test_a_question_on_stderr_is_told_from_one_on_stdout(tmp_path: Path) -> None:
    code = "import sys; print({text!r}, file=sys.{stream}); sys.exit(90)"
    asked = await ended(code.format(text=line(), stream="stderr"), tmp_path)
    assert (asked.data["reason"], asked.data["sent"], asked.data["asked"]["question"]) == (
        "approval_requested",
        False,
        "Deploy?",
    )
    broken = await ended(code.format(text=line(), stream="stdout"), tmp_path)
    assert broken.data["reason"] == "protocol_error"
    assert "sent" not in broken.data


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (f"import sys; print({line()!r}, file=sys.stderr)", "protocol_error"),
        (f"import sys; print({line()!r}, file=sys.stderr); sys.exit(3)", "exit_code"),
        (f"import os, sys; print({line()!r}, file=sys.stderr, flush=True); os.abort()", "signal"),
        ("raise SystemExit(90)", "protocol_error"),
        (f"import sys; sys.stderr.write({line()!r}); sys.exit(90)", "approval_requested"),  # no line end
        (f"import sys; sys.stderr.write({line()[:40]!r}); sys.exit(90)", "protocol_error"),
    ],
)
async def test_how_a_program_that_asks_may_end(tmp_path: Path, code: str, reason: str) -> None:
    assert (await ended(code, tmp_path)).data["reason"] == reason


async def test_nobody_else_can_put_a_decision_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMIUM_DECISION", '{"choice": "approve"}')
    spec = CommandSpec(
        "env", (sys.executable, "-c", "import os; print('OMIUM_DECISION' in os.environ)"), stdin="none", output="text"
    )
    assert await run_command(spec, None, workspace=tmp_path, marker={}) == "False\n"
    for options in ({"env": {"OMIUM_DECISION": "x"}}, {"pass_env": ("OMIUM_DECISION",)}):
        with pytest.raises(OmiumError):
            CommandSpec("env", ("env",), **options)  # type: ignore[arg-type]


async def test_a_program_that_reads_its_input_gets_the_end_and_not_a_hang(tmp_path: Path) -> None:
    spec = CommandSpec(
        "read", (sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"), stdin="none", output="text"
    )
    with anyio.fail_after(20):
        assert await run_command(spec, None, workspace=tmp_path, marker={}) == "0\n"
