"""The room is cheap to enter: what is slow to import waits for its first use."""

from __future__ import annotations

import subprocess
import sys

import omium.orchestration.definition as room

SLOW = ("cel_expr_python", "jsonschema", "networkx", "pydantic", "yaml", "referencing", "rpds")


def slow_after(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*[name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_room_and_the_graph_import_nothing_slow() -> None:
    assert slow_after("import omium.orchestration.definition") == set()
    names = "Graph, Structure, NodeDef, WorkflowDef, Need, render, compile_expression, holds, workflow, load_file"
    assert slow_after(f"from omium.orchestration.definition import {names}") == set()


def test_a_selection_needs_no_cel() -> None:
    statement = (
        "from omium.orchestration.definition import render\nrender('${{ inputs.a[0] }}', {'inputs': {'a': [1]}})"
    )
    assert slow_after(statement) == set()


def test_loading_without_schemas_needs_neither_json_schema_nor_networkx() -> None:
    text = "name: w\\nnodes: [{id: a, kind: function, use: f}]"
    statement = f"from omium.orchestration.definition import load_workflow\nload_workflow('{text}')"
    assert slow_after(statement) == {"pydantic", "yaml"}


def test_every_name_of_the_room_is_there() -> None:
    for name in room.__all__:
        assert getattr(room, name) is not None
    assert sorted(room.__all__) == sorted(room._HOME_OF)
