"""Graphs that tests run."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from omium.clients.langgraph.kit import GraphKit


def talk(kit: GraphKit) -> Any:
    """A model and its tools, in turns."""
    model = kit.chat_model()

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([*kit.system(), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", kit.run_tools)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", kit.next_of, {"tools": "tools", "end": END})
    graph.add_edge("tools", "think")
    return graph


class Trip(TypedDict, total=False):
    a: int
    b: int
    sum: str
    output: Any


def ask(kit: GraphKit) -> Any:
    """Adds, asks twice in one step, and says what it heard."""

    async def add(state: Trip) -> Trip:
        first = await kit.call("add", {"a": state["a"], "b": state["b"]})
        return {"sum": first.text}

    async def question(state: Trip) -> Trip:
        colour = interrupt({"question": f"{state['sum']} of which colour?", "options": ["red", "green"]})
        size = interrupt("Which size?")
        return {"output": {"sum": state["sum"], "colour": colour, "size": size}}

    graph = StateGraph(Trip)
    graph.add_node("add", add)
    graph.add_node("question", question)
    graph.add_edge(START, "add")
    graph.add_edge("add", "question")
    graph.add_edge("question", END)
    return graph


def nothing(kit: GraphKit) -> Any:
    return "no graph"
