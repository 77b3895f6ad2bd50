"""An MCP server that behaves: a notebook in a file."""

from __future__ import annotations

from pathlib import Path

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

NOTES = Path("notes.txt")
server = MCPServer("notes", log_level="ERROR")


@server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
def search(text: str) -> str:
    """Find notes that contain a text."""
    lines = NOTES.read_text().splitlines() if NOTES.exists() else []
    found = [line for line in lines if text.lower() in line.lower()]
    return "\n".join(found) or "nothing is written about that"


@server.tool(structured_output=False)
def append(text: str) -> str:
    """Write a note."""
    with NOTES.open("a") as notes:
        notes.write(text + "\n")
    return "written"


@server.tool(annotations=ToolAnnotations(destructive_hint=True), structured_output=False)
def delete_all() -> str:
    """Throw the notebook away."""
    NOTES.unlink(missing_ok=True)
    return "gone"


if __name__ == "__main__":
    server.run()
