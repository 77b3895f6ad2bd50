"""Pins of tools: replaced by compare-and-set, with an event of the project's log."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from omium.orchestration.ids import Digest, Principal, ProjectId
from omium.orchestration.ports import Store
from omium.orchestration.ports_gates import PinRow
from omium.storage.maintenance import keeper, verify
from omium.storage.maintenance.logs import project_rows

pytestmark = pytest.mark.anyio

P, ADA = ProjectId("p"), Principal("user:ada")
PIN = PinRow(P, "db", "query", Digest("a" * 64), {"definition": {"name": "query"}, "n": 1}, "pinned", ADA, 5)
CHANGED = replace(PIN, document={**PIN.document, "proposed": {"name": "query"}}, status="changed", at=6)


async def test_a_pin_is_put_once_and_then_only_in_the_place_of_the_present_one(store: Store) -> None:
    assert await store.put_pin(PIN, ADA, None)
    assert not await store.put_pin(replace(PIN, at=9), ADA, None)
    assert await store.put_pin(CHANGED, ADA, PIN)
    assert not await store.put_pin(replace(PIN, at=9), ADA, PIN)
    assert await store.pins(P) == [CHANGED]


async def test_pins_are_compared_with_their_document(store: Store) -> None:
    assert await store.put_pin(PIN, ADA, None)
    assert not await store.put_pin(CHANGED, ADA, replace(PIN, document={"n": 2}))
    assert await store.put_pin(CHANGED, ADA, replace(PIN, document=dict(reversed(PIN.document.items()))))


async def test_pins_are_listed_by_project_and_server(store: Store) -> None:
    pins = [PIN, replace(PIN, tool="a"), replace(PIN, server="ax"), replace(PIN, project=ProjectId("q"))]
    for pin in pins:
        assert await store.put_pin(pin, ADA, None)
    assert [(one.server, one.tool) for one in await store.pins(P)] == [("ax", "query"), ("db", "a"), ("db", "query")]
    assert [one.tool for one in await store.pins(P, "db")] == ["a", "query"]
    assert await store.pins(P, "none") == []


async def test_every_change_of_a_pin_is_in_the_log_of_its_project(store: Store) -> None:
    assert await store.put_pin(PIN, ADA, None)
    assert not await store.put_pin(PIN, ADA, None)
    assert await store.put_pin(CHANGED, Principal("engine"), PIN)
    assert await store.put_pin(replace(PIN, status="disabled", at=7), ADA, CHANGED)
    rows = await keeper(store).read(lambda tables: list(project_rows(tables, "p")))
    assert list(await verify(keeper(store))) == []
    told = [(row[2], row[4], orjson.loads(row[5])["tool"]) for row in rows]
    assert told == [
        ("tool.pinned", "user:ada", "query"),
        ("tool.changed", "engine", "query"),
        ("tool.disabled", "user:ada", "query"),
    ]
