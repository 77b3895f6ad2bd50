"""What ends the real Claude Code in the middle, and how its work goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import psutil
import pytest

from omium.clients.coding.sessions import Kept
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended
from tests.coding.help import Node, allow, claude_spec, output, processes_of, run
from tests.coding.model import Talk, bash, model, once, text

pytestmark = pytest.mark.anyio

# Children in sessions of their own, as daemons would be.
_GRANDCHILDREN = "setsid sleep 600 & (setsid setsid sleep 600 &) ; echo started > started; sleep 600"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def appears(path: Path) -> None:
    while not path.exists():
        await anyio.sleep(0.02)  # real time: another process makes it


async def test_cancelling_interrupts_it_and_leaves_no_grandchild(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([bash(_GRANDCHILDREN)], [text("never")])) as api, anyio.create_task_group() as tasks:
            tasks.start_soon(run, claude_spec(api.url), node, {"prompt": "Go."})
            await appears(node.workspace / "started")
            assert len(processes_of(node)) >= 4
            began = time.monotonic()
            tasks.cancel_scope.cancel()
    assert time.monotonic() - began < 5
    assert processes_of(node) == [] and not node.leases
    transcript = next((node.directory / "home").rglob(f"{node.kept['session']}.jsonl")).read_text()
    assert "interrupted by user" in transcript  # it was asked to stop before it was ended


async def test_a_time_limit_ends_it_with_everything_below(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([bash(_GRANDCHILDREN)], [text("never")])) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url, timeout_s=3.0), node, {"prompt": "Go."})
    assert caught.value.code == "timeout" and caught.value.data["reason"] == "hard_timeout"
    assert processes_of(node) == []


async def test_silence_ends_it(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([bash("tail -f /dev/null")], [text("never")])) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url, idle_timeout_s=2.0), node, {"prompt": "Go."})
    assert caught.value.data["reason"] == "idle_timeout"


async def test_memory_is_limited_over_the_whole_tree(node: Node) -> None:
    eat = f"{sys.executable} -c 'import time; held = bytearray(700_000_000); time.sleep(600)'"
    with anyio.fail_after(60):
        async with model(once([bash(eat)], [text("never")])) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url, memory_limit_bytes=900_000_000), node, {"prompt": "Eat."})
    assert caught.value.data["reason"] == "memory"
    assert processes_of(node) == []


def test_killed_in_the_middle_of_a_tool_it_goes_on_and_knows_that(node: Node) -> None:
    anyio.run(_killed_in_mid_tool, node)


async def _killed_in_mid_tool(node: Node) -> None:
    def answer(talk: Talk) -> list[dict[str, object]]:
        return [text(talk.results[-1])] if talk.results else [bash(_GRANDCHILDREN)]

    with anyio.fail_after(60):
        async with model(answer) as api:
            spec = claude_spec(api.url)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_kill_the_cli, node)
                with pytest.raises(OmiumError) as caught:
                    await run(spec, node, {"prompt": "Go."})
            assert caught.value.data["reason"] == "no_result" and caught.value.data["signal"] == signal.SIGKILL
            assert processes_of(node) == []  # its orphans, in sessions of their own, are swept
            done = await run(spec, node, {"prompt": "Go."}, resumed=True)
    assert "outcome is unknown" in output(done)["result"]
    assert "was interrupted" in api.talks[-1].prompt
    assert api.talks[-1].prompts[0] == "Go."
    assert len(node.calls) == 1


async def _kill_the_cli(node: Node) -> None:
    await appears(node.workspace / "started")
    for process in processes_of(node):
        if process.name().startswith("claude"):
            process.send_signal(signal.SIGKILL)


async def test_a_killed_worker_leaves_a_cli_that_the_next_attempt_ends_before_it_goes_on(
    node: Node, tmp_path: Path
) -> None:
    """The worker is a process of its own, killed with SIGKILL: nobody is left to clean up behind it."""
    answers = lambda talk: [text("done")] if talk.results else [bash(_GRANDCHILDREN)]  # noqa: E731
    with anyio.fail_after(90):
        async with model(answers) as api:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            command = [sys.executable, "-m", "tests.coding.victim", api.url, str(tmp_path), node.run_id]
            worker = subprocess.Popen(command, env=environment)  # noqa: ASYNC220 - it returns at once
            await appears(node.workspace / "started")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            # Something of it is still there, as nobody was left to end it.
            assert any(process.name() == "sleep" for process in processes_of(node))
            node.state = (tmp_path / "state").read_bytes()
            kept = Kept.of(node.kept)
            assert kept is not None and kept.begun
            done = await run(claude_spec(api.url), node, {"prompt": "Go."}, resumed=True)
    assert output(done)["result"] == "done"
    assert output(done)["session"]["id"] == kept.session
    assert processes_of(node) == []


async def test_what_was_done_is_not_done_again_when_only_its_end_was_not_written(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([text("done")])) as api:
            first = await run(claude_spec(api.url), node, {"prompt": "Go."})
            asked = len(api.talks)
            assert await run(claude_spec(api.url), node, {"prompt": "Go."}, resumed=True) == first
            assert len(api.talks) == asked


async def test_a_line_of_a_megabyte_and_a_half(node: Node) -> None:
    long = "x" * 1_500_000
    call = {"type": "tool_use", "id": "t1", "name": "Write", "input": {"file_path": "big.txt", "content": long}}

    def answer(talk: Talk) -> list[dict[str, object]]:
        path = str(node.workspace / "big.txt")
        arguments = {"file_path": path, "content": long}
        return [text(long)] if talk.results else [{**call, "input": arguments}]

    with anyio.fail_after(90):
        async with model(answer) as api:
            done = await run(claude_spec(api.url), node, {"prompt": "Write it."})
    assert output(done)["result"] == long
    assert (node.workspace / "big.txt").stat().st_size == 1_500_000


async def test_a_conversation_is_led_by_one_attempt_at_a_time(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([text("done")])) as api:
            node.gate = lambda call: None
            await run(claude_spec(api.url), node, {"prompt": "Go."})
            node.leases.add(f"session:{node.kept['session']}")
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url), node, {"prompt": "Go."})
    assert caught.value.code == "conflict"


@pytest.mark.parametrize("count", [4])
async def test_many_at_once_and_all_of_them_interrupted(tmp_path: Path, count: int) -> None:
    """The first attempt of each waits for a person, the second one goes on; more of them in the benchmark."""
    nodes = [Node(tmp_path / str(number)) for number in range(count)]
    results: list[str] = []

    def answer(talk: Talk) -> list[dict[str, object]]:
        return [text(talk.results[-1])] if talk.results else [bash(f"echo {talk.prompts[0]}")]

    async def interrupted(node: Node) -> None:
        node.directory.mkdir()
        node.gate = lambda call: None
        with pytest.raises(Suspended):
            await run(spec, node, {"prompt": f"number-{node.directory.name}"})
        node.gate = allow
        results.append(output(await run(spec, node, {"prompt": "-"}))["result"])

    with anyio.fail_after(120):
        async with model(answer) as api:
            spec = claude_spec(api.url)
            async with anyio.create_task_group() as tasks:
                for node in nodes:
                    tasks.start_soon(interrupted, node)
    assert sorted(results) == sorted(f"number-{number}" for number in range(count)), results
    assert not [process for node in nodes for process in processes_of(node)]
    assert psutil.Process().num_fds() < 200
