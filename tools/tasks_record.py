"""What is stored of a task besides the promise: which questions were put under which keys, which of those came back,
and how it ended.

A key stands for one question as long as the task lives, and a question that came back is not put again. The record
never forgets either, and it is replaced by compare-and-set, so that holds for any number of servers. An end is as
final: a client that was told of it is not told anything else, although the run behind it may be rolled back and go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omium.tools.tasks_source import Ending, Question


@dataclass(frozen=True, slots=True)
class End:
    """at: microseconds since the epoch."""

    status: Ending
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """asked: question ids by their keys, in the order of asking; answered: keys."""

    tool: str
    memo: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    answered: frozenset[str] = frozenset()
    end: End | None = None

    def ask(self, questions: Sequence[Question]) -> Record:
        """With a key for each question that has none."""
        known = set(self.asked.values())
        asked = dict(self.asked)
        for question in questions:
            if question.id not in known:
                asked[f"input-{len(asked) + 1}"] = question.id
                known.add(question.id)
        return self if len(asked) == len(self.asked) else replace(self, asked=asked)

    def outstanding(self, questions: Sequence[Question]) -> dict[str, Question]:
        """Those of the questions that were put and have not come back, by their keys."""
        present = {question.id: question for question in questions}
        return {
            key: present[asked] for key, asked in self.asked.items() if asked in present and key not in self.answered
        }

    def answer(self, key: str) -> Record:
        """The question of a key came back."""
        return replace(self, answered=self.answered | {key})

    def ended(self, status: Ending, at: int) -> Record:
        """The first end counts."""
        return self if self.end is not None else replace(self, end=End(status, at))

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        end = {"status": self.end.status, "at": self.end.at} if self.end is not None else None
        given = {"memo": dict(self.memo), "asked": dict(self.asked), "answered": sorted(self.answered), "end": end}
        return {"tool": self.tool, **{key: item for key, item in given.items() if item}}


def read(document: Mapping[str, Any]) -> Record:
    """The record of a stored document."""
    end = document.get("end")
    return Record(
        tool=document["tool"],
        memo=document.get("memo", {}),
        asked=document.get("asked", {}),
        answered=frozenset(document.get("answered", ())),
        end=None if end is None else End(end["status"], end["at"]),
    )
