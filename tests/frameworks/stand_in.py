"""Stands in for a framework with an environment of its own: a model that answers from a script, and its tools.

It imports nothing but the standard library, as the real one imports nothing of Omium.
"""

from __future__ import annotations

import json
from typing import Any


def run(task: Any) -> Any:
    turns = task.model["options"]["turns"]
    state = task.kept or {"turn": 0, "last": task.message, "repairs": 0, "answer": None}
    print("frameworks print whatever they like")
    if task.news:
        state["last"] = f"{state['last']}\n{task.news}"
        state["news"] = task.news
        if state["answer"] is not None and "text" in state["answer"]:
            state["answer"] = None
    while True:
        if state["answer"] is None:
            with task.model_call(len(state["last"])) as call:
                state["answer"] = _turn(turns, state["turn"], task.attempt)
                call.used(input_tokens=10 + len(state["last"]) // 4, output_tokens=5, model="stand-in")
            state["turn"] += 1
            task.keep(state)
        made = state["answer"].get("calls")
        if made:
            known = f"{state['turn']}."
            said = task.calls([(one["name"], one["arguments"], f"{known}{at}") for at, one in enumerate(made)])
            state["last"], state["answer"] = said[-1], None
            continue
        text = state["answer"]["text"]
        text = text if isinstance(text, str) else json.dumps(text)
        text = text.replace("{{last}}", state["last"])
        task.emit(text)
        if _fits(task.output_schema, text) or state["repairs"] >= 2:
            return text
        state["repairs"] += 1
        state["last"], state["answer"] = "Answer again.", None


def _turn(turns: list[Any], place: int, attempt: int) -> Any:
    turn = turns[place]
    if "status" in turn and attempt == 1:
        error = RuntimeError("the provider refused")
        error.status_code = turn["status"]  # type: ignore[attr-defined]
        raise error
    return turn


def _fits(schema: Any, text: str) -> bool:
    if not schema:
        return True
    try:
        return isinstance(json.loads(text).get("n"), int)
    except (ValueError, AttributeError):
        return False
