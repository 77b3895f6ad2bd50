"""What functions in Omium's own process give away of the variables that the project hands on is stored nowhere."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import anyio
import pytest

from omium.server.app import open_omium
from tests.project_help import all_events, caller, config_of

pytestmark = pytest.mark.anyio

CANARY = "canary-of-the-operator-4712"
TRACES = (CANARY, base64.b64encode(CANARY.encode()).decode(), CANARY.encode().hex())

FUNCTIONS = """
import os

class Refused(Exception):
    status_code = 429

def key():
    return os.environ["DEPLOY_TOKEN"]

async def give(ctx):
    await ctx.progress(f"with {key()}")
    kept = await ctx.effect("call", lambda: again())
    return {"output": key(), "kept": kept, "plain": "it works", key(): key().encode().hex()}

async def again():
    return [key()]

async def fail():
    raise Refused("refused: " + key())

async def fail_behind():
    try:
        raise KeyError(key())
    except KeyError as error:
        raise ValueError("no such user") from error

async def fail_plainly():
    raise KeyError("plain")

async def leave():
    raise SystemExit(key())

def give_in_thread(ctx):
    ctx.progress(f"with {key()}")
    return {"output": key(), "kept": ctx.effect("call", key), "plain": "it works"}

def fail_in_thread():
    raise FileNotFoundError("refused: " + key())
"""
NAMES = {
    "give": "async", "fail": "async", "fail_behind": "async", "fail_plainly": "async", "leave": "async",
    "give_in_thread": "thread", "fail_in_thread": "thread",
}  # fmt: skip
CATEGORIES = {
    "fail": "rate_limited", "fail_behind": "value_error", "fail_plainly": "key_error",
    "fail_in_thread": "file_not_found",
}  # fmt: skip


def project(directory: Path, *, handed_on: bool = True) -> None:
    module = "leaks_here" if handed_on else "leaks_there"  # this process loads each name once
    (directory / f"{module}.py").write_text(FUNCTIONS)
    lines = ["project: demo", "database: db/omium.db", "functions:"]
    lines += [f"  {name}: {{ref: '{module}:{name}', host: {host}}}" for name, host in NAMES.items()]
    lines += ["workflows:", "- name: leak", "  nodes:"]
    lines += [f"  - {{id: {name}, kind: function, use: {name}, retry: {{max_attempts: 1}}}}" for name in NAMES]
    lines += ["pass_env: [DEPLOY_TOKEN]"] if handed_on else []
    (directory / "omium.yaml").write_text("\n".join(lines))


async def played(directory: Path) -> tuple[str, dict[str, str]]:
    """Everything that is told of the run, and how its nodes have failed."""
    config = config_of(directory)
    me = caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.wait(me, (await core.run_workflow(me, "leak")).id, 40, detail=True)
            assert run.nodes is not None
            outputs = {one.id: await core.node_output(me, run.id, one.id) for one in run.nodes if "give" in one.id}
        told = str(run) + str(outputs) + str(await all_events(core, run.id)) + str(await core.store.effects(run.id))
    assert {one.id for one in run.nodes if one.status == "completed"} == {"give", "give_in_thread"}
    assert str(outputs).count("it works") == 2
    return told, {one.id: str(one.error["category"]) for one in run.nodes if one.error is not None}


async def test_it_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", CANARY)
    caplog.set_level(logging.DEBUG)
    project(tmp_path)
    told, failures = await played(tmp_path)
    assert failures.items() >= CATEGORIES.items()  # as they would be without
    assert "[redacted]" in told and "plain" in told
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for trace in TRACES:
        assert trace not in told and trace not in caplog.text
        assert trace.encode() not in kept


async def test_what_was_not_named_is_nobodys_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round, so that the test above can fail."""
    monkeypatch.setenv("DEPLOY_TOKEN", CANARY)
    project(tmp_path, handed_on=False)
    told, failures = await played(tmp_path)
    assert CANARY in told and failures.items() >= CATEGORIES.items()
