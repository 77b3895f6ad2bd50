"""The list of runs, and doing one thing to many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, is_id
from omium.orchestration.log.state import RunStatus
from omium.orchestration.service.views import RunPage, RunView
from omium.server.dashboard.site import Page, query_of
from omium.tools.desk import committed

PAGE: Final = 50
MOST: Final = 500  # runs that are changed at once
ACTIONS: Final = {"pause": "Pause", "resume": "Resume", "cancel": "Cancel"}
_SAMPLE: Final = 8


@dataclass(frozen=True, slots=True)
class Filter:
    """What the list is narrowed to, as it stands in the address."""

    statuses: tuple[str, ...] = ()
    workflow: str = ""
    text: str = ""
    session: str = ""
    children: bool = False

    def query(self, **more: str) -> str:
        """The parameters of an address."""
        pairs: list[tuple[str, str]] = [("status", one) for one in self.statuses]
        named = {"workflow": self.workflow, "q": self.text, "session": self.session}
        pairs += [(name, value) for name, value in named.items() if value]
        pairs += [("children", "1")] if self.children else []
        return urlencode(pairs + [(name, value) for name, value in more.items() if value])

    def toggled(self, status: str) -> str:
        """The address of the list with one status more or less."""
        kept = tuple(one for one in self.statuses if one != status)
        changed = kept if status in self.statuses else (*self.statuses, status)
        query = Filter(changed, self.workflow, self.text, self.session, self.children).query()
        return f"/?{query}" if query else "/"

    @property
    def any(self) -> bool:
        return bool(self.statuses or self.workflow or self.text or self.session or self.children)


def filter_of(pairs: Sequence[tuple[str, str]]) -> Filter:
    """What an address says; a status that there is not, and what is too long, does not count."""
    known = set(RunStatus)
    statuses = tuple(dict.fromkeys(value for name, value in pairs if name == "status" and value in known))
    given = {name: value[:200] for name, value in pairs}
    return Filter(
        statuses,
        given.get("workflow", "").strip(),
        given.get("q", "").strip(),
        given.get("session", "").strip(),
        given.get("children", "") == "1",
    )


async def listed(page: Page, wanted: Filter, before: str | None, limit: int) -> RunPage:
    return await page.core.list_runs(
        page.caller,
        statuses=wanted.statuses,
        workflow=wanted.workflow or None,
        text=wanted.text or None,
        session=wanted.session or None,
        children=wanted.children,
        before=RunId(before) if before and is_id(before, "run") else None,
        limit=limit,
    )


async def list_page(page: Page) -> Response:
    wanted = filter_of(page.request.query_params.multi_items())
    before = page.query.get("before")
    found = await listed(page, wanted, before, PAGE)
    workflows = [view.name for view in await page.core.list_workflows(page.caller)]
    data: dict[str, Any] = {
        "runs": found.runs,
        "next": found.next,
        "hidden": found.hidden,
        "filter": wanted,
        "before": before,
        "statuses": list(RunStatus),
        "workflows": workflows,
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("runs.html", data)


# --- many at once -------------------------------------------------------------------------------------------------


async def chosen(page: Page) -> tuple[list[RunView], bool]:
    """The runs that a form names: the ticked ones, or all of its filter. And whether there are more than are taken."""
    if page.field("all") == "1":
        found = await listed(page, filter_of(query_of(page.field("filter"))), None, MOST)
        return list(found.runs), found.next is not None
    ids = list(dict.fromkeys(page.form.get("run", ())))
    if len(ids) > MOST or any(not is_id(one, "run") for one in ids):
        raise OmiumError("invalid_argument", f"up to {MOST} runs can be chosen at once, each by its id.")
    return [await page.core.get_run(page.caller, RunId(one)) for one in ids], False


def action_of(page: Page) -> str:
    action = page.field("action")
    if action not in ACTIONS:
        raise OmiumError("invalid_argument", f"{action[:40]!r} cannot be done to runs.", f"{', '.join(ACTIONS)}")
    return action


async def bulk_page(page: Page) -> Response:
    """What would be done to which runs; nothing is done yet."""
    action = action_of(page)
    runs, more = await chosen(page)
    able = [run for run in runs if can(action, run)]
    data = {
        "action": action,
        "label": ACTIONS[action],
        "able": able,
        "unable": [run for run in runs if not can(action, run)],
        "more": more,
        "most": MOST,
        "sample": _SAMPLE,
        "back": f"/?{filter_of(query_of(page.field('filter'))).query()}",
        "waiting": None,
    }
    return page.show("bulk.html", data)


async def bulk_done(page: Page) -> Response:
    """Do it to each; one that refuses does not stop the others."""
    action, key = action_of(page), page.key
    runs, _ = await chosen(page)
    reason = page.field("reason", 2_000) or None
    done: list[RunView] = []
    refused: list[tuple[RunView, OmiumError]] = []
    for run in runs:
        try:
            done.append(await committed(steer(page, action, run.id, reason, f"{key}:{run.id}")))
        except OmiumError as error:
            refused.append((run, error))
    data = {"action": action, "label": ACTIONS[action], "done": done, "refused": refused, "waiting": None}
    return page.show("bulk_done.html", data)


def can(action: str, run: RunView) -> bool:
    """Whether a run takes an action now; to resume a draft is to start it."""
    return action in run.allowed or (action == "resume" and run.status == RunStatus.DRAFT)


async def steer(page: Page, action: str, run_id: RunId, reason: str | None, key: str) -> RunView:
    if action == "pause":
        return await page.core.pause(page.caller, run_id, reason=reason, idempotency_key=key)
    if action == "resume":
        return await page.core.resume(page.caller, run_id, reason=reason, idempotency_key=key)
    return await page.core.cancel(page.caller, run_id, reason=reason, idempotency_key=key)
