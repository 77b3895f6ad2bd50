"""Definitions, plans and values made to hurt: each is refused, quickly, with a code, and nothing of it is evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from omium.orchestration.definition import (
    Graph,
    Need,
    NodeDef,
    check_recursion,
    check_registered,
    evaluate,
    holds,
    load_workflow,
    parse_plan,
    read_document,
    render,
    to_document,
    validate_inputs,
    workflow,
)
from omium.orchestration.errors import OmiumError

FORMATS: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")


@contextmanager
def refused(code: str = "invalid_definition", within_s: float = 5.0) -> Iterator[dict[str, Any]]:
    """The block raises OmiumError with this code, soon; gives its `message` and `data` when it has."""
    found: dict[str, Any] = {}
    started = time.perf_counter()
    with pytest.raises(OmiumError) as caught:
        yield found
    assert time.perf_counter() - started < within_s
    assert caught.value.code == code
    found.update(message=caught.value.message, data=caught.value.data)


def a_node(**keys: Any) -> dict[str, Any]:
    return {"name": "w", "nodes": [{"id": "a", "kind": "function", "use": "f", **keys}]}


# --- parsing ---


def test_alias_bomb() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, before in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]\n"
    with refused(within_s=1) as found:
        read_document(bomb, "bomb.yaml")
    assert "bomb.yaml:1: a: has the anchor &a" in found["message"]


def test_an_alias_alone_and_an_alias_to_itself() -> None:
    for text in ("a: *a", "&a [*a]", "? *a\n: b"):
        with refused():
            read_document(text, "f")


@pytest.mark.parametrize("depth", [65, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting(opening: str, closing: str, depth: int) -> None:
    text = opening * depth + "1" + closing * depth
    for format in FORMATS:
        with refused(within_s=2):
            read_document(text, "f", format)


def test_deep_nesting_by_indentation() -> None:
    with refused(within_s=2) as found:
        read_document("".join(f"{' ' * depth}a:\n" for depth in range(1_400)), "f")
    assert "64" in found["message"]


def test_64_levels_are_fine() -> None:
    for format in FORMATS:
        assert read_document("[" * 64 + "]" * 64, "f", format).value


def test_duplicate_keys() -> None:
    for text in ("name: a\nname: b", '{"a": {"b": 1, "b": 1}}', '"\\u0061": 1\na: 2', "{a: 1, 'a': 2}"):
        with refused():
            read_document(text, "f")
    for text in ('{"a": 1, "a": 1}', '{"a": 1, "\\u0061": 2}', '[{"x": {"a": 1, "a": 2}}]'):
        with refused():
            read_document(text, "f", "json")


def test_words_and_times_of_yaml_1_1_stay_text() -> None:
    document = read_document("[on, no, off, yes, y, 12:30:45, 0b1, 1_000, 2026-11-20]", "f")
    assert document.value == ["on", "no", "off", "yes", "y", "12:30:45", "0b1", "1_000", "2026-11-20"]


def test_merge_keys() -> None:
    for text in ("a: {<<: {use: f}}", "<<: [{a: 1}]", "- <<: 1"):
        with refused() as found:
            read_document(text, "f")
        assert "merge key" in found["message"]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['id']",
        "a: !!python/name:os.system",
        "a: !include /etc/passwd",
        "a: !!binary aGk=",
        "a: !<tag:yaml.org,2002:str> x",
        "!!set {a, b}",
    ],
)
def test_tags(text: str) -> None:
    with refused():
        read_document(text, "f")


def test_a_second_document_and_directives() -> None:
    for text in ("a: 1\n---\na: 2", "%TAG ! tag:evil,2000:\n---\na: !x 1"):
        with refused():
            read_document(text, "f")


@pytest.mark.parametrize(
    "text",
    [
        "- a\n" * (2**20 // 4),
        "[" + "1," * (2**19 - 2) + "]",
        "".join(f"k{number}: v\n" for number in range(90_000)),
        "a: " + "x" * (2**20 - 10),
        "a:" + " " * (2**20 - 10),
        "- " * 300_000,
        "? " * 300_000,
        "{" * (2**20 - 10),
        '"' + "\\" * (2**20 - 10),
        "&a " * 300_000,
        "a: b\n" * 200_000,
        "!" * (2**20 - 10),
        ": " * 500_000,
        "\t" * (2**20 - 10),
        "[a, " * 200_000,
    ],
    ids=range(15),
)
def test_a_megabyte_loads_or_is_refused_quickly(text: str) -> None:
    started = time.perf_counter()
    try:
        read_document(text, "f")
    except OmiumError as error:
        assert error.code == "invalid_definition"
        assert len(error.message) < 20_000, "the message does not repeat the document"
    assert time.perf_counter() - started < 10


def test_more_than_a_megabyte() -> None:
    for format in FORMATS:
        with refused(within_s=1):
            read_document(json.dumps("x" * 2**20), "f", format)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 129, "9" * 5_000, "-" + "9" * 200_000],
    ids=lambda text: f"{text[:9]}-{len(text)}",
)
def test_numbers_that_are_none_in_json(number: str) -> None:
    with refused() as found:
        read_document(f'{{"a":\n [{number}]}}', "f.json", "json")
    assert found["data"]["problems"][0]["path"] == "a[0]"
    assert found["data"]["problems"][0]["line"] == 2


@pytest.mark.parametrize(
    "number",
    [".nan", ".NaN", ".inf", "-.INF", "1e999", "9" * 129, "9" * 5_000, "0x" + "f" * 5_000],
    ids=lambda text: f"{text[:9]}-{len(text)}",
)
def test_numbers_that_are_none_in_yaml(number: str) -> None:
    with refused() as found:
        read_document(f"a:\n- {number}", "f.yaml")
    assert found["data"]["problems"][0]["line"] == 2


def test_numbers_of_128_digits_are_fine() -> None:
    for format in FORMATS:
        assert read_document("9" * 128, "f", format).value == int("9" * 128)


def test_lone_surrogates() -> None:
    for text in ('{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": "\ud800"}', '["\\ud83d\\u0041"]'):
        for format in FORMATS:
            with refused():
                read_document(text, "f", format)
    assert read_document('"\\ud83d\\ude00"', "f", "json").value == "\U0001f600"


def test_nul_anywhere() -> None:
    for text in ('{"a": "x\\u0000"}', '{"x\\u0000": 1}'):
        for format in FORMATS:
            with refused():
                read_document(text, "f", format)
    with refused():
        read_document("a: x\0", "f")


INVISIBLE = [
    "\x1b[31m",
    "\x07",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\x7f",
    "\x85",
    "\u2028",
    "\n",
    "\r",
    "\t",
]


@pytest.mark.parametrize("mark", INVISIBLE)
@pytest.mark.parametrize("key", ["id", "use", "compensate", "needs", "resources"])
def test_invisible_characters_in_ids_and_names(key: str, mark: str) -> None:
    for value in (f"a{mark}", f"{mark}a", f"a{mark}b"):
        with refused() as found:
            load_workflow(json.dumps(a_node(**{key: value})), format="json")
        assert mark not in found["message"].replace("\n", "") or mark == "\n"


@pytest.mark.parametrize("mark", ["\x1b[2J", "\x9b31m", "\u202e", "\u2069", "\u200b", "\x00", "\x7f", "\x08"])
def test_what_steers_a_terminal_in_text_for_people(mark: str) -> None:
    for node in (a_node(description=f"x{mark}"), a_node(approval={"prompt": f"ok{mark}?"})):
        with refused() as found:
            load_workflow(json.dumps(node), format="json")
        assert mark not in found["message"]
    with refused():
        load_workflow(json.dumps(a_node(approval={"prompt": "?", "options": ["yes", f"yes{mark}"]})), format="json")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../up",
        "a/../b",
        "\uff0e\uff0e/x",
        "\uff41",
        "a\uff0eb",
        "a\uff0fb",
        "\ufb01",
        "a\u0301",
        "é",
        "-x",
        "--upload-pack=x",
        ".lock",
        "/etc",
        "a b",
        "",
        "a" * 300,
    ],
)
def test_names_that_look_like_something_else(name: str) -> None:
    for key in ("use", "compensate", "id"):
        with refused():
            load_workflow(json.dumps(a_node(**{key: name})), format="json")
    with refused():
        load_workflow(json.dumps({**a_node(), "name": name}), format="json")


def test_a_trailing_newline_is_no_end() -> None:
    for key in ("id", "use", "needs", "timeout"):
        with refused():
            load_workflow(json.dumps(a_node(**{key: "1s\n" if key == "timeout" else "a\n"})), format="json")


@pytest.mark.parametrize("value", [[], ["a"], 1, True, {}, {"a": "b"}, 1.5])
def test_values_of_another_type(value: Any) -> None:
    for key in ("id", "use", "description", "compensate", "workspace", "kind"):
        with refused():
            load_workflow(json.dumps(a_node(**{key: value})), format="json")


@pytest.mark.parametrize("key", ["id", "kind"])
def test_null_is_no_id_and_no_kind(key: str) -> None:
    with refused():
        load_workflow(json.dumps(a_node(**{key: None})), format="json")


@pytest.mark.parametrize("text", ["", "null", "[]", "1", "name", "[[]]", "{}", "name: w", "nodes: []"])
def test_documents_that_are_no_workflow(text: str) -> None:
    with refused():
        load_workflow(text)


@pytest.mark.parametrize(
    "keys",
    [
        {"command": ["rm", "-rf", "/"]},
        {"argv": ["sh"]},
        {"env": {"LD_PRELOAD": "x"}},
        {"import": "os:system"},
        {"server": {"command": "sh"}},
        {"url": "http://x"},
        {"code": "1"},
        {"cwd": "/"},
        {"__class__": "x"},
    ],
)
def test_a_definition_has_no_words_for_code_processes_and_servers(keys: dict[str, Any]) -> None:
    with refused() as found:
        load_workflow(json.dumps(a_node(**keys)), format="json")
    assert "unknown key" in found["message"]


@pytest.mark.parametrize("name", ["os.system", "os:system", "builtins.eval", "subprocess.run", "/bin/sh", "__import__"])
def test_an_import_path_is_a_name_like_any_other_and_not_registered(name: str) -> None:
    try:
        loaded = load_workflow(json.dumps(a_node(use=name)), format="json")
    except OmiumError as error:
        assert error.code == "invalid_definition"
        return
    with refused("not_registered"):
        check_registered(loaded, {"function": {"f"}, "command": {"sh"}})


# --- graphs ---


def test_self_loop_cycle_missing_and_duplicate_ids() -> None:
    def nodes(*edges: tuple[str, str]) -> str:
        return json.dumps(
            {"name": "w", "nodes": [{"id": a, "kind": "function", "use": "f", "needs": b.split()} for a, b in edges]}
        )

    for edges, words in (
        ((("a", "a"),), "a -> a"),
        ((("a", "b"), ("b", "c"), ("c", "a")), "cycle: a -> c -> b -> a"),
        ((("a", "x"),), "'a' needs 'x'"),
        ((("a", ""), ("a", "")), "already the id"),
    ):
        with refused() as found:
            load_workflow(nodes(*edges), format="json")
        assert words in found["message"]


def test_a_cycle_through_ten_thousand_nodes() -> None:
    count = 10_000
    nodes = [NodeDef(f"n{i}", "function", use="f", needs=(Need(f"n{(i - 1) % count}"),)) for i in range(count)]
    with refused(within_s=3) as found:
        Graph(nodes)
    assert len(found["message"]) < 1_000


def test_more_than_a_hundred_thousand_nodes() -> None:
    nodes = [NodeDef(f"n{i}", "function", use="f") for i in range(100_001)]
    with refused() as found:
        Graph(nodes)
    assert "100,000" in found["message"]
    assert len(Graph(nodes[:-1])) == 100_000


def test_a_hundred_thousand_edges_into_one_node() -> None:
    nodes = [NodeDef(f"n{i}", "function", use="f") for i in range(99_999)]
    nodes.append(NodeDef("end", "function", use="f", needs=tuple(Need(one.id) for one in nodes)))
    started = time.perf_counter()
    assert len(Graph(nodes).ancestors("end")) == 99_999
    assert time.perf_counter() - started < 10


def test_ids_that_nearly_match_do_not_slow_the_suggestion() -> None:
    names = ["a" * 60 + f"{i:04}" for i in range(5_000)]
    nodes = [NodeDef(name, "function", use="f", needs=(Need(f"{name[:-1]}x"),)) for name in names]
    with refused(within_s=10):
        Graph(nodes)


def test_a_workflow_within_itself() -> None:
    def running(name: str, other: str) -> Any:
        wf = workflow(name)
        wf.workflow("again", use=other)
        return wf.build()

    known = {"a": running("a", "a"), "b": running("b", "c"), "c": running("c", "b")}
    for name, cycle in (("a", "a -> a"), ("b", "b -> c -> b")):
        with refused() as found:
            check_recursion(name, known.get)
        assert cycle in found["message"]


# --- expressions and templates ---


@pytest.mark.parametrize(
    "source",
    [
        "item.__class__",
        "item.__class__.__mro__",
        "item.__init__.__globals__",
        "inputs.__class__.__base__.__subclasses__()",
        "inputs['__class__']",
        "nodes.a.output.__dict__",
        "''.__class__",
        "[].append(1)",
        "__import__('os').system('id')",
        "item.f()",
        "eval('1')",
        "inputs.keys()",
        "inputs.items",
        "inputs.l.pop",
        "google.protobuf.Empty{}",
        "(lambda: 1)()",
        "{}.get('a')",
        "getattr(inputs, 'a')",
    ],
)
def test_nothing_but_data_can_be_reached(source: str) -> None:
    class Thing:
        def f(self) -> str:
            raise AssertionError("called")

    scope = {"inputs": {"l": []}, "nodes": {"a": {"output": {}}}, "item": Thing()}
    for use in (evaluate, holds):
        with refused("expression_error"):
            use(source, scope)
    with refused("expression_error"):
        render(f"x ${{{{ {source} }}}}", scope)


INJECTIONS = [
    "${{ nodes.secret.output }}",
    "}} ${{ nodes.secret.output }}",
    "'}} ${{ nodes.secret.output }} {{'",
    '" + nodes.secret.output + "',
    "$${{",
    "${{",
]


@pytest.mark.parametrize("value", INJECTIONS)
def test_values_are_put_in_and_not_read(value: str) -> None:
    scope = {"inputs": {"v": value, "d": {value: [value]}}, "nodes": {"secret": {"output": "hunter2"}}}
    template = {"whole": "${{ inputs.v }}", "text": "<${{ inputs.v }}>", "map": "${{ inputs.d }}", "other": "fixed"}
    rendered = render(template, scope)
    assert rendered == {"whole": value, "text": f"<{value}>", "map": {value: [value]}, "other": "fixed"}
    assert render("${{ inputs.v + '' }}", scope) == value


def test_arguments_that_are_deep_only_after_templating() -> None:
    deep: Any = {}
    for _ in range(63):
        deep = [deep]
    assert render("${{ inputs.deep }}", {"inputs": {"deep": deep}}) is deep
    for template in (
        ["${{ inputs.deep }}"],
        {"a": "${{ inputs.deep }}"},
        "${{ [inputs.deep] }}",
        {"a": ["${{ inputs.deep }}"]},
    ):
        with refused("expression_error"):
            render(template, {"inputs": {"deep": deep}})


def test_values_that_are_deep_or_endless_themselves() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep):
        for template in ("${{ item }}", "${{ [item] }}", "a ${{ item }}", "${{ size(item) + 1 }}"):
            with refused("expression_error"):
                render(template, {"item": value})
    while isinstance(deep, list):  # freeing it link by link needs no stack
        deep = deep.pop()
    endless.clear()


@pytest.mark.parametrize("opening", ["(", "[", "!", "-", "{'a':", "a(", "[1].map(x,", "1+", "true?true:", "inputs."])
@pytest.mark.parametrize("count", [33, 100, 500, 20_000])
def test_nesting_does_not_reach_the_native_parser(opening: str, count: int) -> None:
    closing = {"(": ")", "[": "]", "{'a':": "}", "a(": ")", "[1].map(x,": ")"}.get(opening, "")
    source = opening * count + "1" + closing * count
    try:
        evaluate(source, {"inputs": {}})
    except OmiumError as error:
        assert error.code == "expression_error"


def test_a_process_survives_the_worst_expressions() -> None:
    script = (
        "from omium.orchestration.definition import evaluate\n"
        "from omium.orchestration.errors import OmiumError\n"
        "for text in ('(', '[', '!', '-', '{', '.a', '?', '\\'', '`', '\"\"\"', 'a(', '1+', '\\x00', '\\ud800'):\n"
        "    for count in (1, 31, 64, 1000, 4096, 100000):\n"
        "        for tail in ('', '1'):\n"
        "            try:\n"
        "                evaluate(text * count + tail, {'inputs': None, 'item': {'a': None}})\n"
        "            except OmiumError:\n"
        "                pass\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]


def test_regular_expressions_do_not_backtrack() -> None:
    started = time.perf_counter()
    assert holds("item.matches('(a+)+$')", {"item": "a" * 5_000 + "!"}) is False
    assert time.perf_counter() - started < 1


def test_comprehensions_end() -> None:
    scope = {"inputs": {"l": list(range(3_000))}}
    with refused("expression_error", within_s=10):
        evaluate("inputs.l.map(x, inputs.l.map(y, inputs.l.map(z, x * y * z)))", scope)


def test_a_condition_that_errs_or_is_not_boolean_never_holds() -> None:
    for source in ("inputs.missing", "inputs.missing == true", "1", "'true'", "inputs.ok", "!inputs.ok", "item"):
        with refused("expression_error"):
            holds(source, {"inputs": {"ok": "true"}})


def test_a_text_cannot_grow_without_end() -> None:
    scope = {"inputs": {"v": "x" * 1_000_000}}
    with refused("expression_error"):
        render("${{ inputs.v }}" * 20, scope)


# --- plans and inputs ---


@pytest.mark.parametrize("mark", INVISIBLE)
def test_invisible_characters_in_the_ids_of_a_plan(mark: str) -> None:
    with refused():
        parse_plan({"steps": [{"id": f"a{mark}", "task": "x", "use": "w"}]})


def test_plans_that_are_deep_endless_or_no_data() -> None:
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    endless: dict[str, Any] = {}
    endless["again"] = endless
    for value in (deep, endless, object(), {1: 2}, float("nan"), 10**200, b"x", "\ud800", "\0"):
        with refused():
            parse_plan({"steps": [{"id": "a", "kind": "function", "use": "f", "with": {"v": value}}]})
    while isinstance(deep, list):
        deep = deep.pop()
    endless.clear()


def test_a_schema_does_not_reach_outside() -> None:
    for reference in (
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "//evil/x",
        "other.json",
        "urn:x",
    ):
        with refused(within_s=2):
            load_workflow(json.dumps({**a_node(), "inputs": {"type": "object", "$ref": reference}}), format="json")


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    loaded = load_workflow(json.dumps({**a_node(), "inputs": schema}), format="json")
    with refused("invalid_argument"):
        validate_inputs(loaded, {"a": 1})


def test_a_definition_is_not_changed_by_what_is_done_with_it() -> None:
    loaded = load_workflow(json.dumps(a_node(**{"with": {"list": ["${{ inputs.v }}"]}})), format="json")
    before = json.dumps(to_document(loaded))
    render(loaded.nodes[0].input, {"inputs": {"v": {"x": 1}}})
    assert json.dumps(to_document(loaded)) == before


def test_ten_thousand_nodes_load_quickly() -> None:
    lines = ["name: w\nnodes:\n- {id: n0, kind: function, use: f}"]
    lines += [
        f"- {{id: n{i}, kind: function, use: f, needs: n{i - 1}, with: '${{{{ nodes.n{i - 1}.output }}}}'}}"
        for i in range(1, 10_000)
    ]
    text = "\n".join(lines)
    started = time.perf_counter()
    assert len(load_workflow(text).nodes) == 10_000
    assert time.perf_counter() - started < 10, "about one second on an idle machine"
