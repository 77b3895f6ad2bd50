"""Registration in Python and by entry point."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.definition.build import workflow
from omium.orchestration.errors import OmiumError
from omium.server.plugins import FUNCTIONS_GROUP, WORKFLOWS_GROUP
from omium.server.project import Project


async def fetch(url: str) -> str:
    """Gets a page.

    In full."""
    return url


def count(text: str) -> int:
    return len(text)


def offered() -> Any:
    flow = workflow("offered")
    flow.function("a", use="count", with_={"text": "x"})
    return flow.build()


def test_functions_are_registered_by_decorator() -> None:
    project = Project("p")
    assert project.function(fetch) is fetch
    assert project.function(name="size", timeout_s=3.0)(count) is count
    functions = project.catalog().functions
    assert (functions["fetch"].host, functions["fetch"].description) == ("async", "Gets a page.")
    assert functions["fetch"].ref.endswith(":fetch")
    assert (functions["size"].host, functions["size"].timeout_s) == ("process", 3.0)
    assert project.callables == {"fetch": fetch}


def test_what_a_worker_process_cannot_import_needs_a_thread() -> None:
    def inner() -> None: ...

    project = Project("p")
    for wrong in (inner, lambda: None):
        with pytest.raises(OmiumError, match="cannot be imported") as refused:
            project.function(wrong)
        assert refused.value.code == "invalid_definition"
    project.function(host="thread")(inner)
    assert project.callables == {"inner": inner}


def test_a_name_is_registered_once() -> None:
    project = Project("p")
    project.function(count)
    project.command("c", ["true"])
    with pytest.raises(OmiumError, match="registered twice"):
        project.function(name="count")(fetch)
    with pytest.raises(OmiumError, match="registered twice"):
        project.command("c", ["false"])
    with pytest.raises(OmiumError, match="name of a command"):
        project.command("../c", ["true"])


def test_a_catalog_is_checked_as_a_whole() -> None:
    project = Project("p")
    project.workflow(offered())
    with pytest.raises(OmiumError) as refused:
        project.catalog()
    assert refused.value.code == "not_registered"
    project.function(count)
    assert list(project.catalog().workflows) == ["offered"]


def test_a_workflow_built_in_python_names_only_limits_that_there_are() -> None:
    project = Project("p")
    wf = workflow("w")
    wf.wait("a", seconds=1, resources=["gpu"])
    project.workflow(wf.build())
    with pytest.raises(OmiumError, match="names the resource 'gpu'") as refused:
        project.catalog({"gpus": 2})
    assert refused.value.code == "not_registered"
    assert refused.value.data["problems"][0]["expected"] == "gpus"
    assert project.catalog({"gpu": 2}).resources == {"gpu"}


def test_a_workflow_can_be_registered_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("name: w\nnodes: [{id: a, kind: wait, wait: 1s}]\n")
    project = Project("p", directory=tmp_path)
    project.workflow("w.yaml")
    assert project.catalog().source_of("w") == str(tmp_path / "w.yaml")


def entry_points_are(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    given = [EntryPoint(name, value, group) for group, name, value in points]
    found: Callable[..., list[EntryPoint]] = lambda *, group: [one for one in given if one.group == group]  # noqa: E731
    monkeypatch.setattr(importlib.metadata, "entry_points", found)


def test_installed_packages_offer_functions_and_workflows(monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{__name__}:offered"
    entry_points_are(
        monkeypatch,
        (FUNCTIONS_GROUP, "count", "package.text:count"),
        (FUNCTIONS_GROUP, "mine", "package.text:mine"),
        (WORKFLOWS_GROUP, "offered", here),
    )
    project = Project("p")
    project.function(name="mine")(count)
    project.use_entry_points()
    catalog = project.catalog()
    assert (catalog.functions["count"].ref, catalog.functions["count"].host) == ("package.text:count", "process")
    assert catalog.functions["mine"].ref.endswith(":count")  # the project's own word goes first
    assert list(catalog.workflows) == ["offered"]


def test_a_name_that_two_packages_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points_are(monkeypatch, (FUNCTIONS_GROUP, "a", "x:a"), (FUNCTIONS_GROUP, "a", "y:a"))
    with pytest.raises(OmiumError) as refused:
        Project("p").use_entry_points()
    assert refused.value.code == "invalid_definition"


@pytest.mark.parametrize(
    "bad",
    [
        (FUNCTIONS_GROUP, "b", "package.text"),
        (WORKFLOWS_GROUP, "other", f"{__name__}:offered"),
        (WORKFLOWS_GROUP, "gone", "no.such.module:flow"),
    ],
)
def test_what_cannot_be_used_is_left_out(monkeypatch: pytest.MonkeyPatch, bad: tuple[str, str, str]) -> None:
    entry_points_are(
        monkeypatch, (FUNCTIONS_GROUP, "a", "x:a"), bad, (WORKFLOWS_GROUP, "offered", f"{__name__}:offered")
    )
    project = Project("p")
    project.use_entry_points()
    assert (set(project.functions), set(project.workflows)) == ({"a"}, {"offered"})
