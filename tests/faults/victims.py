"""The project whose workers are killed: every start of a node and every effect leaves a line on the disk."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omium.orchestration.ids import RunId
from omium.orchestration.log.events import Event, EventType

FUNCTIONS = """
import asyncio
import json
import os
from pathlib import Path

TRACE = os.open(Path(__file__).with_name("trace.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(ctx, what, **more):
    line = {"what": what, "run": ctx.run_id, "node": ctx.node_id, "generation": ctx.generation,
            "attempt": ctx.attempt, **more}
    os.write(TRACE, (json.dumps(line) + "\\n").encode())


async def work(ctx, n=0, before=None):
    note(ctx, "begin")
    await asyncio.sleep(0.003)

    async def pay():
        note(ctx, "effect", call="pay")
        await asyncio.sleep(0.002)
        return {"paid": n}

    answer = await ctx.effect("pay", pay)
    await asyncio.sleep(0.003)
    return {"n": n, "by": ctx.node_id, **answer}


async def numbers(ctx, count):
    note(ctx, "begin")
    return list(range(count))


async def write(ctx, name):
    note(ctx, "begin")
    (ctx.workspace / name).write_text(name * 100)
    await asyncio.sleep(0.002)
    return name


async def fragile(ctx):
    note(ctx, "begin")
    if ctx.generation < 2:
        raise ConnectionError("refused")


async def linger(ctx):
    note(ctx, "begin")
    await asyncio.sleep(600)


async def unpay(ctx, **told):
    note(ctx, "undone")
    await asyncio.sleep(0.002)


def slow(ctx, n=0):
    note(ctx, "begin")

    def pay():
        note(ctx, "effect", call="pay")
        return n

    return ctx.effect("pay", pay)
"""

PROJECT = """
project: victims
functions:
  work: {ref: "victims_work:work", host: async}
  numbers: {ref: "victims_work:numbers", host: async}
  write: {ref: "victims_work:write", host: async}
  slow: {ref: "victims_work:slow", host: process}
  fragile: {ref: "victims_work:fragile", host: async}
  linger: {ref: "victims_work:linger", host: async}
  unpay: {ref: "victims_work:unpay", host: async}
limits: {processes: 2}
"""

STEADY = """
name: steady
nodes:
  - {id: first, kind: function, use: work}
  - {id: count, kind: function, use: numbers, with: {count: 4}, needs: first}
  - id: fan
    kind: function
    use: work
    needs: count
    for_each: {items: "${{ nodes.count.output }}"}
    with: {n: "${{ item }}"}
  - {id: child, kind: workflow, use: inner, needs: first, with: {n: 7}}
  - {id: file, kind: function, use: write, needs: first, workspace: write, with: {name: a}}
  - {id: slow, kind: function, use: slow, needs: first}
  - {id: again, kind: function, use: work, needs: [fan], repeat: {until: "iteration >= 1", max: 2}}
  - id: last
    kind: function
    use: work
    needs: [fan, child, file, slow, again]
    with: {before: "${{ nodes.fan.output }}"}
"""

INNER = """
name: inner
inputs: {type: object, properties: {n: {type: integer}}}
nodes:
  - {id: one, kind: function, use: work, with: {n: "${{ inputs.n }}"}}
  - {id: two, kind: function, use: work, needs: one}
"""

ASKING = """
name: asking
nodes:
  - {id: first, kind: function, use: work, on_unknown: ask}
  - {id: second, kind: function, use: work, on_unknown: ask, needs: first}
  - {id: third, kind: function, use: work, on_unknown: ask, needs: second}
"""


STUBBORN = """
name: stubborn
on_failure: {do: rollback, to: "node:file", max: 2}
nodes:
  - {id: file, kind: function, use: write, workspace: write, with: {name: a}}
  - {id: pay, kind: function, use: work, needs: file, compensate: unpay}
  - {id: spoil, kind: function, use: write, workspace: write, needs: pay, with: {name: b}}
  - {id: last, kind: function, use: fragile, needs: spoil}
"""


BUSY = """
name: busy
nodes:
  - {id: pay, kind: function, use: work, compensate: unpay}
  - {id: linger, kind: function, use: linger, needs: pay}
"""


def write_victims(directory: Path) -> Path:
    """The project on disk; gives its directory."""
    (directory / "workflows").mkdir(parents=True)
    (directory / "omium.yaml").write_text(PROJECT)
    (directory / "victims_work.py").write_text(FUNCTIONS)
    for name, text in (
        ("steady", STEADY),
        ("inner", INNER),
        ("asking", ASKING),
        ("stubborn", STUBBORN),
        ("busy", BUSY),
    ):
        (directory / "workflows" / f"{name}.yaml").write_text(text)
    return directory


def trace(directory: Path) -> list[dict[str, Any]]:
    path = directory / "trace.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True, slots=True)
class Findings:
    """What a torture must not find; each is a list of sentences."""

    repeated_nodes: list[str]
    repeated_effects: list[str]

    def __bool__(self) -> bool:
        return bool(self.repeated_nodes or self.repeated_effects)


def examine(lines: list[dict[str, Any]], logs: dict[RunId, list[Event]]) -> Findings:
    """Hold what happened on the disk against what the logs acknowledged.

    A node that completed in attempt n has not begun again in a later attempt of the same generation; an effect that was
    settled as done in attempt n was not made in a later one, and under the policy `ask` none was made twice at all."""
    completed: dict[tuple[str, str, int], int] = {}
    settled: dict[tuple[str, str, int], int] = {}
    asks: set[tuple[str, str, int]] = set()
    for run_id, events in logs.items():
        intents: dict[str, tuple[tuple[str, str, int], int]] = {}
        for event in events:
            data = event.data
            if event.type is EventType.NODE_COMPLETED and "attempt" in data:
                completed[(run_id, data["node"], data["generation"])] = data["attempt"]
            elif event.type is EventType.EFFECT_INTENDED:
                key = (run_id, data["node"], data["generation"])
                intents[data["effect"]] = (key, data["attempt"])
                if data["on_unknown"] == "ask":
                    asks.add(key)
            elif event.type is EventType.EFFECT_SETTLED and data["outcome"] == "done":
                key, attempt = intents[data["effect"]]
                settled[key] = attempt
    nodes, effects = [], []
    made: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    for line in lines:
        key = (line["run"], line["node"], line["generation"])
        if line["what"] == "begin" and line["attempt"] > completed.get(key, line["attempt"]):
            nodes.append(f"{key} completed in attempt {completed[key]} and began again in {line['attempt']}")
        if line["what"] == "effect":
            made[key] += 1
            if line["attempt"] > settled.get(key, line["attempt"]):
                effects.append(f"{key} was done in attempt {settled[key]} and made again in {line['attempt']}")
    effects += [f"{key} asks when unknown, and was made {made[key]} times" for key in asks if made[key] > 1]
    return Findings(nodes, effects)


def environment(directory: Path, database: str) -> dict[str, str]:
    """What a worker of the project is started with."""
    home = directory / "home"
    return {
        **os.environ,
        "OMIUM_HOME": str(home),
        "OMIUM_DATABASE": database,
        "OMIUM_PROJECT": str(directory),
        "OMIUM_DETACH": "false",
    }
