"""Expressions and templates."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import compile_expression, evaluate, holds, references, render
from omium.orchestration.definition.selection import Selection
from omium.orchestration.errors import OmiumError

SCOPE: dict[str, Any] = {
    "inputs": {"name": "Ada", "count": 3, "ok": True, "none": None},
    "nodes": {
        "a": {"output": {"commits": [{"title": "first"}, {"title": "second"}], "n": 2, "f": 2.5, "x-y": "dash"}},
        "x-y": {"output": [1, 2]},
    },
}


def code_of(source: str, scope: Mapping[str, Any] = SCOPE) -> str:
    with pytest.raises(OmiumError) as caught:
        evaluate(source, scope)
    return caught.value.code


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 1", 2),
        ("inputs.count * 2", 6),
        ("nodes.a.output.commits[1].title", "second"),
        ('nodes.a.output["x-y"]', "dash"),
        ('nodes["x-y"].output[0]', 1),
        ("nodes.`x-y`.output[0]", 1),
        ("nodes.a.output.commits.map(c, c.title)", ["first", "second"]),
        ("size(nodes.a.output.commits) > 1 && inputs.ok", True),
        ("has(inputs.missing)", False),
        ("has(inputs.none)", True),
        ("inputs.none == null", True),
        ('inputs.name.matches("^A")', True),
        ("5u", 5),
        ("nodes.a.output.f", 2.5),
        ('{"k": [1, null]}', {"k": [1, None]}),
        ('duration("90s")', 90.0),
        ('timestamp("2026-01-02T03:04:05Z")', dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        ('b"ab"', b"ab"),
        (".inputs.count", 3),
        ("[1, 2].map(inputs, inputs * 10)", [10, 20]),
        ("inputs.count // a comment", 3),
    ],
)
def test_values_and_their_types(source: str, value: Any) -> None:
    result = evaluate(source, SCOPE)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "source",
    [
        "inputs.missing",
        "inputs.missing + 1",
        "nodes.a.output.commits[2]",
        "nodes.a.output.commits[-1]",
        "nodes.a.output.commits.title",
        "nodes.a.output.commits['0']",
        "inputs.name.length",
        "inputs.name[0]",
        "item",
        "item.x + 1",
        "1 / 0",
        "1 +",
        "",
        "  ",
        "unknown",
        "0.0 / 0.0",
        "1.0 / 0.0",
        "{1: 2}",
        "type(1)",
        "[type(1), null]",
        "1 + 'a'",
        "nodes.in.output",
        "9223372036854775807 + inputs.count",
        "\ud800",
        "1\0",
    ],
)
def test_errors_are_errors(source: str) -> None:
    assert code_of(source) == "expression_error"


def test_a_condition_holds_only_when_true() -> None:
    assert holds("inputs.ok", SCOPE) is True
    assert holds("inputs.count > 5", SCOPE) is False
    for source in ("inputs.count", "inputs.name", "'true'", "1", "inputs.none", "nodes", "inputs.missing", "[true]"):
        with pytest.raises(OmiumError) as caught:
            holds(source, SCOPE)
        assert caught.value.code == "expression_error"


def test_a_text_that_is_one_expression_keeps_its_type() -> None:
    assert render("${{ inputs.count }}", SCOPE) == 3
    assert render("${{inputs}}", SCOPE) is SCOPE["inputs"]
    assert render(" ${{ inputs.count }}", SCOPE) == " 3"


def test_expressions_in_text_are_put_in_as_text() -> None:
    template = (
        "${{ inputs.name }}: ${{ inputs.count }}, ${{ inputs.ok }}, ${{ inputs.none }}, ${{ nodes['x-y'].output }}"
    )
    assert render(template, SCOPE) == "Ada: 3, true, null, [1,2]"
    assert render('x${{ {"a": {"b": "}}"}} }}y', SCOPE) == 'x{"a":{"b":"}}"}}y'


def test_templates_are_walked_and_what_is_no_expression_stays() -> None:
    template = {"a": ["${{ inputs.count }}", 1, None, {"b": "plain $ { {"}], "${{ inputs.name }}": True}
    assert render(template, SCOPE) == {"a": [3, 1, None, {"b": "plain $ { {"}], "${{ inputs.name }}": True}


def test_an_escaped_opening_is_text() -> None:
    assert render("$${{ inputs.count }} ${{ inputs.count }}", SCOPE) == "${{ inputs.count }} 3"
    assert render("$${{ nothing", SCOPE) == "${{ nothing"


def test_an_expression_that_does_not_end() -> None:
    for text in ("${{ inputs.count", "${{ 'a }}", "${{ {'a': 1 }}"):
        with pytest.raises(OmiumError) as caught:
            render(text, SCOPE)
        assert caught.value.code == "expression_error"


def test_values_that_look_like_templates_are_data() -> None:
    scope = {"inputs": {"evil": "${{ nodes.secret.output }}"}, "nodes": {"secret": {"output": "hunter2"}}}
    assert render("${{ inputs.evil }}", scope) == "${{ nodes.secret.output }}"
    assert render("say ${{ inputs.evil }}", scope) == "say ${{ nodes.secret.output }}"
    assert render(["${{ inputs }}"], scope) == [{"evil": "${{ nodes.secret.output }}"}]


def test_rendered_values_are_at_most_64_deep() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    scope = {"inputs": {"deep": deep}}
    assert render({"a": {"b": {"c": ["${{ inputs.deep }}"]}}}, scope)
    with pytest.raises(OmiumError) as caught:
        render({"a": {"b": {"c": {"d": ["${{ inputs.deep }}"]}}}}, scope)
    assert caught.value.code == "expression_error"


def test_values_that_cel_cannot_hold() -> None:
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    scope = {"inputs": {"big": 2**80, "at": moment, "price": Decimal("1.10"), "n": 1}}
    assert render("${{ inputs.big }}", scope) == 2**80
    assert render("n=${{ inputs.big }}", scope) == f"n={2**80}"
    assert render("${{ inputs.at }}", scope) is moment
    assert evaluate('timestamp(inputs.at) < timestamp("2027-01-01T00:00:00Z")', scope) is True
    assert render("${{ inputs.price }} at ${{ inputs.at }}", scope) == "1.10 at 2026-01-02T00:00:00Z"
    assert render("${{ inputs }}!", {"inputs": [moment, 2**80]}) == f'["2026-01-02T00:00:00Z",{2**80}]!'
    assert evaluate("double(inputs.price) > 1.0", scope) is True
    assert code_of("inputs.big + 1", scope) == "expression_error"
    assert evaluate("inputs.n + 1", scope) == 2, "what an expression does not read cannot hurt it"


class Lazy(Mapping[str, Any]):
    """Outputs that are fetched when they are read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.read.append(key)
        return {"output": {"n": 5, "rest": object()}}

    def __contains__(self, key: object) -> bool:
        return key in ("a", "b")

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "b"))

    def __len__(self) -> int:
        return 2


def test_only_what_is_read_is_taken_from_the_scope() -> None:
    nodes = Lazy()
    assert evaluate("nodes.a.output.n", {"nodes": nodes}) == 5
    assert evaluate("nodes.a.output.n + 1", {"nodes": nodes}) == 6
    assert set(nodes.read) == {"a"}


def test_no_attribute_of_an_object_can_be_reached() -> None:
    class Secret:
        value = "hunter2"

    scope = {"inputs": {"o": Secret(), "d": {}, "l": []}, "item": Secret()}
    for source in (
        "inputs.o.value",
        "item.value",
        "inputs.o.__class__",
        "inputs.d.__class__",
        "inputs.d.keys",
        "inputs.l.append",
        "inputs.__len__",
        'inputs.o["value"]',
        "item.value + ''",
        "size(inputs.d.__class__.__mro__)",
    ):
        assert code_of(source, scope) == "expression_error", source


def test_references_name_nodes_and_inputs() -> None:
    template = {
        "a": "${{ nodes.x.output.y + nodes['x-y'].output }}",
        "b": ["${{ inputs.a.b }} ${{ item }} ${{ size(nodes) }}"],
        "c": "$${{ nodes.no.output }} nodes.no.output",
        "d": "${{ previous.ok || iteration > 3 || nodes[inputs.which].output }}",
        "e": "${{ [1].map(index, index).size() + size('nodes.no') }}",
    }
    assert references(template) == {
        "nodes.x",
        "nodes.x-y",
        "inputs.a",
        "item",
        "nodes",
        "previous",
        "iteration",
        "inputs.which",
    }


def test_selections_of_an_expression() -> None:
    found = compile_expression("nodes.a.output[0] == item.x.size() && nodes[inputs.k].output == 1").selections
    assert found == (
        Selection("nodes", ("a", "output", 0)),
        Selection("item", ("x",)),
        Selection("nodes", (), open=True),
        Selection("inputs", ("k",)),
    )
    assert str(found[0]) == "nodes.a.output[0]"


def test_an_expression_knows_the_type_that_cannot_vary() -> None:
    assert compile_expression("1 + 1").returns == "int"
    assert compile_expression("inputs.a == 1").returns == "bool"
    assert compile_expression("inputs.a").returns == compile_expression("(inputs.a)").returns == "dyn"


def test_other_variables_can_be_declared() -> None:
    expression = compile_expression("args.path.startsWith('/tmp')", ("args",))
    assert expression.evaluate({"args": {"path": "/tmp/x"}}) is True
    with pytest.raises(OmiumError):
        compile_expression("inputs.a", ("args",))


def test_source_and_nesting_are_limited() -> None:
    assert evaluate("'" + "x" * 4000 + "'", {}) == "x" * 4000
    for source in ("'" + "x" * 4100 + "'", "(" * 65 + "1" + ")" * 65, "[" * 2000 + "]" * 2000):
        assert code_of(source) == "expression_error"


def test_an_endless_comprehension_is_stopped() -> None:
    scope = {"inputs": {"l": list(range(2000))}}
    assert code_of("inputs.l.all(x, inputs.l.all(y, x + y >= 0))", scope) == "expression_error"


def test_nulls_in_results_do_not_wear_out_the_interpreter() -> None:
    # The CEL library gives away a reference to None with each null; unpaid, this ends the process on Python 3.11.
    script = (
        "from omium.orchestration.definition import evaluate\n"
        "for _ in range(3000):\n"
        "    evaluate('[null, null, null, {\"a\": null}, null, null, null, null]', {})\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
names = st.sampled_from(["a", "b", "x-y", "output", "package", "_z9"])
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
steps = st.lists(names | st.integers(0, 4), max_size=5)


def spelled(root: str, path: list[str | int]) -> str:
    return str(Selection(root, tuple(path)))


@pytest.mark.parametrize("value", ["git status\0; rm -rf /", ["\0"], {"a\0b": 1}, {"a": {"b": "\0"}}, b"a\0b"])
def test_what_has_a_nul_is_not_computed_with(value: Any) -> None:
    """The library would take it to end there: `git status` and nothing more."""
    for source in ("item == 'git status'", "[item]", "size(item) < 20"):
        assert code_of(source, {"item": value}) == "expression_error"
    assert evaluate("item", {"item": value}) == value  # a selection is not computed


@given(values, steps)
def test_a_selection_gives_what_cel_gives(value: Any, path: list[str | int]) -> None:
    source = spelled("item", path)
    scope = {"item": value}
    results = []
    for text in (source, f"({source})"):  # brackets alone send it through CEL
        try:
            results.append(("value", evaluate(text, scope)))
        except OmiumError as error:
            results.append(("error", error.code))
    assert results[0] == results[1]
    assert type(results[0][1]) is type(results[1][1])


@pytest.mark.parametrize(
    ("holding", "problem"), [({}, "there is no 'b'."), ({"c": 1, "a": 2}, "there is no 'b' among 'a', 'c'.")]
)
def test_a_field_that_is_not_there_is_told_with_those_that_are(holding: dict[str, int], problem: str) -> None:
    with pytest.raises(OmiumError) as caught:
        evaluate("item.b", {"item": holding})
    assert caught.value.message == f"Expression 'item.b': {problem}"


@given(values)
def test_what_is_not_changed_comes_back_equal(value: Any) -> None:
    assert evaluate("[item][0]", {"item": value}) == value
    assert render({"k": ["${{ item }}"]}, {"item": value}) == {"k": [value]}


@given(st.text(max_size=40).filter(lambda text: "${{" not in text), texts)
def test_what_stands_around_an_expression_stays_and_its_value_is_not_read(around: str, value: str) -> None:
    value = "${{ 1 + 1 }}" + value
    assert render(f"{around} ${{{{ item }}}}{around}", {"item": value}) == f"{around} {value}{around}"


@given(st.text(st.sampled_from("${} 'abc.[]()+1\\\"/"), max_size=30))
def test_any_text_is_rendered_or_refused(template: str) -> None:
    try:
        render(template, {"item": 1})
    except OmiumError as error:
        assert error.code == "expression_error"
