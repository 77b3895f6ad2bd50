"""Draws docs/images/top.svg: `python -m tests.terminal.picture`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import anyio

from omium.orchestration.definition import WorkflowDef
from tests.house.tree import ROOT
from tests.terminal.desk import NODES, desk, seated

PICTURE = ROOT / "docs" / "images" / "top.svg"
_ELSEWHERE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # fonts that a reader would fetch from another host


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with desk(Path(directory)) as at:
            call = {
                "channel": "#releases",
                "text": "Omium 1.4 is out: faster start, fewer questions, dark pages.",
                "pin": True,
            }
            told = {
                "server": "chat",
                "tool": "post_message",
                "rule": "outside-needs-a-person",
                "reason": "it is public",
            }
            await at.ask(
                await at.run(), "publish wants to call chat/post_message. Allow it?", arguments=call, details=told
            )
            nightly = await at.run(WorkflowDef("archive-cleanup", NODES))
            options = ("retry", "skip", "abort")
            await at.ask(
                nightly, "The disk was full. Try again?", scope="error", options=options, details={"free": "2 GB"}
            )
            await (await at.run(WorkflowDef("import", NODES))).start("draft")
            await at.fail(await at.run(WorkflowDef("link-check", NODES)), "docs/start.md: 404")
            async with seated(at, (100, 30)) as person:
                await person.sees("#releases")
                svg = at.top.export_screenshot(title="omium top")
    PICTURE.write_text(_ELSEWHERE.sub("", svg))


if __name__ == "__main__":
    anyio.run(main)
