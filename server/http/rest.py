"""REST: one handler for each verb, thin over the core. `ENDPOINTS` is all of it; the routes and the OpenAPI document
are made from that table."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId, is_id
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.server.http import models as m
from omium.server.http.access import caller_of
from omium.server.http.ending import Ending
from omium.server.http.failures import JSON, error_response
from omium.server.identity.limits import Kind, RateLimits
from omium.tools.desk import committed

Asked = TypeVar("Asked", bound=m.Asked)


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers work with. heartbeat_s: seconds between signs of life of a feed without events; read_only: what
    changes something is refused."""

    core: Core
    ending: Ending
    limits: RateLimits
    heartbeat_s: float = 15.0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and checked. run_id and approval_id: from the path, "" where it has none."""

    api: Api
    request: Request
    caller: Caller
    query: Any
    body: Any
    key: str | None  # Idempotency-Key

    @property
    def run_id(self) -> RunId:
        return RunId(self.request.path_params["run_id"])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A verb. kind: how it counts for rate limits; body: None where there is none; answer: what 2xx gives."""

    method: Literal["GET", "POST"]
    path: str
    kind: Kind
    handle: Callable[[Call], Awaitable[Response]]
    summary: str
    answer: type[m.Shown]
    query: type[m.Asked] = m.Nothing
    body: type[m.Asked] | None = None
    status: int = 200
    keyed: bool = False


# --- reading a request --------------------------------------------------------------------------------------------


def read_query(request: HTTPConnection, model: type[Asked]) -> Asked:
    """The query string. Raises `invalid_argument`, also for a parameter that is unknown or given twice."""
    given: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        field = model.model_fields.get(name)
        many = field is not None and field.annotation is not None and str(field.annotation).startswith("list[")
        if len(values) > 1 and not many:
            raise OmiumError("invalid_argument", f"the parameter {name[:80]!r} is given {len(values)} times.")
        given[name] = values if many else values[0]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _problems("query", error) from None


async def read_body(request: Request, model: type[Asked]) -> Asked:
    """The body, which may be empty where nothing in it is required. Raises `invalid_argument`."""
    data = await request.body()
    try:
        value = _strict_json(data) if data else {}
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise OmiumError("invalid_argument", f"the body is not JSON: {problem}.") from None
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        raise _problems("body", error) from None


def is_json(request: Request) -> bool:
    """Whether the body is declared as JSON. A form of a foreign page cannot do that without asking first."""
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    return media.strip().lower() == "application/json" and charset in ("", "charset=utf-8")


def _strict_json(data: bytes) -> Any:
    """JSON without names that are given twice, infinities or a number that is none."""

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is given twice")
        return found

    return json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=mapping)


def _problems(where: str, error: ValidationError) -> OmiumError:
    """Every problem by its path; the values stay out, since they may be long, secret or hostile."""
    problems = [
        {"path": ".".join(str(part)[:80] for part in one["loc"]), "problem": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)[:8]
    ]
    named = "; ".join(f"{one['path']}: {one['problem']}" for one in problems)
    hint = "GET /api/v1/openapi.json says what it takes."
    return OmiumError("invalid_argument", f"the {where} is not right: {named}", hint, problems=problems)


def _checked_id(request: Request) -> None:
    for name, prefix in (("run_id", "run"), ("approval_id", "apr")):
        given = request.path_params.get(name)
        if given is not None and not is_id(given, prefix):
            raise OmiumError("not_found", f"there is no {name[:-3]} {given[:80]!r}.")


# --- runs ---------------------------------------------------------------------------------------------------------


def shown(model: type[m.Shown], view: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The answer that shows a view."""
    return JSON(model.model_validate(view).model_dump(mode="json"), status, headers)


async def start_run(call: Call) -> Response:
    body: m.Start = call.body
    run = await committed(
        call.api.core.run_workflow(
            call.caller,
            body.workflow,
            body.inputs,
            title=body.title,
            priority=body.priority,
            workspace=body.workspace,
            deadline_s=body.deadline_seconds,
            idempotency_key=call.key,
            start=body.start,
        )
    )
    return shown(m.Run, run, 201, {"location": f"/api/v1/runs/{run.id}"})


async def list_runs(call: Call) -> Response:
    query: m.RunsQuery = call.query
    page = await call.api.core.list_runs(
        call.caller,
        statuses=query.status,
        workflow=query.workflow,
        text=query.text,
        parent=None if query.parent is None else RunId(query.parent),
        session=query.session,
        children=query.children,
        before=None if query.before is None else RunId(query.before),
        limit=query.limit,
    )
    return shown(m.Runs, page)


async def get_run(call: Call) -> Response:
    query: m.RunQuery = call.query
    core, caller = call.api.core, call.caller
    run = await core.get_run(caller, call.run_id, detail=query.detail)
    if query.wait_seconds and run.status in ("planning", "executing"):
        waited = await _waited(call, query)
        if waited is None:
            run = await core.get_run(caller, call.run_id, detail=query.detail)
        else:
            run = waited
    return shown(m.Run, run)


async def _waited(call: Call, query: m.RunQuery) -> RunView | None:
    """The run after a wait; None when the client has gone or the server is about to end."""
    run: RunView | None = None
    with call.api.ending.until():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, call.request, tasks.cancel_scope)
            run = await call.api.core.wait(call.caller, call.run_id, query.wait_seconds, detail=query.detail)
            tasks.cancel_scope.cancel()
    return run


async def _until_gone(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def pause_run(call: Call) -> Response:
    body: m.Pause = call.body
    work = call.api.core.pause(
        call.caller, call.run_id, reason=body.reason, interrupt=body.interrupt, idempotency_key=call.key
    )
    return shown(m.Run, await committed(work))


async def resume_run(call: Call) -> Response:
    body: m.Because = call.body
    work = call.api.core.resume(call.caller, call.run_id, reason=body.reason, idempotency_key=call.key)
    return shown(m.Run, await committed(work))


async def cancel_run(call: Call) -> Response:
    body: m.Because = call.body
    work = call.api.core.cancel(call.caller, call.run_id, reason=body.reason, idempotency_key=call.key)
    return shown(m.Run, await committed(work))


# --- approvals and workflows --------------------------------------------------------------------------------------


async def list_approvals(call: Call) -> Response:
    query: m.ApprovalsQuery = call.query
    run_id = None if query.run_id is None else RunId(query.run_id)
    found = await call.api.core.list_approvals(call.caller, run_id=run_id, pending=query.pending)
    return shown(m.Approvals, {"approvals": found})


async def get_approval(call: Call) -> Response:
    approval_id = ApprovalId(call.request.path_params["approval_id"])
    return shown(m.Approval, await call.api.core.get_approval(call.caller, approval_id))


async def decide(call: Call) -> Response:
    """A request proves nothing about who sits there: what the decision is worth, the core takes from the caller."""
    body: m.Decide = call.body
    approval_id = ApprovalId(call.request.path_params["approval_id"])
    work = call.api.core.decide(
        call.caller,
        approval_id,
        body.decision,
        feedback=body.feedback,
        arguments=body.arguments,
        assurance="none",
        idempotency_key=call.key,
    )
    return shown(m.Approval, await committed(work))


async def list_decisions(call: Call) -> Response:
    query: m.DecisionsQuery = call.query
    run_id = None if query.run_id is None else RunId(query.run_id)
    found = await call.api.core.decisions(call.caller, run_id=run_id, effects=query.effect, limit=query.limit)
    return shown(m.Decisions, {"decisions": found})


async def list_budgets(call: Call) -> Response:
    return shown(m.Budgets, {"budgets": await call.api.core.budgets(call.caller)})


async def report(call: Call) -> Response:
    query: m.ReportQuery = call.query
    core = call.api.core
    since = max(0, core.clock.now_us() - int(query.hours * 3_600_000_000))
    return shown(m.Report, await core.report(call.caller, by=query.by, since=since, workflow=query.workflow))


async def raise_budget(call: Call) -> Response:
    body: m.Raise = call.body
    work = call.api.core.raise_budget(call.caller, body.name, usd=body.usd, tokens=body.tokens, calls=body.calls)
    return shown(m.Budget, await committed(work))


async def list_workflows(call: Call) -> Response:
    return shown(m.Workflows, {"workflows": await call.api.core.list_workflows(call.caller)})


# --- the table ----------------------------------------------------------------------------------------------------

_RUN: Final = "/api/v1/runs/{run_id}"
_APPROVAL: Final = "/api/v1/approvals/{approval_id}"

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(
        "POST", "/api/v1/runs", "start", start_run, "Start a run of a registered workflow.", m.Run,
        body=m.Start, status=201, keyed=True,
    ),
    Endpoint("GET", "/api/v1/runs", "read", list_runs, "List runs, newest first.", m.Runs, m.RunsQuery),
    Endpoint(
        "GET", _RUN, "read", get_run,
        "Show a run; with `wait_seconds`, once it has ended, asks for a decision or is paused.", m.Run, m.RunQuery,
    ),
    Endpoint(
        "POST", f"{_RUN}/pause", "change", pause_run, "Start no new node of a run.", m.Run, body=m.Pause, keyed=True
    ),
    Endpoint(
        "POST", f"{_RUN}/resume", "change", resume_run, "Go on with a paused run, or start a draft.", m.Run,
        body=m.Because, keyed=True,
    ),
    Endpoint(
        "POST", f"{_RUN}/cancel", "change", cancel_run, "End a run and everything below it.", m.Run,
        body=m.Because, keyed=True,
    ),
    Endpoint(
        "GET", "/api/v1/approvals", "read", list_approvals, "List what waits for a decision, oldest first.",
        m.Approvals, m.ApprovalsQuery,
    ),
    Endpoint("GET", _APPROVAL, "read", get_approval, "Show a question.", m.Approval),
    Endpoint(
        "POST", f"{_APPROVAL}/decide", "change", decide, "Decide a pending question; the run goes on by itself.",
        m.Approval, body=m.Decide, keyed=True,
    ),
    Endpoint(
        "GET", "/api/v1/decisions", "read", list_decisions, "List what policy decided about calls, newest first.",
        m.Decisions, m.DecisionsQuery,
    ),
    Endpoint(
        "GET", "/api/v1/report", "read", report, "Report how runs ended, how long they took and what they cost.",
        m.Report, m.ReportQuery,
    ),
    Endpoint("GET", "/api/v1/budgets", "read", list_budgets, "List what calls have cost by budget.", m.Budgets),
    Endpoint(
        "POST", "/api/v1/budgets/raise", "change", raise_budget, "Allow more of a budget; for admins.", m.Budget,
        body=m.Raise,
    ),
    Endpoint("GET", "/api/v1/workflows", "read", list_workflows, "List the registered workflows.", m.Workflows),
)  # fmt: skip


def routes(api: Api, endpoints: Sequence[Endpoint]) -> list[Route]:
    """A route for each path, so that another method gets 405 with what is allowed."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method] = one
    return [Route(path, _handler(api, by_method), methods=list(by_method)) for path, by_method in paths.items()]


def _handler(api: Api, by_method: dict[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        endpoint = by_method["GET" if request.method == "HEAD" else request.method]
        caller = caller_of(request)
        if api.read_only and endpoint.method != "GET":
            raise OmiumError("forbidden", "this server was started to look only.", "Use another one.")
        async with api.limits.call(caller.principal, endpoint.kind):
            _checked_id(request)
            query = read_query(request, endpoint.query)
            body: BaseModel | None = None
            if endpoint.body is not None:
                if not is_json(request):
                    hint = "Send `Content-Type: application/json`."
                    return error_response(
                        OmiumError("invalid_argument", "the body is not declared as JSON.", hint), 415
                    )
                body = await read_body(request, endpoint.body)
            key = request.headers.get("idempotency-key") if endpoint.keyed else None
            return await endpoint.handle(Call(api, request, caller, query, body, key))

    return handle
