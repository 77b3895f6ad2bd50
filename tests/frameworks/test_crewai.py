"""The script of the page on workers, as it stands there, with CrewAI itself: `pytest --crewai`."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from tests.agents.models import message, serving
from tests.cli.harness import Place
from tests.docs.snippets import snippets

PAGE = Path(__file__).parents[2] / "docs" / "frameworks" / "worker.md"
HOME = Path.home() / ".cache" / "omium-tests" / "crewai"  # it is large: kept for the next time
CREWAI = "crewai>=1.15,<2"
DESK = """
async def fares(origin: str) -> list[str]:
    with open("made", "a") as file:
        file.write(origin)
    return [f"bus from {origin}, 45"]
"""
PROJECT = """
project: crew
policy: research
functions:
  fares: {ref: "desk:fares", host: async, description: Fares}
agents:
  - name: crew
    framework: worker
    worker:
      python: PYTHON
      script: crew.py
      pass_env: [OPENAI_API_KEY, OPENAI_BASE_URL, CREWAI_DISABLE_TELEMETRY, CREWAI_TRACING_ENABLED]
    model: {provider: openai, name: gpt-5-mini}
    tools: [fares]
workflows:
  - {name: crew, nodes: [{id: trip, kind: agent, use: crew, with: {origin: Oslo}}]}
"""


def installed() -> Path:
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", CREWAI], check=True, stdout=sys.stderr)
    return python


def test_a_crew_in_an_environment_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text(PROJECT.replace("PYTHON", str(installed())))
    (tmp_path / "desk.py").write_text(DESK)
    (script,) = (one.text for one in snippets(PAGE, "python") if "kickoff" in one.text)
    (tmp_path / "crew.py").write_text(script)
    place, told = Place(tmp_path), "The cheapest is the bus from Oslo, 45."
    with serving(message(None, ("c1", "fares", {"origin": "Oslo"})), message(told)) as api:
        environment = {
            "OPENAI_API_KEY": "sk-canary",
            "OPENAI_BASE_URL": api.url,
            "CREWAI_DISABLE_TELEMETRY": "true",
            "CREWAI_TRACING_ENABLED": "false",
        }
        ended = place.omium("run", "crew", "--follow", env=environment)
        assert ended.code == 0, ended.out + ended.err
        assert [one["messages"][-1]["role"] for one in api.requests] == ["user", "tool"]
    assert told in place.omium("show", "last", "--output").out
    assert (tmp_path / "made").read_text() == "Oslo"
    run = place.json("show", "last")
    assert run["tokens"] == 220 and run["cost_usd"] > 0
