"""For programs that Omium supervises: ask a person, and get the answer when the program is run again.

Standard library only, so that it can be copied into any program. The protocol stands in docs/approval-protocol.md.

    from omium.clients.processes.asking import ask

    if ask("Drop the table `orders`?", details={"rows": 1204}) == "approve":
        drop()

Ask before anything is done: the program ends here, and is run again from its beginning with the answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

EXIT_CODE = 90
VARIABLE = "OMIUM_DECISION"
SCHEMA_VERSION = 1
DEFAULT_OPTIONS = ("approve", "reject")


def ask(question: str, options: Sequence[str] = DEFAULT_OPTIONS, *, details: Mapping[str, Any] | None = None) -> str:
    """The choice of a person, one of `options`; without one, the program asks and ends with exit code 90 (SystemExit).

    question, details: what the person sees. They have to be the same in every run, to the byte: an answer counts for
    exactly the question that was asked, so no times, no temporary names. Never reads standard input.
    """
    line = question_line(question, options, details)
    answer = answered(line)
    if answer is not None and answer["choice"] in options:
        return str(answer["choice"])
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    raise SystemExit(EXIT_CODE)


def feedback() -> str | None:
    """What the person who decided last said besides."""
    told = _decision().get("feedback")
    return told if isinstance(told, str) else None


def question_line(question: str, options: Sequence[str], details: Mapping[str, Any] | None = None) -> str:
    """The line that asks."""
    event: dict[str, Any] = {
        "event": "approval_needed",
        "schema_version": SCHEMA_VERSION,
        "question": question,
        "options": list(options),
    }
    if details is not None:
        event["details"] = dict(details)
    return json.dumps(event, sort_keys=True, allow_nan=False)


def question_hash(line: str) -> str:
    """What an answer names the question by: SHA-256 of the line's bytes, without its line end."""
    return "sha256:" + hashlib.sha256(line.encode()).hexdigest()


def answered(line: str) -> Mapping[str, Any] | None:
    """The answer to this question; None when this program was given none, or only to others."""
    decision = _decision()
    wanted = question_hash(line)
    earlier = decision.get("earlier")
    for answer in [decision, *(earlier if isinstance(earlier, list) else [])]:
        if isinstance(answer, dict) and answer.get("question_hash") == wanted and isinstance(answer.get("choice"), str):
            return answer
    return None


def _decision() -> dict[str, Any]:
    try:
        decision = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return decision if isinstance(decision, dict) else {}
