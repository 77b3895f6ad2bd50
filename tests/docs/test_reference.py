"""The reference is complete, true and current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from omium.orchestration.definition.model import ApprovalMode, NodeKind
from omium.orchestration.definition.schema import FileModel
from omium.orchestration.definition.selection import SCOPE_NAMES
from omium.orchestration.engine.failures import CATEGORIES, TRANSIENT
from omium.server.config import load_config
from omium.server.project_file import load_project
from omium.storage.schema import metadata
from tests.docs.generate import pages
from tests.docs.reference import MODELS, Row, example_of, filled, hints_of, keys, tables
from tests.house.tree import ROOT

PAGE = (ROOT / "docs" / "workflows.md").read_text("utf-8")
TABLES = dict(tables(PAGE))
ROWS = [(model, row) for model, rows in TABLES.items() for row in rows]
OF_OTHER_PAGES = {
    "omium.clients.agents.script",
    "omium.clients.genie.spec",
    *(f"omium.server.declared.{one}" for one in ("agents", "budgets", "coding", "external", "supervision")),
}


def first_cells(marker: str, page: str = PAGE) -> list[list[str]]:
    """The words in code of the first cell of each row of the table behind a marker."""
    block = page.partition(f"<!-- {marker} -->\n")[2].partition("\n\n")[0]
    return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in block.splitlines()[2:]]


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    assert path.read_text("utf-8") == pages()[path], "run: python -m tests.docs.generate"


def test_every_file_model_has_a_table() -> None:
    below = {model.__name__ for model in FileModel.__subclasses__() if model.__module__ not in OF_OTHER_PAGES}
    assert set(MODELS) == below == set(TABLES)


@pytest.mark.parametrize("model", MODELS)
def test_every_key_is_documented_once_and_nothing_else(model: str) -> None:
    assert [row.key.strip("`") for row in TABLES[model]] == list(keys(MODELS[model]))
    assert all(row.meaning for row in TABLES[model])


def test_a_key_that_is_added_would_be_missed() -> None:
    class LaterFile(BaseModel):
        slots: int = 1
        added: str = ""

    documented = [row.key.strip("`") for row in TABLES["LimitsFile"]]
    assert "added" in set(keys(LaterFile)) - set(documented)


@pytest.mark.parametrize(("model", "row"), ROWS, ids=[f"{model}.{row.key.strip('`')}" for model, row in ROWS])
def test_every_example_is_a_value_of_its_key(model: str, row: Row) -> None:
    name = row.key.strip("`")
    ((key, value),) = example_of(row).items()
    assert key == name
    assert holds(MODELS[model], name, value)


def holds(model: type[BaseModel], key: str, value: Any) -> bool:
    (name,) = (name for name, field in model.model_fields.items() if (field.alias or name) == key)
    TypeAdapter(hints_of(model)[name]).validate_python(value, strict=True)
    return True


def test_an_example_that_is_wrong_would_be_seen() -> None:
    for key, value in (("timeout", "ten minutes"), ("kind", "functoin"), ("needs", 3), ("retry", {"times": 3})):
        with pytest.raises(ValidationError):
            holds(MODELS["NodeFile"], key, value)


def test_a_stale_type_would_be_seen() -> None:
    stale = PAGE.replace("| `id` | id | required |", "| `id` | number | none |")
    assert stale != PAGE
    assert filled(stale) == PAGE


def test_kinds_modes_names_and_categories_are_all_there() -> None:
    assert {word for row in first_cells("kinds") for word in row} == set(get_args(NodeKind))
    assert {word for row in first_cells("modes") for word in row} == set(get_args(ApprovalMode))
    assert [word for row in first_cells("scope") for word in row] == list(SCOPE_NAMES)
    assert [word for row in first_cells("categories") for word in row] == list(CATEGORIES)
    block = PAGE.partition("<!-- categories -->\n")[2].partition("\n\n")[0]
    assert {line.split("`")[1] for line in block.splitlines()[2:] if line.endswith("| yes |")} == TRANSIENT


def test_every_variable_of_the_environment_is_documented(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text("project: x\n")
    config = load_config(tmp_path, {"OMIUM_HOME": str(tmp_path)})
    for name in config.environment():
        assert f"`{name}`" in PAGE


def test_defaults_that_are_said_in_words_are_so(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text("project: x\n")
    limits = load_config(tmp_path, {"OMIUM_HOME": str(tmp_path)}).limits
    for row in TABLES["LimitsFile"]:
        stated = re.search(r"; (\d+) unless given", row.meaning)
        assert stated is None or int(stated[1]) == getattr(limits, row.key.strip("`"))
    assert sum("unless given" in row.meaning for row in TABLES["LimitsFile"]) == 3


def test_what_is_not_registered_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "omium.yaml"
    for kind, use in (("agent", "use: a"), ("tool", "use: s/t"), ("consensus", "consensus: {voters: [a], quorum: 1}")):
        file.write_text(f"project: x\nworkflows:\n- {{name: w, nodes: [{{id: n, kind: {kind}, {use}}}]}}\n")
        with pytest.raises(Exception, match="not registered"):
            load_project(file)


def test_every_table_of_the_database_is_listed() -> None:
    page = (ROOT / "docs" / "store.md").read_text("utf-8")
    listed = [word for row in first_cells("tables", page) for word in row]
    assert sorted(listed) == sorted(metadata.tables)
