"""A child's environment: nothing of the parent but the allow-list."""

from __future__ import annotations

import pytest

from omium.clients.processes.environment import child_environment, declared
from omium.orchestration.errors import OmiumError


def test_only_the_allow_list_is_inherited() -> None:
    parent = {
        "PATH": "/usr/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "TZ": "UTC",
        "SECRET_TOKEN": "canary",
        "LD_PRELOAD": "/evil.so",
        "PYTHONPATH": "/evil",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "HTTPS_PROXY": "http://user:canary@proxy",
    }
    child = child_environment({}, {}, "proc_1", parent)
    assert child == {
        "PATH": "/usr/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "TZ": "UTC",
        "HEADLESS": "1",
        "CI": "1",
        "OMIUM_PROCESS": "proc_1",
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin:.:relative::/bin", "/usr/bin:/bin"),
        ("", "/usr/local/bin:/usr/bin:/bin"),
        (".", "/usr/local/bin:/usr/bin:/bin"),
    ],
)
def test_the_path_names_no_directory_of_the_workspace(path: str, expected: str) -> None:
    assert child_environment({}, {}, "t", {"PATH": path})["PATH"] == expected
    assert child_environment({"PATH": path}, {}, "t", {})["PATH"] == expected


def test_the_marker_says_what_the_process_belongs_to_and_nothing_overrides_it() -> None:
    child = child_environment(
        {"OMIUM_PROCESS": "forged", "OMIUM_RUN_ID": "forged"}, {"run_id": "run_1", "attempt": "2"}, "proc_1", {}
    )
    assert (child["OMIUM_RUN_ID"], child["OMIUM_ATTEMPT"], child["OMIUM_PROCESS"]) == ("run_1", "2", "proc_1")


def test_a_process_within_a_process_belongs_to_both() -> None:
    assert child_environment({}, {}, "inner", {"OMIUM_PROCESS": "outer"})["OMIUM_PROCESS"] == "outer/inner"


def test_declared_variables_are_named_ones_and_constants() -> None:
    parent = {"API_KEY": "k", "OTHER": "o"}
    assert declared(["API_KEY", "MISSING"], {"MODE": "fast"}, parent) == {"API_KEY": "k", "MODE": "fast"}


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "NODE_OPTIONS",
        "BASH_ENV",
        "BASH_FUNC_ls%%",
        "GIT_CONFIG_COUNT",
        "OMIUM_PROCESS",
        "A=B",
        "",
        "A\0",
        "A\n",
    ],
)
def test_names_that_inject_code_or_are_none_cannot_be_declared(name: str) -> None:
    for pass_through, constants in (([name], {}), ([], {name: "x"})):
        with pytest.raises(OmiumError) as caught:
            declared(pass_through, constants, {name: "x"})
        assert caught.value.code == "invalid_definition"
