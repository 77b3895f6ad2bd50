"""`python -m tests.conformance_client URL`: lists the tools of the server at this URL and calls each of them, with
arguments made from its schema, as a workflow would. It ends with 1 when a call failed.

The suite names the protocol version in MCP_CONFORMANCE_PROTOCOL_VERSION. What it wants to be called with stands in
MCP_CONFORMANCE_CONTEXT.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import anyio

from omium.clients.external.pool import ServerPool
from omium.clients.external.spec import ServerSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import SystemClock

_BY_TYPE: Final[Mapping[str, Any]] = {
    "string": "text", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}, "null": None,
}  # fmt: skip
_ECHO: Final = "json_schema_echo"
_PATIENCE_S: Final = 20.0


def arguments_for(tool: str, schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A value for each property that the tool's schema names."""
    if tool == _ECHO:  # wants to see what has become of the schema of the only other tool
        return {"schema": next(schema for name, schema in schemas.items() if name != tool)}
    return {name: _value(of) for name, of in (schemas[tool].get("properties") or {}).items()}


def _value(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return "text"
    kind = schema.get("type", "string")
    return _BY_TYPE.get(kind[0] if isinstance(kind, list) else kind)


async def visit(url: str, context: Mapping[str, Any]) -> int:
    """How many calls were refused or failed."""
    legacy = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2026-07-28") < "2026-07-28"
    spec = ServerSpec("suite", "http", url=url, era="legacy" if legacy else "auto")
    wanted = [(one["name"], one.get("arguments", {})) for one in context.get("toolCalls", ())]
    failed = 0
    async with ServerPool({"suite": spec}, SystemClock()) as pool:
        session = await pool.connection("suite").session()
        tools = await session.definitions()
        schemas = {name: one.document.get("inputSchema", {}) for name, one in tools.items() if not one.problem}
        for name, one in tools.items():
            print(f"{name}: {one.problem or 'may be offered'}")
        for tool, arguments in wanted or [(name, arguments_for(name, schemas)) for name in schemas]:
            try:
                answer = await session.call(tool, arguments, {}, _PATIENCE_S)
                print(f"{tool}: {'an error' if answer.is_error else 'a result'}")
            except OmiumError as error:
                print(f"{tool}: {error}", file=sys.stderr)
                failed += 1
    return failed


def main() -> None:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    sys.exit(min(anyio.run(visit, sys.argv[-1], context), 1))


if __name__ == "__main__":
    main()
