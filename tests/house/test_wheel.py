"""The wheel holds what the rooms hold: what is missing there imports in the checkout and fails at the user's."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import PACKAGED, ROOT, files

BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
IMPORT = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for room in sys.argv[2:]:
    print(importlib.import_module(f"omium.{room}").__file__)
"""


def build(checkout: Path, into: Path) -> zipfile.ZipFile:
    """The wheel of `checkout`, built with the setuptools of this environment: an isolated build would download one."""
    command = [sys.executable, "-c", BUILD, str(into)]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = into.glob("*.whl")
    return zipfile.ZipFile(wheel)


def copy_checkout(into: Path) -> Path:
    """A copy of what git knows. The checkout itself may have a `build` of last week, which setuptools would reuse."""
    for path in files():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    return into


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    return build(copy_checkout(directory / "checkout"), directory / "dist")


def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(wheel.read(name).decode())


def test_every_file_of_the_rooms_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    there = set(wheel.namelist())
    missing = []
    for path in files(*PACKAGED):
        if f"omium/{path.as_posix()}" not in there:
            missing.append(
                f"{path}: its folder needs an __init__.py, as do those above it"
                if path.suffix == ".py"
                else f'{path}: add "**/*{path.suffix or path.name}" to [tool.setuptools.package-data] in pyproject.toml'
            )
    if missing:
        pytest.fail("not in the wheel:\n" + "\n".join(missing), pytrace=False)


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {f"omium/{path.as_posix()}" for path in files(*PACKAGED)}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found - expected == set()


def test_every_room_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    assert {f"omium/{room}/py.typed" for room in PACKAGED} <= set(wheel.namelist())


def test_the_rooms_import_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    command = [sys.executable, "-c", IMPORT, str(tmp_path), *PACKAGED]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(tmp_path / "omium" / room / "__init__.py") for room in PACKAGED]


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    about = metadata(wheel)
    assert (about["Name"], about["License-Expression"], about["Requires-Python"]) == (
        "omium-mcp",
        "Apache-2.0",
        ">=3.11",
    )
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(scripts).decode())
    assert dict(parser["console_scripts"]) == dict.fromkeys(("omium", "omium-mcp"), "omium.server.cli:main")
    assert str(about.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_a_new_subpackage_gets_into_the_wheel_and_one_without_init_does_not(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    for folder, names in {"planted/deep": ["__init__.py", "a.py", "page.html"], "forgotten": ["a.py"]}.items():
        (checkout / "storage" / folder).mkdir(parents=True)
        for name in names:
            (checkout / "storage" / folder / name).touch()
    (checkout / "storage" / "planted" / "__init__.py").touch()
    there = set(build(checkout, tmp_path / "dist").namelist())
    planted = {"__init__.py", "deep/__init__.py", "deep/a.py", "deep/page.html"}
    assert {f"omium/storage/planted/{name}" for name in planted} <= there
    assert "omium/storage/forgotten/a.py" not in there  # which is why the test above looks for every file
