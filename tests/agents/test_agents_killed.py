"""A worker is killed in the middle of an agent's tool; the conversation goes on without repeating what it had done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Place, until

STEPS = """
import asyncio
from pathlib import Path

HERE = Path(__file__).parent


def mark(text: str) -> None:
    with (HERE / "marks").open("a") as file:
        file.write(text + "\\n")


async def order(item: str) -> str:
    mark(f"order {item}")
    return f"ordered {item}"


async def deliver() -> str:
    mark("deliver")
    while not (HERE / "open").exists():
        await asyncio.sleep(0.02)
    return "delivered"
"""
PROJECT = """
project: shop
database: data/omium.db
functions:
  order: {ref: "steps:order", host: async}
  deliver: {ref: "steps:deliver", host: async}
agents:
- name: seller
  model: {provider: scripted, script: script.json}
  tools: [order, deliver]
workflows:
- name: sell
  nodes:
  - {id: sell, kind: agent, use: seller, workspace: none, on_unknown: UNKNOWN}
"""
TURNS = [
    {"calls": [{"name": "order", "arguments": {"item": "tea"}}]},
    {"calls": [{"name": "deliver", "arguments": {}}]},
    {"text": "{{last}}"},
]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "steps.py").write_text(STEPS)
    (tmp_path / "script.json").write_text(json.dumps({"turns": TURNS}))
    place = Place(tmp_path)
    yield place
    place.end_workers()


@pytest.mark.parametrize("on_unknown", ["rerun", "resume"])
def test_a_kill_in_mid_tool(shop: Place, on_unknown: str) -> None:
    (shop.directory / "omium.yaml").write_text(PROJECT.replace("UNKNOWN", on_unknown))
    marks = shop.directory / "marks"
    run = shop.omium("run", "sell", "--detach").out.strip()
    until(lambda: marks.exists() and "deliver" in marks.read_text())
    shop.end_workers()
    (shop.directory / "open").write_text("")
    assert shop.omium("show", run).code == 0  # whoever looks has it go on
    shown = shop.settled(run)
    if on_unknown == "resume":  # nobody knows whether the delivery was made: a person says
        (question,) = shop.json("approvals")
        assert question["scope"] == "unknown_effect" and marks.read_text() == "order tea\ndeliver\n"
        assert shop.omium("approve", "last", "--choice", "retry").code == 0
        shown = shop.settled(run)
    assert (shown["status"], shown["output"]) == ("completed", {"sell": "delivered"})
    assert marks.read_text() == "order tea\ndeliver\ndeliver\n"  # the order was known to the ledger
    assert shown["nodes"][0]["usage"]["calls"] == 3  # and no answer of the model was asked for twice
