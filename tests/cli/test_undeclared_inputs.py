"""An input that a workflow does not declare is taken, since its schema allows it, and warned about."""

from __future__ import annotations

import pytest

from omium.server.commands.arguments import undeclared
from tests.cli.harness import Place

NAMES = {"type": "object", "properties": {"names": {"type": "array"}}}


def test_a_misspelt_input_is_warned_about_with_the_nearest_name() -> None:
    (warning,) = undeclared({"names": [], "nmes": []}, NAMES)
    assert "'nmes'" in warning and "'names'" in warning


@pytest.mark.parametrize(
    "schema",
    [None, {"type": "object"}, {**NAMES, "additionalProperties": True}, {**NAMES, "patternProperties": {"^n": {}}}],
)
def test_a_schema_that_wants_more_gets_it_without_a_word(schema: dict[str, object] | None) -> None:
    assert undeclared({"nmes": []}, schema) == []


def test_a_simulation_warns_on_standard_error(project: Place) -> None:
    (project.directory / "workflows" / "open.yaml").write_text(
        "name: open\ninputs: {type: object, properties: {names: {type: array}}}\n"
        "nodes: [{id: greet, kind: function, use: greet, with: {name: ada}}]\n"
    )
    done = project.call("simulate", "open", "--input", "nmes=1")
    assert done.exit_code == 0
    assert "is it 'names'?" in done.stderr
