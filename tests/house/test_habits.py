"""The house habits hold over the tree, and each check finds what it is there to find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.habits import FILE_LINES, FUNCTION_LINES, RULES, Rule, check, machine_paths
from tests.house.tree import ROOT, files, python_files

BY_NAME = {rule.name: rule for rule in RULES}
LONG_BODY = "    x = 1\n" * FUNCTION_LINES

PLANTED = [
    ("state-changes-in-the-fold", "orchestration/engine/a.py", "run.state = 'failed'"),
    ("state-changes-in-the-fold", "storage/a.py", "a, node.status = 1, 2"),
    ("state-changes-in-the-fold", "storage/a.py", "run.state: str = 'failed'"),
    ("state-changes-in-the-fold", "clients/a.py", "setattr(run, 'state', 'failed')"),
    ("state-changes-in-the-fold", "clients/a.py", "object.__setattr__(run, 'status', 'failed')"),
    ("state-changes-in-the-fold", "tools/a.py", "run = dataclasses.replace(run, state='failed')"),
    ("processes-under-supervision", "tools/a.py", "import subprocess"),
    ("processes-under-supervision", "clients/a.py", "def f():\n    from subprocess import run"),
    ("processes-under-supervision", "clients/a.py", "from concurrent.futures import ProcessPoolExecutor as P\np = P()"),
    ("processes-under-supervision", "clients/workspaces/snapshot.py", "import multiprocessing.pool"),
    ("processes-under-supervision", "server/a.py", "await asyncio.create_subprocess_exec('git')"),
    ("processes-under-supervision", "server/a.py", "await anyio.run_process(['git'])"),
    ("processes-under-supervision", "server/a.py", "from os import system as run\nrun('ls')"),
    ("processes-under-supervision", "server/a.py", "from anyio import to_process\nawait to_process.run_sync(f)"),
    ("processes-under-supervision", "server/a.py", "os.execv('git', [])"),
    ("no-shell", "clients/processes/a.py", "Popen('ls', shell=True)"),
    ("no-shell", "clients/processes/a.py", "Popen('ls', shell=how)"),
    ("no-shell", "examples/a.py", "os.system('ls')"),
    ("no-shell", "clients/processes/a.py", "await asyncio.create_subprocess_shell('ls')"),
    ("sql-in-storage", "server/a.py", "from sqlalchemy import text"),
    ("sql-in-storage", "clients/a.py", "import sqlite3 as db"),
    ("sql-in-storage", "tools/a.py", "q = 'SELECT id FROM runs'"),
    ("sql-in-storage", "tools/a.py", "q = f'UPDATE runs SET x = {y}'"),
    ("sql-in-storage", "orchestration/a.py", "db.execute('PRAGMA journal_mode')"),
    ("sql-in-storage", "orchestration/a.py", "db.execute('''\n  INSERT OR IGNORE INTO runs VALUES (1)''')"),
    ("no-pickle", "tests/a.py", "import pickle"),
    ("no-pickle", "clients/functions/a.py", "from cloudpickle import dumps"),
    ("no-print", "orchestration/a.py", "print('x')"),
    ("no-print", "server/a.py", "if True:\n    print('x', file=sys.stderr)"),
    ("short-files", "tests/a.py", "x = 1\n" * (FILE_LINES + 1)),
    ("short-functions", "tools/a.py", f"async def f():\n{LONG_BODY}"),
    ("short-functions", "tools/a.py", f"class A:\n  def f(self):\n{LONG_BODY}"),
    ("no-sleep-in-tests", "tests/a.py", "time.sleep(1)"),
    ("no-sleep-in-tests", "tests/a.py", "await anyio.sleep(0.01)"),
    ("no-sleep-in-tests", "tests/a.py", "from anyio import sleep as nap\nawait nap(1)"),
    ("no-sleep-in-tests", "tests/a.py", "while waiting:\n    time.sleep(1)"),
    ("no-sleep-in-tests", "tests/a.py", "time.sleep(delay)"),
    ("rooms-by-their-full-name", "tests/a.py", "from tools.runs import list_runs"),
    ("rooms-by-their-full-name", "server/a.py", "import storage"),
]

HARMLESS = [
    ("state-changes-in-the-fold", "orchestration/log/fold.py", "run.state = 'failed'"),
    ("state-changes-in-the-fold", "tools/a.py", "if run.state == 'failed':\n    state = 'x'\n    s.replace('a', 'b')"),
    ("processes-under-supervision", "clients/processes/a.py", "import subprocess"),
    ("processes-under-supervision", "clients/workspaces/git.py", "import subprocess"),
    ("processes-under-supervision", "tests/a.py", "import subprocess"),
    ("processes-under-supervision", "tools/a.py", "from omium.clients.processes import run_process\nrun_process()"),
    ("no-shell", "tests/a.py", "run(['ls'], shell=False)"),
    ("sql-in-storage", "storage/sqlite/a.py", "import sqlite3\nq = 'SELECT id FROM runs'"),
    ("sql-in-storage", "tools/a.py", "'''SELECT id FROM runs'''\nx = 'Select a run from the list'"),
    ("no-pickle", "tests/a.py", "import pickleball"),
    ("no-print", "orchestration/a.py", "console.print('x')"),
    ("no-print", "tests/a.py", "print('x')"),
    ("short-files", "tests/a.py", "x = 1\n" * FILE_LINES),
    ("short-functions", "tools/a.py", "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)),
    ("no-sleep-in-tests", "tests/a.py", "await anyio.sleep(0)\nawait anyio.sleep_forever()"),
    ("no-sleep-in-tests", "tests/a.py", "while waiting:\n    time.sleep(0.01)"),
    ("no-sleep-in-tests", "tests/a.py", "time.sleep(delay)  # real time: the kill comes at a random moment"),
    ("no-sleep-in-tests", "storage/a.py", "time.sleep(1)"),
    ("rooms-by-their-full-name", "tests/a.py", "from omium.tools.runs import list_runs\nimport tools_of_trade"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_tree_keeps_the_habit(rule: Rule) -> None:
    findings = [
        finding
        for path in python_files(*rule.covers)
        for finding in check(rule, path, (ROOT / path).read_text("utf-8"))
    ]
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


@pytest.mark.parametrize(("name", "path", "source"), PLANTED, ids=[f"{p[0]}-{i}" for i, p in enumerate(PLANTED)])
def test_a_planted_violation_is_found(name: str, path: str, source: str) -> None:
    assert check(BY_NAME[name], Path(path), source)


@pytest.mark.parametrize(("name", "path", "source"), HARMLESS, ids=[f"{h[0]}-{i}" for i, h in enumerate(HARMLESS)])
def test_what_is_allowed_is_not_found(name: str, path: str, source: str) -> None:
    assert not check(BY_NAME[name], Path(path), source)


def test_every_rule_is_tried_both_ways() -> None:
    assert {name for name, _, _ in PLANTED} == {name for name, _, _ in HARMLESS} == set(BY_NAME)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    findings = []
    for path in files():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            findings += [f"{path}:{line}: {what}" for line, what in machine_paths(data.decode("utf-8", "replace"))]
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


@pytest.mark.parametrize("folder", ["work", "root", "home"])
def test_a_planted_machine_path_is_found(folder: str) -> None:
    assert list(machine_paths(f"x = '/{folder}/me/project'"))
    assert list(machine_paths(f"see /{folder}/.config"))
    assert not list(machine_paths(f"x = tmp_path / 'a/{folder}/b'; y = f'{{base}}/{folder}/b'; z = './{folder}/b'"))


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
