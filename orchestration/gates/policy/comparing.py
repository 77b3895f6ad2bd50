"""What another version of a policy would have changed: questions that were really asked, decided again by both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.model import STRICTNESS, Decision, Question, question_from
from omium.orchestration.gates.policy.policy import Policy

MAX_LINE: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """A question that the two decide differently. looser: the later one withholds less."""

    question: Question
    before: Decision
    after: Decision
    times: int

    @property
    def looser(self) -> bool:
        return STRICTNESS[self.after.effect] < STRICTNESS[self.before.effect]

    def as_dict(self) -> dict[str, Any]:
        return {
            "question": self.question.as_dict(),
            "times": self.times,
            "looser": self.looser,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """asked: how many questions there were. changes: those decided differently, the loosened first."""

    asked: int
    changes: tuple[Change, ...]


def compare(before: Policy, after: Policy, questions: Iterable[Question]) -> Comparison:
    """Both policies on the same questions. Equal ones are told once."""
    asked = 0
    found: dict[tuple[str, str], Change] = {}
    for question in questions:
        asked += 1
        one, other = before.decide(question), after.decide(question)
        if _told(one) == _told(other):
            continue
        key = (question.digest(), "" if question.at is None else question.at.isoformat())
        known = found.get(key)
        found[key] = Change(question, one, other, 1 if known is None else known.times + 1)
    return Comparison(asked, tuple(sorted(found.values(), key=lambda change: (not change.looser, -change.times))))


def read_questions(path: Path) -> list[Question]:
    """Recorded questions: a JSON object a line, as `Question.as_dict` writes it, or an object that holds it under
    `question`. Raises `not_found`, and `invalid_argument` with the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise OmiumError("not_found", f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise OmiumError("invalid_argument", f"{str(path)!r} is not UTF-8.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"it is longer than {MAX_LINE:,} characters")
            said = json.loads(line, parse_constant=_refuse)
            if not isinstance(said, dict):
                raise ValueError("it is no object")
            inner = said.get("question", said)
            found.append(question_from(inner if isinstance(inner, dict) else {}))
        except (ValueError, RecursionError) as error:
            raise OmiumError("invalid_argument", f"{path}:{number}: {error}.") from error
        except OmiumError as error:
            raise OmiumError("invalid_argument", f"{path}:{number}: {error.message}") from error
    return found


def _told(decision: Decision) -> tuple[Any, ...]:
    return (
        decision.effect,
        decision.rule,
        decision.limits,
        decision.redact,
        decision.trusts,
        decision.approval,
    )


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
