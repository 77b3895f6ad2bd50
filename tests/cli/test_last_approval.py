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


def test_a_run_is_no_approval_but_leads_to_its_own(project: Place) -> None:
    assert project.omium("run", "asking").code == 3
    run = project.json("approvals")[0]["run_id"]
    refused = project.call("approve", run)
    assert refused.exit_code == 4
    assert f"omium approvals --run {run}" in refused.stderr
    assert [one["run_id"] for one in project.json("approvals", "--run", run)] == [run]


def test_nothing_that_waits_is_said_so(project: Place) -> None:
    assert "there is no database" in project.call("approve", "last").stderr
    project.json("run", "hello", "--input", "name=ada")
    refused = project.call("approve", "last")
    assert refused.exit_code == 4
    assert "nothing waits" in refused.stderr


def test_a_question_that_is_answered_in_words_takes_them(project: Place) -> None:
    (project.directory / "workflows" / "words.yaml").write_text(
        "name: words\nnodes:\n- {id: which, kind: approval, approval: {prompt: Which?, options: [answer]}}\n"
    )
    told = project.call("run", "words").stderr
    assert "--feedback TEXT" in told and "--choice" not in told
    refused = project.call("approve", "last")
    assert refused.exit_code == 2 and "--feedback TEXT" in refused.stderr
    decided = project.json("approve", "last", "--feedback", "the early one")
    assert (decided["decision"], decided["feedback"]) == ("answer", "the early one")


def test_comparing_tells_an_open_question_from_one_that_was_never_asked(project: Place) -> None:
    first, second = (project.omium("run", "asking").out.strip() for _ in range(2))
    project.json("approve", project.json("approvals", "--run", first)[0]["id"])
    assert "decision of ok: a approve, b not decided\n" in project.call("compare", first, second).stdout
    other = project.json("run", "hello", "--input", "name=ada")["id"]
    assert "decision of ok: a not decided, b not asked\n" in project.call("compare", second, other).stdout
