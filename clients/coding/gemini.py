"""Gemini, headless: its arguments and its stream (`gemini --output-format stream-json`).

It has no protocol for permissions: what it may do is decided once, before it starts.
"""

from __future__ import annotations

import re
from typing import Any, Final

from omium.clients.coding.events import (
    SHOWN,
    Begun,
    Event,
    Malformed,
    Result,
    Retried,
    Returned,
    Said,
    Tokens,
    Unknown,
    Used,
    count_of,
    object_of,
    read_object,
    text_of,
)
from omium.clients.coding.spec import CodingSpec

_NAMES_A_FILE: Final = re.compile(r"(?<!\\)@")
_MODE: Final = {"read-only": "plan", "workspace-write": "auto_edit", "full": "yolo"}


def argv(spec: CodingSpec, session: str | None) -> list[str]:
    """The argument vector; the prompt comes on standard input. session: the one to go on with."""
    arguments = [spec.program, "--output-format", "stream-json", "--approval-mode", _MODE[spec.sandbox]]
    if spec.model is not None:
        arguments += ["--model", spec.model]
    if session is not None:
        arguments += ["--resume", session]
    return arguments


def prompt_text(text: str) -> str:
    """A prompt as it takes it for words. It looks through its input, also without a person: what begins with `/` would
    be a command, one of the repository's own (`.gemini/commands`) among them, and `@name` a file that it reads. Behind
    a backslash an `@` is one."""
    shown = _NAMES_A_FILE.sub(r"\\@", text)
    return f"The task: {shown}" if shown.lstrip().startswith("/") else shown


class GeminiStream:
    """Lines to events. The answer comes in fragments; the result says only how it ended."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._session: str | None = None
        self._model: str | None = None

    def events_of(self, line: str) -> list[Event]:
        if not line.strip():
            return []
        message = read_object(line)
        if message is None:
            return [Malformed(line[:SHOWN])]
        kind = text_of(message.get("type"))
        if kind == "init":
            self._session = text_of(message.get("session_id")) or None
            self._model = text_of(message.get("model")) or None
            return [Begun(self._session or "", self._model)]
        if kind == "message":
            return self._message(message)
        if kind == "tool_use":
            self._text.clear()  # what was said before a tool is not the answer
            tool, arguments = text_of(message.get("tool_name")), object_of(message.get("parameters"))
            return [Used(text_of(message.get("tool_id")), tool, arguments)]
        if kind == "tool_result":
            text = text_of(message.get("output")) or text_of(object_of(message.get("error")).get("message"))
            return [Returned(text_of(message.get("tool_id")), text, message.get("status") != "success")]
        if kind == "error":
            return [Retried(None, text_of(message.get("message")))]
        if kind == "result":
            return [self._result(message)]
        return [Unknown(kind)]

    def _message(self, message: dict[str, Any]) -> list[Event]:
        if message.get("role") != "assistant":
            return []
        text, is_fragment = text_of(message.get("content")), message.get("delta") is True
        if not is_fragment:
            self._text.clear()
        self._text.append(text)
        return [Said(text, fragment=is_fragment)]

    def _result(self, message: dict[str, Any]) -> Result:
        stats = object_of(message.get("stats"))
        cached = count_of(stats.get("cached"))
        uncached = max(count_of(stats.get("input_tokens")) - cached, 0)
        tokens = Tokens(uncached, count_of(stats.get("output_tokens")), cached)
        failed = object_of(message.get("error"))
        if message.get("status") == "success":
            return Result("", "".join(self._text), self._session, 1, tokens, self._model)
        kind = text_of(failed.get("type"))
        reason = "max_turns" if "MaxSessionTurns" in kind or "TurnLimit" in kind else "failed"
        why = text_of(failed.get("message")) or kind
        return Result(reason, "", self._session, 1, tokens, self._model, (why,) if why else ())
