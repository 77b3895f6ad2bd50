"""Four agents hand typed work on, many times over, on a provider that fails now and then."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.ids import RunId
from omium.orchestration.ports import RunQuery
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config

pytestmark = pytest.mark.anyio

RUNS = 100
FAULTS = 0.05  # of the calls of a model
STEPS = ("plan", "write", "test", "review")
SCHEMA = {"type": "object", "required": ["step"], "properties": {"step": {"type": "string"}}}


def script(step: str, seed: int) -> dict[str, Any]:
    """An agent that gives its step; for some runs its provider is away for a moment."""
    rng, cases = random.Random(seed), []
    good = {"text": {"step": step}}
    for run in range(RUNS):
        if rng.random() < FAULTS:
            away = {"error": {"status": 503, "message": "away", "attempts": 1}}
            cases.append({"when": f"<run {run}>", "turns": [away, good]})
    return {"cases": cases, "turns": [good]}


async def test_a_hundred_runs_of_four_agents_end_well_although_providers_fail(tmp_path: Path) -> None:
    agents, nodes = [], []
    for number, step in enumerate(STEPS):
        told = script(step, number)
        assert told["cases"]  # something does fail
        (tmp_path / f"{step}.json").write_text(json.dumps(told))
        agents.append({"name": step, "model": {"provider": "scripted", "script": f"{step}.json"}, "output": SCHEMA})
        before = STEPS[number - 1] if number else None
        task = "<run ${{ string(inputs.run) }}>" + (f" after ${{{{ nodes.{before}.output.step }}}}" if before else "")
        node: dict[str, Any] = {"id": step, "kind": "agent", "use": step, "workspace": "none", "with": {"task": task}}
        node |= {"retry": {"max_attempts": 3, "initial": "1ms"}, "output_schema": SCHEMA}
        nodes.append(node | ({"needs": before} if before else {}))
    inputs = {"type": "object", "required": ["run"], "properties": {"run": {"type": "integer"}}}
    workflow = {"name": "w", "inputs": inputs, "nodes": nodes, "outputs": "${{ nodes.review.output.step }}"}
    (tmp_path / "omium.yaml").write_text(json.dumps({"project": "p", "agents": agents, "workflows": [workflow]}))
    config = load_config(tmp_path, {"OMIUM_HOME": str(tmp_path / "home"), "OMIUM_DETACH": "false"})
    async with open_omium(config) as core:
        caller = local_caller(config)
        with anyio.fail_after(180):
            started = [await core.run_workflow(caller, "w", {"run": number}) for number in range(RUNS)]
            ended = [await core.wait(caller, RunId(one.id), 170) for one in started]
        assert {one.status for one in ended} == {"completed"}
        stats = [await core.retry_stats(caller, one.id) for one in started]
        assert sum(one.failed for one in stats) == sum(len(script(step, n)["cases"]) for n, step in enumerate(STEPS))
        assert all(one.recovered == one.retried for one in stats)
        assert len(await core.store.runs(RunQuery(limit=1_000))) == RUNS  # nothing was started twice
