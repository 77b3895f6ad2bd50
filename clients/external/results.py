"""What becomes of a server's answer: an error is an error, secrets go, and what is left is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import mcp_types as types
import orjson

from omium.clients.external.redact import Redactor
from omium.clients.external.scan import harmless, scan_text
from omium.clients.external.spec import ServerSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Limits
from omium.orchestration.values import Value, encode, size_of

_ERROR: Final = 2_000
_HEAD: Final = 0.7  # share of the room that the beginning of a text gets


def value_of(result: types.CallToolResult, spec: ServerSpec, tool: str, limits: Limits, redactor: Redactor) -> Value:
    """The structured content of an answer, or its text. Raises `tool_failed` for an error of the tool, and for what
    cannot be stored."""
    if result.is_error:
        raise failed(result, spec, tool, redactor)
    room = spec.output.structured if limits.output_bytes is None else limits.output_bytes
    value: Value
    if result.structured_content is not None:
        value = redactor.value(result.structured_content)
        try:
            size = size_of(value)
        except OmiumError as error:
            raise _unusable(spec, tool, error) from error
        if size <= room:
            return value
        text = orjson.dumps(value, default=str).decode("utf-8", "replace")
    else:
        text = "\n".join(redactor.texts(list(_texts(result.content))))
    shown = cut(text, spec.output.text if limits.output_bytes is None else min(spec.output.text, limits.output_bytes))
    try:
        encode(shown)
    except OmiumError as error:
        raise _unusable(spec, tool, error) from error
    return shown


def failed(result: types.CallToolResult, spec: ServerSpec, tool: str, redactor: Redactor) -> OmiumError:
    """The error that a tool answers with. Its text is the server's word: it is marked as such, and searched."""
    texts = redactor.texts(list(_texts(result.content)))
    if not any(texts) and result.structured_content is not None:
        texts = [orjson.dumps(redactor.value(result.structured_content), default=str).decode()]
    said = "\n".join(texts)
    found = [one.as_dict() for one in scan_text(said, "error")]
    return OmiumError(
        "tool_failed",
        f"the tool {spec.name}/{tool} failed; the server says: {harmless(said, _ERROR) or 'nothing'}",
        server=spec.name,
        tool=tool,
        reason="is_error",
        sent=True,
        findings=found,
    )


def _unusable(spec: ServerSpec, tool: str, error: OmiumError) -> OmiumError:
    return OmiumError(
        "tool_failed",
        f"the answer of {spec.name}/{tool} cannot be used: {error.message}",
        server=spec.name,
        tool=tool,
        reason="protocol",
        sent=True,
    )


def _texts(content: list[Any]) -> Iterator[str]:
    """The blocks of an answer as text; what is none is named."""
    for block in content:
        if isinstance(block, types.TextContent):
            yield block.text
        elif isinstance(block, types.EmbeddedResource):
            resource = block.resource
            if isinstance(resource, types.TextResourceContents):
                yield resource.text
            else:
                yield f"[{resource.mime_type or 'binary'} of {len(resource.blob) * 3 // 4} bytes, left out]"
        elif isinstance(block, types.ResourceLink):
            yield f"[resource {block.uri}]"
        else:
            kind, data = getattr(block, "mime_type", block.type), getattr(block, "data", "")
            yield f"[{kind} of {len(data) * 3 // 4} bytes, left out]"


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end, with a note of what is missing between."""
    if len(text) <= limit:
        return text
    head = int(limit * _HEAD)
    tail = limit - head
    missing = len(text) - limit
    note = f"\n[... {missing} of {len(text)} characters left out ...]\n"
    return text[:head] + note + (text[-tail:] if tail else "")
