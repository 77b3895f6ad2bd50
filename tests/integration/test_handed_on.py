"""A key that commands and functions are handed, and that they give away in every way they have, is stored nowhere."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import anyio
import pytest

from omium.server.app import open_omium
from tests.project_help import all_events, caller, config_of

pytestmark = pytest.mark.anyio

CANARY = "canary-of-the-operator-4711"
TRACES = (CANARY, base64.b64encode(CANARY.encode()).decode(), CANARY.encode().hex())

FUNCTIONS = """
import os, sys

def give(ctx):
    key = os.environ["DEPLOY_TOKEN"]
    print("printed", key)
    print("printed", key, file=sys.stderr)
    ctx.progress(f"with {key}")
    kept = ctx.effect("call", lambda: {"echo": key, key: ["x", key]})
    return {"output": key, "kept": kept, "plain": "it works"}

def fail():
    raise ValueError("refused: " + os.environ["DEPLOY_TOKEN"])

def die():
    print("dying with", os.environ["DEPLOY_TOKEN"], file=sys.stderr, flush=True)
    os._exit(3)
"""

COMMAND = """
import base64, json, os, sys
key = os.environ["DEPLOY_TOKEN"]
print("curl -H 'Authorization: Bearer", key, "'", file=sys.stderr, flush=True)
print(base64.b64encode(key.encode()).decode(), key.encode().hex(), file=sys.stderr, flush=True)
how = json.load(sys.stdin)["how"]
if how == "ask" and "OMIUM_DECISION" not in os.environ:
    print(json.dumps({"event": "approval_needed", "schema_version": 1, "question": f"Deploy with {key}?"}),
          file=sys.stderr, flush=True)
    sys.exit(90)
print(json.dumps({"key": key, "plain": "deployed"}), flush=True)
sys.exit(7 if how == "fail" else 0)
"""

PROJECT = """
project: demo
database: db/omium.db
pass_env: [DEPLOY_TOKEN]
functions: {give: "leaks:give", fail: "leaks:fail", die: "leaks:die"}
commands:
  deploy: {argv: ["{python}", "{project}/leak.py"], cwd: project, pass_env: [DEPLOY_TOKEN], on_unknown: rerun}
supervision: {logging: {output: true}}
workflows:
- name: leak
  nodes:
  - {id: give, kind: function, use: give}
  - {id: raised, kind: function, use: fail}
  - {id: died, kind: function, use: die}
  - {id: command, kind: cli, use: deploy, workspace: none, with: {how: work}}
  - {id: failing, kind: cli, use: deploy, workspace: none, with: {how: fail}}
  - {id: asking, kind: cli, use: deploy, workspace: none, with: {how: ask}}
"""


async def test_it_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", CANARY)
    caplog.set_level(logging.DEBUG)
    for name, text in (("leaks.py", FUNCTIONS), ("leak.py", COMMAND), ("omium.yaml", PROJECT)):
        (tmp_path / name).write_text(text)
    config = config_of(tmp_path)
    me = caller(config)
    told = ""
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.run_workflow(me, "leak")
            while not (asked := await core.list_approvals(me)):
                await anyio.sleep(0.02)
            told += str(asked)
            await core.decide(me, asked[0].id, "approve", assurance="elicited")
            run = await core.wait(me, run.id, 40, detail=True)
            assert run.nodes is not None
            nodes = {one.id: one for one in run.nodes}
            outputs = {one: await core.node_output(me, run.id, one) for one in ("give", "command", "asking")}
        told += str(run) + str(outputs) + str(await all_events(core, run.id)) + str(await core.store.effects(run.id))
    assert {one: found.status for one, found in nodes.items()} == {
        **dict.fromkeys(("give", "command", "asking"), "completed"),
        **dict.fromkeys(("raised", "died", "failing"), "failed"),
    }
    assert "it works" in str(outputs["give"]) and "deployed" in str(outputs["asking"])
    assert asked[0].question == "Deploy with [redacted]?"
    logs = [path for path in tmp_path.rglob("*.log*") if path.is_file()]
    assert sum("[redacted]" in path.read_text() for path in logs) >= 4
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for trace in TRACES:
        assert trace not in told and trace not in caplog.text
        assert trace.encode() not in kept
