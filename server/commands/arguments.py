"""Values on a command line: inputs as `name=value`, overrides of nodes, files and standard input."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omium.orchestration.errors import OmiumError

STDIN = "-"


def pairs(given: Sequence[str], schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`name=value` texts as an object. A value whose schema says `string` is taken as it stands; any other is JSON
    where it reads as JSON, and text where it does not. Raises `invalid_argument` for a text without `=` or a name
    that is given twice."""
    properties = (schema or {}).get("properties", {})
    values: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise OmiumError("invalid_argument", f"{one!r} is not of the form name=value.")
        if name in values:
            raise OmiumError("invalid_argument", f"{name!r} is given twice.")
        wanted = properties.get(name)
        values[name] = text if isinstance(wanted, Mapping) and wanted.get("type") == "string" else literal(text)
    return values


def undeclared(given: Mapping[str, Any], schema: Mapping[str, Any] | None) -> list[str]:
    """What to say about inputs that a schema with properties does not name. It may allow them, and nothing reads them:
    most are misspelt."""
    said = schema or {}
    properties = said.get("properties")
    extra = said.get("additionalProperties")  # allowed by a schema, or by False refused anyway
    if not properties or extra or extra is False or "patternProperties" in said:
        return []
    notes = []
    for name in given:
        if name not in properties:
            near = difflib.get_close_matches(name, properties, n=1)
            notes.append(f"warning: the workflow has no input {name!r}" + (f"; is it {near[0]!r}?" if near else "."))
    return notes


def literal(text: str) -> Any:
    """The JSON value that a text is, or the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def document(path: str) -> dict[str, Any]:
    """The object in a YAML or JSON file, or on standard input for `-`. Raises `not_found` for a file that cannot be
    read, `invalid_definition` with file and line for a text that is no such document, `invalid_argument` for another
    kind of value."""
    from omium.orchestration.definition.document import read_document, read_file

    read = read_document(sys.stdin.read(), "standard input") if path == STDIN else read_file(Path(path))
    value = read.value
    if not isinstance(value, dict):
        where = "standard input" if path == STDIN else repr(path)
        what = "is empty" if value is None else f"holds a {type(value).__name__}"
        raise OmiumError(
            "invalid_argument",
            f"{where} {what}, where an object of names and values is expected.",
            'Such as {"name": "value"}, as JSON or YAML.',
        )
    return value


def overrides(
    path: str | None,
    inputs: Sequence[str],
    parameters: Sequence[str],
    outputs: Sequence[str],
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """What a branch or a play-from changes: `{"inputs": {...}, "nodes": {id: {"with": {...}} | {"output": ...}}}`.

    path: a file with that object. inputs: `name=value`; parameters: `node.name=value`; outputs: `node=value`; these win
    over the file. schema: of the workflow's inputs, for what it expects as text. None when nothing was given. Raises
    `invalid_argument`."""
    given = document(path) if path else {}
    unknown = set(given) - {"inputs", "nodes"}
    if unknown:
        raise OmiumError("invalid_argument", f"overrides have `inputs` and `nodes`, not {sorted(unknown)[0]!r}.")
    nodes: dict[str, dict[str, Any]] = {
        node: dict(_object(change, f"nodes.{node}")) for node, change in _object(given.get("nodes"), "nodes").items()
    }
    for place, value in pairs(parameters).items():
        node, dot, name = place.rpartition(".")
        if not dot or not node or not name:
            raise OmiumError(
                "invalid_argument", f"{place!r} is not of the form node.parameter.", "Write --with node.name=value."
            )
        nodes.setdefault(node, {}).setdefault("with", {})[name] = value
    for node, value in pairs(outputs).items():
        nodes.setdefault(node, {})["output"] = value
    changed_inputs = {**_object(given.get("inputs"), "inputs"), **pairs(inputs, schema)}
    changes: dict[str, Any] = {}
    if changed_inputs:
        changes["inputs"] = changed_inputs
    if nodes:
        changes["nodes"] = nodes
    return changes or None


def json_object(option: str, text: str) -> dict[str, Any]:
    """The object that a text is, or that the file holds which `@FILE` names. Raises `invalid_argument`, and what
    `document` raises."""
    if text.startswith("@"):
        return document(text[1:])
    value = literal(text)
    if not isinstance(value, dict):
        raise OmiumError(
            "invalid_argument", f"{option} is no JSON object: {text[:80]!r}.", 'Write \'{"name": "value"}\'.'
        )
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OmiumError("invalid_argument", f"`{name}` of the overrides is no object.")
    return value
