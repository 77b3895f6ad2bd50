"""Signing in with a token, and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from omium.orchestration.errors import OmiumError
from omium.server.dashboard.door import SIGN_IN, is_page
from omium.server.dashboard.sessions import cookie_of
from omium.server.dashboard.site import Page, Site, check_origin, read_form, set_cookie

_LONGEST = 16_000


def sign_in_routes(site: Site) -> list[Route]:
    """The one form that somebody without a credential can send. It changes nothing but the sender's own browser, and
    comes from a page of this server all the same, so that nobody is signed in as somebody else unawares."""

    async def look(request: Request) -> Response:
        return _form(site, request, wanted(request.query_params.get("next", "")), "", 200)

    async def send(request: Request) -> Response:
        check_origin(request)
        form = await read_form(request)
        after = wanted(form.get("next", [""])[0])
        token = form.get("token", [""])[0].strip()
        address = request.client.host if request.client is not None else "unknown"
        authorization = f"Bearer {token.removeprefix('Bearer ').strip()}"
        try:
            site.limits.may_try(address)
            if not token or len(token) > _LONGEST:
                raise OmiumError("unauthenticated", "this is no token.", "Paste the whole token.")
            await site.authority.caller_of(authorization)
        except OmiumError as error:
            if error.code == "unauthenticated":
                site.limits.refused(address)
            return _form(site, request, after, f"{error.message} {error.hint}".strip(), 403)
        site.sessions.end(cookie_of(request.cookies, request.headers.get("host", "")))
        answer = RedirectResponse(after, status_code=303)
        secure = request.headers.get("origin", "").startswith("https://")
        set_cookie(answer, request, site.sessions.begin(authorization), secure=secure)
        return answer

    return [Route(SIGN_IN, look, methods=["GET"]), Route(SIGN_IN, send, methods=["POST"])]


def _form(site: Site, request: Request, after: str, problem: str, status: int) -> Response:
    return site.look.page("sign_in.html", {"next": after, "problem": problem}, status=status)


def wanted(given: str) -> str:
    """Where to go afterwards: a page of this server, by its path, or the list."""
    plain = given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable() and "\\" not in given
    return given if plain and len(given) < 2_000 and is_page(given.partition("?")[0]) else "/"


async def signed_out(page: Page) -> Response:
    """Forget the session, here and in the browser."""
    page.site.sessions.end(page.cookie)
    answer = page.go("/", "signed-out")
    set_cookie(answer, page.request, "", ends=True)
    return answer
