"""`omium.yaml`: what it may say, and how it is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import WorkspaceSpec
from omium.server.project_file import load_project, size_bytes

WORKFLOW = """
name: report
nodes:
  - {id: a, kind: function, use: fetch, with: {url: "http://localhost"}}
  - {id: b, kind: function, use: count, needs: a, with: {text: "${{ nodes.a.output.body }}"}}
"""

WHOLE = """
project: reports
database: state/omium.db
durability: normal
path: [lib]
pass_env: [API_KEY]
functions:
  fetch:
    ref: web.client:fetch
    host: async
    on_unknown: ask
    timeout: 90s
    input: {type: object, required: [url]}
    output: {type: object, properties: {body: {type: string}}, additionalProperties: false}
    description: Gets a page.
  count: web.text:count
commands:
  test:
    argv: ["{python}", "{project}/check.py", "--name={input.name}"]
    stdin: none
    output: text
    cwd: project
    env: {MODE: fast}
    timeout: 10m
    idle_timeout: null
    memory_limit: 2GiB
    success_codes: [0, 1]
    on_unknown: rerun
workflows:
  - flows/report.yaml
  - name: inline
    nodes:
      - {id: t, kind: cli, use: test, with: {name: x}}
workspaces:
  repo: {kind: git, source: repo, ref: main, exclude: ["*.pyc"]}
  remote: {kind: git, source: "git@example.org:a/b.git"}
  data: {source: data}
limits: {slots: 8, processes: 2, resources: {gpu: 1}}
"""


def lay_out(directory: Path, text: str, workflow: str = WORKFLOW) -> Path:
    for folder in ("lib/web", "flows", "workflows", "repo", "data"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    (directory / "lib/web/__init__.py").touch()
    (directory / "lib/web/client.py").write_text("raise SystemExit('it is not imported')\n")
    (directory / "lib/web/text.py").write_text("def count(text): return len(text)\n")
    (directory / "flows/report.yaml").write_text(workflow)
    (directory / "omium.yaml").write_text(text)
    return directory / "omium.yaml"


def problems_of(file: Path) -> list[dict[str, Any]]:
    with pytest.raises(OmiumError) as refused:
        load_project(file)
    assert refused.value.code in ("invalid_definition", "not_registered")
    found: list[dict[str, Any]] = refused.value.data["problems"]
    return found


def test_everything_that_a_project_may_declare(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "extra.yml").write_text("name: extra\nnodes: [{id: c, kind: workflow, use: report}]\n")
    loaded = load_project(lay_out(tmp_path, WHOLE))
    project, catalog = loaded.project, loaded.project.catalog()
    assert project.id == "reports"
    assert project.path == (tmp_path / "lib",)
    assert sorted(catalog.workflows) == ["extra", "inline", "report"]
    assert catalog.source_of("report") == str(tmp_path / "flows/report.yaml")
    assert catalog.source_of("inline") == str(tmp_path / "omium.yaml")
    fetch = catalog.functions["fetch"]
    assert (fetch.ref, fetch.host, fetch.on_unknown, fetch.timeout_s) == ("web.client:fetch", "async", "ask", 90.0)
    assert catalog.functions["count"].host == "process"
    command = project.commands["test"]
    assert command.argv == (sys.executable, str(tmp_path / "check.py"), "--name={input.name}")
    assert (command.cwd, command.hard_timeout_s, command.idle_timeout_s) == (tmp_path, 600.0, None)
    assert (command.memory_limit_bytes, command.success_codes) == (2 * 1024**3, (0, 1))
    assert project.commands_on_unknown == {"test": "rerun"}
    assert catalog.workspaces == {
        "repo": WorkspaceSpec("git", str(tmp_path / "repo"), "main", ("*.pyc",)),
        "remote": WorkspaceSpec("git", "git@example.org:a/b.git"),
        "data": WorkspaceSpec("directory", str(tmp_path / "data")),
    }
    assert loaded.file.limits.slots == 8
    registered = catalog.registered()
    assert (registered["function"], registered["command"]) == ({"fetch", "count"}, {"test"})
    assert registered["workflow"] == {"report", "inline", "extra"}
    assert not registered["resource"] and not registered["agent"] and not registered["tool"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("durability: normal", "durability: fast"), "durability: is 'fast'; expected 'full' or 'normal'"),
        (("path: [lib]", "paths: [lib]"), "unknown key 'paths'; expected 'path'"),
        (("host: async", "hosts: async"), "unknown key 'hosts'; expected 'host'"),
        (("web.client:fetch", "web/client.py"), "names no function; expected package.module:function"),
        (("web.text:count", "web.texts:count"), "there is no module 'web.texts'"),
        (("timeout: 90s", "timeout: soon"), "is not a duration"),
        (("timeout: 90s", "timeout: 0"), "timeout: is 0; expected greater than 0"),
        (("input: {type: object, required: [url]}", "input: {type: thing}"), "is no JSON Schema"),
        (("memory_limit: 2GiB", "memory_limit: much"), "is not a size; expected bytes, or text such as 512MB"),
        (("MODE: fast", "LD_PRELOAD: x.so"), "LD_PRELOAD can change what any program executes"),
        (('test:\n    argv: ["{python}",', 'test:\n    argv: ["{input.program}",'), "takes its program from the input"),
        (("[0, 1]", "[0, 256]"), "success_codes[1]: is 256; expected less than or equal to 255"),
        (("flows/report.yaml", "flows/none.yaml"), "there is no file 'flows/none.yaml'"),
        (("use: test, with", "use: test, needs: u, with"), "'u'"),
        (("kind: git, source: repo, ref: main", "kind: git, ref: main"), "the key 'source' is missing"),
        (("slots: 8", "slots: 0"), "slots: is 0; expected greater than or equal to 1"),
        (("slots: 8", 'slots: "8"'), "slots: is '8'; expected integer"),
        (("project: reports", "project: ../x"), "is not a name"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    line = WHOLE[: WHOLE.index(change[0].rpartition("\n")[2])].count("\n") + 1
    file = lay_out(tmp_path, WHOLE.replace(*change))
    with pytest.raises(OmiumError) as refused:
        load_project(file)
    assert refused.value.code == "invalid_definition"
    assert f"{file}:{line}: " in refused.value.message
    assert words in refused.value.message


def test_a_project_without_a_name_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(lay_out(tmp_path, "functions: {}\n"))
    assert problem["message"] == "the key 'project' is missing"


def test_names_that_are_not_registered_are_told_with_the_workflows_file_and_line(tmp_path: Path) -> None:
    file = lay_out(tmp_path, WHOLE, WORKFLOW.replace("use: count", "use: counts"))
    with pytest.raises(OmiumError) as refused:
        load_project(file)
    assert refused.value.code == "not_registered"
    (problem,) = refused.value.data["problems"]
    assert (problem["file"], problem["line"]) == (str(tmp_path / "flows/report.yaml"), 5)
    assert problem["message"] == "the node 'b' names the function 'counts', which is not registered"
    assert problem["expected"] == "count"


def test_a_field_that_a_function_does_not_promise_is_told(tmp_path: Path) -> None:
    (problem,) = problems_of(lay_out(tmp_path, WHOLE, WORKFLOW.replace("output.body", "output.text")))
    assert (problem["file"], problem["line"]) == (str(tmp_path / "flows/report.yaml"), 5)
    assert "nodes.a.output.text" in problem["message"]


def test_problems_of_several_files_are_told_together(tmp_path: Path) -> None:
    file = lay_out(tmp_path, WHOLE.replace("kind: cli", "kind: cly"), WORKFLOW.replace("kind: function", "kind: fun"))
    found = problems_of(file)
    assert {problem["file"] for problem in found} == {str(file), str(tmp_path / "flows/report.yaml")}
    assert len(found) == 3


def test_a_workflow_that_runs_itself_through_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    for name, other in (("ping", "pong"), ("pong", "ping")):
        text = f"name: {name}\nnodes: [{{id: a, kind: workflow, use: {other}}}]\n"
        (tmp_path / "workflows" / f"{name}.yaml").write_text(text)
    found = problems_of(lay_out(tmp_path, "project: x\n"))
    assert {Path(problem["file"]).name for problem in found} == {"ping.yaml", "pong.yaml"}
    assert "runs itself" in found[0]["message"]


def test_a_workflow_may_be_defined_once_only(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "again.yaml").write_text(WORKFLOW)
    (problem,) = problems_of(lay_out(tmp_path, WHOLE))
    assert problem["message"] == "the workflow 'report' is defined twice"
    assert Path(problem["file"]).name == "again.yaml"


def test_a_listed_file_of_the_folder_beside_it_is_read_once(tmp_path: Path) -> None:
    lay_out(tmp_path, "project: x\nworkflows: [workflows/w.yaml]\n")
    (tmp_path / "workflows" / "w.yaml").write_text("name: w\nnodes: [{id: a, kind: wait, wait: 1s}]\n")
    assert list(load_project(tmp_path / "omium.yaml").project.workflows) == ["w"]


@pytest.mark.parametrize(
    ("text", "size"),
    [(1, 1), ("10B", 10), ("7", 7), ("512MB", 512_000_000), ("2 GiB", 2 * 1024**3), ("1KB", 1000), ("1KiB", 1024)],
)
def test_sizes(text: int | str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", [0, -1, True, 1.5, "", "MB", "1 XB", "1e3", "0B", None])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        size_bytes(text)


def test_a_resource_that_is_no_limit_of_the_project_is_refused(tmp_path: Path) -> None:
    """It would be no limit at all, and nobody would notice."""
    step = "{id: t, kind: cli, use: test, with: {name: x}"
    file = lay_out(tmp_path, WHOLE.replace(step, f"{step}, resources: [gpu, gpus]"))
    (problem,) = problems_of(file)
    assert (problem["path"], problem["expected"]) == ("workflows[1].nodes[0].resources", "gpu")
    assert problem["message"] == "the node 't' names the resource 'gpus', which is not registered"
    assert problem["line"] == 2 + WHOLE[: WHOLE.index("kind: cli")].count("\n") - 1
    file.write_text(WHOLE.replace(step, f"{step}, resources: gpu").replace(", resources: {gpu: 1}", ""))
    (problem,) = problems_of(file)
    assert problem["expected"] == "a name under limits.resources; there is none"
    lay_out(tmp_path, WHOLE.replace(step, f"{step}, resources: gpu"))
    assert load_project(file).file.limits.resources == {"gpu": 1}


def test_a_category_that_there_is_not_is_refused(tmp_path: Path) -> None:
    step = "{id: t, kind: cli, use: test, with: {name: x}"
    file = lay_out(tmp_path, WHOLE.replace(step, f"{step}, retry: {{max_attempts: 2, on: [timeout, timeouts, odd]}}"))
    near, odd = problems_of(file)
    assert (near["path"], near["message"]) == (
        "workflows[1].nodes[0].retry.on[1]", "'timeouts' is no category of failures",
    )  # fmt: skip
    assert near["expected"] == "timeout"
    assert odd["expected"].startswith("one of file_not_found, api_error, timeout, ")
