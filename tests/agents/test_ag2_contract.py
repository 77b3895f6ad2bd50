"""AG2 passes the contract of adapters, with the scripted provider and with AG2's own test configuration."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.ag2_adapter.adapter import Ag2Adapter
from omium.clients.agents.spec import AgentDef, ModelSpec
from tests.agents.attempts import Ledger
from tests.agents.contract import Contract, Tools


class TestScripted(Contract):
    def agent(self, turns: Sequence[Mapping[str, Any]], directory: Path, **options: Any) -> AgentDef:
        script = directory / f"script{len(list(directory.iterdir()))}.json"
        script.write_text(json.dumps({"turns": list(turns)}))
        return AgentDef("tester", model=ModelSpec("scripted", script=script, stream=True), **options)

    def adapter(self) -> Adapter:
        return Ag2Adapter()


@pytest.mark.anyio
async def test_ag2s_own_test_configuration(tmp_path: Path) -> None:
    from ag2.events import ToolCallEvent
    from ag2.testing import TestConfig

    @asynccontextmanager
    async def scripted(_: Any) -> AsyncIterator[Any]:
        yield TestConfig(ToolCallEvent("add", arguments='{"a": 20, "b": 22}'), "The sum is 42.")

    class Own(Contract):
        def adapter(self) -> Adapter:
            return Ag2Adapter(scripted)

    tools = Tools()
    agent = AgentDef("tester", model=ModelSpec("scripted"), tools=("add",))
    done = await Own().executor(agent, tools=tools).run("tester", {"task": "add"}, Ledger().attempt())
    assert done.output == "The sum is 42."
    assert tools.made == [("add", {"a": 20, "b": 22})]
