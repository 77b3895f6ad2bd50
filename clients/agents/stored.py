"""The agents of a project as a document: what a run records of them, and is executed with to its end.

It holds what agents are, prompts included, and no more of files than where they are: the script of a scripted model and
the program of a worker are read where they lie. No key is in it, only the names of the variables that hold keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec, Price, WorkerSpec
from omium.orchestration.errors import OmiumError

FORM: Final = 1
_TUPLES: Final = ("tools", "handoffs", "capabilities", "tags")


def document_of(agents: Mapping[str, AgentDef]) -> dict[str, Any]:
    """agents: by name and by `name@version`, as `Registry.by_use` gives them."""
    kinds: list[dict[str, Any]] = []
    places: dict[int, int] = {}
    uses: dict[str, int] = {}
    for use, agent in sorted(agents.items()):
        if id(agent) not in places:
            places[id(agent)] = len(kinds)
            kinds.append(_plain(asdict(agent)))
        uses[use] = places[id(agent)]
    return {"form": FORM, "agents": kinds, "uses": uses}


def agents_of(document: Any) -> dict[str, AgentDef]:
    """What `document_of` was given. Raises `unsupported` for what another version of Omium has written."""
    if not isinstance(document, Mapping) or document.get("form") != FORM:
        raise OmiumError(
            "unsupported",
            "the agents that this run keeps were recorded by another version of Omium.",
            "Play the run from a node: it then takes the agents as they are now.",
        )
    kinds = [_agent(one) for one in document["agents"]]
    return {use: kinds[place] for use, place in document["uses"].items()}


def _plain(value: Any) -> Any:
    """Only what a stored value may be."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _agent(told: Mapping[str, Any]) -> AgentDef:
    given = dict(told)
    for name in _TUPLES:
        given[name] = tuple(given[name])
    given["limits"] = AgentLimits(**given["limits"])
    if given["model"] is not None:
        given["model"] = _model(given["model"])
    if given["worker"] is not None:
        worker = given["worker"]
        paths = (Path(worker["python"]), Path(worker["script"]), Path(worker["cwd"]))
        given["worker"] = WorkerSpec(*paths, tuple(worker["pass_env"]))
    return AgentDef(**given)


def _model(told: Mapping[str, Any]) -> ModelSpec:
    given = dict(told)
    if given["script"] is not None:
        given["script"] = Path(given["script"])
    if given["price"] is not None:
        given["price"] = Price(**given["price"])
    return ModelSpec(**given)
