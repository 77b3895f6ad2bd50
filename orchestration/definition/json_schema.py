"""JSON Schemas of inputs and outputs: whether they are valid, what fields they promise, whether a value fits.

The schemas come from the same hands as the definition, so they get no more power than it: references stay within the
schema (nothing is fetched) and `pattern` is RE2, which does not backtrack.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from omium.orchestration.definition.expressions import compile_expression
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.definition.problems import Problem
from omium.orchestration.errors import OmiumError

_MAX_PROBLEMS = 50
_SCHEMAS_IN = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_IN = ("prefixItems", "allOf", "anyOf", "oneOf")
_SINGLE_IN = (
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "if",
    "then",
    "else",
    "not",
    "unevaluatedItems",
    "unevaluatedProperties",
)

# The keywords of schemas that a compiled checker may look at before the thorough one: no references, which may go round
# without end, no expressions, whose dialects differ, no arithmetic on fractions.
_PLAIN = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "allOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "minProperties", "maxProperties", "uniqueItems"),
        *("title", "description", "default", "examples", "$schema"),
    )
)

MISSING = object()
"""What `schema_at` gives where a schema promises that there is nothing."""


def schema_problems(schema: Mapping[str, Any], path: str) -> list[Problem]:
    """What is wrong with a JSON Schema (2020-12) as such; empty if nothing is."""
    from jsonschema.exceptions import SchemaError

    try:
        _validator_class().check_schema(schema)
    except SchemaError as error:
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        return [Problem(f"{path}{where}", f"is no JSON Schema: {error.message[:200]}", "JSON Schema 2020-12")]
    except RecursionError:
        return [Problem(path, "is no JSON Schema: it is nested too deep", "JSON Schema 2020-12")]
    problems = []
    for where, part in _subschemas(schema, path):
        if part is not schema and "$id" in part:
            problems.append(Problem(f"{where}.$id", "changes what references mean", "no $id inside a schema"))
        for keyword in ("$ref", "$dynamicRef"):
            reference = part.get(keyword)
            if isinstance(reference, str) and not reference.startswith("#"):
                problems.append(
                    Problem(f"{where}.{keyword}", f"refers to {reference[:100]!r}", "a reference into itself, #/...")
                )
            elif isinstance(reference, str) and reference != "#" and _resolve(schema, reference) is None:
                problems.append(Problem(f"{where}.{keyword}", f"refers to {reference[:100]!r}", "a part that exists"))
        patterns = [(f"{where}.pattern", part.get("pattern"))]
        patterns += [(f"{where}.patternProperties", key) for key in part.get("patternProperties", {})]
        for at, pattern in patterns:
            if isinstance(pattern, str) and not _is_pattern(pattern):
                problems.append(Problem(at, f"{pattern[:100]!r} is no regular expression of RE2", "RE2 syntax"))
    return problems


def validate_inputs(workflow: WorkflowDef, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a run with the schema's defaults filled in; `inputs` itself stays as it is.

    OmiumError("invalid_argument") if they do not fit; `data["problems"]` lists every reason with its path.
    """
    if not isinstance(inputs, Mapping):
        raise OmiumError("invalid_argument", f"Inputs must be an object, not {type(inputs).__name__}.")
    value = dict(inputs)
    if workflow.inputs is None:
        return value
    value = dict(with_defaults(workflow.inputs, value))
    problems = value_problems(workflow.inputs, value, "inputs")
    if problems:
        raise OmiumError(
            "invalid_argument",
            f"The inputs do not fit the workflow {workflow.name!r}: {'; '.join(map(str, problems))}.",
            "Its inputs are described by the JSON Schema in its definition.",
            problems=[problem.as_dict() for problem in problems],
        )
    return value


def value_problems(schema: Mapping[str, Any], value: Any, path: str = "") -> list[Problem]:
    """Every way in which a value does not fit a valid schema, each with its path below `path`."""
    return _problems(_validator(schema), value, path)


def checker_of(schema: Mapping[str, Any]) -> Callable[[Any, str], list[Problem]]:
    """`value_problems` for many values of one schema: compiling takes longer than checking."""
    validator = _validator(schema)
    fits = _compiled(schema)

    def check(value: Any, path: str) -> list[Problem]:
        return [] if fits is not None and fits(value) else _problems(validator, value, path)

    return check


def _compiled(schema: Mapping[str, Any]) -> Callable[[Any], bool] | None:
    """Whether a value surely fits: much faster than naming its problems. None where the schema is not plain. A number
    that is not finite counts as null; no such value can be stored."""
    import jsonschema_rs

    if any(keyword not in _PLAIN for _, part in _subschemas(schema, "") for keyword in part):
        return None
    try:
        json.dumps(schema, allow_nan=False)  # which would become a null there
        validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=False, offline=True)
    except (ValueError, TypeError, RecursionError):
        return None

    def fits(value: Any) -> bool:
        try:
            return bool(validator.is_valid(value))
        except (ValueError, TypeError, OverflowError, RecursionError):  # what is no JSON; the other one says why
            return False

    return fits


def _problems(validator: Any, value: Any, path: str) -> list[Problem]:
    from referencing.exceptions import Unresolvable

    problems = []
    try:
        for error in validator.iter_errors(value):
            where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
            problems.append(Problem(f"{path}{where}".lstrip("."), error.message[:300]))
            if len(problems) >= _MAX_PROBLEMS:
                break
    except RecursionError:
        problems.append(Problem(path, "cannot be checked: the schema refers to itself without end"))
    except Unresolvable as error:
        problems.append(Problem(path, f"cannot be checked: the schema refers to {error.ref!r}"))
    return sorted(problems, key=lambda problem: problem.path)


def with_defaults(schema: Mapping[str, Any], value: Any, depth: int = 0) -> Any:
    """A copy of `value` where properties that an object lacks have their schema's default."""
    properties = schema.get("properties")
    if depth > 16 or not isinstance(value, dict) or not isinstance(properties, Mapping):
        return value
    filled = dict(value)
    for name, part in properties.items():
        if not isinstance(part, Mapping):
            continue
        if name in filled:
            filled[name] = with_defaults(part, filled[name], depth + 1)
        elif "default" in part:
            filled[name] = copy.deepcopy(part["default"])
    return filled


def schema_at(schema: Any, steps: tuple[str | int, ...]) -> tuple[Any, int]:
    """(the schema of what the steps lead to, how many of them were taken).

    The schema is MISSING if the step after those has nothing to lead to, and None if the schema does not say: an open
    object, a combination such as anyOf.
    """
    root = at = schema
    for taken, step in enumerate(steps):
        at = _below(root, at, step)
        if at is MISSING or at is None:
            return at, taken
    return at, len(steps)


def field_names(schema: Any, steps: tuple[str | int, ...]) -> list[str]:
    """The properties that a schema names at the end of the steps."""
    at, _ = schema_at(schema, steps)
    at = _followed(schema, at)
    return list(at.get("properties", {})) if isinstance(at, Mapping) else []


def _below(root: Any, schema: Any, step: str | int) -> Any:
    schema = _followed(root, schema)
    if not isinstance(schema, Mapping) or any(key in schema for key in ("anyOf", "oneOf", "allOf", "if", "not")):
        return None
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in kind if one != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if isinstance(step, int):
        if kind not in (None, "array"):
            return MISSING
        prefix = schema.get("prefixItems", [])
        return prefix[step] if step < len(prefix) else schema.get("items")
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and step in properties:
        return properties[step]
    if kind not in (None, "object"):
        return MISSING
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        return more
    if more is True or "patternProperties" in schema:
        return None
    # JSON Schema lets an object have more than it names; one that names its properties is taken to mean them all.
    return MISSING if more is False or isinstance(properties, Mapping) else None


def _followed(root: Any, schema: Any) -> Any:
    for _ in range(16):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        schema = _resolve(root, schema["$ref"])
    return None


def _resolve(root: Any, reference: str) -> Any:
    """What a reference such as `#/$defs/commit` names within a schema; None if nothing, or not by path."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    at = root
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and step in at:
            at = at[step]
        elif isinstance(at, list) and step.isdigit() and int(step) < len(at):
            at = at[int(step)]
        else:
            return None
    return at


def _subschemas(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A schema and all that are in it, with their paths; `enum`, `const` and examples are values and left alone."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword in _SCHEMAS_IN:
        inner = schema.get(keyword)
        if isinstance(inner, Mapping):
            for name, part in inner.items():
                yield from _subschemas(part, f"{path}.{keyword}.{name}")
    for keyword in _LISTS_IN:
        inner = schema.get(keyword)
        if isinstance(inner, list):
            for index, part in enumerate(inner):
                yield from _subschemas(part, f"{path}.{keyword}[{index}]")
    for keyword in _SINGLE_IN:
        yield from _subschemas(schema.get(keyword), f"{path}.{keyword}")


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    """Draft 2020-12 with RE2 in place of Python's backtracking expressions."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(validator: Any, expression: str, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not _matches(expression, instance):
            yield ValidationError(f"{instance!r} does not match {expression!r}")

    def pattern_properties(validator: Any, expressions: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, Mapping):
            for expression, part in expressions.items():
                for key, value in instance.items():
                    if _matches(expression, key):
                        yield from validator.descend(value, part, path=key, schema_path=expression)

    return validators.extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": pattern, "patternProperties": pattern_properties}
    )


def _validator(schema: Mapping[str, Any]) -> Any:
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    # An explicit registry: the default one of jsonschema would fetch what it does not know.
    registry: Any = Registry().with_resource("", DRAFT202012.create_resource(schema))
    return _validator_class()(schema, registry=registry)


def _matches(expression: str, text: str) -> bool:
    return (
        compile_expression("text.matches(expression)", ("text", "expression")).evaluate(
            {"text": text, "expression": expression}
        )
        is True
    )


def _is_pattern(expression: str) -> bool:
    try:
        _matches(expression, "")
    except OmiumError:
        return False
    return True
