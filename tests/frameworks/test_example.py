"""The example of the frameworks does what its README says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cli.harness import PATIENCE_S
from tests.docs.snippets import words
from tests.examples.play import copied, interpreter, lines_of


def test_one_agent_on_each_framework(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    with copied("frameworks", tmp_path) as place:
        name = ""
        for line in lines_of("frameworks"):
            if line.startswith("pip "):
                continue  # it is there
            if line.startswith("python "):
                subprocess.run(interpreter(line), cwd=place.directory, check=True, timeout=PATIENCE_S)
                continue
            _, command, *arguments = words(line, {})
            ended = place.omium(command, *arguments)
            place.settled()
            name = arguments[0] if command == "run" else name
            assert ended.code == (3 if (command, name) == ("run", "langgraph") else 0), (
                f"{line}: {ended.out}{ended.err}"
            )
            if command == "run":
                shown[name] = place.omium("show", "last", "--output").out
        last = ended.out
    for name in ("ag2", "pydantic-ai", "openai-agents", "agent-framework"):
        assert "Cheapest first:" in shown[name] and "bus from Oslo, 45" in shown[name], name
    assert "From an environment of its own: bus from Oslo, 45" in shown["crew"]
    assert "night train from Oslo, 89" in last
