"""Claude Code's stream and its control protocol: lines to events, and what is written to its input.

One JSON object a line. Beside messages it sends `control_request` lines and waits for a `control_response` to each: a
hook that was registered when the conversation began asks before every tool call, `can_use_tool` asks where its own
rules want leave. Types and keys that are not known are passed over: they change with every version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from omium.clients.coding.events import (
    SHOWN,
    Asked,
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

Behavior = Literal["allow", "deny", "wait"]

HOOK: Final = "before_tool"
HOOK_TIMEOUT_S: Final = 3600  # deciding takes moments; one that a database holds up must not count as leave
_LOST: Final = "No conversation found with session ID"
_CUT_REQUEST: Final = re.compile(r'"request_id"\s*:\s*"([0-9A-Za-z_-]{1,100})"')


# --- what it says -------------------------------------------------------------------------------------------------


def events_of(line: str) -> list[Event]:
    """The events of one line of its output; never raises."""
    if not line.strip():
        return []
    message = read_object(line)
    if message is None:
        cut = _CUT_REQUEST.search(line, 0, 2_000) if '"control_request"' in line[:200] else None
        if cut is not None:  # a request that is too long to be read still waits for an answer
            return [Asked(cut[1], "other", what="a request of too many bytes")]
        return [Malformed(line[:SHOWN])]
    kind = text_of(message.get("type"))
    if kind == "assistant":
        return _answer(object_of(message.get("message")))
    if kind == "user":
        return _tool_results(object_of(message.get("message")))
    if kind == "control_request":
        return [_request(message)]
    if kind == "result":
        return [_result(message)]
    if kind == "system" and message.get("subtype") == "init":
        tools = message.get("tools")
        names = tuple(text_of(name) for name in tools) if isinstance(tools, list) else ()
        model, cwd = text_of(message.get("model")), text_of(message.get("cwd"))
        return [Begun(text_of(message.get("session_id")), model or None, names, cwd or None)]
    if kind == "system" and message.get("subtype") == "api_retry":
        status, wait_ms = message.get("error_status"), count_of(message.get("retry_delay_ms"))
        told = status if isinstance(status, int) else None
        return [Retried(told, text_of(message.get("error")), wait_ms / 1000 if wait_ms else None)]
    return [Unknown(kind)]


def _answer(message: dict[str, Any]) -> list[Event]:
    events: list[Event] = []
    identity = text_of(message.get("id"))
    tokens = _tokens(object_of(message.get("usage")))
    for block in _blocks(message):
        if block.get("type") == "text":
            events.append(Said(text_of(block.get("text")), identity, tokens))
        elif block.get("type") == "tool_use":
            events.append(Used(text_of(block.get("id")), text_of(block.get("name")), object_of(block.get("input"))))
    if not any(isinstance(event, Said) for event in events):
        events.insert(0, Said("", identity, tokens))
    return events


def _tool_results(message: dict[str, Any]) -> list[Event]:
    events: list[Event] = []
    for block in _blocks(message):
        if block.get("type") != "tool_result":
            continue
        content = block.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        text = "\n".join(text_of(object_of(part).get("text")) for part in parts)
        events.append(Returned(text_of(block.get("tool_use_id")), text, block.get("is_error") is True))
    return events


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [object_of(block) for block in content] if isinstance(content, list) else []


def _request(message: dict[str, Any]) -> Event:
    request, asked = text_of(message.get("request_id")), object_of(message.get("request"))
    what = text_of(asked.get("subtype"))
    if what == "can_use_tool":
        tool, arguments = text_of(asked.get("tool_name")), object_of(asked.get("input"))
        return Asked(request, "permission", tool, arguments, text_of(asked.get("tool_use_id")))
    told = object_of(asked.get("input"))
    if what == "hook_callback" and asked.get("callback_id") == HOOK and told.get("hook_event_name") == "PreToolUse":
        use = text_of(told.get("tool_use_id")) or text_of(asked.get("tool_use_id"))
        return Asked(request, "hook", text_of(told.get("tool_name")), object_of(told.get("tool_input")), use)
    return Asked(request, "other", what=what)


def _result(message: dict[str, Any]) -> Result:
    listed = message.get("errors")
    errors = tuple(text_of(one) for one in listed) if isinstance(listed, list) else ()
    status, models = message.get("api_error_status"), object_of(message.get("modelUsage"))
    deferred = object_of(message.get("deferred_tool_use"))
    return Result(
        reason=_reason(message, errors),
        text=text_of(message.get("result")),
        session=text_of(message.get("session_id")) or None,
        turns=count_of(message.get("num_turns")),
        # Its total_cost_usd and modelUsage count earlier turns of the session in some versions; this never does.
        tokens=_tokens(object_of(message.get("usage"))) or Tokens(),
        model=next(iter(models)) if len(models) == 1 else None,
        errors=errors,
        status=status if isinstance(status, int) else None,
        deferred=text_of(deferred.get("id")) or None,
    )


def _reason(message: dict[str, Any], errors: tuple[str, ...]) -> str:
    if any(error.startswith(_LOST) for error in errors):
        return "session_lost"
    subtype = text_of(message.get("subtype"))
    if subtype == "error_max_turns":
        return "max_turns"
    if message.get("api_error_status") is not None or message.get("terminal_reason") == "api_error":
        return "api_error"
    if message.get("is_error") is not False:  # also when it does not say
        return subtype.removeprefix("error_") if subtype.startswith("error_") else "failed"
    return ""


def _tokens(usage: dict[str, Any]) -> Tokens | None:
    if not usage:
        return None
    return Tokens(
        count_of(usage.get("input_tokens")),
        count_of(usage.get("output_tokens")),
        count_of(usage.get("cache_read_input_tokens")),
        count_of(usage.get("cache_creation_input_tokens")),
    )


# --- what is said to it -------------------------------------------------------------------------------------------


def initialize(request: str, *, every_tool: bool) -> bytes:
    """The first line. every_tool: have it ask before every tool call, not only where its own rules want leave."""
    hook = {"matcher": None, "hookCallbackIds": [HOOK], "timeout": HOOK_TIMEOUT_S}
    hooks = {"PreToolUse": [hook]} if every_tool else None
    return _control(request, {"subtype": "initialize", "hooks": hooks})


def interrupt(request: str) -> bytes:
    """Stop the turn: it kills the command that is running, and gives a result."""
    return _control(request, {"subtype": "interrupt"})


def user_message(text: str) -> bytes:
    """What the model is to do. A text that begins with `/` would be a command to the CLI itself, which answers those
    without asking the model; behind a space it is text."""
    shown = f" {text}" if text.startswith("/") else text
    message = {"role": "user", "content": shown}
    return _line({"type": "user", "message": message, "parent_tool_use_id": None, "session_id": "default"})


def answer(asked: Asked, behavior: Behavior, *, arguments: Mapping[str, Any] | None = None, message: str = "") -> bytes:
    """The answer to a request. allow: with the arguments that may be used; deny: the model is told `message`; wait: the
    call is left open, and the turn ends."""
    if asked.by == "hook":
        word = {"allow": "allow", "deny": "deny", "wait": "defer"}[behavior]
        told: dict[str, Any] = {"hookEventName": "PreToolUse", "permissionDecision": word}
        if message:
            told["permissionDecisionReason"] = message
        if behavior == "allow" and arguments is not None and arguments != asked.arguments:
            told["updatedInput"] = dict(arguments)
        return _respond(asked.request, {"hookSpecificOutput": told})
    if behavior == "allow":
        given = asked.arguments if arguments is None else arguments
        return _respond(asked.request, {"behavior": "allow", "updatedInput": dict(given)})
    refusal: dict[str, Any] = {"behavior": "deny", "message": message}
    if behavior == "wait":
        refusal["interrupt"] = True
    return _respond(asked.request, refusal)


def refuse(asked: Asked, message: str) -> bytes:
    """The answer to what cannot be answered, so that it does not wait."""
    response = {"subtype": "error", "request_id": asked.request, "error": message}
    return _line({"type": "control_response", "response": response})


def _respond(request: str, response: dict[str, Any]) -> bytes:
    whole = {"subtype": "success", "request_id": request, "response": response}
    return _line({"type": "control_response", "response": whole})


def _control(request: str, what: dict[str, Any]) -> bytes:
    return _line({"type": "control_request", "request_id": request, "request": what})


def _line(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
