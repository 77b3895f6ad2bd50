"""A worker that runs one node with Claude Code, to be killed: `python -m tests.coding.victim URL DIRECTORY RUN_ID`."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from omium.orchestration.ids import RunId
from omium.orchestration.values import Value, encode
from tests.coding.help import Node, TheAttempt, claude_spec, executor


class _Written(TheAttempt):
    """Keeps its state in a file, which outlives the process."""

    async def keep(self, state: Value) -> None:
        await super().keep(state)
        (self._node.directory / "state").write_bytes(encode(state).data)


async def main(url: str, directory: str, run_id: str) -> None:
    node = Node(Path(directory), run_id=RunId(run_id))
    attempt = _Written(node, 99, False, node.attempt().guidance)
    await executor(claude_spec(url), node.directory / "home").run("claude", {"prompt": "Go."}, attempt)  # type: ignore[arg-type]


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
