#!/usr/bin/env python3
"""Stands in for Claude Code: the same lines on standard input and output, and a conversation that is always the same.

It wants to run a command, then to write a file, and says in the end what became of both.
"""

import json
import sys
from pathlib import Path

COMMAND = ("Bash", {"command": "rm -rf .", "description": "Clean up first"})
CHANGE = ("Write", {"file_path": "soup.html", "content": "<h1>Soup</h1>\n"})


def say(message: dict) -> None:
    print(json.dumps(message), flush=True)


def heard() -> dict:
    """The next line that is no answer to one of ours: empty when the input has ended."""
    line = sys.stdin.readline()
    return json.loads(line) if line else {}


def result(text: str, deferred: dict | None = None) -> None:
    usage = {"input_tokens": 1200, "output_tokens": 80}
    told = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": text, "usage": usage}
    say({**told, "deferred_tool_use": deferred})
    sys.stdin.read()


def ask(use: str, tool: str, arguments: dict) -> dict:
    """What the host says about a tool call."""
    asked = {"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": arguments, "tool_use_id": use}
    say(
        {
            "type": "assistant",
            "message": {"id": use, "content": [{"type": "tool_use", "id": use, "name": tool, "input": arguments}]},
        }
    )
    say(
        {
            "type": "control_request",
            "request_id": use,
            "request": {"subtype": "hook_callback", "callback_id": "before_tool", "input": asked},
        }
    )
    return heard()["response"]["response"]["hookSpecificOutput"]


def main() -> None:
    heard()  # the host begins
    say({"type": "control_response", "response": {"subtype": "success", "request_id": "begin", "response": {}}})
    session = sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--session-id") + 1]
    say(
        {
            "type": "system",
            "subtype": "init",
            "session_id": session,
            "model": "stand-in",
            "tools": ["Bash", "Read", "Write"],
        }
    )
    if "--resume" not in sys.argv:
        heard()  # the task
        answer = ask("toolu_1", *COMMAND)
        say(
            {
                "type": "assistant",
                "message": {"id": "said", "content": [{"type": "text", "text": answer["permissionDecisionReason"]}]},
            }
        )
    answer = ask("toolu_2", *CHANGE)
    if answer["permissionDecision"] == "defer":
        result("", {"id": "toolu_2", "name": CHANGE[0], "input": CHANGE[1]})
    elif answer["permissionDecision"] == "allow":
        given = answer.get("updatedInput", CHANGE[1])
        Path(given["file_path"]).write_text(given["content"])
        result(f"{given['file_path']} is written.")
    else:
        result(f"Nothing is written: {answer['permissionDecisionReason']}")


main()
