"""The OpenAPI document, made from the table of endpoints and the models that read and write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from omium.server.http import models as m
from omium.server.http.events import PATH as EVENTS_PATH
from omium.server.http.rest import Endpoint

DOCUMENT_PATH: Final = "/api/v1/openapi.json"
_SCHEMAS: Final = "#/components/schemas/{model}"
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repeat harmless: the same key with the same body changes nothing more",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}
_LAST: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "With `Accept: text/event-stream`: go on behind this position",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}
_FEED: Final = (
    "Each event of the log with its position as id, a comment `seq=... at=...` every 15 s, and at last an event named "
    "`end`. The same feed is a WebSocket at the same path with `/ws?after=`."
)


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The document of these endpoints, OpenAPI 3.1."""
    answers: list[type[BaseModel]] = [m.Refusal, *(one.answer for one in endpoints)]
    bodies: list[type[BaseModel]] = [one.body for one in endpoints if one.body is not None]
    _, schemas = models_json_schema(
        [(one, "serialization") for one in dict.fromkeys(answers)]
        + [(one, "validation") for one in dict.fromkeys(bodies)],
        ref_template=_SCHEMAS,
    )
    paths: dict[str, Any] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Omium",
            "version": version,
            "description": "Durable, reversible and accountable agent workflows. Every verb acts on the runs that the "
            "caller may see; errors have one form.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas.get("$defs", {}),
            "responses": {
                "Refusal": {
                    "description": "What was wrong, and what to do next. 401: no good credential; 403: the role, the "
                    "host or the origin; 404: no such thing for this caller; 409: the state does not allow it; 429 and "
                    "503: repeat after Retry-After.",
                    "content": _json(m.Refusal),
                }
            },
        },
    }


def _operation(one: Endpoint) -> dict[str, Any]:
    parameters = [*_path_parameters(one.path), *_query_parameters(one.query)]
    if one.keyed:
        parameters.append(_KEY)
    done: dict[str, Any] = {"description": "Done", "content": _json(one.answer)}
    if one.path == EVENTS_PATH:
        parameters.append(_LAST)
        feed = {"schema": {"type": "string", "description": _FEED}}
        done = {**done, "content": {**done["content"], "text/event-stream": feed}}
    responses: dict[str, Any] = {str(one.status): done, "default": {"$ref": "#/components/responses/Refusal"}}
    if one.status == 201:
        done["headers"] = {"Location": {"description": "The path of what was made", "schema": {"type": "string"}}}
    if one.path == EVENTS_PATH:
        responses["204"] = {"description": "The run has ended, and nothing is left behind Last-Event-ID"}
    operation: dict[str, Any] = {
        "operationId": one.handle.__name__,
        "summary": one.summary,
        "parameters": parameters,
        "responses": responses,
    }
    if one.body is not None:
        needed = any(field.is_required() for field in one.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": _json(one.body)}
    return operation


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=model.__name__)}}}


def _path_parameters(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(model: type[m.Asked]) -> Iterable[dict[str, Any]]:
    schema = model.model_json_schema()
    assert "$defs" not in schema, model
    for name, part in schema.get("properties", {}).items():
        shown = {key: item for key, item in part.items() if key not in ("title", "description")}
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": shown,
            **({"description": part["description"]} if "description" in part else {}),
        }
