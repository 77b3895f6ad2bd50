"""What a program has asked in one generation of its node, and what was answered: kept with the run between its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from omium.clients.commands import CommandSpec, Launch
from omium.clients.processes.counters import counters
from omium.clients.processes.protocol import REFUSALS, Answer
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt
from omium.orchestration.values import Value

_QUESTIONS: Final = 16  # of one program; all answers go into one variable


@dataclass(slots=True)
class _Asked:
    """One question. key: names it for `Attempt.decide`; no other question of the node has the same."""

    key: str
    hash: str
    question: str
    options: tuple[str, ...]
    details: Mapping[str, Any] | None
    answer: Answer | None = None


@dataclass(slots=True)
class Asked:
    """launch: how the program was started when it first asked; it is run again exactly so."""

    launch: Launch | None = None
    questions: list[_Asked] = field(default_factory=list)

    @classmethod
    async def of(cls, attempt: Attempt) -> Asked:
        """What was asked before. An attempt that does not go on with an earlier one starts afresh: what was approved
        is one execution, and not its repetition after a failure."""
        kept: Any = await attempt.kept() if attempt.resumed else None
        if not isinstance(kept, dict) or "launch" not in kept:
            return cls()
        launch = kept["launch"]
        return cls(
            Launch(
                tuple(launch["argv"]),
                None if launch["cwd"] is None else Path(launch["cwd"]),
                tuple(launch["pass_env"]),
                tuple(launch["constants"]),
            ),
            [
                _Asked(
                    one["key"],
                    one["hash"],
                    one["question"],
                    tuple(one["options"]),
                    one["details"],
                    None if one["answer"] is None else Answer(**one["answer"]),
                )
                for one in kept["asked"]
            ],
        )

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(one.answer for one in self.questions if one.answer is not None)

    async def answered(self, spec: CommandSpec, attempt: Attempt) -> None:
        """Have every question answered. Raises `Suspended` when a person has to decide first."""
        for one in self.questions:
            if one.answer is not None:
                continue
            decided = await attempt.decide(
                one.question,
                one.options,
                key=one.key,
                details=self._shown(spec, one),
                expires_s=spec.asking.expires_s,
                min_assurance=spec.asking.min_assurance,
            )
            if decided.decision in REFUSALS or decided.decision not in one.options:
                raise OmiumError(
                    "process_failed",
                    f"The command {spec.name!r} asked, and was told {decided.decision!r}.",
                    reason="refused",
                    approval=decided.approval,
                    decision=decided.decision,
                )
            one.answer = Answer(decided.approval, decided.decision, one.hash, decided.feedback)
            counters.resumed += 1
            await attempt.keep(self._value())

    async def add(self, told: Mapping[str, Any], launch: Launch, spec: CommandSpec, attempt: Attempt) -> None:
        """Take a question (the fields of a `protocol.Question`), durably. Raises OmiumError("process_failed",
        reason="max_resumes") for one too many."""
        counters.asked += 1
        same = sum(1 for one in self.questions if one.hash == told["hash"])
        if same >= spec.asking.max_resumes or len(self.questions) >= _QUESTIONS:
            what = f"the same question {same + 1} times" if same else f"{_QUESTIONS + 1} questions"
            raise OmiumError(
                "process_failed",
                f"The command {spec.name!r} asked {what}, and is not run again: {told['question'][:200]!r}.",
                "It has to ask with the same bytes in every run, and to read its answer from OMIUM_DECISION.",
                reason="max_resumes",
            )
        key = f"ask:{attempt.attempt}:{len(self.questions) + 1}:{told['hash'][-16:]}"
        self.launch = launch
        question = told["question"], tuple(told["options"]), told["details"]
        self.questions.append(_Asked(key, told["hash"], *question))
        await attempt.keep(self._value())

    def _shown(self, spec: CommandSpec, one: _Asked) -> dict[str, Any]:
        """What a person sees besides the question, and decides on."""
        assert self.launch is not None  # set with the first question
        shown: dict[str, Any] = {
            "command": spec.name,
            "argv": list(self.launch.argv),
            "cwd": "workspace" if self.launch.cwd is None else str(self.launch.cwd),
            "env": sorted((*self.launch.pass_env, *self.launch.constants)),
            "question_hash": one.hash,
        }
        if one.details is not None:
            shown["details"] = dict(one.details)
        return shown

    def _value(self) -> Value:
        assert self.launch is not None
        launch = self.launch
        told = {
            "launch": {
                "argv": list(launch.argv),
                "cwd": None if launch.cwd is None else str(launch.cwd),
                "pass_env": list(launch.pass_env),
                "constants": list(launch.constants),
            },
            "asked": [
                {
                    "key": one.key,
                    "hash": one.hash,
                    "question": one.question,
                    "options": list(one.options),
                    "details": None if one.details is None else dict(one.details),
                    "answer": None if one.answer is None else _fields(one.answer),
                }
                for one in self.questions
            ],
        }
        return cast(Value, told)


def _fields(answer: Answer) -> dict[str, Any]:
    return {
        "approval": answer.approval,
        "choice": answer.choice,
        "question_hash": answer.question_hash,
        "feedback": answer.feedback,
    }
