"""All pages of the dashboard, by their paths."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.server.dashboard import history, inbox, operating, run, runs, workflows
from omium.server.dashboard.door import SIGN_IN, Door
from omium.server.dashboard.feed import feed_route
from omium.server.dashboard.look import Look
from omium.server.dashboard.sessions import Sessions
from omium.server.dashboard.signing import sign_in_routes, signed_out
from omium.server.dashboard.site import Page, Site, form_route, page_route
from omium.server.http.ending import Ending
from omium.server.identity.authority import Authority
from omium.server.identity.limits import RateLimits


@dataclass(frozen=True, slots=True)
class Dashboard:
    """routes: of the pages; public: paths that need no credential; door: what stands before the finding of callers."""

    routes: list[BaseRoute]
    public: list[str]
    door: Middleware
    site: Site


def build_dashboard(
    core: Core, authority: Authority, limits: RateLimits, ending: Ending, *, read_only: bool = False
) -> Dashboard:
    """The pages over a core. read_only: no form is shown, and none is taken."""
    look = Look(core.clock.now_us)
    sessions = Sessions(core.clock.monotonic)
    site = Site(core, authority, limits, ending, sessions, look, read_only)
    return Dashboard(
        routes=[*_pages(site), *_forms(site), *sign_in_routes(site), feed_route(site), _static(site)],
        public=[SIGN_IN, *look.paths],
        door=Middleware(Door, sessions=sessions, look=look),
        site=site,
    )


_RUN = "/runs/{run_id}"


def _pages(site: Site) -> list[Route]:
    return [
        page_route(site, "/", runs.list_page),
        page_route(site, "/runs", _to_list),
        page_route(site, _RUN, run.run_page),
        page_route(site, f"{_RUN}/graph.json", run.graph_data),
        page_route(site, f"{_RUN}/output", run.output),
        page_route(site, f"{_RUN}/timeline", run.timeline_page),
        page_route(site, f"{_RUN}/events", run.events_page),
        page_route(site, f"{_RUN}/calls", run.effects_page),
        page_route(site, f"{_RUN}/files", run.files_page),
        page_route(site, f"{_RUN}/file", run.file_content),
        page_route(site, f"{_RUN}/audit", run.audit_page),
        page_route(site, f"{_RUN}/history", history.history_page),
        page_route(site, f"{_RUN}/branches", history.branches_page),
        page_route(site, "/compare", history.compare_page),
        page_route(site, "/approvals", inbox.inbox_page),
        page_route(site, "/approvals/{approval_id}", inbox.approval_page),
        page_route(site, "/budgets", operating.budgets_page),
        page_route(site, "/servers", operating.servers_page),
        page_route(site, "/policy", operating.decisions_page),
        page_route(site, "/workflows", workflows.workflows_page),
        page_route(site, "/workflows/{name}", workflows.workflow_page),
    ]


def _forms(site: Site) -> list[Route]:
    return [
        form_route(site, "/bulk", runs.bulk_page, "read"),
        form_route(site, "/bulk/done", runs.bulk_done),
        form_route(site, f"{_RUN}/steer", run.steered),
        form_route(site, f"{_RUN}/signal", run.signalled),
        form_route(site, f"{_RUN}/plan", history.planned),
        form_route(site, f"{_RUN}/apply", history.applied, "start"),
        form_route(site, f"{_RUN}/label", history.labelled),
        form_route(site, f"{_RUN}/close", history.closed),
        form_route(site, "/approvals/{approval_id}/decide", inbox.decided),
        form_route(site, "/workflows/{name}/start", workflows.started, "start"),
        form_route(site, "/budgets/raise", operating.raised),
        form_route(site, "/sign-out", signed_out),
    ]


async def _to_list(page: Page) -> Response:
    return page.go("/")


def _static(site: Site) -> Route:
    async def serve(request: Request) -> Response:
        found = site.look.file(request.path_params["name"])
        if found is None or request.path_params["version"] != site.look.version:
            raise OmiumError("not_found", f"nothing is at {request.url.path[:200]!r}.")
        return found

    return Route("/static/{version}/{name}", serve, methods=["GET"])
