"""`omium approve last`: the one that waits, and never a guess."""

from __future__ import annotations

from tests.cli.harness import Place


def test_the_only_one_that_waits_is_meant(project: Place) -> None:
    assert project.omium("run", "asking").code == 3
    waiting = project.json("approvals")[0]["id"]
    decided = project.json("approve", "last")
    assert (decided["id"], decided["decision"]) == (waiting, "approve")


def test_of_two_that_wait_none_is_guessed(project: Place) -> None:
    for _ in range(2):
        assert project.omium("run", "asking").code == 3
    refused = project.call("reject", "last")
    assert refused.exit_code == 4
    for one in project.json("approvals"):
        assert one["id"] in refused.stderr
        assert one["status"] == "pending"


def test_nothing_that_waits_is_said_so(project: Place) -> None:
    refused = project.call("approve", "last")
    assert refused.exit_code == 4
    assert "nothing waits" in refused.stderr
