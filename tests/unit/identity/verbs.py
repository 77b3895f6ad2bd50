"""The verbs of the core, as its class has them."""

from __future__ import annotations

import inspect

from omium.orchestration.service.core import Core


def public_coroutines() -> dict[str, bool]:
    """Every public coroutine of the core, and whether it is asked by a caller."""
    found = {}
    for name, member in inspect.getmembers(Core):
        if name.startswith("_") or not (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)):
            continue
        found[name] = "caller" in inspect.signature(member).parameters
    return found
