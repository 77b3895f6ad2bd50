"""The official conformance suite against the product's server with the suite's fixtures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from tests import nodejs
from tests.protocol.processes import http_server

pytestmark = pytest.mark.anyio

SUITE = "@modelcontextprotocol/conformance"
ROOT = Path(__file__).parents[2]
_TIME = re.compile(r"-\d{4}-\d\d-\d\dT[0-9Z-]+$")

_NO_RESUMPTION = (
    "Not scored. Streams are not resumable: what a client has missed it asks for again, since nothing lives in a "
    "request, and today's protocol has dropped resumption."
)

# What need not be SUCCESS, by revision, scenario and check: the status that it has instead, and why.
EXPECTED: dict[tuple[str, str, str], tuple[str, str]] = {
    ("2025-11-25", "server-sse-polling", "server-sse-priming-event"): ("WARNING", _NO_RESUMPTION),
    ("2025-11-25", "server-sse-polling", "server-sse-retry-field"): ("WARNING", _NO_RESUMPTION),
    ("2026-07-28", "tasks-status-notifications", "tasks-status-notifications"): (
        "SKIPPED",
        "The suite skips its own only check, for it does not listen where today's protocol delivers; "
        "tests/interaction/test_tasks.py looks at these notifications.",
    ),
}


@dataclass(frozen=True, slots=True)
class Check:
    scenario: str
    id: str
    status: str
    problem: str


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_the_official_suite(revision: str, tmp_path: Path) -> None:
    with anyio.fail_after(240):
        program = await anyio.to_thread.run_sync(nodejs.script, SUITE, "dist/index.js")
        required = await anyio.to_thread.run_sync(requirements, revision)
        command = [sys.executable, "-m", "tests.conformance_server"]
        async with http_server(command, None, tmp_path / "server.log", ROOT) as url:
            options = ["server", "--url", url, "--requirements", revision, "-o", str(tmp_path / "out")]
            done = await anyio.run_process(
                [str(nodejs.node()), str(program), *options], stdin=subprocess.DEVNULL, check=False
            )
    checks = read_checks(tmp_path / "out")
    assert {check.scenario for check in checks} >= required  # nothing was left out, by us or by the suite
    unlike = {
        (revision, check.scenario, check.id): (check.status, check.problem)
        for check in checks
        if check.status not in ("SUCCESS", "INFO")
    }
    expected = {key: status for key, (status, _) in EXPECTED.items() if key[0] == revision}
    assert {key: status for key, (status, _) in unlike.items()} == expected, unlike
    assert done.returncode == 0, done.stdout[-2_000:]


def requirements(revision: str) -> set[str]:
    """The scenarios that the suite runs for a revision: what it requires, and what it runs besides (extensions too)."""
    listed: dict[str, Any] = yaml.safe_load(nodejs.script(SUITE, f"requirements/{revision}.yaml").read_text())
    besides = {one["scenario"] for one in listed["not_scored"] if one["leg"] == "server"}
    if revision == "2026-07-28":
        assert len([name for name in besides if name.startswith("tasks-")]) >= 10
    return set(listed["server"]) | besides


def read_checks(out: Path) -> list[Check]:
    """Every check of every scenario. A scenario's directory is named after it and the time: `server-NAME-2026-...`."""
    checks = []
    for file in sorted(out.glob("*/checks.json")):
        scenario = _TIME.sub("", file.parent.name.removeprefix("server-"))
        for check in json.loads(file.read_text()):
            checks.append(Check(scenario, check["id"], check["status"], str(check.get("errorMessage", ""))))
    return checks
