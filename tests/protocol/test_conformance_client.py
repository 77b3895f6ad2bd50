"""The official conformance suite against the product's connections to external servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from tests import nodejs
from tests.protocol.test_conformance import ROOT, SUITE

pytestmark = pytest.mark.anyio

_NO_QUESTIONS = (
    "External servers may not ask the model or the user through Omium: the capability is not declared, and a server "
    "that asks all the same is refused."
)
_NO_LOGIN = (
    "Credentials of external servers are the operator's, given as headers or variables. A server of a process has no "
    "browser in which somebody could sign in, so there is no OAuth flow to be conformant."
)
# Scenarios that begin so are not for this client.
NOT_OURS = {"auth/": _NO_LOGIN}
# Checks that are FAILURE, by scenario; by their beginning.
EXPECTED = {
    "elicitation-sep1034-client-defaults": ("client-elicitation-sep1034-", _NO_QUESTIONS),
    "sep-2322-client-request-state": ("sep-2322-client-", _NO_QUESTIONS),
}


def scenarios(revision: str) -> list[str]:
    """What the suite runs against a client: what the revision requires, and what it checks besides."""
    listed: dict[str, Any] = yaml.safe_load(nodejs.script(SUITE, f"requirements/{revision}.yaml").read_text())
    besides = [one["scenario"] for one in listed["not_scored"] if one["leg"] == "client"]
    return [one for one in [*listed["client"], *besides] if not one.startswith(tuple(NOT_OURS))]


@pytest.mark.parametrize(("revision", "least"), [("2025-11-25", 5), ("2026-07-28", 8)])
async def test_the_official_suite(revision: str, least: int, tmp_path: Path) -> None:
    names = await anyio.to_thread.run_sync(scenarios, revision)
    assert len(names) >= least, names
    with anyio.fail_after(240):
        for name in names:
            checks = await run(name, revision, tmp_path / name)
            said = [(one["id"], one["status"]) for one in checks if one["status"] not in ("INFO", "SKIPPED")]
            wrong = [key for key, status in said if status != "SUCCESS"]
            allowed, _ = EXPECTED.get(name, ("nothing is allowed", ""))
            assert said, name
            assert all(one.startswith(allowed) for one in wrong), (name, said)
            assert bool(wrong) is (name in EXPECTED), (name, said)


async def run(scenario: str, revision: str, out: Path) -> list[dict[str, Any]]:
    """The checks of one scenario."""
    program = await anyio.to_thread.run_sync(nodejs.script, SUITE, "dist/index.js")
    client = f"{sys.executable} -m tests.conformance_client"
    options = ["client", "--command", client, "--scenario", scenario, "--spec-version", revision, "-o", str(out)]
    done = await anyio.run_process(
        [str(nodejs.node()), str(program), *options], cwd=ROOT, stdin=subprocess.DEVNULL, check=False
    )
    (file,) = out.rglob("checks.json")
    checks: list[dict[str, Any]] = json.loads(file.read_text())
    assert checks, done.stdout[-2_000:]
    return checks
