"""The functions of the research workflow. Plain Python: nothing of Omium is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).with_name("sources.json")
SURE_ENOUGH = {"neutral": 0.0, "sceptical": 0.5}


async def list_sources() -> list[dict[str, Any]]:
    """What there is to read."""
    found: list[dict[str, Any]] = json.loads(SOURCES.read_text("utf-8"))
    return found


async def read(ctx: Any, source: dict[str, Any], question: str) -> dict[str, Any]:
    """What one source answers. A connection that fails is worth another attempt, a closed archive is not."""
    if source.get("trouble") == "busy" and ctx.attempt == 1:
        raise ConnectionError(f"{source['name']} is busy")
    if source.get("trouble") == "closed":
        raise PermissionError(f"{source['name']} is closed")

    async def ask() -> dict[str, Any]:
        return {"source": source["name"], "question": question, "answer": source["says"], "sure": source["sure"]}

    answer: dict[str, Any] = await ctx.effect(f"ask {source['name']}", ask)  # an answer is paid for once
    return answer


async def summarise(findings: list[dict[str, Any]], missing: int, angle: str) -> dict[str, Any]:
    """What the answers come to; a sceptic counts only those that are sure."""
    counted = [one for one in findings if one["sure"] >= SURE_ENOUGH[angle]]
    votes = {answer: sum(one["answer"] == answer for one in counted) for answer in ("yes", "no")}
    return {"votes": votes, "counted": [one["source"] for one in counted], "missing": missing}
