"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from omium.server.http.app import ENDPOINTS
from omium.server.http.openapi import document
from tests.http.served import Served

pytestmark = pytest.mark.anyio

DOCUMENT = document(ENDPOINTS, "1.0")


def problems(described: dict[str, Any]) -> list[str]:
    return [str(one.message) for one in OpenAPIV31SpecValidator(described).iter_errors()]


def test_the_document_is_valid() -> None:
    assert problems(DOCUMENT) == []


def test_a_document_that_is_not_would_be_seen() -> None:
    assert problems({**DOCUMENT, "paths": {"/x": {"get": {"responses": {"200": {}}}}}})
    assert problems({**DOCUMENT, "openapi": "2"})


async def test_it_is_served_and_has_every_path(served: Served) -> None:
    async with served.http() as client:
        told = (await client.get("/api/v1/openapi.json")).json()
    assert told["paths"] == DOCUMENT["paths"]
    routes = {one.path for one in served.app.asgi.routes if isinstance(one, Route) and one.path.startswith("/api/")}
    assert routes - {"/api/v1/openapi.json"} == set(told["paths"])


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", repr(DOCUMENT)))
    assert used == set(DOCUMENT["components"]["schemas"])


async def test_answers_are_as_described(served: Served) -> None:
    def fits(path: str, method: str, status: str, value: Any) -> None:
        response = DOCUMENT["paths"][path][method]["responses"][status]
        if "$ref" in response:
            response = DOCUMENT["components"]["responses"]["Refusal"]
        schema = {**response["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    run, approval = "/api/v1/runs/{run_id}", "/api/v1/approvals/{approval_id}"
    async with served.http() as client:
        started = await client.post("/api/v1/runs", json={"workflow": "gated"})
        fits("/api/v1/runs", "post", "201", started.json())
        run_id = started.json()["id"]
        found = await served.ended(client, run_id)
        fits(run, "get", "200", found)
        fits(f"{run}/events", "get", "200", (await client.get(f"/api/v1/runs/{run_id}/events")).json())
        fits("/api/v1/runs", "get", "200", (await client.get("/api/v1/runs")).json())
        fits("/api/v1/workflows", "get", "200", (await client.get("/api/v1/workflows")).json())
        questions = (await client.get("/api/v1/approvals")).json()
        fits("/api/v1/approvals", "get", "200", questions)
        question_id = questions["approvals"][0]["id"]
        fits(approval, "get", "200", (await client.get(f"/api/v1/approvals/{question_id}")).json())
        fits("/api/v1/runs", "get", "default", (await client.get("/api/v1/runs?limit=0")).json())
        with pytest.raises(jsonschema.ValidationError):
            fits(run, "get", "200", {**found, "status": "odd"})
