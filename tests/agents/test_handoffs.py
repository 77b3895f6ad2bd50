"""Passing work on: the receiver says what it accepts, and that it has accepted, before it starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omium.clients.agents.ag2_adapter.adapter import Ag2Adapter
from omium.clients.agents.executor import AgentExecutor
from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec
from omium.orchestration.errors import OmiumError
from tests.agents.attempts import Killed, Ledger
from tests.agents.contract import Tools, calls, text

pytestmark = pytest.mark.anyio

FACTS = {
    "type": "object",
    "properties": {"topic": {"type": "string"}, "facts": {"type": "array", "items": {"type": "string"}}},
    "required": ["topic", "facts"],
    "additionalProperties": False,
}
GOOD: dict[str, Any] = {"topic": "t", "facts": ["f"]}


def scripted(name: str, turns: Sequence[Any], directory: Path, **options: Any) -> AgentDef:
    script = directory / f"{name}.json"
    script.write_text(json.dumps({"turns": list(turns)}))
    return AgentDef(name, model=ModelSpec("scripted", script=script), **options)


def executor(*agents: AgentDef, tools: Tools | None = None) -> AgentExecutor:
    tools = tools or Tools()
    by_name = {agent.name: agent for agent in agents}
    return AgentExecutor(by_name, {"ag2": Ag2Adapter()}, functions=tools, describe=tools.describe)


async def test_the_receiver_finishes_what_it_accepted(tmp_path: Path) -> None:
    ledger = Ledger()
    a = scripted("a", [calls(("handoff_to_b", GOOD))], tmp_path, handoffs=("b",))
    b = scripted("b", [text("{{message}}")], tmp_path, input_schema=FACTS)
    done = await executor(a, b).run("a", {}, ledger.attempt())
    assert json.loads(str(done.output)) == GOOD
    (effect,) = ledger.effects.values()
    assert effect.kind == "handoff" and effect.outcome == "done"
    assert effect.detail is not None and (effect.detail["from"], effect.detail["to"]) == ("a", "b")
    assert done.usage is not None and done.usage["calls"] == 2


async def test_what_the_receiver_does_not_accept_never_reaches_it(tmp_path: Path) -> None:
    ledger = Ledger()
    bad = [{"topic": "t"}, {"topic": "t", "facts": "f"}, {**GOOD, "more": 1}, {}]
    a = scripted("a", [*(calls(("handoff_to_b", one)) for one in bad), text("{{last}}")], tmp_path, handoffs=("b",))
    b = scripted("b", [text("never")], tmp_path, input_schema=FACTS)
    done = await executor(a, b).run("a", {}, ledger.attempt())
    assert "do not fit the schema" in str(done.output) and ledger.effects == {}


async def test_a_kill_at_the_handoff_leaves_it_with_one_of_them(tmp_path: Path) -> None:
    turns = [calls(("note", {"text": "a"})), calls(("handoff_to_b", GOOD))]
    a = scripted("a", turns, tmp_path, handoffs=("b",), tools=("note",))
    b = scripted("b", [calls(("note", {"text": "b"})), text("done")], tmp_path, tools=("note",))
    b = AgentDef(**{**{name: getattr(b, name) for name in b.__dataclass_fields__}, "input_schema": FACTS})
    for keeps in range(1, 20):
        ledger, tools = Ledger(die_after_keeps=keeps), Tools()
        try:
            await executor(a, b, tools=tools).run("a", {}, ledger.attempt())
        except Killed:
            done = await executor(a, b, tools=tools).run("a", {}, ledger.attempt(resumed=True))
            assert done.output == "done"
        assert [inputs["text"] for _, inputs in tools.made] == ["a", "b"], keeps


async def test_work_is_not_passed_on_for_ever(tmp_path: Path) -> None:
    ping = [calls(("handoff_to_b", {"task": "x"})), text("I finish it")]
    pong = [calls(("handoff_to_a", {"task": "x"})), text("I finish it")]
    a = scripted("a", ping, tmp_path, handoffs=("b",), limits=AgentLimits(handoffs=3))
    b = scripted("b", pong, tmp_path, handoffs=("a",))
    done = await executor(a, b).run("a", {}, Ledger().attempt())
    assert done.output == "I finish it"


async def test_the_first_input_is_checked_too(tmp_path: Path) -> None:
    b = scripted("b", [text("x")], tmp_path, input_schema=FACTS)
    with pytest.raises(OmiumError) as caught:
        await executor(b).run("b", {"topic": 1}, Ledger().attempt())
    assert caught.value.code == "invalid_argument"


async def test_the_digest_covers_who_may_get_the_work(tmp_path: Path) -> None:
    a = scripted("a", [text("x")], tmp_path, handoffs=("b",))
    b = scripted("b", [text("x")], tmp_path)
    before = executor(a, b).digest("a")
    assert executor(a, b).digest("a") == before
    (tmp_path / "b.json").write_text(json.dumps({"turns": [text("y")]}))
    assert executor(a, b).digest("a") != before
