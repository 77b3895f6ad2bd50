"""A server of the present protocol that asks the user in the middle of a call."""

from __future__ import annotations

from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

server = MCPServer("asking", log_level="ERROR")


class Password(BaseModel):
    password: str


def ask() -> Elicit[Password]:
    return Elicit("Your password, please", Password)


@server.tool(structured_output=False)
async def confirm(answer: Annotated[Password, Resolve(ask)]) -> str:
    """Confirm."""
    return answer.password


if __name__ == "__main__":
    server.run()
