"""How an epic stands when Genie stops watching it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omium.clients.genie.state import Tried
from omium.clients.remote.answers import Approval, Phase

Standing = Literal[
    "completed",
    "waiting",  # for a person, at a gate
    "running",  # the time to watch was over
    "paused",  # by somebody
    "cancelled",
    "rejected",  # at a gate, without a word what to do otherwise
    "needs_person",  # going on would repeat or undo calls that have happened: a person looks at the plan
    "out_of_attempts",
    "over_budget",
]


@dataclass(frozen=True, slots=True)
class Report:
    """run_id: the run that counts; runs: all of them; approvals: what waits for a person; reason: why it is not
    completed; output: what the workflow gave."""

    epic: str
    standing: Standing
    run_id: str
    runs: Sequence[str]
    phases: Sequence[Phase]
    tried: Sequence[Tried]
    cost_usd: float
    tokens: int
    approvals: Sequence[Approval] = ()
    reason: str = ""
    output: Any = None
