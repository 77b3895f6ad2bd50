"""The words that an agent is given: its prompt, its task, and what went wrong before.

What comes from a run (inputs, errors, answers of people) is data between tags whose names cannot be forged from inside;
only what stands between `<human>` tags was said by a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from omium.clients.agents.spec import AgentDef
from omium.orchestration.definition.expressions import references, render
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Guidance

SCOPE: Final = ("input", "run")
"""What templates of agents read: the node's input, and `run` {id, node, attempt, failures, feedback}."""

NEWS_LIMIT: Final = 6_000
"""Characters that an agent is told of earlier attempts, at most."""

_FAILURES = 3
_SUGGESTIONS = 8
_MESSAGE = 800
_FEEDBACK = 2_000
_MENDED = 300
_TAGS = re.compile(r"<(/?)(human|failure|earlier_attempts|mended_before|suggestions)\b", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+(.+)$", re.MULTILINE)

_ADVICE: Final[Mapping[str, tuple[str, ...]]] = {
    "file_not_found": ("List the directory before opening a file.", "Check the path for a spelling mistake."),
    "api_error": ("Try a smaller request.", "Use another tool that gives the same information."),
    "timeout": ("Do less in one step.", "Ask for fewer results at a time."),
    "import_error": ("Use a tool that is offered; others do not exist here.",),
    "type_error": ("Check the types of the arguments against the tool's schema.",),
    "value_error": ("Check the values of the arguments; the format may be wrong.",),
    "key_error": ("Look at what the data really holds before using a field of it.",),
    "attribute_error": ("Look at what the data really holds before using a field of it.",),
    "index_error": ("The list may be shorter than expected: check its length.",),
    "permission_error": ("Do not repeat what was refused; find another way, or say what leave is needed.",),
    "connection_error": ("The other side could not be reached: go on with what does not need it.",),
    "memory_error": ("Work on a smaller part at a time.",),
    "rate_limited": ("Make fewer calls.",),
    "validation": ("Give exactly what the schema asks for, nothing before or after it.",),
    "unknown": ("Take a different approach from last time.",),
}


def template_problem(text: str) -> str:
    """Why a text cannot be a prompt or a message; empty if it can."""
    try:
        wrong = {name for name in references(text) if name.partition(".")[0] not in SCOPE}
    except OmiumError as error:
        return error.message.rstrip(".")
    return f"reads {', '.join(sorted(wrong))}; an agent's templates read input and run" if wrong else ""


def rendered(agent: AgentDef, inputs: Any, attempt: Attempt) -> tuple[str, str]:
    """(prompt, first message) for these inputs. Raises `expression_error`."""
    scope = {
        "input": inputs,
        "run": {
            "id": str(attempt.run_id),
            "node": str(attempt.node_id),
            "attempt": attempt.attempt,
            "failures": [dict(one) for one in attempt.guidance.failures],
            "feedback": list(attempt.guidance.feedback),
        },
    }
    message = as_text(inputs) if agent.message is None else as_text(render(agent.message, scope))
    return as_text(render(agent.prompt, scope)), message


def as_text(value: Any) -> str:
    """A value as an agent reads it: text as it is, `{"task": text}` as that text, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and list(value) == ["task"] and isinstance(value["task"], str):
        return value["task"]
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def human_said(text: str) -> str:
    """What a person said, tagged so that nothing else can pass for it."""
    return f"<human>{_plain(text)}</human>"


def news(
    guidance: Guidance, *, failures: bool, told: Iterable[str] = (), limit: int = NEWS_LIMIT
) -> tuple[str, list[str]]:
    """What the agent does not know yet, and the feedback in it: how earlier attempts failed (if `failures`), what
    people said beyond what it was `told`, what mended such failures before, and what may help. At most `limit`
    characters; empty if there is nothing."""
    known = set(told)
    said = [one for one in dict.fromkeys(guidance.feedback) if one and one not in known]
    failed = list(guidance.failures[-_FAILURES:]) if failures else []
    if not said and not failed:
        return "", []
    parts: list[str] = []
    if said:
        parts.append("A person said:\n" + "\n".join(human_said(one[:_FEEDBACK]) for one in said))
    if failed:
        lines = "\n".join(_failure(one) for one in failed)
        parts.append(
            "Earlier attempts at this task failed. Do not repeat what went wrong.\n"
            f"<earlier_attempts>\n{lines}\n</earlier_attempts>"
        )
    if failed and guidance.mended:
        lines = "\n".join(f"- {_plain(' '.join(one.split())[:_MENDED])}" for one in guidance.mended)
        parts.append(f"What mended such a failure before:\n<mended_before>\n{lines}\n</mended_before>")
    advice = suggestions(said, [str(one.get("category", "unknown")) for one in failed])
    if advice:
        parts.append("<suggestions>\n" + "\n".join(f"- {_plain(one)}" for one in advice) + "\n</suggestions>")
    text = "\n\n".join(parts)
    return (text if len(text) <= limit else text[: limit - 6] + "\n[...]"), said


def suggestions(feedback: Sequence[str], categories: Sequence[str]) -> list[str]:
    """What to try, at most eight: first the points of what people said, then what helps against such failures, newest
    first; nothing twice."""
    points = [point.strip()[:300] for text in feedback for point in _BULLET.findall(text)]
    known = [advice for category in reversed(categories) for advice in _ADVICE.get(category, ())]
    unique: dict[str, str] = {}
    for point in (*points, *known):
        unique.setdefault(point.casefold().rstrip("."), point)
    return list(unique.values())[:_SUGGESTIONS]


def _failure(told: Mapping[str, Any]) -> str:
    message = " ".join(str(told.get("message", "")).split())[:_MESSAGE]
    hint = f" ({' '.join(str(told['hint']).split())[:200]})" if told.get("hint") else ""
    category = str(told.get("category", "unknown"))
    return f'<failure category="{category}">{_plain(message + hint)}</failure>'


def _plain(text: str) -> str:
    """Text that opens and closes none of our tags."""
    return _TAGS.sub(lambda match: f"&lt;{match[1]}{match[2]}", text)
