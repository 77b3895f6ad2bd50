"""The saver passes LangGraph's own conformance suite on both databases, and rebuilds nothing that is not listed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import anyio
import anyio.to_thread
import ormsgpack
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from omium.clients.langgraph.saver import OmiumSaver
from omium.clients.langgraph.serializing import StrictSerializer
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports import Store
from omium.orchestration.ports_graphs import GraphQuery, GraphRow, Packed
from omium.storage.open import open_store

pytestmark = pytest.mark.anyio

HERE, THERE = ProjectId("here"), ProjectId("there")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "omium.db")
    found: str = request.getfixturevalue("postgres_url")
    return found


async def test_it_conforms(url: str) -> None:
    async with opened(url) as store:

        @checkpointer_test(name="OmiumSaver")
        async def saver() -> AsyncIterator[OmiumSaver]:
            yield OmiumSaver(store, HERE)

        report = await validate(saver)
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
    assert {name for name, result in report.results.items() if result.passed} == {one.value for one in Capability}
    assert sum(result.tests_passed for result in report.results.values()) > 70


def _both(left: list[str], right: list[str]) -> list[str]:
    return left + right


class State(TypedDict):
    said: Annotated[list[str], _both]


def graph_of(saver: OmiumSaver) -> Any:
    def ask(state: State) -> dict[str, Any]:
        answer = interrupt("Which colour?")
        return {"said": [answer]}

    def begin(state: State) -> dict[str, Any]:
        return {"said": ["begun"]}

    builder = StateGraph(State)
    builder.add_node("begin", begin)
    builder.add_node("ask", ask)
    builder.add_edge(START, "begin")
    builder.add_edge("begin", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


async def test_a_graph_goes_on_after_the_store_was_closed(url: str) -> None:
    config = {"configurable": {"thread_id": "t"}}
    async with opened(url) as store:
        waiting = await graph_of(OmiumSaver(store, HERE)).ainvoke({"said": ["hello"]}, config)
        assert waiting["__interrupt__"][0].value == "Which colour?"
    async with opened(url) as store:
        graph = graph_of(OmiumSaver(store, HERE))
        done = await graph.ainvoke(Command(resume="green"), config)
        assert done["said"] == ["hello", "begun", "green"]
        history = [one async for one in graph.aget_state_history(config)]
        assert len(history) == 4
        await graph.ainvoke(None, history[2].config)  # back to before the question, which is asked again
        again = await graph.ainvoke(Command(resume="red"), config)
        assert again["said"] == ["hello", "begun", "red"]


async def test_projects_do_not_see_each_other(url: str) -> None:
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    async with opened(url) as store:
        mine, other = OmiumSaver(store, HERE), OmiumSaver(store, THERE)
        await mine.aput(config, empty_checkpoint(), {"source": "input", "step": -1, "run_id": "r"}, {})
        assert await other.aget_tuple(config) is None
        await other.adelete_thread("t")
        await other.adelete_for_runs(["r"])
        await other.acopy_thread("t", "u")
        assert [one async for one in other.alist(None)] == []
        assert len([one async for one in mine.alist(None)]) == 1


async def test_lists_are_read_in_parts(url: str) -> None:
    async with opened(url) as store:
        saver = OmiumSaver(store, HERE)
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        for step in range(120):
            config = await saver.aput(config, empty_checkpoint(), {"source": "loop", "step": step}, {})
        await saver.acopy_thread("t", "copy")  # the same ids again
        found = [one async for one in saver.alist(None)]
        assert len(found) == 240
        steps = [one.metadata["step"] async for one in saver.alist({"configurable": {"thread_id": "t"}}, limit=70)]
        assert steps == list(range(119, 49, -1))
        odd = [one async for one in saver.alist(None, filter={"step": 3}, limit=5)]
        assert len(odd) == 2


async def test_other_threads_wait_for_the_loop_and_the_loop_does_not_wait_for_itself(tmp_path: Path) -> None:
    async with opened(str(tmp_path / "omium.db")) as store:
        saver = OmiumSaver(store, HERE)
        graph, config = graph_of(saver), {"configurable": {"thread_id": "t"}}

        def elsewhere() -> Any:
            graph.invoke({"said": []}, config)
            done = graph.invoke(Command(resume="blue"), config)
            steps = len(list(graph.get_state_history(config)))
            saver.copy_thread("t", "u")
            saver.prune(["t"])
            saver.delete_for_runs(["nobody"])
            left = len(list(saver.list({"configurable": {"thread_id": "t"}})))
            saver.delete_thread("t")
            return done["said"], steps, left, saver.get_tuple(config)

        with anyio.fail_after(30):
            assert await anyio.to_thread.run_sync(elsewhere) == (["begun", "blue"], 4, 1, None)
        with pytest.raises(OmiumError) as caught:
            graph.invoke({"said": []}, config)
        assert caught.value.code == "not_allowed" and "ainvoke" in caught.value.hint


# --- what is rebuilt ------------------------------------------------------------------------------------------------


@dataclass
class Own:
    size: int


def extension(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(parts)))


HOSTILE = [
    ("msgpack", extension(0, "os", "system", "touch pwned")),
    ("msgpack", extension(1, "subprocess", "run", [["touch", "pwned"]])),
    ("msgpack", extension(2, "subprocess", "Popen", {"args": ["touch", "pwned"]})),
    ("msgpack", extension(3, "builtins", "eval", "1", "__call__")),
    ("msgpack", extension(4, "subprocess", "Popen", {"args": ["touch", "pwned"]})),
    ("msgpack", extension(5, "subprocess", "Popen", {"args": ["touch", "pwned"]}, "model_validate_json")),
    ("msgpack", extension(0, "builtins", "set", [ormsgpack.Ext(0, ormsgpack.packb(("os", "system", "touch pwned")))])),
    ("msgpack", ormsgpack.packb({"deep": [ormsgpack.Ext(0, ormsgpack.packb(("os", "system", "touch pwned")))]})),
    ("msgpack", extension(77, "os", "system", "touch pwned", "x")),
    ("msgpack", extension(0)),
    ("msgpack", b"\xc1"),
    ("json", b'{"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["touch pwned"]}'),
    ("json", b'{"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "HumanMessage"], "kwargs": {}}'),
    ("pickle", b"cbuiltins\nprint\n(Vpwned\ntR."),
    ("nonsense", b""),
]


@pytest.mark.parametrize("document", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_constructor_in_what_is_stored_is_refused(document: tuple[str, bytes], tmp_path: Path) -> None:
    async with opened(str(tmp_path / "omium.db")) as store:
        saver = OmiumSaver(store, HERE)
        good = Packed(*saver.serde.dumps_typed({}))
        await store.put_graph(GraphRow(HERE, "t", "", "1", None, None, Packed(*document), good, 0))
        with pytest.raises(OmiumError) as caught:
            await saver.aget_tuple({"configurable": {"thread_id": "t"}})
        assert caught.value.code in ("not_allowed", "integrity")
    assert not Path("pwned").exists()


async def test_a_class_that_is_not_listed_is_refused_as_it_is_stored(tmp_path: Path) -> None:
    checkpoint = {**empty_checkpoint(), "channel_values": {"own": Own(3)}}
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    async with opened(str(tmp_path / "omium.db")) as store:
        with pytest.raises(OmiumError) as caught:
            await OmiumSaver(store, HERE).aput(config, checkpoint, {}, {})  # type: ignore[arg-type]
        assert caught.value.code == "not_allowed" and "Own" in caught.value.message
        assert await store.graphs(GraphQuery(HERE), 9) == []
        listing = OmiumSaver(store, HERE, allow=[Own])
        await listing.aput(config, checkpoint, {}, {})  # type: ignore[arg-type]
        found = await listing.aget_tuple(config)
        assert found is not None and found.checkpoint["channel_values"] == {"own": Own(3)}
        with pytest.raises(OmiumError):
            await OmiumSaver(store, HERE).aget_tuple(config)
        widened = OmiumSaver(store, HERE).with_allowlist([(Own.__module__, "Own")])
        assert await widened.aget_tuple(config) is not None


def test_what_cannot_be_stored_is_said() -> None:
    with pytest.raises(OmiumError) as caught:
        StrictSerializer().dumps_typed({"lock": object()})
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize("name", ["thread_id", "checkpoint_ns"])
@pytest.mark.parametrize("value", ["a\0b", "x" * 1_001])
async def test_names_that_a_database_does_not_take_are_refused(name: str, value: str, tmp_path: Path) -> None:
    async with opened(str(tmp_path / "omium.db")) as store:
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", name: value}}
        with pytest.raises(OmiumError) as caught:
            await OmiumSaver(store, HERE).aput(config, empty_checkpoint(), {}, {})
        assert caught.value.code == "invalid_argument"
