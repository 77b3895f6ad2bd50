"""Definitions of tools as servers give them: normalised, hashed, checked, compared."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from omium.clients.external.scan import Finding, harmless, harmless_value, scan_text, scan_value
from omium.orchestration.definition.json_schema import schema_problems
from omium.orchestration.definition.names import tool_problem
from omium.orchestration.ids import Digest

_TOOL: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
SCHEMA_DEPTH: Final = 64
_DEFINITION_BYTES: Final = 64 * 1024
_SCHEMA_NODES: Final = 5_000
_FIELDS: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
# What makes a schema one that Python's recursion or another dialect would stumble over is taken out of the copy that
# arguments are checked with, never out of what is pinned. The server checks what it gets itself.
_UNCHECKED: Final = ("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$vocabulary")


@dataclass(frozen=True, slots=True)
class Definition:
    """One tool of a server, as it was listed.

    document: the whole definition (`_FIELDS`), exactly as it came; digest: its hash, which is what is pinned.
    problem: why it can never be offered (its name, size, schemas); empty if it can. findings: see `scan`.
    """

    server: str
    tool: str
    document: Mapping[str, Any]
    digest: Digest
    problem: str = ""
    findings: tuple[Finding, ...] = field(default=())

    @property
    def name(self) -> str:
        return f"{self.server}/{self.tool}"


def definition_of(server: str, raw: Mapping[str, Any]) -> Definition:
    """From a tool's wire form. Never raises: what is wrong with it is its `problem`."""
    document = {key: raw[key] for key in _FIELDS if raw.get(key) is not None}
    name = str(document.get("name", ""))
    shown = name if _TOOL.match(name) else " ".join(harmless(name, 80).split())
    depth = depth_of(document, SCHEMA_DEPTH)
    if depth > SCHEMA_DEPTH:
        return Definition(server, shown, {"name": shown}, _hash({"name": name}), "its definition is nested too deep")
    try:
        encoded = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, TypeError, ValueError):
        return Definition(server, shown, {"name": shown}, _hash({"name": shown}), "its definition is no JSON")
    if len(encoded) > _DEFINITION_BYTES:
        size = f"its definition has {len(encoded)} bytes; expected at most {_DEFINITION_BYTES}"
        return Definition(server, shown, {"name": shown}, Digest(hashlib.sha256(encoded).hexdigest()), size)
    findings = [
        *scan_text(name, "name"),
        *scan_text(str(document.get("title", "")), "title"),
        *scan_text(str(document.get("description", "")), "description"),
        *scan_value(document.get("inputSchema"), "inputSchema"),
        *scan_value(document.get("outputSchema"), "outputSchema"),
        *scan_value(document.get("annotations"), "annotations"),
    ]
    digest = Digest(hashlib.sha256(encoded).hexdigest())
    return Definition(server, shown, document, digest, _problem(server, name, document), tuple(findings))


def _hash(document: Mapping[str, Any]) -> Digest:
    return Digest(hashlib.sha256(repr(document).encode("utf-8", "backslashreplace")).hexdigest())


def _problem(server: str, name: str, document: Mapping[str, Any]) -> str:
    if not _TOOL.match(name) or tool_problem(f"{server}/{name}"):
        return "its name is none: expected at most 128 of A-Z a-z 0-9 _ . -"
    schema = document.get("inputSchema")
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        return "its input schema is not that of an object"
    for key in ("inputSchema", "outputSchema"):
        if key in document:
            problems = schema_problems(checkable(document[key]), key)
            if problems:
                return str(problems[0])
    return ""


_FLAT: Final = frozenset((str, int, float, bool, type(None)))


def depth_of(value: Any, limit: int) -> int:
    """How deep a JSON value is nested, without recursion; beyond `limit` only that it is."""
    level: list[Any] = [value]
    depth = 0
    while level and depth <= limit:
        inner: list[Any] = []
        for one in level:
            if type(one) in _FLAT:  # most of what there is; asking whether it is a mapping takes longer
                continue
            if isinstance(one, Mapping):
                inner.extend(one.values())
            elif isinstance(one, list | tuple):
                inner.extend(one)
        if not inner:
            return depth
        level, depth = inner, depth + 1
    return depth


def checkable(schema: Any) -> dict[str, Any]:
    """A copy of a schema to check values with: without its dialect, without patterns that RE2 does not have."""
    made = _checkable(schema, 0)
    return made if isinstance(made, dict) else {}


def _checkable(node: Any, depth: int) -> Any:
    if depth > SCHEMA_DEPTH:
        return {}
    if isinstance(node, list):
        return [_checkable(one, depth + 1) for one in node]
    if not isinstance(node, Mapping):
        return node
    kept: dict[str, Any] = {}
    for key, item in node.items():
        if key in _UNCHECKED and isinstance(item, str | Mapping) and not (key == "id" and isinstance(item, Mapping)):
            continue
        if key == "pattern" and isinstance(item, str) and not _is_re2(item):
            continue
        if key == "patternProperties" and isinstance(item, Mapping) and not all(_is_re2(one) for one in item):
            continue
        if key == "properties" and isinstance(item, Mapping):
            kept[key] = {name: _checkable(part, depth + 1) for name, part in item.items()}
        else:
            kept[key] = item if key in ("enum", "const", "default", "examples") else _checkable(item, depth + 1)
    return kept


def _is_re2(expression: str) -> bool:
    return not schema_problems({"type": "string", "pattern": expression}, "")


def without_doubles(listed: Iterable[Definition]) -> list[Definition]:
    """The definitions, where a name that a server lists twice is refused in each of its forms."""
    by_name: dict[str, list[Definition]] = {}
    for one in listed:
        by_name.setdefault(one.tool, []).append(one)
    return [
        one if len(same) == 1 else replace(one, problem=one.problem or "the server lists two tools of this name")
        for same in by_name.values()
        for one in same[:1]
    ]


def flat_name(name: str) -> str:
    """The name under which an agent calls `server/tool`: `server__tool`, in the characters that every model takes."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("/", "__", 1))


def shadowed(definition: Definition, others: Iterable[str]) -> list[Finding]:
    """What makes a tool look like one of another server (`others`: `server/tool` names), or speak of it."""
    found = []
    text = str(document_text(definition.document))
    for other in others:
        server, _, tool = other.partition("/")
        if server == definition.server:
            continue
        if _alike(tool) == _alike(definition.tool):
            found.append(Finding("name", "shadows a tool of another server", other))
        elif len(tool) > 5 and ("_" in tool or "-" in tool) and re.search(rf"\b{re.escape(tool)}\b", text):
            found.append(Finding("description", "speaks of a tool of another server", other))
    return found[:10]


def document_text(document: Mapping[str, Any]) -> str:
    return (
        orjson.dumps(document.get("description", "")).decode() + orjson.dumps(document.get("inputSchema", {})).decode()
    )


def _alike(name: str) -> str:
    """Names that a reader may take for each other have one form."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).translate(str.maketrans("01", "ol"))


def display(document: Mapping[str, Any]) -> dict[str, Any]:
    """A definition as people and models may see it."""
    shown = harmless_value(dict(document))
    assert isinstance(shown, dict)
    return shown


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The lines that changed between two definitions, as a unified diff without its heading; made harmless, but for
    hidden characters, which are shown by their number: they may be all that changed."""
    old, new = (_lines(document) for document in (before, after))
    return list(difflib.unified_diff(old, new, "pinned", "offered", lineterm="", n=2))[2:]


def _lines(document: Mapping[str, Any]) -> Sequence[str]:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    return [
        "".join(one if one.isprintable() else f"\\u{{{ord(one):04x}}}" for one in line) for line in text.split("\n")
    ]
