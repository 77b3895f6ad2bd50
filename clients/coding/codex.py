"""Codex, headless: its arguments and its stream (`codex exec --json`).

It has no protocol for permissions: what it may do is decided once, before it starts, and its own sandbox holds it.
"""

from __future__ import annotations

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

_SANDBOX: Final = {"read-only": "read-only", "workspace-write": "workspace-write", "full": "danger-full-access"}
# Its children get the environment, so that they can be found, but nothing that is named like a credential.
_ENVIRONMENT: Final = ("shell_environment_policy.inherit=all", "shell_environment_policy.ignore_default_excludes=false")
_SHOWN: Final = ("command", "changes", "query", "arguments")
_TOOLS: Final = {"command_execution": "shell", "file_change": "edit", "web_search": "web_search"}


def argv(spec: CodingSpec, session: str | None) -> list[str]:
    """The argument vector; the prompt comes on standard input. session: the thread to go on with."""
    arguments = [spec.program, "exec", "--json", "--skip-git-repo-check", "--sandbox", _SANDBOX[spec.sandbox]]
    for setting in _ENVIRONMENT:
        arguments += ["-c", setting]
    if spec.model is not None:
        arguments += ["--model", spec.model]
    if session is not None:
        arguments += ["resume", session]
    return [*arguments, "-"]


class CodexStream:
    """Lines to events. A turn that completed is the result; its text is the last message of the agent.

    used: what the thread had taken before; of one that is gone on with, Codex tells the sum of all its turns, and so it
    is `used` afterwards."""

    def __init__(self, used: Tokens = Tokens()) -> None:  # noqa: B008 - it is frozen
        self.used = used
        self._last = ""
        self._session: str | None = None

    def events_of(self, line: str) -> list[Event]:
        if not line.strip():
            return []
        message = read_object(line)
        if message is None:
            return [Malformed(line[:SHOWN])]
        kind = text_of(message.get("type"))
        if kind == "thread.started":
            self._session = text_of(message.get("thread_id")) or None
            return [Begun(self._session or "")]
        if kind == "turn.completed":
            tokens = self._taken(_tokens(object_of(message.get("usage"))))
            return [Result("", self._last, self._session, 1, tokens)]
        if kind == "turn.failed":
            return [self._failed(text_of(object_of(message.get("error")).get("message")))]
        if kind == "error":  # it goes on, or says that the turn failed
            return [Retried(None, text_of(message.get("message")))]
        if kind in ("item.started", "item.completed"):
            return self._item(object_of(message.get("item")), kind == "item.completed")
        return [Unknown(kind)]

    def _taken(self, told: Tokens) -> Tokens:
        """By this turn. A sum does not shrink: what is less than before is that of the turn alone."""
        before, self.used = self.used, told
        if told.total < before.total:
            self.used = before + told
            return told
        return Tokens(
            max(0, told.input - before.input),
            max(0, told.output - before.output),
            max(0, told.cache_read - before.cache_read),
        )

    def _failed(self, why: str) -> Result:
        lost = "no rollout found" in why.lower() or "session not found" in why.lower()
        return Result("session_lost" if lost else "failed", "", self._session, 1, errors=(why,))

    def _item(self, item: dict[str, Any], is_over: bool) -> list[Event]:
        kind, identity = text_of(item.get("type")), text_of(item.get("id"))
        if kind == "agent_message":
            if not is_over:
                return []
            self._last = text_of(item.get("text"))
            return [Said(self._last, identity)]
        if kind == "mcp_tool_call":
            tool = f"{text_of(item.get('server'))}/{text_of(item.get('tool'))}"
        elif kind in _TOOLS:
            tool = _TOOLS[kind]
        else:
            return [Unknown(f"item.{kind}")]
        if is_over:
            failed = text_of(item.get("status")) in ("failed", "declined") or bool(count_of(item.get("exit_code")))
            return [Returned(identity, text_of(item.get("aggregated_output")), failed)]
        shown: dict[str, Any] = {name: item[name] for name in _SHOWN if name in item}
        return [Used(identity, tool, shown)]


def _tokens(usage: dict[str, Any]) -> Tokens:
    cached = count_of(usage.get("cached_input_tokens"))
    # Its input_tokens include what was cached.
    return Tokens(max(count_of(usage.get("input_tokens")) - cached, 0), count_of(usage.get("output_tokens")), cached)
