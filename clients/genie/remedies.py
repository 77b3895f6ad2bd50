"""What to do about a failure. Pure: from the phases, what was tried and what has helped before, to the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from omium.clients.genie.spec import EpicSpec
from omium.clients.genie.state import Remedy, State, Step
from omium.clients.remote.answers import Phase

TRANSIENT: Final = frozenset({"api_error", "connection_error", "memory_error", "rate_limited", "timeout"})
"""Failures of the world around: the same again may go well."""

FEEDBACK: Final = 1_200  # characters; the state that holds it is bounded
_MAKERS: Final = frozenset({"agent", "cli"})
_ENOUGH: Final = 3  # remedies before their rate says anything


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong. phase: the first that failed; category and message: of the first node in it that did."""

    phase: str
    category: str
    message: str


def failure_of(phases: Sequence[Phase]) -> Failure | None:
    """The failure of a run; None when no phase has failed, such as at a deadline."""
    failed = next((one for one in phases if one.status == "failed"), None)
    if failed is None:
        return None
    error = failed.error
    category = error.category if error is not None and error.category else "unknown"
    message = error.message if error is not None and error.message else f"{failed.id} failed"
    return Failure(failed.id, category, message)


def step_for(
    spec: EpicSpec,
    state: State,
    phases: Sequence[Phase],
    failure: Failure,
    *,
    lessons: Sequence[str],
    rates: Mapping[Remedy, tuple[int, float]],
) -> Step:
    """The next thing to try. rates: (how often, share that worked) of remedies at such failures, in this project.

    What the world did is tried again from the end of the phase before it. What the work did wrong is done again with
    what the failure says; when that has not helped, in a branch with another hypothesis."""
    before = _completed_before(phases, failure.phase)
    kind: Remedy
    if failure.category in TRANSIENT and before is not None and not _tried(state, failure, "rollback"):
        kind, node = "rollback", before.id
    else:
        kind, node = _again_or_otherwise(state, failure, rates), reworked(spec, phases, failure.phase)
    number = len(state.tried) + 1
    hypothesis = _hypothesis(spec, state, failure) if kind == "branch" else ""
    return Step(
        number=number,
        kind=kind,
        run=state.run,
        node=node,
        phase=failure.phase,
        category=failure.category,
        feedback="" if kind == "rollback" else _feedback(failure, hypothesis, lessons),
        hypothesis=hypothesis,
    )


def reworked(spec: EpicSpec, phases: Sequence[Phase], failed: str) -> str:
    """The phase to do again: what the epic says, or the one that failed if it makes something, or the last one before
    it that does."""
    if failed in spec.rework:
        return spec.rework[failed]
    place = next(index for index, one in enumerate(phases) if one.id == failed)
    if phases[place].kind == "function":
        return failed
    maker = next((one.id for one in reversed(phases[: place + 1]) if one.kind in _MAKERS), None)
    return maker or failed


def _again_or_otherwise(state: State, failure: Failure, rates: Mapping[Remedy, tuple[int, float]]) -> Remedy:
    if _tried(state, failure, "play_from"):
        return "branch"
    again, otherwise = rates.get("play_from", (0, 0.0)), rates.get("branch", (0, 0.0))
    worse = again[0] >= _ENOUGH and otherwise[0] >= _ENOUGH and again[1] < otherwise[1]
    return "branch" if worse else "play_from"


def _tried(state: State, failure: Failure, kind: Remedy) -> bool:
    """Whether this remedy was used on this phase in the run that counts now."""
    return any(one.kind == kind and one.phase == failure.phase and one.run == state.run for one in state.tried)


def _completed_before(phases: Sequence[Phase], failed: str) -> Phase | None:
    place = next(index for index, one in enumerate(phases) if one.id == failed)
    return next((one for one in reversed(phases[:place]) if one.end is not None), None)


def _feedback(failure: Failure, hypothesis: str, lessons: Sequence[str]) -> str:
    """What the workflow is told: what to try, what has helped before, and how it failed, which is cut first."""
    told = f"Try this: {hypothesis}\n" if hypothesis else ""
    if lessons:
        told += "What helped at such failures before:\n" + "".join(f"- {one}\n" for one in lessons)
    return f"{told}{failure.phase} failed: {failure.message}"[:FEEDBACK]


def _hypothesis(spec: EpicSpec, state: State, failure: Failure) -> str:
    """The next of the epic's own hypotheses, or that the failure itself suggests."""
    used = sum(one.kind == "branch" for one in state.tried)
    if used < len(spec.hypotheses):
        return spec.hypotheses[used]
    return f"Another way than before does not fail at {failure.phase} ({failure.category})."
