"""What is wrong, or hardly meant, with a policy that loads.

What makes a policy no policy (unknown and duplicate keys, ids, undeclared variables, regular expressions that RE2 does
not take) is refused when it is loaded, and is told here in the same form. Nothing here is needed for a policy to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from omium.orchestration.definition.document import Document, read_file
from omium.orchestration.definition.expressions import compile_expression
from omium.orchestration.definition.selection import Selection, Token, selections, tokens
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.fields import field_steps
from omium.orchestration.gates.policy.load import policy_from
from omium.orchestration.gates.policy.names import (
    DEFAULT_SEPARATORS,
    SEPARATORS,
    covers,
    is_literal,
)
from omium.orchestration.gates.policy.policy import Policy
from omium.orchestration.gates.policy.rules import NAMES, name_test

Severity = Literal["error", "warning"]
Said = Mapping[str, Any]  # a rule in canonical form

CODES: Final[Mapping[str, str]] = {
    "invalid": "it does not load: unknown or duplicate keys and ids, wrong types, expressions that do not compile",
    "unreachable": "another rule decides every call that this one is about",
    "redundant": "an earlier rule of the same effect is about the same calls, and this one adds nothing",
    "unconstrained-allow": "it allows whatever is asked, or every call of a kind",
    "allow-across-servers": "it allows tools by a name or glob that also fits the tools of other servers",
    "default-allow": "what no rule is about is allowed",
    "errors-allow": "a rule that withholds and cannot be evaluated does not count",
    "matches-nothing": "a glob fits no name that there is",
    "unknown-name": "a server, tool, agent or workflow that there is not",
    "unknown-argument": "a condition on an argument that the tools in question do not take",
    "wrong-type": "a condition that cannot be about an argument of that type",
    "unchecked-field": "an expression reads a field that may be missing without asking has()",
    "unanchored": "a rule that allows looks for a text anywhere, whatever stands around it",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What there is, as far as it is known; None: not known, so nothing is said about it. tools: the input schemas of
    the pinned tools, by `server/tool`. declared: the servers of the project, of which tools may be unknown."""

    tools: Mapping[str, Mapping[str, Any]] | None = None
    agents: Collection[str] | None = None
    workflows: Collection[str] | None = None
    declared: Collection[str] | None = None

    def servers(self) -> set[str] | None:
        if self.tools is None and self.declared is None:
            return None
        return {name.partition("/")[0] for name in self.tools or {}} | set(self.declared or ())


@dataclass(frozen=True, slots=True)
class Finding:
    """code: one of CODES. rule: its id, or None for the whole policy. path and line: where it stands."""

    code: str
    severity: Severity
    rule: str | None
    path: str
    message: str
    file: str | None = None
    line: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Linted:
    """The findings, and the policy unless it does not load."""

    policy: Policy | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(one.severity == "error" for one in self.findings)


@dataclass(slots=True)
class _Pass:
    document: Document
    known: Known
    rules: Sequence[Said]
    own: int  # how many of the rules stand in the file; the others are its profile's
    findings: list[Finding] = field(default_factory=list)

    def say(self, code: str, severity: Severity, place: int | None, path: str, message: str) -> None:
        where = path if place is None else f"rules[{place}]" + (f".{path}" if path else "")
        rule = None if place is None else self.rules[place]["id"]
        line = self.document.line_of(where)
        self.findings.append(Finding(code, severity, rule, where, message, self.document.source, line))


def lint_file(path: Path | str, known: Known = Known()) -> Linted:
    """The findings for a policy's file. Raises `not_found`."""
    try:
        document = read_file(path)
    except OmiumError as error:
        if error.code != "invalid_definition":
            raise
        return Linted(None, tuple(_invalid(error)))
    return lint(document, known)


def lint(document: Document, known: Known = Known()) -> Linted:
    """The findings for a document that was read, in the order of its lines."""
    try:
        policy = policy_from(document)
    except OmiumError as error:
        return Linted(None, tuple(_invalid(error)))
    rules = policy.document["rules"]
    said = document.value.get("rules") if isinstance(document.value, dict) else None
    run = _Pass(document, known, rules, len(said or ()))
    _whole(run, policy)
    for place in range(run.own):
        rule = rules[place]
        _covered(run, place, rule)
        _too_wide(run, place, rule)
        _names(run, place, rule)
        _arguments(run, place, rule)
        _expression(run, place, rule)
    return Linted(policy, tuple(sorted(run.findings, key=lambda one: (one.line or 0, one.path, one.code))))


def _invalid(error: OmiumError) -> Iterator[Finding]:
    for one in error.data.get("problems", ()):
        expected = f"; expected {one['expected']}" if one["expected"] else ""
        yield Finding("invalid", "error", None, one["path"], one["message"] + expected, one["file"], one["line"])


def _whole(run: _Pass, policy: Policy) -> None:
    if policy.default == "allow":
        run.say("default-allow", "warning", None, "default", "what no rule is about is allowed")
    if policy.on_error == "allow":
        run.say("errors-allow", "warning", None, "on_error", "a rule that fails while it withholds does not count")


# --- rules that cover each other ----------------------------------------------------------------------------------


def _covered(run: _Pass, place: int, rule: Said) -> None:
    for at, other in enumerate(run.rules):
        if at == place or _conditional(other) or not _about_all_of(other, rule):
            continue
        stricter = {"allow": 0, "require_approval": 1, "deny": 2}
        over = stricter[other["effect"]] - stricter[rule["effect"]]
        adds = any(rule.get(name) for name in ("limits", "redact", "trusts", "approval"))
        if over > 0 and not (adds and other["effect"] != "deny"):
            what = f"the rule {other['id']!r} ({other['effect']}) decides everything that it is about"
            return run.say("unreachable", "error", place, "", what)
        if over == 0 and at < place and not adds:
            return run.say("redundant", "warning", place, "", f"the rule {other['id']!r} says the same already")
    return None


def _conditional(rule: Said) -> bool:
    return any(rule.get(name) for name in ("when", "if", "during"))


def _about_all_of(wide: Said, narrow: Said) -> bool:
    """Whether the match of one covers that of the other; False where that is not plain to see."""
    theirs = narrow.get("match", {})
    for name, patterns in wide.get("match", {}).items():
        marks = SEPARATORS.get(name, DEFAULT_SEPARATORS)
        if name not in theirs:
            return False
        if not all(any(covers(one, other, marks) for one in patterns) for other in theirs[name]):
            return False
    return True


# --- rules that allow too much ------------------------------------------------------------------------------------


def _too_wide(run: _Pass, place: int, rule: Said) -> None:
    if rule["effect"] != "allow":
        return
    match = rule.get("match", {})
    said = {name for name in match if name != "action"}
    actions = set(match.get("action", ("tool",)))
    if not _conditional(rule) and not said and not actions <= {"model", "command"}:
        run.say("unconstrained-allow", "error", place, "match", "it allows every such call, with any arguments")
    elif "tool" in actions and "tool" in match and not _fixed(match.get("server")):
        run.say("allow-across-servers", "warning", place, "match.tool", "any server can have a tool of such a name")
    for where, condition in rule.get("when", {}).items():
        for source in condition.get("re", ()):
            body = source.removeprefix("(?s)").removeprefix("(?i)")
            if not (body.startswith(("^", r"\A")) and body.endswith(("$", r"\z"))):
                what = f"{source!r:.80} may stand anywhere in {where}; begin with ^ and end with $"
                run.say("unanchored", "warning", place, f"when.{where}.re", what)


def _fixed(patterns: Sequence[str] | None) -> bool:
    return patterns is not None and all(map(is_literal, patterns))


# --- names and arguments that there are ---------------------------------------------------------------------------


def _names(run: _Pass, place: int, rule: Said) -> None:
    known, match = run.known, rule.get("match", {})
    if "tool" not in match.get("action", ("tool",)):
        return
    existing: dict[str, Collection[str] | None] = {
        "agent": known.agents, "workflow": known.workflows, "server": known.servers(),
    }  # fmt: skip
    if known.tools is not None:
        test = _tester(match, "server")
        existing["tool"] = {
            name.partition("/")[2] for name in known.tools if test is None or test(name.partition("/")[0])
        }
    for name, there in existing.items():
        for pattern in match.get(name, ()) if there is not None else ():
            test = name_test(name, [pattern], rule["effect"] != "allow")
            if any(test(one) for one in there or ()):
                continue
            what = f"there is no {name} {pattern!r}" if is_literal(pattern) else f"no {name} fits {pattern!r}"
            run.say(
                "unknown-name" if is_literal(pattern) else "matches-nothing", "warning", place, f"match.{name}", what
            )


def _tester(match: Mapping[str, Sequence[str]], name: str) -> Callable[[Any], bool] | None:
    return name_test(name, match[name], True) if name in match else None


_FITS: Final[Mapping[str, frozenset[str]]] = {
    "re": frozenset({"string"}),
    "glob": frozenset({"string"}),
    "path_under": frozenset({"string"}),
    "host_in": frozenset({"string"}),
    **dict.fromkeys(("lt", "le", "gt", "ge"), frozenset({"number", "integer"})),
    "size": frozenset({"string", "array", "object"}),
}
"""What JSON Schema types an argument must have for a condition to be about it."""


def _arguments(run: _Pass, place: int, rule: Said) -> None:
    if run.known.tools is None:
        return
    match = rule.get("match", {})
    if "tool" not in match.get("action", ("tool",)):
        return
    server, tool = _tester(match, "server"), _tester(match, "tool")
    schemas = [
        schema
        for name, schema in run.known.tools.items()
        if (server is None or server(name.partition("/")[0])) and (tool is None or tool(name.partition("/")[2]))
    ]
    if not schemas:
        return
    for where, condition in rule.get("when", {}).items():
        root, steps = field_steps(where)
        if root != "args" or not steps or not isinstance(steps[0], str):
            continue
        takers = [schema for schema in schemas if _takes(schema, steps[0])]
        if not takers:
            run.say("unknown-argument", "error", place, f"when.{where}", f"no tool in question takes {steps[0]!r}")
            continue
        types = {one for schema in takers for one in _types(schema, steps[0])}
        for name in condition if len(steps) == 1 and types else ():
            if name in _FITS and not types & _FITS[name]:
                what = f"{name} is not about {' or '.join(sorted(types))}, which {steps[0]!r} is"
                run.say("wrong-type", "error", place, f"when.{where}.{name}", what)


def _takes(schema: Mapping[str, Any], name: str) -> bool:
    """Whether a tool's schema knows an argument; one that says nothing of its properties may take any."""
    properties = schema.get("properties")
    if (
        not isinstance(properties, Mapping)
        or "patternProperties" in schema
        or any(key in schema for key in ("$ref", "allOf", "anyOf", "oneOf"))
    ):
        return True
    return name in properties


def _types(schema: Mapping[str, Any], name: str) -> set[str]:
    part = (schema.get("properties") or {}).get(name)
    said = part.get("type") if isinstance(part, Mapping) else None
    return {said} if isinstance(said, str) else {one for one in said or () if isinstance(one, str)}


# --- expressions --------------------------------------------------------------------------------------------------


def _expression(run: _Pass, place: int, rule: Said) -> None:
    source = rule.get("if")
    if source is None:
        return
    names = (*NAMES, "hints")
    parts = tokens(source)
    asked = _asked(parts, names)
    for found in dict.fromkeys(compile_expression(source, names if rule["effect"] != "allow" else NAMES).selections):
        steps = [one for one in found.steps if isinstance(one, str)]
        if found.root not in ("args", "hints") or not steps:
            continue
        if any((found.root, *steps[: length + 1]) in asked for length in range(len(steps))):
            continue
        run.say("unchecked-field", "warning", place, "if", f"{found} may be missing: ask has({found}) before")


def _asked(parts: Sequence[Token], names: Sequence[str]) -> set[tuple[str, ...]]:
    """What an expression asks for before it reads it: `has(args.a)`, and `"a" in args`."""
    asked: set[tuple[str, ...]] = set()
    for at, part in enumerate(parts):
        if part.kind == "name" and part.text == "has" and at + 1 < len(parts) and parts[at + 1].text == "(":
            end = next((place for place in range(at, len(parts)) if parts[place].text == ")"), len(parts))
            asked |= {_steps(one) for one in selections(parts[at + 2 : end], names)}
        if part.text == "in" and 0 < at < len(parts) - 1 and parts[at - 1].kind == "string":
            for one in selections(parts[at + 1 : at + 2], names):
                asked.add((one.root, parts[at - 1].text[1:-1]))
    return asked


def _steps(found: Selection) -> tuple[str, ...]:
    return (found.root, *(one for one in found.steps if isinstance(one, str)))
