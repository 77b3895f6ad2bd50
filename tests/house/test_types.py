"""Strict mypy passes on the product, and really looks into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.tree import lay_out
from tests.house.typecheck import findings, typecheck

PLANTED = """\
from omium.orchestration.errors import OmiumError

error: OmiumError = 3
code: int = OmiumError("not_found", "no such run").code
"""


def test_the_product_is_strictly_typed(tmp_path: Path) -> None:
    result = typecheck(lay_out(tmp_path), ["-p", "omium"])
    if result.returncode != 0:
        pytest.fail("\n".join(line[:240] for line in findings(result).splitlines()), pytrace=False)


def test_a_planted_type_error_fails(tmp_path: Path) -> None:
    tree = lay_out(tmp_path / "tree", {"tools/planted.py": PLANTED})
    result = typecheck(tree, ["-m", "omium.tools.planted"], cache=tmp_path / "cache")
    assert result.returncode == 1, result.stdout + result.stderr
    # Had the import of the other room not resolved, its class would be Any and these two lines correct.
    seen = [line.split(": ", 1)[0] for line in findings(result).splitlines()]
    assert seen == ["tools/planted.py:3", "tools/planted.py:4"]
    assert result.stdout.count("[assignment]") == 2
