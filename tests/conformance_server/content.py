"""Fixtures with fixed answers: tools of every kind of content, resources and prompts."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

Ctx = Context[Any, Any]

# One red pixel, and a WAV of one silent sample.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


def test_image_content() -> ImageContent:
    """Answers with an image."""
    return ImageContent(data=PNG, mime_type="image/png")


def test_audio_content() -> AudioContent:
    """Answers with a sound."""
    return AudioContent(data=WAV, mime_type="audio/wav")


def test_embedded_resource() -> EmbeddedResource:
    """Answers with a resource."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answers with a text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PNG, mime_type="image/png"),
        _embedded("test://mixed-content-resource", "application/json", data),
    ]


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


async def test_tool_with_logging(ctx: Ctx) -> str:
    """Logs three lines while it works."""
    for number, line in enumerate(("started", "processing data", "completed")):
        if number:
            await _pause()
        await ctx.info(f"Tool {'execution ' if line != 'processing data' else ''}{line}")
    return "logged"


async def test_logging_tool(ctx: Ctx) -> str:
    """Logs one line, for a client that asked for none."""
    await ctx.info("a line that only those see who asked for it")
    return "logged"


async def test_tool_with_progress(ctx: Ctx) -> str:
    """Reports 0, 50 and 100 of 100."""
    for done in (0, 50, 100):
        if done:
            await _pause()
        await ctx.report_progress(done, 100, f"Completed step {done} of 100")
    return "done"


async def _pause() -> None:
    await anyio.sleep(0.05)  # real time: the suite wants its notifications apart


def test_error_handling() -> str:
    """Fails."""
    raise ToolError("This tool intentionally returns an error for testing")


def test_missing_capability(ctx: Ctx) -> str:
    """Works only for clients that sample."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs sampling",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "the client samples"


def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "<none>",
) -> str:
    """Its argument also travels in a header."""
    return f"region={region}"


def json_schema_2020_12_tool() -> str:
    """Its input schema uses what the dialect has."""
    return "json_schema_2020_12_tool"


async def test_trigger_tool_change(ctx: Ctx) -> str:
    """Adds a tool, removes it, and says so to subscribers."""
    server = ctx.mcp_server
    server.add_tool(test_simple_text, name="test_dynamic_tool")
    server.remove_tool("test_dynamic_tool")
    await ctx.notify_tools_changed()
    return "changed"


async def test_trigger_prompt_change(ctx: Ctx) -> str:
    """Adds a prompt, removes it, and says so to subscribers."""
    server = ctx.mcp_server
    server.add_prompt(Prompt.from_function(test_simple_prompt, name="test_dynamic_prompt"))
    server.remove_prompt("test_dynamic_prompt")
    await ctx.notify_prompts_changed()
    return "changed"


async def test_reconnection(ctx: Ctx) -> str:
    """Closes the stream in the middle of the call."""
    await ctx.close_sse_stream()
    await _pause()
    return "Reconnection test completed"


def tools() -> list[Tool]:
    functions = (
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_tool_with_logging,
        test_logging_tool,
        test_tool_with_progress,
        test_error_handling,
        test_missing_capability,
        test_x_mcp_header,
        test_trigger_tool_change,
        test_trigger_prompt_change,
        test_reconnection,
    )
    with_schema = Tool.from_function(json_schema_2020_12_tool)
    with_schema.parameters = SCHEMA_2020_12
    return [*(Tool.from_function(function) for function in functions), with_schema]


# --- resources and prompts --------------------------------------------------------------------------------------------


def add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", name="static-text", description="A text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", name="static-binary", description="An image", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", name="template", description="Data", mime_type="application/json")
    def template(id: str) -> str:
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", name="watched", description="May change", mime_type="text/plain")
    def watched() -> str:
        return "Watched resource content"


def test_simple_prompt() -> UserMessage:
    """Without arguments."""
    return UserMessage("This is a simple prompt for testing.")


def test_prompt_with_arguments(arg1: str, arg2: str) -> UserMessage:
    """With two arguments."""
    return UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")


def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """With a resource in it."""
    resource = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[UserMessage]:
    """With an image in it."""
    return [UserMessage(ImageContent(data=PNG, mime_type="image/png")), UserMessage("Please analyze the image above.")]


def add_prompts(server: MCPServer[Any]) -> None:
    for function in (
        test_simple_prompt,
        test_prompt_with_arguments,
        test_prompt_with_embedded_resource,
        test_prompt_with_image,
    ):
        server.add_prompt(Prompt.from_function(function))
