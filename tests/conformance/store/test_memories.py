"""What principals have remembered: found by them alone, by what it literally says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports import Store
from omium.orchestration.ports_memory import MemoryQuery, MemoryRow, Tally

pytestmark = pytest.mark.anyio

P = ProjectId("p")
ADA = Principal("user:ada")
ONE = MemoryRow(P, ADA, "project", "one", "note", "Straße 100% a_b!c", ("red", "phase:test"), None, 5)
ALL = MemoryQuery(P, ADA)


async def keys(store: Store, query: MemoryQuery) -> list[str]:
    return [row.key for row in await store.memories(query, offset=0, limit=50)]


async def test_a_memory_is_found_as_it_was_given(store: Store) -> None:
    assert await store.put_memory(ONE, 10)
    assert await store.memories(ALL, offset=0, limit=10) == [ONE]


async def test_the_same_name_again_takes_its_place_whatever_the_limit(store: Store) -> None:
    assert await store.put_memory(ONE, 1)
    later = replace(ONE, text="other", tags=(), outcome="worked", kind="remedy", at=9)
    assert await store.put_memory(later, 1)
    assert await store.memories(ALL, offset=0, limit=10) == [later]
    assert not await store.put_memory(replace(ONE, key="two"), 1)
    assert not await store.put_memory(replace(ONE, scope="epic:a"), 1)
    assert await store.put_memory(replace(ONE, owner=Principal("user:eve")), 1)
    assert await keys(store, ALL) == ["one"]


async def test_nobody_elses_and_no_other_projects_are_found(store: Store) -> None:
    await store.put_memory(ONE, 10)
    for other in (MemoryQuery(P, Principal("user:eve")), MemoryQuery(ProjectId("q"), ADA)):
        assert await keys(store, other) == []
        assert await store.tally_memories(other) == Tally(0, 0, 0)
        assert await store.forget_memories(other) == 0
    assert await keys(store, ALL) == ["one"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("strasse", True), ("STRASSE 100%", True), ("100%", True), ("a_b!c", True), ("phase:test", True), ("ONE", True),
        ("1%0", False), ("axb", False), ("%", True), ("_", True), ("\\", False), ("a_b c", False),
    ],
)  # fmt: skip
async def test_a_text_is_found_literally_whatever_its_case(store: Store, text: str, found: bool) -> None:
    await store.put_memory(ONE, 10)
    assert await keys(store, replace(ALL, text=text)) == (["one"] if found else [])


async def test_tags_are_whole_and_all_of_them(store: Store) -> None:
    await store.put_memory(ONE, 10)
    await store.put_memory(replace(ONE, key="two", tags=("reddish",)), 10)
    assert await keys(store, replace(ALL, tags=("red",))) == ["one"]
    assert await keys(store, replace(ALL, tags=("red", "phase:test"))) == ["one"]
    assert await keys(store, replace(ALL, tags=("red", "reddish"))) == []
    assert await keys(store, replace(ALL, tags=("re%",))) == []


async def test_pages_are_newest_first_and_the_tally_counts_all(store: Store) -> None:
    for number, outcome in enumerate(("worked", "worked", "failed", None)):
        await store.put_memory(replace(ONE, key=f"k{number}", at=number, outcome=outcome), 10)  # type: ignore[arg-type]
    first = await store.memories(ALL, offset=0, limit=3)
    rest = await store.memories(ALL, offset=3, limit=3)
    assert [row.key for row in (*first, *rest)] == ["k3", "k2", "k1", "k0"]
    assert await store.tally_memories(ALL) == Tally(4, 2, 1)
    assert await store.tally_memories(replace(ALL, key="k2")) == Tally(1, 0, 1)


async def test_what_is_forgotten_is_gone(store: Store) -> None:
    await store.put_memory(ONE, 10)
    await store.put_memory(replace(ONE, scope="epic:a", key="two"), 10)
    await store.put_memory(replace(ONE, scope="epic:a", key="three", kind="failure"), 10)
    assert await keys(store, replace(ALL, kind="failure")) == ["three"]
    assert await store.forget_memories(replace(ALL, scope="epic:a", key="two")) == 1
    assert await store.forget_memories(replace(ALL, scope="epic:a")) == 1
    assert await keys(store, ALL) == ["one"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_text_finds_itself(text: str) -> None:
    from omium.storage.memories import _literally, as_row

    words = as_row(replace(ONE, text=text))[-1]
    assert text.casefold() in words
    assert _literally(text).replace("!!", "").replace("!%", "").replace("!_", "").strip("%").count("%") == 0
