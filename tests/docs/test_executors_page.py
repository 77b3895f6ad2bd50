"""The adapter and the executor that docs/executors.md shows do what it says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.spec import AgentDef, ModelSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Executor
from tests.agents.attempts import Killed, Ledger
from tests.agents.contract import Contract
from tests.docs.snippets import snippets
from tests.house.tree import ROOT

PAGE = ROOT / "docs" / "executors.md"


def shown(name: str, of: str) -> Any:
    """A class of a snippet."""
    (snippet,) = (one for one in snippets(PAGE, "python") if one.name == name)
    found: dict[str, Any] = {"__name__": name}
    exec(compile(snippet.text, str(snippet), "exec"), found)
    return found[of]


class TestTheAdapterOfThePage(Contract):
    """It passes the contract of adapters."""

    def agent(self, turns: Sequence[Mapping[str, Any]], directory: Path, **options: Any) -> AgentDef:
        self.turns = list(turns)
        return AgentDef("tester", framework="plain", model=ModelSpec("scripted"), **options)

    def adapter(self) -> Adapter:
        turns = self.turns

        async def complete(system: str, messages: Sequence[Mapping[str, Any]], offers: Sequence[Any]) -> dict[str, Any]:
            """The turn that comes next, by how much was said."""
            turn = turns[sum(one["role"] == "assistant" for one in messages)]
            last = messages[-1].get("results", [""])[0]
            text = turn.get("text")
            said = text if text is None or isinstance(text, str) else json.dumps(text)
            return {
                "text": said and said.replace("{{last}}", last),
                "calls": turn.get("calls", []),
                "input_tokens": 12,
                "output_tokens": 3,
            }

        made: Adapter = shown("plain.py", "Plain")(complete)
        return made


@pytest.mark.anyio
async def test_the_executor_of_the_page_asks_and_calls_once() -> None:
    fetched: list[str] = []

    async def fetch(url: str) -> str:
        fetched.append(url)
        return f"what is at {url}"

    executor: Executor = shown("fetching.py", "Fetching")(fetch)
    assert executor.digest("a") != executor.digest("b")
    where = {"url": "https://example.org"}

    ledger = Ledger(deny={"page"})
    with pytest.raises(OmiumError, match="not allowed"):
        await executor.run("page", where, ledger.attempt())
    assert fetched == []

    ledger = Ledger(die_in="page")
    with pytest.raises(Killed):
        await executor.run("page", where, ledger.attempt())
    ledger.die_in = None
    for _ in range(2):  # the call that was cut off is made again, the one that is known is not
        done = await executor.run("page", where, ledger.attempt(resumed=True))
        assert done.output == "what is at https://example.org"
    assert len(fetched) == 2
    assert [call.action for call in ledger.calls] == ["network"] * 2
