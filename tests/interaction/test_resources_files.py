"""Artifacts: the files of a run's workspace and the values that it saved; nothing else of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import NodeDef, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, RunId
from omium.orchestration.ports import Attempt
from omium.orchestration.service import inspecting
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.tools import pages
from omium.tools.pages import Page
from omium.tools.resources import read
from tests.history_core import ME, HistoryCore, opened

pytestmark = pytest.mark.anyio

SECRET = "nothing of this is a run's"
BINARY = bytes(range(256)) * 10


@asynccontextmanager
async def ran(path: Path) -> AsyncIterator[tuple[Core, RunId]]:
    """A run that has written all sorts of files and saved a value."""
    (path / "secret.txt").write_text(SECRET)

    async def write(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        root = attempt.workspace
        assert root is not None
        (root / "notes").mkdir()
        (root / "notes" / "a b#?[1]%20.md").write_text("# Notes\n")
        (root / "page.html").write_text("<script>alert(1)</script>")
        (root / "data.bin").write_bytes(BINARY)
        (root / "way-out").symlink_to(path / "secret.txt")
        (root / "up").symlink_to("..")
        (root / ".git").mkdir()
        (root / ".git" / "config").write_text("[remote] url = https://user:password@example.org\n")
        (root / os.fsdecode(b"n\xffme.txt")).write_text("odd")
        await attempt.ask("artifact", {"name": "report", "value": {"score": 3}})
        return "written"

    node = NodeDef("write", "function", use="write", workspace="write")
    workflow = WorkflowDef("writes", (node,))
    with anyio.fail_after(60):
        async with opened(path, workflow, functions={"write": write}, executing=True, workspaces=True) as (core, _):
            run = await core.run_workflow(ME, "writes")
            done = await core.wait(ME, run.id, 40)
            assert done.status == "completed", done.error
            yield looking(core), run.id


def looking(core: HistoryCore) -> Core:
    """The whole core over the same database and engine."""
    whole = Core(core.store, core.catalog)
    assert core.engine is not None
    whole.bind(core.engine)
    return whole


async def page(core: Core, run: RunId, name: str) -> Page:
    return await read(core, ME, f"omium://runs/{run}/artifacts/{name}")


async def test_files_and_values_are_listed_and_read(tmp_path: Path) -> None:
    async with ran(tmp_path) as (core, run):
        shown = json.loads((await read(core, ME, f"omium://runs/{run}/artifacts")).content)
        found = {one["name"]: one for one in shown["artifacts"]}
        assert set(found) == {
            "report", "notes/a b#?[1]%20.md", "page.html", "data.bin", "way-out", "up", "n\\xffme.txt",
        }  # fmt: skip
        contents = {name: await read(core, ME, one["uri"]) for name, one in found.items()}
        assert json.loads(contents["report"].content) == {"score": 3}
        assert contents["report"].mime_type == "application/json"
        assert contents["notes/a b#?[1]%20.md"].content == "# Notes\n"
        assert contents["notes/a b#?[1]%20.md"].mime_type == "text/markdown"
        assert contents["data.bin"].content == BINARY
        assert contents["n\\xffme.txt"].content == "odd"
        assert contents["page.html"].mime_type == "text/plain"
        assert await page(core, run, "notes%2Fa%20b%23%3F%5B1%5D%2520.md") == contents["notes/a b#?[1]%20.md"]


async def test_links_are_shown_and_not_followed(tmp_path: Path) -> None:
    async with ran(tmp_path) as (core, run):
        assert (await page(core, run, "way-out")).content == str(tmp_path / "secret.txt")
        assert (await page(core, run, "up")).content == ".."


async def test_no_name_leads_out_of_the_files_of_the_run(tmp_path: Path) -> None:
    outside = [
        "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "notes/../../secret.txt", "up/secret.txt",
        f"%2F{str(tmp_path)[1:]}/secret.txt", f"/{tmp_path}/secret.txt", "way-out/", "./data.bin", "data.bin%00",
        "notes", "notes/", ".git/config", ".GIT/config", ".git%2Fconfig", "notes\\..\\..\\secret.txt", "%00", "*",
        "HEAD:data.bin", "data.bin/", "//data.bin",
    ]  # fmt: skip
    async with ran(tmp_path) as (core, run):
        for name in outside:
            with pytest.raises(OmiumError) as refused:
                await page(core, run, name)
            assert refused.value.code == "not_found", name
            assert SECRET not in str(refused.value)


async def test_files_of_somebody_elses_run_are_not_there(tmp_path: Path) -> None:
    stranger = Caller(Principal("user:mallory"), ME.project, sees="own")
    async with ran(tmp_path) as (core, run):
        for uri in (f"omium://runs/{run}/artifacts", f"omium://runs/{run}/artifacts/data.bin"):
            with pytest.raises(OmiumError) as refused:
                await read(core, stranger, uri)
            assert refused.value.code == "not_found"


async def test_a_long_file_is_given_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FILE_PIECE", 1_000)
    async with ran(tmp_path) as (core, run):
        pieces = []
        following = f"omium://runs/{run}/artifacts/data.bin"
        while following:
            shown = await read(core, ME, following)
            assert isinstance(shown.content, bytes)
            assert shown.meta["omium/size"] == len(BINARY)
            pieces.append(shown.content)
            following = shown.meta.get("omium/next", "")
        assert b"".join(pieces) == BINARY
        with pytest.raises(OmiumError, match="not_found"):
            await page(core, run, "data.bin?offset=99999")


async def test_a_file_that_is_too_large_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "LARGEST_FILE", 100)
    async with ran(tmp_path) as (core, run):
        with pytest.raises(OmiumError) as refused:
            await page(core, run, "data.bin")
        assert (refused.value.code, refused.value.data["size"]) == ("invalid_argument", len(BINARY))


async def test_without_workspaces_it_is_said_so(tmp_path: Path) -> None:
    async with opened(tmp_path, WorkflowDef("w", (NodeDef("n", "function", use="f"),)), executing=True) as (core, _):
        run = await core.run_workflow(ME, "w")
        shown = json.loads((await read(looking(core), ME, f"omium://runs/{run.id}/artifacts")).content)
        assert (shown["artifacts"], bool(shown["files"])) == ([], True)
        with pytest.raises(OmiumError) as refused:
            await page(looking(core), run.id, "x")
        assert refused.value.code == "unsupported"
