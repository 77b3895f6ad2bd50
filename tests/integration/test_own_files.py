"""What a function keeps beside its result: files of its own, and named values of the run."""

from __future__ import annotations

import zlib
from pathlib import Path

import anyio
import pytest

from omium.orchestration.ids import ProjectId
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.config import load_config
from tests.integration.engine.worlds import ME

pytestmark = pytest.mark.anyio

WORK = """
def keep(ctx, text: str, name: str = "outputs/out.txt") -> str:
    place = ctx.file(name)
    place.write_text(text)
    return str(place)


async def akeep(ctx, text: str, name: str = "outputs/out.txt") -> str:
    place = await ctx.file(name)
    place.write_text(text)
    return str(place)


def note(ctx, name: str, value: int) -> None:
    ctx.artifact(name, {"value": value})


async def anote(ctx, name: str, value: int) -> None:
    await ctx.artifact(name, {"value": value})


def leads_away(ctx) -> str:
    (ctx.file("data/here").parent / "away").symlink_to("/")
    return str(ctx.file("data/away/tmp/x"))
"""
PROJECT = """
project: own
functions:
  keep: {ref: "kept_work:keep", host: process}
  akeep: {ref: "kept_work:akeep", host: async}
  note: {ref: "kept_work:note", host: process}
  anote: {ref: "kept_work:anote", host: async}
  leads_away: {ref: "kept_work:leads_away", host: process}
"""


async def ran(path: Path, nodes: str) -> tuple[RunView, dict[str, object]]:
    """A run of these nodes, as it ended, and the values that it has saved."""
    module = f"kept_{zlib.crc32(str(path).encode())}"  # this process imports each once
    (path / "omium.yaml").write_text(PROJECT.replace("kept_work", module))
    (path / f"{module}.py").write_text(WORK)
    (path / "workflows").mkdir()
    (path / "workflows" / "w.yaml").write_text(f"name: w\nnodes:\n{nodes}")
    config = load_config(path, {"OMIUM_HOME": str(path / "home"), "OMIUM_DETACH": "false"})
    me = Caller(ME.principal, ProjectId("own"))
    with anyio.fail_after(60):
        async with open_omium(config) as core:
            run = await core.run_workflow(me, "w")
            run = await core.wait(me, run.id, 50, detail=True)
            saved = {
                one.name: await core.artifact(me, run.id, one.name) for one in (await core.artifacts(me, run.id)).values
            }
            return run, saved


async def test_nodes_side_by_side_keep_files_of_one_name_apart(tmp_path: Path) -> None:
    run, _ = await ran(
        tmp_path,
        "- {id: left, kind: function, use: keep, with: {text: left}}\n"
        "- {id: right, kind: function, use: akeep, with: {text: right}}\n",
    )
    assert run.status == "completed", run.error
    output = run.output
    assert isinstance(output, dict)
    for name in ("left", "right"):
        place = Path(str(output[name]))
        assert place.read_text() == name
        assert place.is_relative_to(tmp_path / "home" / "runs" / run.id / "nodes" / name)
        assert place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", "outputs/../../x", "."])
@pytest.mark.parametrize("use", ["keep", "akeep"])
async def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, use: str, name: str) -> None:
    run, _ = await ran(tmp_path, f'- {{id: out, kind: function, use: {use}, with: {{text: x, name: "{name}"}}}}\n')
    assert run.status == "failed"
    assert run.error is not None and run.error["category"] == "value_error"
    assert "is no file of this attempt's own" in run.error["message"]


async def test_a_link_that_was_put_there_is_not_followed(tmp_path: Path) -> None:
    run, _ = await ran(tmp_path, "- {id: out, kind: function, use: leads_away}\n")
    assert run.error is not None and "is no file of this attempt's own" in run.error["message"]


async def test_values_are_saved_by_name_and_the_newest_counts(tmp_path: Path) -> None:
    run, saved = await ran(
        tmp_path,
        "- {id: a, kind: function, use: note, with: {name: report, value: 1}}\n"
        "- {id: b, kind: function, use: anote, needs: a, with: {name: report, value: 2}}\n"
        "- {id: c, kind: function, use: note, with: {name: notes/other, value: 3}}\n",
    )
    assert run.status == "completed", run.error
    assert saved == {"report": {"value": 2}, "notes/other": {"value": 3}}


@pytest.mark.parametrize("name", ["", " x", "a\\nb", "\\x1b[31m", "x" * 201])
async def test_what_cannot_name_a_value_is_refused(tmp_path: Path, name: str) -> None:
    run, saved = await ran(tmp_path, f'- {{id: a, kind: function, use: anote, with: {{name: "{name}", value: 1}}}}\n')
    assert run.status == "failed" and saved == {}
    assert run.error is not None and "cannot name an artifact" in run.error["message"]
