"""A graph of LangGraph: looks fares up under policy and ledger, then asks a person which one to take."""

from __future__ import annotations

import json
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from omium.clients.langgraph.kit import GraphKit


class Trip(TypedDict, total=False):
    origin: str
    fares: list[str]
    output: str


def build(kit: GraphKit) -> StateGraph[Trip]:
    """What `factory: graphs:build` names. Not compiled: Omium does that, with a checkpointer of its own."""

    async def look(state: Trip) -> Trip:
        found = await kit.call("fares", {"origin": state["origin"]})
        return {"fares": json.loads(found.text)}

    def choose(state: Trip) -> Trip:
        return {"output": interrupt({"question": "Which fare?", "options": state["fares"]})}

    graph = StateGraph(Trip)
    graph.add_node("look", look)
    graph.add_node("choose", choose)
    graph.add_edge(START, "look")
    graph.add_edge("look", "choose")
    graph.add_edge("choose", END)
    return graph
