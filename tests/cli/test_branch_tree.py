"""How a tree of branches is drawn."""

from __future__ import annotations

from omium.orchestration.service.views import BranchView
from tests.cli.harness import Place
from tests.cli.shapes import misshapen


def test_a_tree_is_drawn_with_names_states_and_hypotheses(project: Place) -> None:
    def branch(run: str, name: str, hypothesis: str) -> str:
        told = ("--name", name, "--hypothesis", hypothesis, "--no-start")
        return str(project.json("branch", run, "start", *told)["run"]["id"])

    root = project.omium("run", "hello", "-i", "name=ada").out.strip()
    short = branch(root, "short", "less is more")
    shorter = branch(short, "shorter", "much less")
    long = branch(root, "long", "more is more")
    project.json("abandon", long, "--reason", "no")
    assert project.call("branch-tree", shorter).stdout == (
        f"{root}  completed  hello\n"
        f"├─ {short}  draft  short  at 3  less is more\n"
        f"│  └─ {shorter}  draft  shorter  at 1  much less\n"
        f"└─ {long}  draft  long  at 3  more is more  [abandoned]\n"
    )
    assert misshapen(project.json("branch-tree", long), BranchView) == []
