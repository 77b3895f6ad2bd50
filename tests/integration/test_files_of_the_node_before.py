"""A node that runs again starts from the files as the node before it has left them, whatever makes it run again."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from omium.orchestration.log.events import EventType
from omium.server.app import open_omium
from tests.project_help import caller, config_of

pytestmark = pytest.mark.anyio

WORK = """
from pathlib import Path

TRIES = Path(__file__).with_name("tries")
SEEN = Path(__file__).with_name("seen")

def put(ctx, name):
    (Path(ctx.workspace) / name).write_text(name)
    return name

def send(ctx):
    SEEN.open("a").write(" ".join(sorted(path.name for path in Path(ctx.workspace).iterdir())) + "\\n")
    def sent():
        (Path(ctx.workspace) / "sent.txt").write_text("sent")
        TRIES.open("a").write("x")
        return len(TRIES.read_text())
    found = ctx.effect("send", sent)
    (Path(ctx.workspace) / f"rubbish{ctx.attempt}.md").write_text("of an attempt that fails")
    if ctx.attempt == 1:
        raise ConnectionError("the first time")
    return found

def look(ctx):
    found = sorted(path.name for path in Path(ctx.workspace).iterdir() if path.name.endswith(".txt"))
    (Path(ctx.workspace) / "rubbish.txt").write_text("of an attempt that fails")
    TRIES.open("a").write("x")
    if len(TRIES.read_text()) == 1:
        raise ConnectionError("the first time")
    return found
"""

PROJECT = """
project: demo
database: db/omium.db
functions: {put: "work:put", look: "work:look", send: "work:send"}
workflows:
- name: two
  nodes:
  - {id: one, kind: function, use: put, workspace: write, with: {name: one.txt}}
  - {id: two, kind: function, use: look, workspace: write, needs: one, retry: {max_attempts: 2}}
- name: sending
  nodes:
  - {id: one, kind: function, use: put, workspace: write, with: {name: one.txt}}
  - {id: two, kind: function, use: send, workspace: write, needs: one, retry: {max_attempts: 2}}
- name: side
  nodes:
  - {id: one, kind: function, use: put, workspace: write, with: {name: one.txt}}
  - {id: other, kind: function, use: put, workspace: write, with: {name: other.txt}}
  - {id: two, kind: function, use: look, workspace: write, needs: [one, other], retry: {max_attempts: 2}}
"""


@pytest.mark.parametrize(("workflow", "there"), [("two", ["one.txt"]), ("side", ["one.txt", "other.txt"])])
async def test_they_are_there_again(tmp_path: Path, workflow: str, there: list[str]) -> None:
    for name, text in (("work.py", WORK), ("omium.yaml", PROJECT)):
        (tmp_path / name).write_text(text)
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.wait(me, (await core.run_workflow(me, workflow)).id, 40)
            assert run.status == "completed", run.error
            assert await core.node_output(me, run.id, "two") == there  # of its second attempt
            await core.play_from_node(me, run.id, "two")
            await core.wait(me, run.id, 40)
            assert await core.node_output(me, run.id, "two") == there
            branch = (await core.branch(me, run.id, "before:two", name="again")).run
            again = await core.wait(me, branch.id, 40)
            assert again.status == "completed", again.error
            assert await core.node_output(me, branch.id, "two") == there


async def test_what_a_call_wrote_is_there_when_the_call_is_not_made_again(tmp_path: Path) -> None:
    for name, text in (("work.py", WORK), ("omium.yaml", PROJECT)):
        (tmp_path / name).write_text(text)
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.wait(me, (await core.run_workflow(me, "sending")).id, 40)
            assert run.status == "completed", run.error
            assert await core.node_output(me, run.id, "two") == 1
            tree = (await core.store.state(run.id)).tree
            assert tree is not None and core.engine is not None
            assert sorted(one.path for one in await core.engine.workspaces.files(tree)) == [
                "one.txt",
                "rubbish2.md",
                "sent.txt",
            ]

        # To go back to the middle of the node is to have it run anew, call and all: from the files before it.
        [settled] = [one.seq for one in await core.store.events(run.id) if one.type is EventType.EFFECT_SETTLED]
        token = (await core.preview_rollback(me, run.id, settled)).plan_token
        await core.rollback(me, run.id, settled, plan_token=token)
        await core.resume(me, run.id)
        with anyio.fail_after(60):
            run = await core.wait(me, run.id, 40)
        assert run.status == "completed" and await core.node_output(me, run.id, "two") == 2
        first, again, anew, last = (tmp_path / "seen").read_text().splitlines()
        assert first == anew == "one.txt" and again == last == "one.txt sent.txt"
