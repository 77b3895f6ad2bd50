"""A program that says what a test wants of a coding CLI: `fake_cli.py SCENARIO`. For what the real one cannot be made
to say: floods, noise, results that contradict exit codes, and the CLIs that are not here."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from pathlib import Path

RESULT = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "done", "usage": {}}
INIT = {"type": "system", "subtype": "init", "session_id": "x", "model": "m", "tools": [], "cwd": "/"}


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def flood() -> None:
    say(INIT)
    line = json.dumps({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "x" * 500}]}})
    for number in range(20_000):
        sys.stdout.write(line + "\n" if number % 10 else f"noise {number} \x1b[31m\n")
    say(RESULT)


def ticking() -> None:
    """Says when it says it, so that a reader can tell how late it was heard."""
    say(INIT)
    for _ in range(200):
        text = {"type": "text", "text": f"{time.time():.6f}"}
        say({"type": "assistant", "message": {"id": "m", "content": [text]}})
        time.sleep(0.005)  # real time: lines come one by one
    say(RESULT)


def refused() -> None:
    say(INIT)
    for wait_ms in (1000, 38_717):
        told = {"error_status": 401, "error": "authentication_failed", "retry_delay_ms": wait_ms}
        say({"type": "system", "subtype": "api_retry", **told})
    time.sleep(0.5)  # real time: so that there is something to tell before the end
    say(RESULT)


def codex() -> None:
    prompt = sys.stdin.read()
    resumed = sys.argv[sys.argv.index("resume") + 1] if "resume" in sys.argv else None
    if "lost" in prompt and resumed:
        say({"type": "turn.failed", "error": {"message": f"no rollout found for thread id {resumed}"}})
        sys.exit(1)
    if "dies" in prompt:
        say({"type": "thread.started", "thread_id": resumed})
        time.sleep(0.3)  # real time: that it has begun is noted
        sys.exit(1)
    say({"type": "thread.started", "thread_id": resumed or "0199a213-81c0-7800-8aa1-bbab2a035a53"})
    told = {"prompt": prompt, "argv": sys.argv[2:], "key": os.environ.get("CODEX_API_KEY")}
    say({"type": "item.completed", "item": {"id": "i", "type": "agent_message", "text": json.dumps(told)}})
    turns = 2 if resumed else 1  # of a thread that goes on, it tells the sum
    counts = {"input_tokens": 100, "cached_input_tokens": 40, "output_tokens": 7}
    say({"type": "turn.completed", "usage": {name: turns * count for name, count in counts.items()}})


def odd_session() -> None:
    say({"type": "init", "session_id": "--yolo", "model": "gemini-2.5-pro"})
    said = json.dumps(sys.argv[2:])
    say({"type": "message", "role": "assistant", "content": said})
    say({"type": "result", "status": "success", "stats": {}})


def gemini() -> None:
    prompt = sys.stdin.read()
    say({"type": "init", "session_id": "0d6f2b6e-3a51-4a5a-8f7e-5d2d0a2b1c3d", "model": "gemini-2.5-pro"})
    for part in ("It was: ", prompt):
        say({"type": "message", "role": "assistant", "content": part, "delta": True})
    say({"type": "result", "status": "success", "stats": {"input_tokens": 10, "output_tokens": 5, "cached": 0}})


def threads() -> None:
    """Gemini with a conversation of its own each time, which it cannot resume where there is a file `unreadable`."""
    prompt = sys.stdin.read()
    resumed = sys.argv[sys.argv.index("--resume") + 1] if "--resume" in sys.argv else None
    if resumed and Path("unreadable").exists():
        with open("unreadable", encoding="utf-8") as file:
            sys.stderr.write(file.read())
        sys.exit(42)
    say({"type": "init", "session_id": resumed or str(uuid.uuid4()), "model": "gemini-2.5-pro"})
    said = json.dumps({"prompt": prompt, "resumed": resumed})
    say({"type": "message", "role": "assistant", "content": said})
    if "dies" in prompt and not resumed:
        time.sleep(0.3)  # real time: that it has begun is noted
        sys.exit(1)
    say({"type": "result", "status": "success", "stats": {"input_tokens": 10, "output_tokens": 5, "cached": 0}})


def main(scenario: str) -> int:
    if scenario == "flood":
        flood()
    elif scenario == "ticking":
        ticking()
    elif scenario == "is_error":
        say({**RESULT, "is_error": True, "result": "the model gave up"})
    elif scenario == "nothing":
        say(INIT)
    elif scenario == "cut":
        say(INIT)
        sys.stdout.write(json.dumps(RESULT)[:-20])
    elif scenario == "huge":
        say({"type": "unknown", "data": "x" * 9_000_000})
        say(RESULT)
    elif scenario == "stderr":
        sys.stderr.write("e" * 5_000_000)
        say(RESULT)
    elif scenario == "other_model":
        say({"type": "control_request", "request_id": "r", "request": {"subtype": "elicitation"}})
        answer = next(line for line in sys.stdin if '"r"' in line)
        say({**RESULT, "result": json.loads(answer)["response"]["subtype"]})
    else:
        globals()[scenario]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
