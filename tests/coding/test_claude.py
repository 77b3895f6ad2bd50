"""The real Claude Code under its control protocol, with a scripted model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from omium.clients.coding.register import Conversations
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Allowed, Call, Guidance, Suspended
from tests.coding.help import Node, allow, claude_spec, deny, output, processes_of, run
from tests.coding.model import Failure, Talk, bash, model, once, text
from tests.workspace_help import git

pytestmark = pytest.mark.anyio


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_tool_is_asked_for_used_and_the_answer_is_the_output(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([text("I will."), bash("echo hi > new.txt; cat new.txt")], [text("It says hi.")])) as api:
            done = await run(claude_spec(api.url), node, {"prompt": "Write a file."})
    told = output(done)
    assert told["result"] == "It says hi."
    assert (told["turns"], told["denied"], told["commits"]) == (2, [], [])
    assert (node.workspace / "new.txt").read_text() == "hi\n"
    (call,) = node.calls
    assert (call.action, call.tool, call.agent) == ("permission", "Bash", "claude")
    assert call.arguments == {"command": "echo hi > new.txt; cat new.txt", "description": "a command"}
    assert call.preview == "Bash: echo hi > new.txt; cat new.txt"
    assert api.talks[-1].results == ["hi"]
    assert done.usage is not None and (done.usage["input_tokens"], done.usage["output_tokens"]) == (20, 20)
    assert done.usage["cost_usd"] is None and done.usage["price_unknown"] is True  # it is no list-price service
    assert node.spent == [(40, None, done.usage["model"])]
    # Two lines that come at once are one note, the later one.
    assert node.progress[0].startswith(("turn 1 of 100: I will.", "turn 1 of 100: Bash"))
    assert not node.leases and not processes_of(node)


async def test_what_only_reads_is_asked_for_as_well(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([bash("ls")], [text("done")])) as api:
            await run(claude_spec(api.url), node, {"prompt": "Look."})
            assert [call.tool for call in node.calls] == ["Bash"]
            other = Node(node.directory / "other")
            other.directory.mkdir()
            await run(claude_spec(api.url, permissions="needed"), other, {"prompt": "Look."})
            assert other.calls == []


async def test_a_denied_call_is_told_to_the_model_and_does_not_happen(node: Node) -> None:
    node.gate = deny
    with anyio.fail_after(60):
        async with model(once([bash("touch evil")], [text("Then not.")])) as api:
            done = await run(claude_spec(api.url), node, {"prompt": "Try."})
    assert "the rule no-shell says so" in api.talks[-1].results[0]
    assert output(done)["result"] == "Then not."
    (denied,) = output(done)["denied"]
    assert denied["tool"] == "Bash" and "no-shell" in denied["reason"]
    assert not (node.workspace / "evil").exists()


@pytest.mark.parametrize("permissions", ["every", "needed"])
async def test_a_call_waits_for_a_person_without_a_process_and_then_happens_as_approved(
    node: Node, permissions: str
) -> None:
    def answer(talk: Talk) -> list[dict[str, object]]:
        if talk.results and talk.results[-1].startswith("(Bash"):
            return [text("done")]
        return [bash("echo asked > file.txt", talk.turns)]

    waits: list[Call] = []
    node.gate = lambda call: waits.append(call)  # type: ignore[func-returns-value]
    with anyio.fail_after(60):
        async with model(answer) as api:
            spec = claude_spec(api.url, permissions=permissions)
            with pytest.raises(Suspended):
                await run(spec, node, {"prompt": "Write."})
            assert not processes_of(node) and not node.leases
            assert not (node.workspace / "file.txt").exists()
            asked = len(api.talks)
            # Hours later, in another process: a person has changed the command.
            changed = {"command": "echo changed > file.txt", "description": "a command"}
            node.gate = lambda call: Allowed(changed)
            done = await run(spec, node, {"prompt": "Write."})
    assert output(done)["result"] == "done"
    assert output(done)["usage"]["tokens"] == sum(tokens for tokens, *_ in node.spent)  # of all attempts
    assert output(done)["turns"] > 1
    assert (node.workspace / "file.txt").read_text() == "changed\n"
    assert {call.key for call in node.calls} == {waits[0].key}  # it was found again, whatever id it came under
    told = " ".join(" ".join(talk.prompts) for talk in api.talks[asked:])
    assert ("Make the call again" in told) == (permissions == "needed")


async def test_a_refusal_by_a_person_is_heard_when_it_goes_on(node: Node) -> None:
    node.gate = lambda call: None
    with anyio.fail_after(60):
        async with model(lambda talk: [text(talk.results[-1])] if talk.results else [bash("rm -rf .")]) as api:
            with pytest.raises(Suspended):
                await run(claude_spec(api.url), node, {"prompt": "Clean."})
            node.gate = deny
            done = await run(claude_spec(api.url), node, {"prompt": "Clean."})
    assert "no-shell" in output(done)["result"]


async def test_two_calls_at_once_of_which_both_need_a_person(node: Node) -> None:
    def answer(talk: Talk) -> list[dict[str, object]]:
        made = sum(result.startswith("(Bash") for result in talk.results)
        if talk.turns == 0:
            return [bash("echo one >> one.txt", 1), bash("echo two >> two.txt", 2)]
        return [text("done")] if made == 2 else [bash("echo two >> two.txt", 3)]

    node.gate = lambda call: None
    with anyio.fail_after(90):
        async with model(answer) as api:
            spec = claude_spec(api.url)
            with pytest.raises(Suspended):
                await run(spec, node, {"prompt": "Both."})
            assert len(node.calls) == 1  # one question at a time
            node.gate = allow
            done = await run(spec, node, {"prompt": "Both."})
    assert output(done)["result"] == "done"
    assert (node.workspace / "one.txt").read_text() == "one\n"
    assert (node.workspace / "two.txt").read_text() == "two\n"


async def test_the_same_call_made_twice_is_asked_about_twice(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(once([bash("date", 1)], [bash("date", 2)], [text("done")])) as api:
            await run(claude_spec(api.url), node, {"prompt": "Twice."})
    first, second = (call.key for call in node.calls)
    assert first.rsplit(":", 1)[0] == second.rsplit(":", 1)[0] and first != second


async def test_a_tool_that_is_not_declared_does_not_exist(node: Node) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "WebFetch", "input": {"url": "http://x", "prompt": "x"}}
    with anyio.fail_after(60):
        async with model(once([call], [text("done")])) as api:
            await run(claude_spec(api.url, tools=("Bash",)), node, {"prompt": "Fetch."})
    offered = {tool["name"] for tool in api.talks[0].body["tools"]}
    assert "Bash" in offered and "WebFetch" not in offered
    assert node.calls == [] and "WebFetch" in api.talks[-1].results[0]


async def test_the_key_reaches_the_api_and_nothing_else(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "a-canary-of-the-operator")
    show = "env; cat /proc/$PPID/environ | tr '\\0' '\\n'"
    with anyio.fail_after(60):
        async with model(lambda talk: [text(talk.results[-1])] if talk.results else [bash(show)]) as api:
            done = await run(claude_spec(api.url), node, {"prompt": "Leak."})
    assert api.keys == {"key-of-the-operator"}
    everything = api.talks[-1].whole + str(done.output) + str(node.kept)
    assert "OMIUM_RUN_ID" in api.talks[-1].whole
    for secret in ("key-of-the-operator", "a-canary-of-the-operator"):
        assert secret not in everything
    for file in node.directory.glob("scratch-*/logs/*"):
        assert "key-of-the-operator" not in file.read_text()


async def test_a_secret_that_is_handed_on_is_taken_out_of_what_is_stored(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "deploy-me-with-this")
    with anyio.fail_after(60):
        async with model(
            lambda talk: [text(talk.results[-1])] if talk.results else [bash("echo $DEPLOY_TOKEN | base64; env")]
        ) as api:
            done = await run(claude_spec(api.url, pass_env=("DEPLOY_TOKEN",)), node, {"prompt": "Deploy."})
    assert "deploy-me-with-this" in api.talks[-1].results[0]  # it was meant for the agent
    for stored in (str(done.output), str(node.kept), str(node.progress)):
        assert "deploy-me-with-this" not in stored and "ZGVwbG95LW1lLXdpdGgtdGhpc" not in stored


@pytest.mark.parametrize(
    "prompt", ["--dangerously-skip-permissions", "/cost", "-p x", "@/etc/hostname", "!touch evil", "line\nline é ☃"]
)
async def test_a_prompt_is_only_a_prompt(node: Node, prompt: str) -> None:
    with anyio.fail_after(60):
        async with model(once([text("done")])) as api:
            done = await run(claude_spec(api.url), node, {"prompt": prompt})
    assert output(done)["result"] == "done"
    assert api.talks[0].prompt == prompt
    assert Path("/etc/hostname").read_text().strip() + "\\n" not in api.talks[0].whole
    assert not (node.workspace / "evil").exists()


async def test_commits_are_those_of_this_node(node: Node) -> None:
    node.workspace.mkdir()
    git(node.workspace, "init", "-q", "-b", "main")
    git(node.workspace, "commit", "-q", "--allow-empty", "-m", "before")
    who = "git -c user.name=a -c user.email=a@example.org"
    command = f"{who} commit -q --allow-empty -m first && {who} commit -q --allow-empty -m 'second: one'"
    with anyio.fail_after(60):
        async with model(once([bash(command)], [text("done")])) as api:
            done = await run(claude_spec(api.url), node, {"prompt": "Commit."})
    assert [one["subject"] for one in output(done)["commits"]] == ["first", "second: one"]
    assert output(done)["commits"][-1]["id"] == git(node.workspace, "rev-parse", "HEAD")


async def test_max_turns_is_a_failure_of_that_name(node: Node) -> None:
    with anyio.fail_after(60):
        async with model(lambda talk: [bash("true", talk.turns)]) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url, max_turns=2), node, {"prompt": "Loop."})
    assert caught.value.code == "process_failed"
    assert caught.value.data["reason"] == "max_turns"
    assert node.spent[0][0] > 0  # what it took is noted all the same
    assert node.progress[0].startswith("turn 1 of 2: ")


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "RateLimitError"), (500, "APIError"), (401, "PermissionError"), (400, "BadRequestError")]
)
async def test_an_error_of_the_api_is_no_success(node: Node, status: int, kind: str) -> None:
    with anyio.fail_after(60):
        async with model(lambda talk: Failure(status, "x")) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url), node, {"prompt": "Go."})
    assert caught.value.data["reason"] == "api_error"
    assert caught.value.data["error_type"].endswith(kind)


async def test_a_retry_goes_on_with_the_conversation_and_hears_why(node: Node) -> None:
    down = True

    def answer(talk: Talk) -> list[dict[str, object]] | Failure:
        return Failure(400, "invalid_request_error") if down else [text("done")]

    with anyio.fail_after(60):
        async with model(answer) as api:
            with pytest.raises(OmiumError):
                await run(claude_spec(api.url), node, {"prompt": "The task."})
            down = False
            told = Guidance(failures=({"message": "the API was down"},), feedback=("try it gently",))
            done = await run(claude_spec(api.url), node, {"prompt": "The task."}, guidance=told)
    last = " ".join(api.talks[-1].prompts)
    assert "The task." in last and "the API was down" in last and "try it gently" in last
    assert output(done)["session"]["id"] == node.kept["session"]


async def test_a_budget_that_is_used_up_ends_the_work(node: Node) -> None:
    node.budget = 100
    with anyio.fail_after(60):
        async with model(lambda talk: [bash(f"echo {talk.turns}", talk.turns)]) as api:
            with pytest.raises(OmiumError) as caught:
                await run(claude_spec(api.url, reserve_tokens=50), node, {"prompt": "Go on for ever."})
    assert caught.value.code == "budget_exceeded"
    assert sum(tokens for tokens, _, _ in node.spent) <= 160  # an answer more than was there, or two
    assert not processes_of(node)


async def test_a_node_goes_on_from_an_earlier_one_and_leaves_it_as_it_was(node: Node) -> None:
    with anyio.fail_after(90):
        async with model(lambda talk: [text(f"heard {len(talk.prompts)}")]) as api:
            spec = claude_spec(api.url)
            first = output(await run(spec, node, {"prompt": "Remember this."}))
            inputs = {"prompt": "What was it?", "session": dict(first["session"])}
            for _ in range(2):  # it may be gone on from as often as one likes
                later = replace(node, state=None)
                done = output(await run(spec, later, inputs))
                assert done["session"]["id"] != first["session"]["id"]
                assert api.talks[-1].prompts == ["Remember this.", "What was it?"]


async def test_a_conversation_of_another_directory_is_not_gone_on_with(node: Node, tmp_path: Path) -> None:
    with anyio.fail_after(90):
        async with model(lambda talk: [text("the answer is 42")]) as api:
            spec = claude_spec(api.url)
            first = output(await run(spec, node, {"prompt": "Remember this."}))
            other = Node(tmp_path / "branch")
            other.directory.mkdir()
            done = await run(spec, other, {"prompt": "What was it?", "session": dict(first["session"])})
    assert output(done)["result"] == "the answer is 42"
    (prompt,) = api.talks[-1].prompts
    assert "earlier conversation that is lost" in prompt and "the answer is 42" in prompt and "What was it?" in prompt


async def test_a_lost_conversation_begins_anew_with_what_is_known_of_it(node: Node) -> None:
    node.gate = lambda call: None
    with anyio.fail_after(90):
        async with model(
            lambda talk: [text("done")] if "lost" in talk.prompt else [text("I know the way."), bash("true")]
        ) as api:
            spec = claude_spec(api.url)
            with pytest.raises(Suspended):
                await run(spec, node, {"prompt": "Find it."})
            for transcript in (node.directory / "home").rglob("*.jsonl"):
                transcript.unlink()
            node.gate = allow
            done = await run(spec, node, {"prompt": "Find it."})
    assert output(done)["result"] == "done"
    assert "I know the way." in api.talks[-1].prompt and "Find it." in api.talks[-1].prompt
    new, lost = Conversations(node.directory / "home").entries()
    assert (lost.standing, new.standing, new.follows) == ("corrupted", "ended", lost.id)
    assert new.id == output(done)["session"]["id"]
    assert (lost.turns, new.turns) == (1, 1) and lost.tokens + new.tokens == output(done)["usage"]["tokens"]


async def test_a_conversation_that_has_expired_leaves_no_files(node: Node) -> None:
    home = node.directory / "home"
    with anyio.fail_after(90):
        async with model(lambda talk: [text("the answer is 42")]) as api:
            spec = claude_spec(api.url)
            first = output(await run(spec, node, {"prompt": "Remember this."}))
            assert list(home.rglob(f"{first['session']['id']}*.jsonl"))
            later = Conversations(home, lambda: time.time() + 31 * 86_400)
            assert later.expire("default", {"claude": spec}, 1.0) == {"expired": 1, "forgotten": 0}
            assert not list(home.rglob(f"{first['session']['id']}*.jsonl"))
            inputs = {"prompt": "What was it?", "session": dict(first["session"])}
            done = await run(spec, replace(node, state=None), inputs)
    (prompt,) = api.talks[-1].prompts
    assert output(done)["result"] == "the answer is 42" and "> the answer is 42" in prompt and "What was it?" in prompt
