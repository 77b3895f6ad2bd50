"""Commands that state how much memory they may take wait until there is room for them."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config

pytestmark = pytest.mark.anyio

# Says that it is there, and goes when it is told to: `go` stands beside its mark.
WORK = (
    "import pathlib, sys, time\n"
    "mark = pathlib.Path(sys.argv[1]); mark.touch()\n"
    "while not mark.with_suffix('.go').exists(): time.sleep(0.01)\n"
)


@pytest.mark.parametrize("memory", ["100MB", None])
async def test_the_second_waits_for_the_first(tmp_path: Path, memory: str | None) -> None:
    (tmp_path / "work.py").write_text(WORK)
    program = ["{python}", "{project}/work.py", "{input.mark}"]
    command = {"argv": program, "memory_limit": "80MB", "output": "text", "cwd": str(tmp_path)}
    marks = {name: tmp_path / name for name in ("a", "b")}
    nodes = [
        {"id": name, "kind": "cli", "use": "work", "workspace": "none", "with": {"mark": str(mark)}}
        for name, mark in marks.items()
    ]
    limits = {} if memory is None else {"memory": memory}
    project = {
        "project": "p",
        "limits": limits,
        "commands": {"work": command},
        "workflows": [{"name": "w", "nodes": nodes}],
    }
    (tmp_path / "omium.yaml").write_text(json.dumps(project))
    config = load_config(tmp_path, {"OMIUM_HOME": str(tmp_path / "home"), "OMIUM_DETACH": "false"})
    me = local_caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.run_workflow(me, "w")
            while not any(mark.exists() for mark in marks.values()):
                await anyio.sleep(0.02)
                assert (await core.get_run(me, run.id)).error is None
            if memory is None:
                while not all(mark.exists() for mark in marks.values()):
                    await anyio.sleep(0.02)
            first = next(name for name, mark in marks.items() if mark.exists())
            view = await core.get_run(me, run.id)
            assert len(view.current) == (1 if memory is not None else 2)
            marks[first].with_suffix(".go").touch()
            other = marks["b" if first == "a" else "a"]
            while not other.exists():
                await anyio.sleep(0.02)
            assert memory is None or (await core.get_run(me, run.id)).counts.get("completed") == 1
            other.with_suffix(".go").touch()
            assert (await core.wait(me, run.id, 50)).status == "completed"
