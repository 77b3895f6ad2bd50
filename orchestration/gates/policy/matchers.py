"""The conditions of a rule's `when`, each made into a function of one value: True, False, or Unclear raised.

Unclear means that it cannot be told, mostly since the value is of another type than the condition is about. What
follows depends on the rule: one that grants does not apply, one that withholds does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from omium.orchestration.gates.policy.fields import ABSENT, EVERY, Step, Unclear, values_at
from omium.orchestration.gates.policy.hosts import host_in
from omium.orchestration.gates.policy.names import DEFAULT_SEPARATORS, names_test
from omium.orchestration.gates.policy.paths import path_under
from omium.orchestration.gates.policy.regexes import MAX_TEXT, compiled

Test = Callable[[Any], bool]
Matcher = Callable[[Any, bool], Test]  # (operand, whether a match withholds) -> test


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value: text, number, boolean, list, object, null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, dict) else type(value).__name__


def _equal(operand: Any, withholds: bool) -> Test:
    return _one_of([operand], withholds)


def _one_of(operands: list[Any], withholds: bool) -> Test:
    by_kind: dict[str, frozenset[Any]] = {}
    for operand in operands:
        kind = kind_of(operand)
        by_kind[kind] = by_kind.get(kind, frozenset()) | {operand}

    def test(value: Any) -> bool:
        kind = kind_of(value)
        known = by_kind.get(kind)
        if known is not None:
            return value in known
        if value is None:
            return False
        # Whoever gets it may well take "5" for 5, and ["x"] for "x".
        raise Unclear(f"{kind} compared with {' or '.join(by_kind)}")

    return test


def _regexes(sources: list[str], withholds: bool) -> Test:
    tests = [compiled(source) for source in sources]
    first = tests[0]

    def of_one(value: Any) -> bool:
        return first(value if type(value) is str and len(value) <= MAX_TEXT else _text(value, "searched"))

    def of_many(value: Any) -> bool:
        text = _text(value, "searched")
        return any(found(text) for found in tests)

    return of_one if len(tests) == 1 else of_many


def _globs(patterns: list[str], withholds: bool) -> Test:
    matches = names_test(tuple(patterns), DEFAULT_SEPARATORS, folded=withholds)

    def test(value: Any) -> bool:
        return matches(_text(value, "compared with a glob"))

    return test


def _text(value: Any, done: str) -> str:
    if type(value) is not str:
        raise Unclear(f"{kind_of(value)} {done}")
    if len(value) > MAX_TEXT:
        raise Unclear(f"a text of {len(value):,} characters {done}")
    return value


def _ordered(compare: Callable[[Any, Any], bool]) -> Matcher:
    def matcher(operand: Any, withholds: bool) -> Test:
        def test(value: Any) -> bool:
            kind = type(value)
            if kind is not int and kind is not float and kind_of(value) != "number":
                raise Unclear(f"{kind_of(value)} compared with a number")
            return compare(value, operand)

        return test

    return matcher


def _path_under(roots: list[str], withholds: bool) -> Test:
    test: Test = path_under(roots, folded=withholds)
    return test


def _host_in(patterns: list[str], withholds: bool) -> Test:
    test: Test = host_in(patterns)
    return test


def _size(bounds: Mapping[str, int], withholds: bool) -> Test:
    least, most = bounds.get("min", 0), bounds.get("max")

    def test(value: Any) -> bool:
        if isinstance(value, str):
            size = len(value.encode())
        elif isinstance(value, list | dict | bytes):
            size = len(value)
        else:
            raise Unclear(f"the size of {kind_of(value)}")
        return least <= size and (most is None or size <= most)

    return test


def _kind(kind: str, withholds: bool) -> Test:
    return lambda value: kind_of(value) == kind


def _present(operand: bool, withholds: bool) -> Test:
    return lambda value: (value is not ABSENT) is operand


def _missing(operand: bool, withholds: bool) -> Test:
    return lambda value: (value is ABSENT) is operand


def _negated(condition: Mapping[str, Any], withholds: bool) -> Test:
    inner = condition_test(condition, not withholds)
    return lambda value: not inner(value)


MATCHERS: Final[dict[str, Matcher]] = {
    "eq": _equal,
    "in": _one_of,
    "re": _regexes,
    "glob": _globs,
    "lt": _ordered(lambda value, operand: bool(value < operand)),
    "le": _ordered(lambda value, operand: bool(value <= operand)),
    "gt": _ordered(lambda value, operand: bool(value > operand)),
    "ge": _ordered(lambda value, operand: bool(value >= operand)),
    "path_under": _path_under,
    "host_in": _host_in,
    "size": _size,
    "type": _kind,
    "exists": _present,
    "absent": _missing,
    "not": _negated,
}
"""By the key that a policy file uses."""

_OF_PRESENCE: Final = frozenset({"exists", "absent"})


def condition_test(condition: Mapping[str, Any], withholds: bool) -> Test:
    """All conditions on one value together. What is absent only meets `absent: true` and `exists: false`."""
    of_presence = [MATCHERS[name](condition[name], withholds) for name in condition if name in _OF_PRESENCE]
    tests = [MATCHERS[name](operand, withholds) for name, operand in condition.items() if name not in _OF_PRESENCE]

    def test(value: Any) -> bool:
        if not all(one(value) for one in of_presence):
            return False
        if value is ABSENT:
            return bool(of_presence) and not tests
        return all_hold(tests, value)

    if of_presence or len(tests) != 1:
        return test
    only = tests[0]

    def of_one(value: Any) -> bool:
        return value is not ABSENT and only(value)

    return of_one


def field_test(steps: tuple[Step, ...], condition: Mapping[str, Any], withholds: bool) -> Test:
    """Whether the condition holds of what stands at a place in the arguments, or in the hints."""
    test = condition_test(condition, withholds)
    if len(steps) == 1 and isinstance(steps[0], str):
        return _of_member(steps[0], test)
    if EVERY in steps:
        return _of_every(steps, test, withholds)

    def of_place(value: Any) -> bool:
        return test(next(values_at(value, steps)))

    return of_place


def _of_member(name: str, test: Test) -> Test:
    def of_member(value: Any) -> bool:
        if type(value) is not dict:
            raise Unclear(f"{kind_of(value)} where an object was to be")
        return test(value.get(name, ABSENT))

    return of_member


def _of_every(steps: tuple[Step, ...], test: Test, withholds: bool) -> Test:
    def of_one(value: Any) -> bool:
        return any(_decided(test, values_at(value, steps)))

    def of_every(value: Any) -> bool:
        found = list(values_at(value, steps))
        return bool(found) and all(_decided(test, found, settles=False))

    return of_one if withholds else of_every


def _decided(test: Test, values: Iterable[Any], *, settles: bool = True) -> Iterator[bool]:
    """What a test says of each value, up to the first that `settles` the matter; raises Unclear at the end if nothing
    did and it could not be told of one."""
    unclear: Unclear | None = None
    for value in values:
        try:
            said = test(value)
        except Unclear as caught:
            unclear = unclear or caught
            continue
        yield said
        if said is settles:
            return
    if unclear is not None:
        raise unclear


def all_hold(tests: Iterable[Test], value: Any) -> bool:
    """Whether all hold of a value. One that does not settles it, whatever cannot be told of the others."""
    unclear: Unclear | None = None
    for test in tests:
        try:
            if not test(value):
                return False
        except Unclear as caught:
            unclear = unclear or caught
    if unclear is not None:
        raise unclear
    return True
