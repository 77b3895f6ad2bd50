"""The approval protocol of supervised programs: one line on stderr that asks, exit code 90, one variable that answers.

What a program writes is hostile until it has passed `schemas/approval_needed.schema.json`; what it asks gets its id,
its deadline and its assurance from Omium, never from the program.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

from omium.clients.processes.asking import EXIT_CODE, SCHEMA_VERSION

APPROVAL_EXIT_CODE: Final = EXIT_CODE  # "I need a decision": never a success, never a plain failure
DECISION_VARIABLE: Final = "decision"  # as a marker of the supervisor it becomes OMIUM_DECISION
LINE_LIMIT: Final = 64 * 1024  # bytes of the line that asks
DEPTH_LIMIT: Final = 32
REFUSALS: Final = frozenset({"reject", "abort"})
_EVENT: Final = "approval_needed"


@dataclass(frozen=True, slots=True)
class Question:
    """What a program asks. hash: of the exact line; options: as they are decided on, a refusal among them."""

    hash: str
    question: str
    options: tuple[str, ...]
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided about a question."""

    approval: str
    choice: str
    question_hash: str
    feedback: str | None = None


class Listener:
    """Reads the lines of one run of a program, and says what came of them when it has ended."""

    def __init__(self) -> None:
        self._events = 0  # lines that are such an event, whether they fit the schema or not
        self._question: Question | None = None
        self._problem = ""

    def hear(self, line: str) -> None:
        """Take a line of stderr. Anything that is no JSON object with this event is the program's own business."""
        if _EVENT not in line or not line.lstrip().startswith("{"):
            return
        # What cannot be read may be noise that mentions the word: it counts only if the program ends with the code.
        size = len(line.encode("utf-8", "replace"))
        if size > LINE_LIMIT:
            self._problem = self._problem or f"the line that asks has {size} bytes; at most {LINE_LIMIT}"
            return
        try:
            event = parse_json(line, _no_duplicates)
        except ValueError as error:
            self._problem = self._problem or f"the line that asks is not JSON: {error}"
            return
        if not isinstance(event, dict) or event.get("event") != _EVENT:
            return
        self._events += 1
        problem = _problem(event)
        if problem:
            self._problem = problem
        else:
            self._question = _question(line, event)

    def result(self, exit_code: int | None, *, succeeded: bool) -> Question | str | None:
        """After the end: what is asked; or, as text, how the protocol was broken; None when it was not used.

        A program that asked and then died of something else has failed of that, and asks nothing.
        """
        if exit_code == APPROVAL_EXIT_CODE:
            if self._events > 1:
                return f"it asked {self._events} times"
            return self._question or self._problem or "it asked nothing"
        if succeeded and self._events:
            return "it asked for a decision, and then ended as if it had one"
        return None


def decision_text(answers: Sequence[Answer]) -> str:
    """The value of the variable OMIUM_DECISION: the last answer, and those before it."""
    last = answers[-1]
    told: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **_told(last)}
    if last.feedback:
        told["feedback"] = last.feedback
    if len(answers) > 1:
        told["earlier"] = [_told(answer) for answer in answers[:-1]]
    # ASCII: what a person wrote must not meet the program's locale, nor a NUL end the variable.
    return json.dumps(told)


def _told(answer: Answer) -> dict[str, str]:
    return {"approval": answer.approval, "choice": answer.choice, "question_hash": answer.question_hash}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the line that asks."""
    text = Path(__file__).with_name("schemas").joinpath("approval_needed.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _problem(event: dict[str, Any]) -> str:
    from omium.orchestration.definition.json_schema import value_problems  # only when a program asks

    if _is_deep(event):
        return f"the line that asks is nested deeper than {DEPTH_LIMIT}"
    problems = value_problems(schema(), event)
    if problems:
        return f"the line that asks does not fit its schema: {problems[0]}"
    try:
        json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "the line that asks holds half a surrogate pair"
    return ""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _question(line: str, event: Mapping[str, Any]) -> Question:
    options = tuple(event.get("options", ("approve", "reject")))
    if not REFUSALS.intersection(options):
        options = (*options, "reject")  # a person can always say no
    digest = hashlib.sha256(line.encode("utf-8", "replace")).hexdigest()
    return Question(f"sha256:{digest}", event["question"], options, event.get("details"))


def parse_json(text: str, pairs: Any = None) -> Any:
    """Strict JSON: no NaN, no infinity, no number that overflows into one. Raises ValueError for anything else.

    Integers keep all their digits, which orjson would turn into floats. pairs: see `json.loads`, object_pairs_hook.
    """
    try:
        return json.loads(text, parse_constant=_not_json, parse_float=_finite, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number
