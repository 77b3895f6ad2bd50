"""The registered workflows: what each would do, and starting one."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.server.dashboard import show
from omium.server.dashboard.run import parse_json
from omium.server.dashboard.site import Page
from omium.tools.desk import committed


async def workflows_page(page: Page) -> Response:
    data = {
        "workflows": await page.core.list_workflows(page.caller),
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("workflows.html", data)


async def workflow_page(page: Page) -> Response:
    """A workflow with its dry run, and the form that starts it."""
    name = page.request.path_params["name"]
    view, _ = await page.core.get_workflow(page.caller, name)
    data = {
        "workflow": view,
        "dry": await page.core.simulate(page.caller, name),
        "schema": None if view.inputs is None else show.given(view.inputs),
        "example": json.dumps(_example(view.inputs), indent=2, ensure_ascii=False),
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("workflow.html", data)


def _example(schema: Any) -> dict[str, Any]:
    """Inputs to begin with: what a schema requires, empty, or as its defaults say."""
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    required = schema.get("required", []) if isinstance(schema, dict) else []
    empty = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    found = {}
    for name, one in properties.items():
        if isinstance(one, dict) and (name in required or "default" in one):
            kind = one.get("type")
            found[name] = one.get("default", empty.get(kind) if isinstance(kind, str) else None)
    return found


async def started(page: Page) -> Response:
    inputs = parse_json(page.field("inputs", 200_000), "the inputs", {})
    if not isinstance(inputs, dict):
        raise OmiumError("invalid_argument", "the inputs are no object.", 'Such as {"name": "value"}.')
    work = page.core.run_workflow(
        page.caller,
        page.request.path_params["name"],
        inputs,
        title=page.field("title", 200),
        idempotency_key=page.key,
    )
    run = await committed(work)
    return page.go(show.run_url(run.id), "started")
