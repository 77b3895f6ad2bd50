"""The commands that a run has started, read from its log: nothing of this is stored a second time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.ports import Store

Outcome = Literal["running", "completed", "failed", "failed_timeout", "waiting_approval", "not_sent", "unknown"]


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One start of a command. Times are microseconds since the epoch. token: what its process was marked with.
    outcome: `waiting_approval` has asked and waits; `not_sent` was not carried out: it could not be started, or it has
    asked, and the next start is the one with the answer; `unknown`: a crash came between. exit_code: of failures."""

    id: str
    tool: str
    run: RunId
    node: NodeId
    generation: int
    attempt: int
    outcome: Outcome
    token: str | None
    started_at: int
    completed_at: int | None = None
    exit_code: int | None = None
    last_error: str | None = None
    approval: str | None = None


async def tool_runs(store: Store, run_id: RunId) -> list[ToolRun]:
    """In the order of their starts."""
    found: list[ToolRun] = []
    last: dict[str, int] = {}  # the latest start of each effect
    asked: dict[str, int] = {}  # the start that each open question came from
    after = Seq(0)
    while page := await store.events(run_id, after):
        for event in page:
            _take(event, run_id, found, last, asked)
        after = page[-1].seq
    return found


def _take(event: Event, run_id: RunId, found: list[ToolRun], last: dict[str, int], asked: dict[str, int]) -> None:
    data: Mapping[str, Any] = event.data
    if event.type is EventType.EFFECT_INTENDED and data["kind"] == "command":
        detail = data.get("detail") or {}
        last[data["effect"]] = len(found)
        found.append(
            ToolRun(
                f"{data['effect']}@{event.seq}",
                *(str(detail.get("command")), run_id, NodeId(data["node"]), data["generation"], data["attempt"]),
                *("running", detail.get("token"), event.at),
            )
        )
    elif event.type is EventType.EFFECT_SETTLED and data["effect"] in last:
        place = last[data["effect"]]
        error = data.get("error") or {}
        outcome: Outcome = {"done": "completed", "failed": "failed", "not_sent": "not_sent"}.get(
            data["outcome"], "unknown"
        )  # type: ignore[assignment]  # the values are of the type
        found[place] = replace(found[place], outcome=outcome, completed_at=event.at, last_error=error.get("message"))
    elif event.type is EventType.NODE_ATTEMPT_FAILED:
        of_attempt = _of_attempt(found, data)
        error = data["error"]
        if of_attempt is not None and found[of_attempt].outcome in ("failed", "not_sent"):
            late = error.get("code") == "timeout"
            found[of_attempt] = replace(
                found[of_attempt],
                outcome="failed_timeout" if late else found[of_attempt].outcome,
                exit_code=error.get("exit_code"),
                last_error=error.get("message"),
            )
    elif event.type is EventType.APPROVAL_REQUESTED and data["scope"] == "question":
        places = [n for n, one in enumerate(found) if (one.node, one.generation) == (data["node"], data["generation"])]
        if places:
            asked[data["approval"]] = places[-1]
            found[places[-1]] = replace(
                found[places[-1]], outcome="waiting_approval", last_error=None, approval=data["approval"]
            )
    elif event.type in (EventType.APPROVAL_DECIDED, EventType.APPROVAL_EXPIRED) and data["approval"] in asked:
        place = asked[data["approval"]]
        refused = data.get("decision", "expired") in ("reject", "abort", "expired")
        found[place] = replace(found[place], outcome="failed" if refused else "not_sent")


def _of_attempt(found: list[ToolRun], data: Mapping[str, Any]) -> int | None:
    for place in range(len(found) - 1, -1, -1):
        one = found[place]
        if (one.node, one.generation, one.attempt) == (data["node"], data["generation"], data["attempt"]):
            return place
    return None
