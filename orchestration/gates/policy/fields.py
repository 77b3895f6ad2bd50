"""Places in a question that a rule's `when` names: `args.sql`, `args.files[*].path`, `args["odd.name"]`, `hints.x`.

`[*]` stands for every item of a list, and for every value of an object. What follows from that depends on the effect:
where a match grants, every one of them has to hold, and there has to be one; where it withholds, one is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

ROOTS: Final = ("args", "hints")
EVERY: Final = object()
ABSENT: Final = object()
MAX_ITEMS: Final = 10_000

Step = str | int | object
_STEP: Final = re.compile(r"""\.([^.\[\]"'\s]+)|\[([0-9]{1,6})\]|\[(\*)\]|\["([^"]+)"\]""")


class Unclear(Exception):
    """A condition cannot tell whether it holds. Never leaves the policy engine."""


def field_problem(text: str) -> str:
    """What is wrong with a place; empty if nothing is."""
    try:
        field_steps(text)
    except ValueError as error:
        return str(error)
    return ""


def field_steps(text: str) -> tuple[str, tuple[Step, ...]]:
    """(`args` or `hints`, the steps from there); ValueError for what is no place."""
    root = next((one for one in ROOTS if text == one or text.startswith((f"{one}.", f"{one}["))), None)
    if root is None:
        raise ValueError(f"{text!r:.80} is nothing that a condition can look at; expected args.NAME, or hints.NAME")
    steps: list[Step] = []
    at = len(root)
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(
                f'{text!r:.80} cannot be read from {text[at:]!r:.20}; expected .name, [0], [*] or ["name"]'
            )
        name, position, every, quoted = match.groups()
        steps.append(EVERY if every else int(position) if position else name or quoted)
        at = match.end()
    return root, tuple(steps)


def values_at(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    """What stands at a place: one value, several after `[*]`, none for an empty list, and ABSENT for what is not
    there. Raises Unclear where a step does not fit, such as a name of a text, and after 10,000 items."""
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if step is EVERY:
        if not isinstance(value, list | dict):
            raise Unclear(f"{_kind(value)} where a list was to be")
        items = list(value.values()) if isinstance(value, dict) else value
        if len(items) > MAX_ITEMS:
            raise Unclear(f"a list of more than {MAX_ITEMS:,}")
        for item in items:
            yield from values_at(item, rest)
    elif isinstance(step, int):
        if not isinstance(value, list):
            raise Unclear(f"{_kind(value)} where a list was to be")
        if step < len(value):
            yield from values_at(value[step], rest)
        else:
            yield ABSENT
    elif isinstance(value, dict):
        if step in value:
            yield from values_at(value[step], rest)
        else:
            yield ABSENT
    elif value is None:
        yield ABSENT
    else:
        raise Unclear(f"{_kind(value)} where an object was to be")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
