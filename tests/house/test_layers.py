"""The layers of the rooms hold, and a violation of each contract is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, lay_out, run_in

VIOLATIONS = {
    "orchestration over nothing": ("orchestration", "import omium.storage"),
    "tools beside clients": ("tools", "import omium.clients"),
    "storage below server": ("storage", "def late() -> None:\n    import omium.server"),
    "SQL in the core": ("orchestration", "import sqlite3"),
    "MCP in the core": ("orchestration", "from mcp.types import Tool"),
    "SQL in a tool": ("tools", "import sqlalchemy"),
    "MCP in storage": ("storage", "import mcp"),
    "tests in the product": ("server", "import tests.house"),
    "a room by its folder's name": ("server", "import storage"),
}

# What must not be loaded when the core is imported: each takes from 0.1 s to seconds, and every start would pay it.
SLOW = ("ag2", "alembic", "httpx", "jsonschema", "mcp", "networkx", "sqlalchemy", "starlette", "structlog")

IMPORT_CORE = """
import importlib, pkgutil, sys
import omium.orchestration as core
for module in pkgutil.walk_packages(core.__path__, "omium.orchestration."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.argv[1:] if name in sys.modules))
"""


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return run_in(tree, [sys.executable, "-c", program, "--config", str(ROOT / "pyproject.toml"), "--no-cache"])


def test_the_layers_hold(tmp_path: Path) -> None:
    result = lint_imports(lay_out(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(("room", "source"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_planted_violation_fails(tmp_path: Path, room: str, source: str) -> None:
    result = lint_imports(lay_out(tmp_path, {f"{room}/planted.py": source}))
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"omium.{room}.planted ->" in result.stdout
    assert "1 broken" in result.stdout


def test_importing_the_core_loads_nothing_slow(tmp_path: Path) -> None:
    result = run_in(lay_out(tmp_path), [sys.executable, "-c", IMPORT_CORE, *SLOW])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_a_planted_slow_import_is_seen(tmp_path: Path) -> None:
    tree = lay_out(tmp_path, {"orchestration/planted.py": "import jsonschema"})
    assert run_in(tree, [sys.executable, "-c", IMPORT_CORE, *SLOW]).stdout.split() == ["jsonschema"]
