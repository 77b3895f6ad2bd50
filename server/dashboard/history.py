"""Checkpoints, going back, branching, playing again, comparing: first the plan, then the deed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Seq, is_id
from omium.orchestration.service.views import BranchView, CheckpointView, ComparisonView, HistoryResult, PlanView
from omium.server.dashboard import show
from omium.server.dashboard.run import detailed, frame, parse_json
from omium.server.dashboard.site import Page
from omium.tools.desk import committed

LINE: Final = 60  # checkpoints in sight
OPERATIONS: Final = {"rollback": "Roll back", "branch": "Branch", "play": "Play from node"}
_NODES: Final = 200
_FILES: Final = 300


async def history_page(page: Page) -> Response:
    """The line of checkpoints; at one of them its state, its files, and what changed since the one before."""
    run = await detailed(page)
    before = page.query.get("before", "")
    older_than = int(before) if before.isdecimal() and len(before) < 13 else None
    found = await page.core.list_checkpoints(page.caller, run.id, before=older_than, limit=LINE)
    line = joined(found.checkpoints)
    at = _chosen(page.query.get("at"), line)
    data: dict[str, Any] = {
        **await frame(page, run, "history"),
        "checkpoints": line,
        "older": found.next,
        "at": at,
        "stand": None,
        "url": page.url_with,
    }
    if at is not None:
        data["stand"] = await _stand(page, line, at)
    return page.show("history.html", data)


def joined(checkpoints: Sequence[CheckpointView]) -> list[CheckpointView]:
    """Newest first, each position once, with the name that it was given."""
    found: dict[int, CheckpointView] = {}
    for one in checkpoints:
        known = found.get(one.seq)
        if known is None:
            found[one.seq] = one
            continue
        named, plain = (one, known) if one.label is not None else (known, one)
        valid = one.valid and known.valid
        found[one.seq] = replace(plain, label=plain.label or named.label, note=plain.note or named.note, valid=valid)
    return [found[seq] for seq in sorted(found, reverse=True)]


def _chosen(given: str | None, checkpoints: Sequence[CheckpointView]) -> int | None:
    if given is not None and given.isdecimal() and len(given) < 13:
        return int(given)
    return checkpoints[0].seq if checkpoints else None


async def _stand(page: Page, line: Sequence[CheckpointView], at: int) -> dict[str, Any]:
    """How the run stood at a position."""
    run_id = page.run_id
    then, _ = await page.core.run_at(page.caller, run_id, at)
    places = [one.seq for one in line]
    place = places.index(Seq(at)) if at in places else None
    earlier = line[place + 1] if place is not None and place + 1 < len(line) else None
    change = None
    if earlier is not None:
        change = await page.core.compare(page.caller, f"{run_id}@{earlier.seq}", f"{run_id}@{at}")
    files = await page.core.files_at(page.caller, run_id, at)
    return {
        "run": then,
        "here": line[place] if place is not None else None,
        "newer": line[place - 1].seq if place else None,
        "earlier": earlier.seq if earlier is not None else None,
        "change": change,
        "changed": [one for one in change.nodes if one.change != "same"][:_NODES] if change is not None else [],
        "files": None if files is None else files[:_FILES],
        "files_of": 0 if files is None else len(files),
        "nodes": [one for one in then.nodes if one.status != "pending"][:_NODES],
    }


# --- plan and deed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What a form asks for. at: a position, or None for the present one; the rest counts where the operation has it."""

    operation: str
    at: str | None
    node: str
    name: str
    hypothesis: str
    reason: str
    reuse: str
    overrides: dict[str, Any]
    start: bool

    @property
    def fields(self) -> dict[str, str]:
        """The same as the fields of the next form."""
        return {
            "operation": self.operation,
            "at": self.at or "",
            "node": self.node,
            "name": self.name,
            "hypothesis": self.hypothesis,
            "reason": self.reason,
            "reuse": self.reuse,
            "overrides": json.dumps(self.overrides, ensure_ascii=False) if self.overrides else "",
            "start": "1" if self.start else "0",
        }


def wish_of(page: Page) -> Wish:
    operation = page.field("operation", 40)
    if operation not in OPERATIONS:
        raise OmiumError("invalid_argument", f"{operation!r} is nothing that can be planned.", ", ".join(OPERATIONS))
    overrides = parse_json(page.field("overrides", 100_000), "the overrides", {})
    if not isinstance(overrides, dict):
        raise OmiumError("invalid_argument", "the overrides are no object.", 'Such as {"inputs": {"name": "value"}}.')
    return Wish(
        operation,
        page.field("at", 200).strip() or None,
        page.field("node", 4_096).strip(),
        page.field("name", 200).strip(),
        page.field("hypothesis", 4_000).strip(),
        page.field("reason", 2_000).strip(),
        page.field("reuse", 20) or "none",
        overrides,
        page.field("start", 1) != "0",
    )


async def planned(page: Page) -> Response:
    """The plan of what a form asks for, with the form that does just that."""
    wish = wish_of(page)
    run = await detailed(page)
    plan = await _preview(page, wish)
    data = {
        **await frame(page, run, "history"),
        "live": False,  # a plan is of one moment
        "wish": wish,
        "label": OPERATIONS[wish.operation],
        "plan": plan,
        "problem": None,
        "many": _NODES,
    }
    return page.show("plan.html", data)


async def _preview(page: Page, wish: Wish) -> PlanView:
    core, caller, run_id = page.core, page.caller, page.run_id
    if wish.operation == "rollback":
        return await committed(core.preview_rollback(caller, run_id, wish.at or ""))
    if wish.operation == "branch":
        return await committed(core.preview_branch(caller, run_id, wish.at, wish.overrides))
    return await committed(core.preview_play_from(caller, run_id, wish.node, wish.overrides, _reuse(wish)))


def _reuse(wish: Wish) -> Any:
    """The core says what is no way to reuse results."""
    return wish.reuse


async def applied(page: Page) -> Response:
    """Do what was planned: with the plan's token, so that nothing else is done."""
    wish, token = wish_of(page), page.field("plan_token", 200)
    if not token:
        raise OmiumError("plan_required", "nothing is done here without a plan that was looked at.", "Go back to it.")
    result = await committed(_apply(page, wish, token))
    run_id = result.run.id
    if wish.operation == "rollback":
        return page.go(show.run_url(run_id), "rolled-back")
    if wish.operation == "branch":
        return page.go(show.run_url(run_id), "branched")
    return page.go(show.run_url(run_id), "played" if run_id == page.run_id else "played-child")


async def _apply(page: Page, wish: Wish, token: str) -> HistoryResult:
    core, caller, run_id = page.core, page.caller, page.run_id
    reason = wish.reason or None
    if wish.operation == "rollback":
        return await core.rollback(
            caller, run_id, wish.at or "", reason=reason, plan_token=token, idempotency_key=page.key
        )
    if wish.operation == "branch":
        return await core.branch(
            caller,
            run_id,
            wish.at,
            name=wish.name,
            hypothesis=wish.hypothesis or None,
            overrides=wish.overrides,
            start=wish.start,
            plan_token=token,
            idempotency_key=page.key,
        )
    return await core.play_from_node(
        caller,
        run_id,
        wish.node,
        overrides=wish.overrides,
        reuse=_reuse(wish),
        reason=reason,
        plan_token=token,
        idempotency_key=page.key,
    )


async def labelled(page: Page) -> Response:
    at = page.field("at", 40).strip() or None
    note = page.field("note", 2_000) or None
    made = await committed(
        page.core.checkpoint(
            page.caller, page.run_id, page.field("label", 200).strip(), at=at, note=note, idempotency_key=page.key
        )
    )
    return page.go(show.run_url(page.run_id, "history", at=made.seq), "labelled")


async def closed(page: Page) -> Response:
    status = page.field("status", 20)
    if status not in ("adopted", "abandoned"):
        raise OmiumError("invalid_argument", "a branch is adopted or abandoned.")
    reason = page.field("reason", 2_000) or None
    work = page.core.close_branch(
        page.caller,
        page.run_id,
        "adopted" if status == "adopted" else "abandoned",
        reason,
        idempotency_key=page.key,
    )
    await committed(work)
    return page.go(show.run_url(page.run_id, "branches"), status)


# --- branches and comparison --------------------------------------------------------------------------------------


async def branches_page(page: Page) -> Response:
    run = await detailed(page)
    tree = await page.core.branch_tree(page.caller, run.id)
    return page.show("branches.html", {**await frame(page, run, "branches"), "tree": list(_flat(tree))})


def _flat(tree: BranchView) -> list[BranchView]:
    found: list[BranchView] = []
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += reversed(one.children)
    return found


async def compare_page(page: Page) -> Response:
    """Two runs side by side; an empty form when the address names none."""
    a, b = (page.query.get(name, "").strip()[:200] for name in ("a", "b"))
    waiting = len(await page.core.list_approvals(page.caller))
    found: ComparisonView | None = None
    if a and b:
        found = await page.core.compare(page.caller, await _meant(page, a), await _meant(page, b))
    parts = [] if found is None else [one for one in found.nodes if one.change != "same"]
    data = {
        "found": found,
        "a": a,
        "b": b,
        "nodes": parts[:_NODES],
        "same": 0 if found is None else len(found.nodes) - len(parts),
        "left_out": max(0, len(parts) - _NODES),
        "waiting": waiting,
    }
    return page.show("compare.html", data)


async def _meant(page: Page, given: str) -> str:
    """A run, or `run@position`, of which the run may be a part of an id."""
    run, at, position = given.partition("@")
    known = run if is_id(run, "run") else await page.core.find_run(page.caller, run)
    return f"{known}{at}{position}"
