"""A worker: it runs in the virtual environment `envs/crew`, where a framework may be that Omium cannot live with.

With CrewAI there, `run` would make a `Crew`, whose tools call `task.call`, and give the text of `crew.kickoff()`.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def run(task: Any) -> str:
    """What Omium calls. The same call of a tool is made once, however often this is run."""
    task.emit("looking fares up")
    fares = task.call("fares", json.loads(task.message))
    inside = "an environment of its own" if "envs/crew" in sys.prefix else "another one"
    return f"From {inside}: {json.loads(fares)[0]}"
