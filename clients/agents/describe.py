"""A function's JSON Schema, made from its signature. Runs where the function does: in a worker process, or here.

The types of the parameters count as pydantic reads them (models, literals, `Annotated[..., Field(description=...)]`);
a parameter `ctx` is Omium's own and is left out.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import reduce
from typing import Any

_OWN = "ctx"


def describe(ref: str) -> dict[str, Any]:
    """`{"description", "parameters"}` of `package.module:function`. Raises what importing it raises."""
    name, _, attributes = ref.partition(":")
    function: Any = reduce(getattr, attributes.split("."), importlib.import_module(name))
    return describe_function(function)


def describe_function(function: Callable[..., Any]) -> dict[str, Any]:
    """The same of a function itself. A type that has no schema accepts anything."""
    from pydantic import ConfigDict, create_model

    signature = inspect.signature(function)
    hints = _hints(function)
    fields: dict[str, Any] = {}
    takes_more = False
    for name, parameter in signature.parameters.items():
        if name == _OWN or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_more = True
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (_usable(hints.get(name, Any)), default)
    model = create_model(
        "Arguments",
        __config__=ConfigDict(extra="allow" if takes_more else "forbid", arbitrary_types_allowed=False),
        **fields,
    )
    parameters = model.model_json_schema()
    parameters.pop("title", None)
    for part in parameters.get("properties", {}).values():
        part.pop("title", None)
    parameters.setdefault("properties", {})
    return {"description": (inspect.getdoc(function) or "").strip()[:2_000], "parameters": parameters}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    from typing import get_type_hints

    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # annotations may be any code; what cannot be read accepts anything
        return {}


def _usable(hint: Any) -> Any:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema

    try:
        TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return Any
    return hint
