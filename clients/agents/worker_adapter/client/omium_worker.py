"""The other side of `framework: worker`: standard library only, for any Python from 3.9.

Omium starts `python omium_worker.py SCRIPT`. The script has a function `run(task)`, whose result is the output:

    def run(task):
        with task.model_call(len(task.message)) as call:
            answer, used = ask_my_model(task.system, task.message)
            call.used(input_tokens=used.input, output_tokens=used.output, model="gpt-5-mini")
        text = task.call("fares", {"origin": "Oslo"})          # under policy, approvals and ledger
        return f"{answer}: {text}"

What is printed goes to the log of errors; the protocol has the real standard output to itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Ask = Callable[[Any], Any]


class Task:
    """message, system: what to do; tools: [{name, description, parameters}]; model: {provider, name, base_url,
    options}; output_schema; attempt; news: what happened since; kept: what was last kept, or None."""

    def __init__(self, told: dict[str, Any], ask: Ask) -> None:
        self.message: str = told["message"]
        self.system: str = told["system"]
        self.tools: list[dict[str, Any]] = told["tools"]
        self.model: dict[str, Any] | None = told["model"]
        self.output_schema: dict[str, Any] | None = told["output_schema"]
        self.attempt: int = told["attempt"]
        self.news: str = told["news"]
        self.kept: Any = told["state"]
        self._ask = ask

    def call(self, name: str, arguments: dict[str, Any], call_id: str | None = None) -> str:
        """Call a tool; its text. The same call is made once, however often the script is run: see `calls`."""
        return self.calls([(name, arguments, call_id)])[0]

    def calls(self, calls: Sequence[tuple[str, Any, str | None]]) -> list[str]:
        """Several calls (name, arguments, call_id) at the same time. call_id: what the call is known by when the script
        is run again; None: its name, arguments, and how often it was made before."""
        return [one["text"] for one in self._ask({"type": "calls", "calls": [list(one) for one in calls]})["answers"]]

    def human(self, question: str, options: Sequence[str] = ()) -> str:
        """Ask a person. The process ends until there is an answer, and is run again with it."""
        return str(self._ask({"type": "human", "question": question, "options": list(options)})["text"])

    def keep(self, state: Any) -> None:
        """Keep JSON with which the script is run again; after each answer of a model is a good moment."""
        self._ask({"type": "keep", "state": state})
        self.kept = state

    def emit(self, text: str) -> None:
        """Show how far it is."""
        self._ask({"type": "emit", "text": str(text)})

    def model_call(self, chars: int) -> ModelCall:
        """A block around a call of a model with a prompt of so many characters: budgets are held, and then settled."""
        return ModelCall(self._ask, chars)


class ModelCall:
    """See `Task.model_call`."""

    def __init__(self, ask: Ask, chars: int) -> None:
        self._ask, self._chars, self._id = ask, chars, 0
        self._used: dict[str, Any] | None = None

    def used(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, model: str | None = None) -> None:
        """What it took."""
        self._used = {"input": input_tokens, "output": output_tokens, "cached": cached_tokens, "model": model}

    def __enter__(self) -> ModelCall:
        self._id = self._ask({"type": "model", "chars": self._chars})["id"]
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failed = None if error is None else _told(error)
        self._ask({"type": "used", "model": self._id, "used": self._used, "failed": failed})


def _told(error: BaseException) -> dict[str, Any]:
    status = getattr(error, "status_code", None)
    return {"kind": type(error).__name__, "message": str(error), "status": status if isinstance(status, int) else None}


def main() -> None:
    """Run the script that the arguments name."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # frameworks print; the protocol must not be interrupted by that
    source, lock, count = sys.stdin, threading.Lock(), [0]

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        with lock:
            count[0] += 1
            out.write(json.dumps({**request, "id": count[0]}) + "\n")
            out.flush()
            line = source.readline()
        if not line:
            os._exit(3)  # nobody is there any more
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(told: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(told) + "\n")
            out.flush()

    task = Task(json.loads(source.readline()), ask)
    path = Path(sys.argv[1]).absolute()
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("omium_script", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        end({"type": "done", "output": module.run(task)})
    except Exception as error:
        traceback.print_exc()
        end({"type": "failed", **_told(error)})


if __name__ == "__main__":
    main()
