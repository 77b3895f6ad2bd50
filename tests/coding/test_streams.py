"""Streams that the real CLI does not give on demand, and the CLIs that ask for nothing while they work."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.coding.desk import AttemptDesk
from omium.clients.coding.events import Event, Said
from omium.clients.coding.executor import CodingExecutor, _Work
from omium.clients.coding.spec import CodingSpec, Kind
from omium.clients.processes.event_log import EventLog
from omium.clients.processes.listing import ProcessView, listed
from omium.clients.processes.register import Register
from omium.clients.watched import Supervision
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Done
from omium.orchestration.ports_calls import Guidance, Suspended
from tests.coding.help import Node, deny, output, processes_of, run

pytestmark = pytest.mark.anyio

CLI = Path(__file__).with_name("fake_cli.py")
THREAD = "0199a213-81c0-7800-8aa1-bbab2a035a53"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def fake(node: Node, scenario: str, kind: Kind = "claude", **more: Any) -> CodingSpec:
    """A program that begins with the scenario, whatever arguments it gets."""
    program = node.directory / f"fake-{scenario}"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {CLI} {scenario} "$@"\n')
    program.chmod(0o700)
    if kind == "gemini":
        more.setdefault("sandbox", "read-only")
    return CodingSpec("fake", kind, str(program), **more)


async def does(node: Node, scenario: str, **more: Any) -> Done:
    with anyio.fail_after(60):
        return await run(fake(node, scenario, **more), node, {"prompt": "Go."})


@pytest.mark.parametrize(
    ("scenario", "reason"), [("is_error", "failed"), ("nothing", "no_result"), ("cut", "no_result")]
)
async def test_an_exit_code_of_zero_is_no_success(node: Node, scenario: str, reason: str) -> None:
    with pytest.raises(OmiumError) as caught:
        await does(node, scenario)
    assert (caught.value.code, caught.value.data["reason"]) == ("process_failed", reason)
    assert caught.value.data["exit_code"] == 0


async def test_a_flood_with_noise_in_it(node: Node) -> None:
    assert output(await does(node, "flood"))["result"] == "done"
    assert len(node.progress) <= 5


async def test_lines_beyond_every_bound(node: Node) -> None:
    assert output(await does(node, "huge"))["result"] == "done"
    assert output(await does(Node(_below(node, "b")), "stderr"))["result"] == "done"


async def test_it_is_told_that_the_service_refuses(node: Node) -> None:
    await does(node, "refused")
    assert "(401 authentication_failed); it is made again in" in node.progress[0]


async def test_others_see_it_while_it_runs(node: Node) -> None:
    register = Register(node.directory / "processes")
    events = EventLog(node.directory / "commands.jsonl")
    seen: list[ProcessView] = []

    class Progress(list[str]):
        def append(self, text: str) -> None:
            seen.extend(listed(register, node.run_id))

    node.progress = Progress()
    spec = fake(node, "ticking", env={"A_TOKEN": "of the operator"})
    coding = CodingExecutor({"fake": spec}, node.directory, supervision=Supervision(register, events))
    with anyio.fail_after(60):
        await coding.run("fake", {"prompt": "Go."}, node.attempt())  # type: ignore[arg-type]
    assert (seen[0].command, seen[0].node, seen[0].state) == ("fake", "code", "running")
    assert listed(register) == []
    events.close()
    told = [json.loads(line) for line in (node.directory / "commands.jsonl").read_text().splitlines()]
    assert [one["to"] for one in told if one["event"] == "tool_status_change"] == ["running", "completed"]
    assert "of the operator" not in str(told)


async def test_output_is_limited(node: Node) -> None:
    with pytest.raises(OmiumError) as caught:
        await does(node, "flood", output_limit_bytes=100_000)
    assert caught.value.data["reason"] == "output"
    assert processes_of(node) == []


async def test_a_request_that_nobody_knows_is_answered(node: Node) -> None:
    assert output(await does(node, "other_model"))["result"] == "error"


async def test_what_is_said_is_heard_within_a_tenth_of_a_second(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[float] = []
    heard = AttemptDesk.heard

    def noting(desk: AttemptDesk, event: Event) -> None:
        if isinstance(event, Said) and event.text:
            late.append(time.time() - float(event.text))
        heard(desk, event)

    monkeypatch.setattr(AttemptDesk, "heard", noting)
    await does(node, "ticking")
    assert len(late) == 200
    assert sorted(late)[190] < 0.1, sorted(late)[190]


async def test_codex_is_asked_about_once_and_goes_on_with_its_thread(node: Node) -> None:
    spec = fake(node, "codex", "codex", api_key_env="THE_KEY")
    with anyio.fail_after(60):
        done = await run(spec, node, {"prompt": "--full-auto"})
        told = json.loads(output(done)["result"])
        assert told["prompt"] == "--full-auto" and told["key"] == "[redacted]"
        assert "--full-auto" not in told["argv"] and told["argv"][-1] == "-"
        assert output(done)["session"]["id"] == THREAD
        assert done.usage is not None and (done.usage["tokens"], done.usage["cache_read_tokens"]) == (107, 40)
        (call,) = node.calls
        assert (call.tool, call.action) == ("codex", "permission")
        assert call.arguments == {"sandbox": "workspace-write", "prompt": "--full-auto", "model": None}
        again = Guidance(failures=({"message": "it broke"},))
        done = await run(spec, node, {"prompt": "--full-auto"}, guidance=again)
        assert done.usage is not None and done.usage["tokens"] == 2 * 107  # the same again, not the sum once more
        told = json.loads(output(done)["result"])
        assert told["argv"][-3:] == ["resume", THREAD, "-"] and "it broke" in told["prompt"]


async def test_a_thread_of_another_node_that_was_cut_off_here_is_not_counted_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(self: object, kept: object) -> None:
        """Nothing is noted at the end, as when the worker is killed."""

    used = {"input": 60, "output": 7, "cache_read": 40, "cache_write": 0}
    session: dict[str, Any] = {"id": THREAD, "agent": "fake", "cwd": str(node.workspace), "said": "", "used": used}
    spec = fake(node, "codex", "codex")
    with anyio.fail_after(60):
        with monkeypatch.context() as there, pytest.raises(OmiumError):
            there.setattr(_Work, "_note_spent", killed)
            await run(spec, node, {"prompt": "It dies.", "session": session})
        done = await run(spec, node, {"prompt": "It dies.", "session": session}, resumed=True)
    assert done.usage is not None and done.usage["tokens"] == 107  # of 2 * 107, the other node's is the first
    assert output(done)["session"]["used"] == {name: 2 * count for name, count in used.items()}


async def test_codex_begins_anew_when_its_thread_is_lost(node: Node) -> None:
    spec = fake(node, "codex", "codex")
    with anyio.fail_after(60):
        first = output(await run(spec, node, {"prompt": "First."}))
        later = Node(node.directory)
        wanted = {"prompt": "A lost one.", "session": dict(first["session"])}
        told = json.loads(output(await run(spec, later, wanted))["result"])
    assert "earlier conversation that is lost" in told["prompt"] and "A lost one." in told["prompt"]
    assert "resume" not in told["argv"]


async def test_no_id_of_a_conversation_becomes_an_option(node: Node) -> None:
    spec = fake(node, "odd_session", kind="gemini")
    session = output(await run(spec, node, {"prompt": "Go."}))["session"]
    goes_on = output(await run(spec, Node(node.directory), {"prompt": "On.", "session": dict(session)}))
    assert "--yolo" not in json.loads(goes_on["result"]) and "--resume" in json.loads(goes_on["result"])


async def test_gemini(node: Node) -> None:
    done = await does(node, "gemini", kind="gemini")
    assert output(done)["result"] == "It was: Go."
    assert done.usage is not None and done.usage["cost_usd"] > 0


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("/deploy now", "The task: /deploy now"),
        (" /deploy now", "The task:  /deploy now"),
        ("Read @/etc/passwd, a@b and \\@c.", "Read \\@/etc/passwd, a\\@b and \\@c."),
        ("Divide a/b.", "Divide a/b."),
    ],
)
async def test_no_prompt_is_a_command_of_gemini_or_names_a_file_to_it(node: Node, prompt: str, said: str) -> None:
    done = await run(fake(node, "gemini", kind="gemini"), node, {"prompt": prompt})
    assert output(done)["result"] == f"It was: {said}"


@pytest.mark.parametrize("kind", ["codex", "gemini"])
async def test_without_leave_it_is_not_started(node: Node, kind: Kind) -> None:
    node.gate = deny
    with pytest.raises(OmiumError) as caught:
        await does(node, kind, kind=kind)
    assert caught.value.code == "denied"
    node.gate = lambda call: None
    with pytest.raises(Suspended):
        await does(node, kind, kind=kind)
    assert not list(node.directory.glob("scratch-*/logs/*"))


async def test_a_program_that_is_not_there(node: Node) -> None:
    with pytest.raises(OmiumError) as caught:
        await run(CodingSpec("c", "claude", "no-such-program"), node, {"prompt": "Go."})
    assert caught.value.data["reason"] == "not_started"


async def test_a_key_that_is_not_set(node: Node) -> None:
    with pytest.raises(OmiumError) as caught:
        await run(fake(node, "flood", api_key_env="NO_SUCH_KEY"), node, {"prompt": "Go."})
    assert caught.value.code == "unsupported" and "NO_SUCH_KEY" in caught.value.message


def _below(node: Node, name: str) -> Path:
    directory = node.directory / name
    directory.mkdir()
    return directory


async def test_a_wrapper_starts_the_cli_and_all_that_it_does_stands_as_without_one(node: Node) -> None:
    seen, wrapper = node.directory / "seen", node.directory / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$1" > {seen}\nshift\nexec "$@"\n')
    wrapper.chmod(0o700)
    done = await does(node, "ticking", wrap=(str(wrapper), "--only={workspace}"))
    assert seen.read_text() == f"--only={node.workspace}\n"
    assert isinstance(done.output, dict) and done.output["result"]


@pytest.mark.parametrize("wrap", [("",), ("-x",), ("bwrap", "a\0b")])
def test_a_wrapper_that_is_none_is_refused(wrap: tuple[str, ...]) -> None:
    with pytest.raises(OmiumError, match="is wrapped by"):
        CodingSpec("c", "claude", wrap=wrap)
