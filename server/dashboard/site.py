"""What every page has: who asks, what it is made with, and for forms the proof that they are ours."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId, is_id
from omium.orchestration.service import roles
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.dashboard.look import Look
from omium.server.dashboard.sessions import Sessions, cookie_name, cookie_of, new_cookie
from omium.server.http.access import caller_of
from omium.server.http.ending import Ending
from omium.server.identity.authority import Authority
from omium.server.identity.limits import Kind, RateLimits

MAX_FIELDS: Final = 1_200
MAX_VALUE: Final = 256 * 1024  # characters of a field
THEMES: Final = ("light", "dark")
SECTIONS: Final = (("Budgets", "/budgets"), ("Servers", "/servers"), ("Policy", "/policy"))


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages work with. read_only: nothing can be changed here."""

    core: Core
    authority: Authority
    limits: RateLimits
    ending: Ending
    sessions: Sessions
    look: Look
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Me:
    """Who looks, as templates know them."""

    caller: Caller
    signed_in: bool
    read_only: bool

    def may(self, verb: str) -> bool:
        return not self.read_only and roles.allows(self.caller.role, verb)

    def why_not(self, verb: str) -> str:
        """Why a verb cannot be used, in a sentence; empty when it can."""
        if self.read_only:
            return "This server was started to look only."
        if not roles.allows(self.caller.role, verb):
            needed = " or ".join(role for role in roles.ROLES if roles.allows(role, verb))
            return f"Your role is {self.caller.role}; this takes {needed}."
        return ""


@dataclass(slots=True)
class Page:
    """One request for a page."""

    site: Site
    request: Request
    caller: Caller
    cookie: str | None
    fresh: str | None = None  # a cookie that the answer sets
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def core(self) -> Core:
        return self.site.core

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def run_id(self) -> RunId:
        """The run of the path. Raises `not_found` for what is no id."""
        given = self.request.path_params["run_id"]
        if not is_id(given, "run"):
            raise OmiumError("not_found", f"there is no run {given[:80]!r}.", "The list of runs shows those there are.")
        return RunId(given)

    @property
    def approval_id(self) -> ApprovalId:
        given = self.request.path_params["approval_id"]
        if not is_id(given, "apr"):
            raise OmiumError("not_found", f"there is no approval {given[:80]!r}.")
        return ApprovalId(given)

    # --- forms ------------------------------------------------------------------------------------------------------

    def field(self, name: str, most: int = 4_000) -> str:
        """A field of the form, or "". Raises `invalid_argument` when it is given twice, or too long."""
        values = self.form.get(name, ())
        if len(values) > 1:
            raise OmiumError("invalid_argument", f"the form gives {name!r} {len(values)} times.")
        value = values[0] if values else ""
        if len(value) > most:
            raise OmiumError("invalid_argument", f"{name} has {len(value)} characters; at most {most} are taken.")
        return value.replace("\r\n", "\n")

    @property
    def key(self) -> str:
        """The idempotency key of the form: each that is shown has its own, so that sending it twice is harmless."""
        key = self.field("key", 100)
        if len(key) < 16:
            raise OmiumError("invalid_argument", "the form has no key of its own.", "Load the page again.")
        return f"form:{key}"

    # --- answers ----------------------------------------------------------------------------------------------------

    def show(self, template: str, data: Mapping[str, Any], *, status: int = 200) -> Response:
        """A page with what all pages have."""
        me = Me(self.caller, self.site.sessions.authorization(self.cookie) is not None, self.site.read_only)
        if self.cookie is None:
            self.fresh = self.cookie = new_cookie()
        cookie = self.cookie
        theme = self.request.cookies.get("omium_theme", "")
        common = {
            "me": me,
            "proof": self.site.sessions.proof(cookie, self.caller.principal),
            "new_key": lambda: secrets.token_urlsafe(16),
            "theme": theme if theme in THEMES else "",
            "path": self.request.url.path,
            "sections": SECTIONS,
            "said": SAID.get(self.query.get("said", ""), ""),
            "now": self.core.clock.now_us(),
        }
        answer = self.site.look.page(template, {**common, **data}, status=status)
        if self.fresh is not None:
            set_cookie(answer, self.request, self.fresh)
        return answer

    def go(self, url: str, said: str = "") -> Response:
        """Have the browser load a page, which tells that something was done. said: a key of `SAID`."""
        join = "&" if "?" in url else "?"
        return RedirectResponse(f"{url}{join}said={said}" if said else url, status_code=303)

    def url_with(self, **changed: Any) -> str:
        """This page with other parameters; None takes one out."""
        query = [(name, value) for name, value in self.request.query_params.multi_items() if name not in changed]
        query = [one for one in query if one[0] != "said"]
        query += [(name, str(value)) for name, value in changed.items() if value is not None]
        return f"{self.request.url.path}?{urlencode(query)}" if query else self.request.url.path


SAID: Final[Mapping[str, str]] = {
    "paused": "No new node starts. What is in flight finishes.",
    "resumed": "The run goes on.",
    "cancelled": "The run was cancelled, with everything below it.",
    "signalled": "The signal was sent.",
    "labelled": "The position has a name now.",
    "rolled-back": "The run is back at that position, and paused. Resume it to go on from there.",
    "branched": "This is the new branch.",
    "played": "The node and what depends on it run again.",
    "played-child": "The run had ended, so this new run plays it again.",
    "adopted": "The branch was adopted.",
    "abandoned": "The branch was abandoned.",
    "decided": "Your decision was recorded. The run goes on by itself.",
    "started": "The run was started.",
    "raised": "The budget was raised.",
    "signed-out": "You are signed out.",
}
"""What a page can be told to say: nothing else can be put into it by a link."""


def set_cookie(answer: Response, request: Request, value: str, *, secure: bool = False, ends: bool = False) -> None:
    """The cookie of this server for this browser, which no script can read and no other site can have sent."""
    answer.set_cookie(
        cookie_name(request.headers.get("host", "")),
        value,
        max_age=0 if ends else None,
        path="/",
        secure=secure or request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


Handler = Callable[[Page], Awaitable[Response]]


def page_route(site: Site, path: str, handle: Handler, kind: Kind = "read") -> Route:
    """A page that is looked at."""

    async def serve(request: Request) -> Response:
        caller = caller_of(request)
        async with site.limits.call(caller.principal, kind):
            cookie = cookie_of(request.cookies, request.headers.get("host", ""))
            return await handle(Page(site, request, caller, cookie))

    return Route(path, serve, methods=["GET"])


def form_route(site: Site, path: str, handle: Handler, kind: Kind = "change") -> Route:
    """A form that is sent. Refused unless it comes from a page of this server, made for this browser and caller."""

    async def serve(request: Request) -> Response:
        caller = caller_of(request)
        check_origin(request)
        form = await read_form(request)
        cookie = cookie_of(request.cookies, request.headers.get("host", ""))
        page = Page(site, request, caller, cookie, form=form)
        if not site.sessions.proves(page.field("proof", 200), cookie, caller.principal):
            raise OmiumError(
                "forbidden",
                "this form was not made for you by this server, or the server has been started anew since.",
                "Nothing was done. Go back, load the page again, and send it again.",
            )
        if site.read_only:
            raise OmiumError("forbidden", "this server was started to look only.", "Use another one.")
        async with site.limits.call(caller.principal, kind):
            return await handle(page)

    return Route(path, serve, methods=["POST"])


def check_origin(request: Request) -> None:
    """Raises `forbidden` unless a page of this very server sent the form; another port of this machine is another."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None:
        same = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
    else:
        same = request.headers.get("sec-fetch-site") == "same-origin"
    if not same:
        raise OmiumError("forbidden", "this form does not come from a page of this server.", "Nothing was done.")


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises `invalid_argument`."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise OmiumError("invalid_argument", "this is not sent as a form.")
    try:
        body = (await request.body()).decode("utf-8")
        fields = parse_qs(body, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except (UnicodeDecodeError, ValueError):
        raise OmiumError("invalid_argument", "the form is not encoded as forms are, or has too many fields.") from None
    for name, values in fields.items():
        if any(len(value) > MAX_VALUE for value in values):
            raise OmiumError("invalid_argument", f"the field {name[:80]!r} is too long.")
    return fields


def query_of(text: str) -> list[tuple[str, str]]:
    """The parameters of a query string, as far as they have the form of such."""
    try:
        return parse_qsl(text[:4_000], max_num_fields=40)
    except ValueError:
        return []
