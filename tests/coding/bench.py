"""Many runs of the real Claude Code at once: `python -m tests.coding.bench --runs 200 --parallel 50 --interrupted 50`.

Every run uses a tool under the gate; the interrupted ones wait for a person in their first attempt and go on in a
second one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import anyio
import psutil

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended
from tests.coding.help import Node, allow, claude_spec, output, processes_of, run
from tests.coding.model import Blocks, Talk, bash, model, text


def _answer(talk: Talk) -> Blocks:
    return [text(talk.results[-1])] if talk.results else [bash(f"echo {talk.prompts[0]} | tee done.txt")]


async def _one(node: Node, url: str, interrupted: bool) -> bool:
    node.directory.mkdir()
    prompt = f"number-{node.directory.name}"
    if interrupted:
        node.gate = lambda call: None
        try:
            await run(claude_spec(url), node, {"prompt": prompt})
            return False
        except Suspended:
            node.gate = allow
    try:
        said = str(output(await run(claude_spec(url), node, {"prompt": prompt}))["result"])
        if said != prompt:
            print(f"{prompt}: it said {said!r}")
        return said == prompt
    except OmiumError as error:
        print(f"{prompt}: {error} {error.data}")
        return False


async def main(runs: int, parallel: int, interrupted: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="omium-coding-"))
    fine = went_on = most = 0
    width = anyio.CapacityLimiter(parallel)
    nodes = [Node(directory / str(number)) for number in range(runs)]

    async def start(number: int, url: str) -> None:
        nonlocal fine, went_on, most
        async with width:
            most = max(most, width.borrowed_tokens)
            is_fine = await _one(nodes[number], url, number < interrupted)
        fine += is_fine
        went_on += is_fine and number < interrupted

    began = time.monotonic()
    async with model(_answer) as api, anyio.create_task_group() as tasks:
        for number in range(runs):
            tasks.start_soon(start, number, api.url)
    took = time.monotonic() - began
    left = sum(len(processes_of(node)) for node in nodes)
    memory = psutil.Process().memory_info().rss / 2**20
    shutil.rmtree(directory)
    print(f"{fine} of {runs} runs succeeded ({fine / runs:.1%}), {most} at once, in {took:.0f} s")
    print(
        f"{went_on} of {interrupted} interrupted conversations went on; {left} processes left; worker {memory:.0f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=50)
    parser.add_argument("--interrupted", type=int, default=50)
    chosen = parser.parse_args()
    anyio.run(main, chosen.runs, chosen.parallel, chosen.interrupted)
