"""Addresses of instances, and the structure of a run with its expansions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import (
    ForEach,
    Need,
    NodeDef,
    Repeat,
    Segment,
    Structure,
    WorkflowDef,
    child,
    container_of,
    indexed,
    key_text,
    parse_instance,
)
from omium.orchestration.errors import OmiumError


def node(node_id: str, *needs: str, **more: object) -> NodeDef:
    return NodeDef(node_id, "function", use="f", needs=tuple(Need(need) for need in needs), **more)  # type: ignore[arg-type]


def group(node_id: str, body: tuple[NodeDef, ...], *needs: str, **more: object) -> NodeDef:
    return NodeDef(node_id, "group", body=body, needs=tuple(Need(need) for need in needs), **more)  # type: ignore[arg-type]


EACH = ForEach("${{ inputs.items }}")
LOOP = Repeat("output.ok", 5)


@pytest.fixture
def structure() -> Structure:
    return Structure(
        WorkflowDef(
            "w",
            (
                node("start"),
                node("plan", "start", expands=True),
                group("fan", (node("x"), node("y", "x"), node("alone")), "start", for_each=EACH),
                group("fix", (node("test"), node("mend", "test")), "fan", repeat=LOOP),
                node("beside", "start"),
                node("end", "fix", "plan"),
            ),
        )
    )


KNOWN = [
    "start",
    "plan",
    "plan.step1",
    "plan.step2",
    "plan.step3",
    "fan",
    *[f"fan[{key}]{inner}" for key in ("a", "b") for inner in ("", ".x", ".y", ".alone")],
    "fix",
    *[f"fix[{number}]{inner}" for number in range(3) for inner in ("", ".test", ".mend")],
    "beside",
    "end",
]
AFTER_FAN = {"fix", "end"} | {one for one in KNOWN if one.startswith("fix[")}


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("draft", (Segment("draft"),)),
        ("fan[3]", (Segment("fan", "3"),)),
        ("fan[alice]", (Segment("fan", "alice"),)),
        ("fan[src/a.py]", (Segment("fan", "src/a.py"),)),
        ("fix[2].test", (Segment("fix", "2"), Segment("test"))),
        ("grp.b", (Segment("grp"), Segment("b"))),
        ("a_b-c.d[x].e[0]", (Segment("a_b-c"), Segment("d", "x"), Segment("e", "0"))),
    ],
)
def test_addresses_parse_and_read_back(text: str, segments: tuple[Segment, ...]) -> None:
    assert parse_instance(text) == segments
    assert ".".join(map(str, segments)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a[]",
        "a[1",
        "a]1[",
        "a[1]b",
        "a[1][2]",
        "1a",
        "a b",
        "a\n",
        "a[x y]",
        "a[[1]]",
        "é",
        "a" * 65,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(OmiumError) as caught:
        parse_instance(text)
    assert caught.value.code == "invalid_argument"


def test_an_index_has_a_number_where_it_is_one() -> None:
    assert Segment("fan", "12").number == 12
    assert Segment("fan", "x").number is None
    assert Segment("fan").number is None


def test_containers_go_outwards() -> None:
    assert container_of("fix[2].test") == "fix[2]"
    assert container_of("fix[2]") == "fix"
    assert container_of("fix") is None
    assert container_of("fan[src/a.py].x") == "fan[src/a.py]"
    assert container_of("fan[src/a.py]") == "fan"


keys = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(), st.booleans(), st.none()
)


@given(keys)
def test_any_key_makes_an_address_that_reads_back(key: object) -> None:
    text = key_text(key)
    address = child(indexed("fan", text), "x")
    assert parse_instance(address) == (Segment("fan", text), Segment("x"))
    assert container_of(address) == f"fan[{text}]"


@given(keys, keys)
def test_different_texts_have_different_keys(one: object, other: object) -> None:
    if isinstance(one, str) and isinstance(other, str) and one != other:
        assert key_text(one) != key_text(other)


def test_keys_that_differ_late_or_are_no_text() -> None:
    assert key_text("x" * 500 + "a") != key_text("x" * 500 + "b")
    assert key_text({"b": 1, "a": [2]}) == key_text({"a": [2], "b": 1})
    assert key_text(7) == "7"
    with pytest.raises(OmiumError):
        key_text(object())
    with pytest.raises(OmiumError):
        key_text("\ud800")


def test_definitions_of_instances(structure: Structure) -> None:
    assert structure.node_def("start").id == "start"
    assert structure.node_def("fan").id == structure.node_def("fan[a]").id == "fan"
    assert structure.node_def("fan[a].y").id == "y"
    assert structure.node_def("fix[2].mend").id == "mend"


@pytest.mark.parametrize(
    "instance", ["nowhere", "start.x", "start[0]", "fan[a].z", "fan[a][b]", "fan[a]]", "", "plan.step1"]
)
def test_instances_of_nothing_are_refused(structure: Structure, instance: str) -> None:
    with pytest.raises(OmiumError) as caught:
        structure.node_def(instance)
    assert caught.value.code in ("not_found", "invalid_argument")


def test_edges_stay_within_a_scope(structure: Structure) -> None:
    assert structure.needs_of("fan[a].y") == ("fan[a].x",)
    assert structure.needs_of("fan[a]") == structure.needs_of("fan") == ("start",)
    assert structure.needs_of("fix[1].mend") == ("fix[1].test",)
    assert structure.children_of(None) == ("start", "plan", "fan", "fix", "beside", "end")
    assert structure.children_of("fix[1]") == ("fix[1].test", "fix[1].mend")


def test_names_resolve_outwards(structure: Structure) -> None:
    assert structure.resolve("fix[1].mend", "test") == "fix[1].test"
    assert structure.resolve("fix[1].mend", "start") == "start"
    assert structure.resolve("end", "test") is None


def test_a_plan_puts_nodes_inside_and_a_new_one_replaces_it(structure: Structure) -> None:
    assert structure.add_plan("plan", (node("one"), node("two", "one", expands=True))) == ("plan.one", "plan.two")
    assert structure.needs_of("plan.two") == ("plan.one",)
    structure.add_plan("plan.two", (node("deep"),))
    assert structure.node_def("plan.two.deep").id == "deep"
    structure.add_plan("plan", (node("other"),))
    assert structure.node_def("plan.other").id == "other"
    for gone in ("plan.one", "plan.two.deep"):
        with pytest.raises(OmiumError):
            structure.node_def(gone)


def test_only_a_planning_node_expands_and_only_so_deep(structure: Structure) -> None:
    with pytest.raises(OmiumError) as caught:
        structure.add_plan("start", (node("one"),))
    assert caught.value.code == "invalid_argument"
    at = "plan"
    with pytest.raises(OmiumError) as caught:
        for _ in range(50):
            structure.add_plan(at, (node("p", expands=True),))
            at += ".p"
    assert caught.value.code == "invalid_definition"


def test_what_a_plan_may_read(structure: Structure) -> None:
    assert structure.readable("plan") == {"start"}
    assert structure.readable("fix[1].mend") == {"test", "fan", "start"}


def test_affected_of_a_plain_node(structure: Structure) -> None:
    structure.add_plan("plan", (node("step1"), node("step2", "step1"), node("step3")))
    assert structure.affected("end", KNOWN) == {"end"}
    assert structure.affected("beside", KNOWN) == {"beside"}
    assert structure.affected("start", KNOWN) == set(KNOWN)


def test_affected_of_one_item_leaves_its_siblings(structure: Structure) -> None:
    assert structure.affected("fan[a].x", KNOWN) == {"fan[a].x", "fan[a].y", "fan[a]", "fan"} | AFTER_FAN
    assert structure.affected("fan[a]", KNOWN) == {"fan[a]", "fan[a].x", "fan[a].y", "fan[a].alone", "fan"} | AFTER_FAN


def test_affected_of_the_whole_fan_out(structure: Structure) -> None:
    assert structure.affected("fan", KNOWN) == {one for one in KNOWN if one.startswith("fan")} | AFTER_FAN


def test_affected_of_an_iteration_takes_the_later_ones(structure: Structure) -> None:
    later = {"fix[2]", "fix[2].test", "fix[2].mend"}
    assert structure.affected("fix[1].mend", KNOWN) == {"fix[1].mend", "fix[1]", "fix", "end"} | later
    assert structure.affected("fix[1]", KNOWN) == {"fix[1]", "fix[1].test", "fix[1].mend", "fix", "end"} | later


def test_affected_of_a_step_of_a_plan(structure: Structure) -> None:
    structure.add_plan("plan", (node("step1"), node("step2", "step1"), node("step3")))
    assert structure.affected("plan.step1", KNOWN) == {"plan.step1", "plan.step2", "plan", "end"}


@given(st.data())
def test_affected_is_closed(data: st.DataObject) -> None:
    """What is reset has no dependent, and no inside of a reset dependent, that is not."""
    names = [f"n{i}" for i in range(8)]
    nodes = tuple(
        group(name, (node("p"), node("q", "p")), *sorted(data.draw(st.sets(st.sampled_from(names[:i])))))
        if i
        else group(name, (node("p"), node("q", "p")))
        for i, name in enumerate(names)
    )
    structure = Structure(WorkflowDef("w", nodes))
    known = [one for name in names for one in (name, f"{name}.p", f"{name}.q")]
    start = data.draw(st.sampled_from(known))
    reset = structure.affected(start, known)
    assert start in reset
    for one in reset:
        for down in (other for other in known if one in structure.needs_of(other)):
            assert down in reset
            assert {inner for inner in known if inner.startswith(f"{down}.")} <= reset
