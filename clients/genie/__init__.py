"""Genie: takes an epic from its goal to its end, as a client of Omium.

It starts the workflow, watches, answers what it was told to answer, leaves gates to people, and when something fails
tries again under bounds: with what the failure says, from another hypothesis, or from the end of an earlier phase. It
knows nothing that its connection does not tell it, and keeps nothing: what it must not forget lies in Omium's memory.
"""

from __future__ import annotations

from omium.clients.genie.genie import Genie
from omium.clients.genie.report import Report
from omium.clients.genie.spec import Bounds, EpicSpec, load_epic

TOOLSETS = ("default", "epics", "memory", "supervision")

__all__ = ["TOOLSETS", "Bounds", "EpicSpec", "Genie", "Report", "load_epic"]
