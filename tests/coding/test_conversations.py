"""What is known of conversations: what they took in which runs, when they expire, and which cannot be read."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.coding.register import Conversations, Entry, Share
from omium.clients.coding.spec import CodingSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, new_id
from omium.server.commands.wire import rfc3339
from omium.server.config import load_config
from omium.server.upkeep import remove_files
from tests.cli.harness import Place
from tests.coding.help import Node, output, run
from tests.coding.test_streams import fake

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0
ONE, TWO, THREE = (f"{number}a2b3c4d-0000-4000-8000-000000000000" for number in (1, 2, 3))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def known(node: Node, later_s: float = 0.0) -> Conversations:
    return Conversations(node.directory / "home", lambda: time.time() + later_s)


def entry(identity: str, used_at: float = 0.0, **more: Any) -> Entry:
    return Entry(identity, "p", "claude", "claude", "/w", used_at, used_at, **more)


def share(run: str, turns: int = 1, cost: float | None = 0.5, node: str = "n") -> Share:
    return Share(run, node, 0, turns, turns * 10, cost)


async def went_on(node: Node, spec: CodingSpec, prompt: str = "On.") -> tuple[dict[str, Any], dict[str, Any]]:
    """A first node, and what a later one of another run was told that goes on from it."""
    first = dict(output(await run(spec, node, {"prompt": "First."}))["session"])
    return first, await goes_on(node, spec, first, prompt)


async def goes_on(node: Node, spec: CodingSpec, session: dict[str, Any], prompt: str = "On.") -> dict[str, Any]:
    later = Node(node.directory, run_id=RunId("run_later"))
    done = output(await run(spec, later, {"prompt": prompt, "session": session}))
    return {**json.loads(done["result"]), "id": done["session"]["id"]}


# --- what they took -----------------------------------------------------------------------------------------------


async def test_each_tells_its_runs_turns_and_cost(node: Node) -> None:
    spec = fake(node, "threads", "gemini")
    with anyio.fail_after(60):
        first, told = await went_on(node, spec)
        await goes_on(node, spec, first)
    assert told["id"] == told["resumed"] == first["id"]
    (found,) = known(node).entries()
    assert (found.id, found.agent, found.kind, found.standing) == (first["id"], "fake", "gemini", "ended")
    assert set(found.runs) == {node.run_id, "run_later"}
    assert (found.turns, found.tokens) == (2, 30)  # what is played again takes the place of what was
    assert found.cost_usd is not None and found.cost_usd > 0 and found.cwd == str(node.workspace)
    folder = node.directory / "home" / "conversations"
    assert [path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())] == [0, 0]
    assert "First." not in (folder / f"{first['id']}.json").read_text()  # no word of it


async def test_one_that_was_cut_off_is_open_and_counts_on(node: Node) -> None:
    spec = fake(node, "threads", "gemini")
    with anyio.fail_after(60):
        with pytest.raises(OmiumError):
            await run(spec, node, {"prompt": "It dies."})
        (found,) = known(node).entries()
        assert found.standing == "open"
        done = await run(spec, node, {"prompt": "It dies."}, resumed=True)
    (found,) = known(node).entries()
    assert (found.standing, len(found.shares)) == ("ended", 1)
    assert (found.turns, found.tokens) == (output(done)["turns"], output(done)["usage"]["tokens"])


def test_a_price_that_is_not_known_makes_the_sum_unknown() -> None:
    shares = (share("a"), share("b", cost=None))
    assert entry(ONE, shares=shares).cost_usd is None
    assert entry(ONE, shares=(share("a"), share("b", 0, None))).cost_usd == 0.5  # that took nothing


# --- unreadable ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "Error resuming session: Invalid session identifier.",
        "Error: thread/resume: thread/resume failed: the rollout is empty",
        "warning: old\nsession not found",
    ],
)
async def test_one_that_cannot_be_read_is_marked_and_another_begins_with_its_last_words(node: Node, said: str) -> None:
    spec = fake(node, "threads", "gemini")
    with anyio.fail_after(60):
        first, _ = await went_on(node, spec)
        (node.workspace / "unreadable").write_text(said)
        told = await goes_on(node, spec, first, "The task.")
        assert told["resumed"] is None and "The task." in told["prompt"] and "First." in told["prompt"]
        new, lost = known(node).entries()
        assert (lost.id, lost.standing, lost.follows) == (first["id"], "corrupted", None)
        assert (new.id, new.standing, new.follows) == (told["id"], "ended", lost.id)
        assert lost.turns == 2 and new.turns == 1
        (node.workspace / "unreadable").unlink()
        assert (await goes_on(node, spec, first))["resumed"] is None  # nobody asks for it again


async def test_other_failures_are_no_reason_to_give_a_conversation_up(node: Node) -> None:
    spec = fake(node, "threads", "gemini")
    with anyio.fail_after(60):
        first, _ = await went_on(node, spec)
        (node.workspace / "unreadable").write_text("Error: no credit is left\n")
        with pytest.raises(OmiumError) as caught:
            await goes_on(node, spec, first)
    assert caught.value.data["reason"] == "no_result"
    assert [one.standing for one in known(node).entries()] == ["ended"]


# --- expiry -------------------------------------------------------------------------------------------------------


async def test_one_that_was_not_used_for_long_is_not_gone_on_with(node: Node) -> None:
    spec = fake(node, "threads", "gemini", session_ttl_s=2 * DAY_S)
    with anyio.fail_after(60):
        first, told = await went_on(node, spec)
        assert told["resumed"] == first["id"]
        (found,) = known(node).entries()
        known(node).note(replace(found, used_at=time.time() - 3 * DAY_S, standing="ended"), found.shares[0])
        told = await goes_on(node, spec, first)
        assert told["resumed"] is None and "earlier conversation that is lost" in told["prompt"]
        assert (await goes_on(node, replace(spec, session_ttl_s=None), first))["resumed"] == first["id"]


def test_the_sweep_marks_them_and_forgets_them_later(node: Node) -> None:
    home, specs = node.directory / "home", {"claude": CodingSpec("claude", "claude", session_ttl_s=10 * DAY_S)}
    now = time.time()
    for identity, age in ((ONE, 5), (TWO, 11), (THREE, 21)):
        known(node).note(entry(identity, now - age * DAY_S, standing="ended"), share("run_1"))
        folder = home / "coding" / "claude" / "projects" / "-w"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{identity}.jsonl").write_text("words")
        (folder / identity).mkdir()
    known(node).note(replace(entry(TWO.replace("2a", "4a"), now - 99 * DAY_S), project="other"), share("run_1"))
    assert known(node).expire("p", specs, DAY_S) == {"expired": 1, "forgotten": 1}
    states = {one.id: one.standing for one in known(node).entries()}
    assert states == {ONE: "ended", TWO: "expired", TWO.replace("2a", "4a"): "open"}
    assert sorted(path.name for path in folder.iterdir()) == [ONE, f"{ONE}.jsonl"]
    assert known(node).expire("p", specs, DAY_S) == {"expired": 0, "forgotten": 0}
    assert known(node).expire("p", {}, DAY_S) == {"expired": 0, "forgotten": 2}  # of a CLI that is declared no more
    never = {"claude": replace(specs["claude"], session_ttl_s=None)}
    known(node).note(entry(ONE, 1.0), share("run_1"))
    assert known(node).expire("p", never, DAY_S) == {"expired": 0, "forgotten": 0}


async def test_with_its_runs_a_conversation_is_erased(node: Node) -> None:
    gone, stays = RunId(new_id("run")), new_id("run")
    known(node).note(entry(ONE), share(gone))
    known(node).note(entry(TWO), share(gone))
    known(node).note(entry(TWO), share(stays))
    await remove_files(node.directory / "home", None, [gone], False)
    assert [one.id for one in known(node).entries()] == [TWO]


def test_what_cannot_be_read_of_it_is_left_out(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    folder = node.directory / "home" / "conversations"
    known(node).note(entry(ONE), share("run_1"))
    (folder / f"{TWO}.json").write_text("{")
    (folder / "..json").write_text("{}")
    (folder / f"{THREE}.json").write_text((folder / f"{ONE}.json").read_text())  # of another conversation
    assert [one.id for one in known(node).entries()] == [ONE]
    assert known(node).get("../../x") is None and "cannot be read" in caplog.text


@pytest.mark.parametrize("ttl_s", [60.0, 3_600.0])
def test_none_may_expire_under_way(ttl_s: float) -> None:
    with pytest.raises(OmiumError, match="session_ttl"):
        CodingSpec("claude", "claude", session_ttl_s=ttl_s)


# --- the whole ----------------------------------------------------------------------------------------------------


def test_the_upkeep_sweeps_them_and_a_command_lists_them(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "project")
    file = place.directory / "omium.yaml"
    file.write_text(f"{file.read_text()}coding: {{claude: {{kind: claude, session_ttl: 10d}}}}\n")
    config = load_config(file, {"OMIUM_HOME": place.environment["OMIUM_HOME"]})
    conversations, now = Conversations(config.home), time.time()
    one, two, gone = place.call("run", "hello", "-i", "name=ada").stdout.split()[0], new_id("run"), new_id("run")
    for identity, age in ((ONE, 1), (TWO, 11)):
        found = replace(entry(identity, now - age * DAY_S, standing="ended"), project=config.project.id)
        conversations.note(found, share(one))
        conversations.note(found, share(two, 2))
    conversations.note(entry(THREE, now), share(one))  # of another project
    shown = place.json("conversations")
    assert [(one["id"], one["state"]) for one in shown] == [(ONE, "ended"), (TWO, "expired")]
    assert (shown[0]["runs"], shown[0]["turns"], shown[0]["tokens"], shown[0]["cost_usd"]) == (
        *([one, two], 3, 30),
        1.0,
    )
    assert shown[0]["began_at"] == shown[0]["used_at"] == rfc3339(round((now - DAY_S) * 1e6))
    assert place.json("conversations", "--run", gone) == place.json("conversations", "--agent", "codex") == []
    for given in (one, one[-8:], "last"):
        assert [it["id"] for it in place.json("conversations", "--state", "expired", "--run", given)] == [TWO]
    printed = place.call("conversations").stdout.splitlines()[0].split("\t")
    assert printed[:6] == [ONE, "claude", "ended", "2", "3", "30"]
    done = place.json("upkeep", "--now")
    (name,) = [one for one in json.dumps(done).split('"') if one.startswith("conversations of ")]
    assert name.startswith(f"conversations of {config.project.id} on ")
    assert {one.id: one.standing for one in conversations.entries()} == {THREE: "open", ONE: "ended", TWO: "expired"}
