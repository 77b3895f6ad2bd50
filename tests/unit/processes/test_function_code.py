"""What the digest of a function's code covers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omium.clients.functions.code import Sources, of_callable
from omium.orchestration.errors import OmiumError


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name, text in {
        "flow/__init__.py": "",
        "flow/steps.py": "import json\nfrom . import tools\nfrom flow.deep.inner import thing\nimport lone\n",
        "flow/tools.py": "X = 1\n",
        "flow/deep/__init__.py": "",
        "flow/deep/inner.py": "from ..tools import X\nthing = 1\n",
        "flow/unused.py": "Y = 1\n",
        "lone.py": "raise SystemExit('it is not imported')\n",
        "space/part.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ("flow/steps.py", True),
        ("flow/__init__.py", True),
        ("flow/tools.py", True),
        ("flow/deep/inner.py", True),
        ("lone.py", True),
        ("flow/unused.py", False),
        ("space/part.py", False),
    ],
)
def test_it_covers_what_the_module_imports_of_the_project(code: Path, changed: str, differs: bool) -> None:
    sources = Sources([code])
    before = sources.digest("flow.steps")
    assert sources.digest("flow.steps") == before == Sources([code]).digest("flow.steps")
    with (code / changed).open("a") as file:
        file.write("# changed\n")
    assert (sources.digest("flow.steps") != before) is differs


def test_an_edit_of_equal_length_is_seen(code: Path) -> None:
    sources = Sources([code])
    before = sources.digest("lone")
    stamp = (code / "lone.py").stat()
    (code / "lone.py").write_text("raise SystemExit('it is not importeD')\n")
    os.utime(code / "lone.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert sources.digest("lone") != before


def test_modules_are_found_as_python_finds_them(code: Path) -> None:
    sources = Sources([code])
    for name, file in {"flow": "flow/__init__.py", "flow.deep.inner": "flow/deep/inner.py", "lone": "lone.py"}.items():
        found = sources.find(name)
        assert found is not None and found.file == code / file
    space = sources.find("space")
    assert space is not None and space.file is None and space.directories == (code / "space",)
    assert sources.find("space.part") is not None
    assert sources.find("omium.orchestration.errors") is not None
    assert sources.find("json.decoder") is not None
    for missing in ("nothing", "flow.nothing", "lone.nothing", "nothing.at.all"):
        assert sources.find(missing) is None


def test_a_module_that_is_not_there_has_no_digest(code: Path) -> None:
    with pytest.raises(OmiumError) as refused:
        Sources([code]).digest("nothing")
    assert refused.value.code == "not_found"


def test_a_source_that_does_not_parse_is_still_covered(code: Path) -> None:
    (code / "lone.py").write_text("def (:\n")
    first = Sources([code]).digest("lone")
    (code / "lone.py").write_text("def ):\n")
    assert Sources([code]).digest("lone") != first


def test_a_function_without_a_file_is_known_by_its_compiled_code() -> None:
    def define(text: str) -> object:
        names: dict[str, object] = {}
        exec(text, names)
        return names["f"]

    one = of_callable(define("def f(x): return x + 1"))
    assert one == of_callable(define("def f(x):\n    return x + 1"))
    assert one != of_callable(define("def f(x): return x + 2"))
    assert one != of_callable(define("def f(x): return (lambda: x + 1)()"))
