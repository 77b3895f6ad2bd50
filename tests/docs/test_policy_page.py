"""The reference of policies is complete, true and current."""

from __future__ import annotations

import re

import pytest

from omium.orchestration.gates.policy.library import templates
from omium.orchestration.gates.policy.lint import CODES
from omium.orchestration.gates.policy.matchers import MATCHERS
from omium.orchestration.gates.policy.rules import MATCHED, NAMES
from omium.orchestration.gates.policy.schema import PolicyModel
from tests.docs.reference import POLICY_MODELS, Row, example_of, filled, keys, tables
from tests.house.tree import ROOT

PAGE = (ROOT / "docs" / "policy.md").read_text("utf-8")
TABLES = dict(tables(PAGE))
ROWS = [(model, row) for model, rows in TABLES.items() for row in rows]
OF_CASES_AND_SHORT_FORMS = {"QuestionFile", "ExpectFile", "CaseFile", "CasesFile", "ShadowFile"}


def first_words(marker: str) -> list[str]:
    """The words in code of the first cells of the table behind a marker."""
    block = PAGE.partition(f"<!-- {marker} -->\n")[2].partition("\n\n")[0]
    return [word for line in block.splitlines()[2:] for word in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_types_and_defaults_are_current() -> None:
    assert filled(PAGE) == PAGE, "run: python -m tests.docs.generate"


def test_every_model_has_a_table() -> None:
    assert {model.__name__ for model in PolicyModel.__subclasses__()} - OF_CASES_AND_SHORT_FORMS == set(POLICY_MODELS)
    assert set(TABLES) == set(POLICY_MODELS)


@pytest.mark.parametrize("model", POLICY_MODELS)
def test_every_key_is_documented_once_and_nothing_else(model: str) -> None:
    assert sorted(row.key.strip("`") for row in TABLES[model]) == sorted(keys(POLICY_MODELS[model]))
    assert all(row.meaning for row in TABLES[model])


@pytest.mark.parametrize(("model", "row"), ROWS, ids=[f"{model}.{row.key.strip('`')}" for model, row in ROWS])
def test_every_example_is_a_value_of_its_key(model: str, row: Row) -> None:
    ((key, value),) = example_of(row).items()
    assert key == row.key.strip("`")
    said = {"id": "r", "effect": "require_approval"} if model == "RuleFile" else {}
    said |= {"url": "http://127.0.0.1:8181", "path": "a"} if model == "OpaFile" else {}
    assert POLICY_MODELS[model].model_validate({**said, key: value})


def test_conditions_names_templates_and_findings_are_all_there() -> None:
    assert {row.key.strip("`") for row in TABLES["ConditionFile"]} == set(MATCHERS)
    assert {row.key.strip("`") for row in TABLES["MatchFile"]} == set(MATCHED)
    assert first_words("templates") == [one.name for one in templates()]
    assert first_words("findings") == list(CODES)
    told = PAGE.partition("<!-- names -->")[2].partition("(the time")[0]
    assert re.findall(r"`(\w+)`", told) == list(NAMES)
