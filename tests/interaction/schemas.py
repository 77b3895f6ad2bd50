"""Writes tools.json, the published surface that test_surface.py holds the tools against."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import anyio

from tests.interaction.studio import open_studio
from tests.interaction.test_surface import SNAPSHOT, on_the_wire, tools_of


async def main() -> None:
    with tempfile.TemporaryDirectory() as path:
        async with open_studio(Path(path)) as studio:
            tools = on_the_wire(await tools_of(studio))
    SNAPSHOT.write_text(json.dumps(tools, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    anyio.run(main)
