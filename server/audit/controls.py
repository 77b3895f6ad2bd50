"""Which controls a project has, and what shows that they work: for whoever has to answer an auditor.

It counts what is recorded. Whether that is enough for a standard is not for a program to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omium.server.config import Config
from omium.storage.maintenance import Evidence

State = Literal["holds", "broken", "in use", "not used"]


@dataclass(frozen=True, slots=True)
class Control:
    """evidence: what was counted, by name. state: `holds` and `broken` of what was checked just now; otherwise whether
    there is a trace of its use."""

    control: str
    state: State
    evidence: Mapping[str, int | str]


def controls(config: Config, found: Evidence, broken: int, *, keyed: bool) -> list[Control]:
    """broken: how many chains do not hold. keyed: whether they are an HMAC."""
    project, noted = config.project, found.noted
    forgotten = {"erased": noted.get("run.erased", 0), "dropped": noted.get("run.dropped", 0)}
    retention = config.retention
    kept = "none" if retention is None else f"{retention.forget} after {retention.after_s / 86_400:g} days"
    return [
        Control(
            "what happened cannot be changed unnoticed",
            "broken" if broken else "holds",
            {
                "runs": found.runs,
                "events": found.events,
                "chain": "hmac-sha256" if keyed else "sha256",
                "broken chains": broken,
            },
        ),
        _used(
            "people decide about what is risky",
            {
                **{f"decided, {worth or 'none'}": count for worth, count in found.decided.items()},
                "decided by others than the owner": found.by_others,
                "expired": found.expired,
                "open": found.open,
            },
        ),
        _used("policy decides about calls outside", dict(found.decisions)),
        _used(
            "callers have credentials and roles",
            {
                **{f"tokens, {state}": count for state, count in found.tokens.items()},
                "refused for the role": noted.get("role.refused", 0),
                "refused credentials": noted.get("access.denied", 0),
            },
        ),
        _used("external tools are those that were approved", dict(found.pins)),
        _used(
            "spending is limited",
            {
                "budgets": len(project.budgets),
                "times that one told how far it was": found.reached,
                "times that one was raised": noted.get("budget.raised", 0),
            },
        ),
        Control(
            "data goes when its time is over",
            "in use" if retention is not None or any(forgotten.values()) else "not used",
            {"retention": kept, **forgotten},
        ),
        _used("releases are signed", {"installed": noted.get("deployment.installed", 0)}),
    ]


def _used(control: str, evidence: Mapping[str, int | str]) -> Control:
    return Control(control, "in use" if any(evidence.values()) else "not used", evidence)
