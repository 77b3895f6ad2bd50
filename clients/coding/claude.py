"""Claude Code, headless under its control protocol: its arguments, its environment and the lines that begin it."""

from __future__ import annotations

import os
from typing import Final, Literal

from omium.clients.coding import protocol
from omium.clients.coding.spec import CodingSpec

Start = Literal["new", "resume", "fork"]

KEY_DESCRIPTOR: Final = "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR"
_SETTINGS: Final = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # `@/etc/passwd` in a prompt would be read without asking
    "CLAUDE_CODE_EAGER_FLUSH": "1",  # a conversation that is killed must be on disk
    "DISABLE_AUTOUPDATER": "1",
}


def argv(spec: CodingSpec, session: str, start: Start, parent: str | None = None) -> list[str]:
    """The argument vector. Prompts are never in it: they come as JSON on standard input. session: the id of the
    conversation, which is new, or resumed, or a copy of `parent`."""
    arguments = [
        *(spec.program, "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
        *("--permission-prompt-tool", "stdio", "--setting-sources", "", "--strict-mcp-config"),
        *("--disable-slash-commands", "--tools", ",".join(spec.tools)),
    ]
    if start == "resume":
        arguments += ["--resume", session]
    else:
        arguments += ["--session-id", session]
    if start == "fork" and parent is not None:
        arguments += ["--resume", parent, "--fork-session"]
    if spec.model is not None:
        arguments += ["--model", spec.model]
    if spec.max_turns is not None:
        arguments += ["--max-turns", str(spec.max_turns)]
    if spec.mcp is not None:
        arguments += ["--mcp-config", str(spec.mcp)]
    if spec.system_prompt is not None:
        arguments += ["--append-system-prompt-file", str(spec.system_prompt)]
    return arguments


def settings(config: str | None) -> dict[str, str]:
    """Its variables. config: where it keeps its conversations, if not in the user's own directory."""
    return _SETTINGS if config is None else {**_SETTINGS, "CLAUDE_CONFIG_DIR": config}


def opening(spec: CodingSpec, prompt: str | None) -> bytes:
    """What its input begins with; no prompt: it goes on by itself, with the call that was left open."""
    begin = protocol.initialize("begin", every_tool=spec.permissions == "every")
    return begin if prompt is None else begin + protocol.user_message(prompt)


def key_pipe(key: str) -> int:
    """The end of a pipe that gives the key once. In its environment every command that it runs would see it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, key.encode())
    finally:
        os.close(writing)
    return reading
