"""Runs that a workflow starts: they are not what `last` means, and a failure names its node."""

from __future__ import annotations

from tests.cli.harness import Place

PARENT = """
name: parent
nodes:
- {id: below, kind: workflow, use: hello, with: {name: ada}}
- {id: fine, kind: function, use: greet, needs: [below], with: {name: ada}}
"""


def test_last_is_the_run_that_somebody_started(project: Place) -> None:
    (project.directory / "workflows" / "parent.yaml").write_text(PARENT)
    ended = project.omium("run", "parent")
    assert ended.code == 0, ended.err
    parent = ended.out.strip()
    (alone,) = project.json("runs")["runs"]
    assert (alone["id"], alone["children"]) == (parent, 1)
    child, same = project.json("runs", "--children")["runs"]
    assert (child["workflow"], child["caller_run"], child["children"]) == ("hello", parent, 0)
    assert same == alone
    shown = project.json("show", "last")
    assert (shown["id"], shown["children"]) == (parent, 1)
    assert project.call("runs").stdout.rstrip("\n").split("\t")[6:] == ["1", ""]
    nothing = project.call("runs", "--workflow", "hello")
    assert nothing.stderr == "only runs that other runs have started. Show them: omium runs --children\n"
    paged = project.call("runs", "--children", "--limit", "1")
    assert paged.stderr == f"more: omium runs --children --before {child['id']}\n"


def test_a_failed_run_names_the_node_and_how_to_run_it_again(project: Place) -> None:
    ended = project.omium("run", "failing")
    assert ended.code == 1
    assert "error: boom: value_error: it broke" in ended.err
    assert ended.err.rstrip().endswith(" boom")
    shown = project.call("show", "last")
    assert "error\tboom: value_error: it broke" in shown.stdout
