"""Tokens on the command line, and a decision with one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from omium.server.identity.tokens import TokenView
from tests.cli.harness import PROGRAM, Place, Terminal
from tests.cli.shapes import misshapen

SECRET = re.compile(r"\Aomium_[0-9A-Z]{26}_[A-Za-z0-9_-]{43}\n\Z")

STRICT = """
name: strict
nodes:
- {id: ok, kind: approval, approval: {prompt: "Delete it?", min_assurance: out_of_band}}
- {id: shout, kind: function, use: shout, needs: [ok], with: {text: done}}
"""


def test_a_token_is_made_listed_and_revoked(project: Place) -> None:
    made = project.call("token", "create", "--role", "approver", "--principal", "ada", "--expires", "30d")
    assert made.exit_code == 0, made.output
    assert SECRET.match(made.stdout)  # so that it can be piped on
    assert "only time" in made.stderr
    secret = made.stdout.strip()
    assert secret not in made.stderr

    (listed,) = project.json("token", "list")
    assert misshapen(listed, TokenView) == []
    assert (listed["principal"], listed["role"], listed["sees"], listed["status"]) == (
        "token:ada", "approver", "project", "valid",
    )  # fmt: skip
    assert listed["expires_at"] > listed["created_at"]
    shown = project.call("token", "list")
    assert secret.split("_", 2)[2] not in shown.output
    assert listed["id"] in shown.stdout

    for name in (listed["id"], listed["id"][-8:], listed["id"][-8:].lower()):
        revoked = project.call("token", "revoke", name)
        assert (revoked.exit_code, revoked.stdout) == (0, f"{listed['id']}\trevoked\n")
    assert [one["status"] for one in project.json("token", "list")] == ["revoked"]


def test_json_has_the_secret_once(project: Place) -> None:
    made = project.json("token", "create", "--role", "operator", "--note", "ci")
    assert set(made) == {"token", "secret"}
    assert SECRET.match(made["secret"] + "\n")
    assert (made["token"]["sees"], made["token"]["note"]) == ("own", "ci")
    assert made["token"]["principal"] == f"token:{made['token']['id']}"
    assert misshapen(made["token"], TokenView) == []
    wider = project.json("token", "create", "--role", "operator", "--sees", "project")
    assert wider["token"]["sees"] == "project"
    assert project.json("verify")["sound"] is True


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("create",)),
        (2, ("create", "--role", "root")),
        (2, ("create", "--role", "viewer", "--expires", "soon")),
        (2, ("create", "--role", "viewer", "--expires", "0s")),
        (2, ("create", "--role", "viewer", "--principal", "a:b")),
        (2, ("create", "--role", "viewer", "--sees", "everything")),
        (4, ("revoke", "tok_00000000000000000000000000")),
        (4, ("revoke", "x")),
    ],
)
def test_what_makes_or_names_no_token(project: Place, code: int, arguments: tuple[str, ...]) -> None:
    assert project.call("token", *arguments).exit_code == code
    assert project.json("token", "list") == []


def test_part_of_an_id_that_is_short_or_shared_revokes_nothing(project: Place) -> None:
    ids = [project.json("token", "create", "--role", "viewer")["token"]["id"] for _ in range(2)]
    for part in (ids[0][-5:], "tok_", ids[0][:8], ""):
        assert project.call("token", "revoke", part).exit_code == 4
    assert {one["status"] for one in project.json("token", "list")} == {"valid"}


# --- a decision with a credential -------------------------------------------------------------------------------------


@pytest.fixture
def asked(project: Place) -> str:
    """An approval that wants more than anybody's word."""
    (project.directory / "workflows" / "strict.yaml").write_text(STRICT)
    assert project.call("run", "strict").exit_code == 3
    return str(project.json("approvals")[0]["id"])


def typed(project: Place, asked: str, role: str, word: str = "") -> tuple[int, str]:
    """What comes of typing a new token of this role (or another word) at the terminal."""
    secret = project.json("token", "create", "--role", role, "--principal", "grace")["secret"]
    terminal = Terminal(project, "approve", asked, "--credential", env={"OMIUM_DETACH": "false"})
    terminal.until("Approver's token:")
    terminal.type((word or secret) + "\n")
    ended = terminal.end()
    assert secret not in ended.out
    return ended.code, ended.out


def test_an_approvers_token_typed_at_the_terminal_decides(project: Place, asked: str) -> None:
    plain = project.call("approve", asked)
    assert plain.exit_code == 1
    assert f"omium approve {asked} --credential" in plain.stderr
    code, out = typed(project, asked, "approver")
    assert code == 0, out
    (decided,) = [one for one in project.json("approvals", "--all") if one["id"] == asked]
    assert (decided["assurance"], decided["decided_by"], decided["decision"]) == (
        "out_of_band", "token:grace", "approve",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("role", "word", "said"),
    [("operator", "", "has the role operator"), ("viewer", "", "has the role viewer"), ("approver", "x", "token")],
)
def test_another_token_does_not(project: Place, asked: str, role: str, word: str, said: str) -> None:
    code, out = typed(project, asked, role, word)
    assert code == 1
    assert said in out
    assert [one["status"] for one in project.json("approvals")] == ["pending"]


def test_a_token_that_is_piped_or_in_the_environment_proves_nothing(project: Place, asked: str) -> None:
    """Without a terminal nobody is asked: an agent has a pipe and an environment too."""
    secret = project.json("token", "create", "--role", "approver")["secret"]
    told = {"OMIUM_TOKEN": secret, "OMIUM_CREDENTIAL": secret, "OMIUM_DETACH": "false"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("omium"), "approve", asked, "--credential"],
        input=secret + "\n",
        env={**os.environ, **project.environment, **told},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,  # which has no terminal, wherever the test has one
    )
    assert done.returncode == 1, done.stdout
    assert "no terminal" in done.stderr
    assert [one["status"] for one in project.json("approvals")] == ["pending"]
