"""What waits for a decision: exactly what is asked, what follows from it, and the decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.orchestration.service import roles
from omium.orchestration.service.views import ApprovalView, Assurance, Caller
from omium.server.dashboard import show
from omium.server.dashboard.site import Page
from omium.tools.app.deciding import binding_of
from omium.tools.desk import committed

LONGEST: Final = 60_000  # characters of a question and what it shows that somebody can be said to have seen
_SHOWN_APART: Final = ("show", "arguments", "preview", "tool", "server", "action", "rule", "reason", "agent")


async def inbox_page(page: Page) -> Response:
    """The open questions, oldest first, and one of them as a whole."""
    pending = await page.core.list_approvals(page.caller)
    chosen = pending[0] if pending else None
    return await _shown(page, pending, chosen)


async def approval_page(page: Page) -> Response:
    view = await page.core.get_approval(page.caller, page.approval_id)
    return await _shown(page, await page.core.list_approvals(page.caller), view)


async def _shown(page: Page, pending: list[ApprovalView], chosen: ApprovalView | None) -> Response:
    data: dict[str, Any] = {"pending": pending, "chosen": chosen, "waiting": len(pending), "asked": None}
    if chosen is not None:
        data["asked"] = await asked(page, chosen)
    return page.show("inbox.html", data)


async def asked(page: Page, view: ApprovalView) -> dict[str, Any]:
    """A question as it is shown: nothing of it is left out, or it cannot be decided here."""
    details = dict(view.details or {})
    rest = {name: value for name, value in details.items() if name not in _SHOWN_APART}
    parts = [] if view.arguments is None else [(TITLES["arguments"], show.shown(view.arguments, LONGEST))]
    parts += [(TITLES["preview"], show.shown(details["preview"], LONGEST))] if "preview" in details else []
    parts += _about(details["show"]) if "show" in details else []
    facts = [
        (name, details[name]) for name in ("action", "server", "tool", "agent", "rule", "reason") if name in details
    ]
    if rest:
        parts.append(("Also known", show.given(rest, LONGEST)))
    run = await page.core.get_run(page.caller, view.run_id)
    why = await undecidable(page, view, any(part.cut for _, part in parts))
    return {
        "view": view,
        "run": run,
        "parts": parts,
        "facts": facts,
        "why_not": why,
        "binding": binding_of(view),
        "options": [one for one in view.options if one != "modify"],
        "edits": "modify" in view.options and view.arguments is not None,
        "arguments": show.whole(view.arguments)[0] if view.arguments is not None else "",
        "worth": worth_of(page),
    }


TITLES: Final = {"arguments": "Exactly this would be sent", "preview": "Preview", "show": "What it is about"}


def _about(value: Any) -> list[tuple[str, show.Shown]]:
    """What a gate shows: of an object with texts in it each part for itself, so that they can be read."""
    if isinstance(value, Mapping) and len(value) <= 12 and any(isinstance(one, str) for one in value.values()):
        return [(show.line(name, 80), show.shown(one, LONGEST)) for name, one in value.items()]
    return [(TITLES["show"], show.shown(value, LONGEST))]


def worth_of(page: Page) -> Assurance:
    """What a decision from a page is worth: with a credential of one's own that was shown to this server, it did not
    come by way of an agent; from a machine where nobody is asked for one, it may have."""
    return assurance_of(page.caller)


def assurance_of(caller: Caller) -> Assurance:
    return "out_of_band" if caller.authenticated else "elicited"


async def undecidable(page: Page, view: ApprovalView, cut: bool) -> str | None:
    """Why this cannot be decided on this page by whoever looks at it, in a sentence."""
    if page.site.read_only:
        return "This server was started to look only."
    if not roles.allows(page.caller.role, "decide"):
        return f"Your role is {page.caller.role}; deciding takes operator, approver or admin."
    if cut or len(view.question) > LONGEST:
        return "This is too long to be shown here in full, so it cannot be decided here."
    own = await page.core.own_assurance(page.caller, view.id)
    best = roles.stronger(own, worth_of(page))
    known: Mapping[str, int] = {name: place for place, name in enumerate(roles.ASSURANCES)}
    if known[best] < known.get(view.min_assurance, len(known)):
        ask = roles.way_to_decide(view.id, view.min_assurance)
        sign = "" if page.caller.authenticated else " Sign in here with a token of your own, or"
        worth = f"The gate asks for {view.min_assurance}, and a decision of yours here is {best}."
        return f"{worth}{sign} In a terminal: {ask}"
    if page.caller.role == "operator" and known[view.min_assurance] > known["elicited"]:
        return "Your role is operator; this gate takes an approver or admin."
    return None


async def decided(page: Page) -> Response:
    """Record a decision about exactly what was shown."""
    view = await page.core.get_approval(page.caller, page.approval_id)
    if page.field("binding", 200) != binding_of(view):
        raise OmiumError("conflict", "what was shown is not what is asked.", "Look at it again, then decide.")
    decision = page.field("decision", 200)
    more: dict[str, Any] = {}
    if decision == "modify":
        from omium.server.dashboard.run import parse_json

        more["arguments"] = parse_json(page.field("arguments", 256_000), "the changed arguments", {})
    if not decision:
        raise OmiumError("invalid_argument", "the form does not say what you decided.")
    work = page.core.decide(
        page.caller,
        view.id,
        decision,
        feedback=page.field("feedback", 16_000).strip() or None,
        assurance=assurance_of(page.caller),
        idempotency_key=page.key,
        **more,
    )
    await committed(work)
    left = await page.core.list_approvals(page.caller)
    if page.field("then") == "run" or not left:
        return page.go(show.run_url(view.run_id), "decided")
    return page.go("/approvals", "decided")
