"""`.mcp.json` of MCP clients: the servers that it declares, in the form of `omium.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from omium.orchestration.definition.document import read_file
from omium.orchestration.errors import OmiumError

_TRANSPORTS: Final = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamableHttp": "http",
    "sse": "sse",
}
_OWN: Final = re.compile(r"(?:\A|/)omium(?:-mcp)?\Z")


@dataclass(frozen=True, slots=True)
class Imported:
    """A server of such a file. entry: as it would stand under `mcp_servers`; problem: why it cannot."""

    name: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_mcp_json(path: Path) -> list[Imported]:
    """What `{"mcpServers": {name: {type, command, args, env | url, headers}}}` declares. Raises `not_found`, and
    `invalid_definition` for a file of another form."""
    document = read_file(path).value
    servers = document.get("mcpServers", document.get("servers")) if isinstance(document, Mapping) else None
    if not isinstance(servers, Mapping):
        raise OmiumError("invalid_definition", f"{path} declares no mcpServers.", "A client's .mcp.json has them.")
    return [_imported(str(name), given) for name, given in servers.items()]


def _imported(name: str, given: Any) -> Imported:
    if not isinstance(given, Mapping):
        return Imported(name, problem="its entry is no object")
    kind = given.get("type") or given.get("transport")
    if kind is not None and kind not in _TRANSPORTS:
        return Imported(name, problem=f"its type {str(kind)[:40]!r} is not known")
    if isinstance(given.get("command"), str) and _OWN.search(given["command"]):
        return Imported(name, problem="it is Omium itself")
    entry: dict[str, Any] = {
        key: given[key] for key in ("command", "args", "env", "cwd", "url", "headers") if key in given
    }
    if kind is not None:
        entry["transport"] = _TRANSPORTS[kind]
    if given.get("disabled") is True or given.get("enabled") is False:
        entry["enabled"] = False
    return Imported(name, entry)
