"""The extension `io.modelcontextprotocol/tasks`: a call that takes long is answered by a task, and asked for later.

https://modelcontextprotocol.io/seps/2663-tasks-extension. A client declares the extension with each request; the server
alone decides which calls become tasks. What a task stands for comes from a source (`tools/tasks_source.py` is the seam
and says how to write one), what was put to the client is in the stored task (`tools/tasks_record.py`), changes are
told by `tools/tasks_listen.py`. Nothing lives in a request: a task is stored before its id is sent, and any server of
the same database answers for it, to the principal and project that it was made for and to nobody else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.elicitation import render_elicitation_schema
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    ElicitResult,
    ErrorData,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field, ValidationError

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.ports import TaskRow
from omium.tools.approvals import has_forms
from omium.tools.desk import Desk, committed
from omium.tools.present import line
from omium.tools.refusals import refused
from omium.tools.tasks_record import Record, read
from omium.tools.tasks_source import Promise, Question, Reply, Standing, TaskSource, Visit

TASKS: Final = "io.modelcontextprotocol/tasks"
TTL_S: Final = 30 * 86_400.0
_ID_BYTES: Final = 20  # 160 random bits
_POLL_MS: Final = (500, 5_000)  # a young task is asked for more often than one that has taken long
_ID: Final = re.compile(rf"task_[0-9a-f]{{{2 * _ID_BYTES}}}")

T = TypeVar("T")
Ctx = ServerRequestContext[Desk, Any]


class TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    input_responses: dict[str, Any] = Field(alias="inputResponses")


@dataclass(frozen=True, slots=True)
class Seen:
    """A task as it stands: its row and record after what was put to the client was noted."""

    row: TaskRow
    record: Record
    source: TaskSource
    standing: Standing
    open: Mapping[str, Question]

    @property
    def promise(self) -> Promise:
        return Promise(self.record.tool, self.row.run_id, self.record.memo)

    @property
    def status(self) -> str:
        if self.record.end is not None:
            return self.record.end.status
        return "input_required" if self.open else "working"

    @property
    def over(self) -> bool:
        return self.record.end is not None


class TasksExtension(Extension):
    """Tasks over some sources; of two sources for a tool the later one has it. What goes with it into a server stands
    in `tools/tasks_listen.py`."""

    identifier = TASKS

    def __init__(self, sources: Sequence[TaskSource], *, ttl_s: float | None = TTL_S) -> None:
        self._sources = {tool: source for source in sources for tool in source.tools}
        self._ttl_us = None if ttl_s is None else int(ttl_s * 1e6)

    def methods(self) -> Sequence[MethodBinding]:
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return (
            MethodBinding("tasks/get", TaskParams, self._get, versions),
            MethodBinding("tasks/update", UpdateParams, self._update, versions),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, versions),
        )

    # --- creation -------------------------------------------------------------------------------------------------

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Answer a call by a task where its source makes a promise of it, and as ever otherwise."""
        source = self._sources.get(params.name)
        if source is None or not declares_tasks(ctx):
            return await call_next(ctx)
        try:
            visit = visit_of(ctx)
        except OmiumError:
            return await call_next(ctx)  # the tool refuses it in the form of a tool's failure
        promised = await answered(source.promise(visit, params, lambda: call_next(ctx)))
        return await self._created(visit, promised) if isinstance(promised, Promise) else promised

    async def _created(self, visit: Visit, promise: Promise) -> dict[str, Any]:
        now = visit.core.clock.now_us()
        row = TaskRow(
            id=f"task_{secrets.token_hex(_ID_BYTES)}",
            project=visit.caller.project,
            principal=visit.caller.principal,
            run_id=RunId(promise.subject),
            created_at=now,
            expires_at=None if self._ttl_us is None else now + self._ttl_us,
            version=0,
            document=Record(promise.tool, promise.memo).document(),
        )
        await answered(committed(visit.core.store.put_task(row)))
        return {"resultType": "task", **_task(row, "working", now, now, promise.message)}

    # --- the methods ----------------------------------------------------------------------------------------------

    async def _get(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        visit = declared_visit(ctx)
        task = await self.detailed(visit, await self.seen(visit, params.task_id))
        return {"resultType": "complete", **task}

    async def _update(self, ctx: Ctx, params: UpdateParams) -> dict[str, Any]:
        """Pass on the replies to what is outstanding; the rest is ignored, as the specification asks. Nothing is passed
        on when a reply does not fit its question."""
        visit = declared_visit(ctx)
        row = await self._row(visit, params.task_id)
        record, source, promise = self._behind(row)
        standing = await answered(source.standing(visit, promise))
        if standing is None:
            raise unknown_task()
        # Only what was put to this client: a key that `seen` has not given out yet is no key.
        open_ = record.outstanding(standing.questions) if record.end is None and visit.forms else {}
        replies = {key: _reply(key, open_[key], given) for key, given in params.input_responses.items() if key in open_}
        for key, reply in replies.items():
            await answered(source.answer(visit, promise, open_[key], reply))
            await self._change(visit, row.id, partial(Record.answer, key=key))
        return {}

    async def _cancel(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        visit = declared_visit(ctx)
        row = await self._row(visit, params.task_id)
        record, source, promise = self._behind(row)
        if record.end is None and not await answered(committed(source.cancel(visit, promise))):
            at = visit.core.clock.now_us()
            await self._change(visit, row.id, lambda record: record.ended("cancelled", at))
        return {}

    # --- looking --------------------------------------------------------------------------------------------------

    async def seen(self, visit: Visit, task_id: str) -> Seen:
        """The task now. Notes what the client is about to be told: new questions with their keys, or the end.

        Raises `MCPError` -32602 for a task that this caller does not have."""
        while True:
            row = await self._row(visit, task_id)
            record, source, promise = self._behind(row)
            standing = await answered(source.standing(visit, promise))
            if standing is None:
                raise unknown_task()
            questions = standing.questions if visit.forms and standing.status == "working" else ()
            if standing.status == "working":
                after = record.ask(questions) if record.end is None else record
            else:
                after = record.ended(standing.status, standing.changed_at)
            noted = after is record or await answered(
                committed(visit.core.store.change_task(row.id, row.version, after.document()))
            )
            if noted:
                return Seen(row, after, source, standing, after.outstanding(questions) if after.end is None else {})

    async def detailed(self, visit: Visit, seen: Seen) -> dict[str, Any]:
        """The task with what its status brings: the result, the error, or the requests."""
        end = seen.record.end
        updated = end.at if end is not None else seen.standing.changed_at
        now = visit.core.clock.now_us()
        task = _task(seen.row, seen.status, max(updated, seen.row.created_at), now, seen.standing.message)
        if seen.open:
            task["inputRequests"] = {key: _request(question) for key, question in seen.open.items()}
        if end is not None and end.status != "cancelled":
            outcome = await answered(seen.source.outcome(visit, seen.promise))
            failed = isinstance(outcome, ErrorData)
            task["error" if failed else "result"] = outcome.model_dump(by_alias=True, mode="json", exclude_none=True)
        return task

    async def _row(self, visit: Visit, task_id: str) -> TaskRow:
        """The caller's task. Another's, an expired one and none at all are the same."""
        found = await answered(visit.core.store.task(task_id)) if _ID.fullmatch(task_id) else None
        mine = found is not None and (found.project, found.principal) == (visit.caller.project, visit.caller.principal)
        if found is None or not mine or found.document["tool"] not in self._sources:
            raise unknown_task()
        if found.expires_at is not None and found.expires_at <= visit.core.clock.now_us():
            raise unknown_task()
        return found

    def _behind(self, row: TaskRow) -> tuple[Record, TaskSource, Promise]:
        record = read(row.document)
        return record, self._sources[record.tool], Promise(record.tool, row.run_id, record.memo)

    async def _change(self, visit: Visit, task_id: str, change: Callable[[Record], Record]) -> None:
        while True:
            row = await self._row(visit, task_id)
            after = change(read(row.document)).document()
            if await answered(committed(visit.core.store.change_task(row.id, row.version, after))):
                return


# --- the wire --------------------------------------------------------------------------------------------------------


def _task(row: TaskRow, status: str, updated: int, now: int, message: str) -> dict[str, Any]:
    ttl = None if row.expires_at is None else (row.expires_at - row.created_at) // 1000
    shortest, longest = _POLL_MS
    task: dict[str, Any] = {
        "taskId": row.id,
        "status": status,
        "createdAt": _instant(row.created_at),
        "lastUpdatedAt": _instant(updated),
        "ttlMs": ttl,
        "pollIntervalMs": min(longest, max(shortest, (now - row.created_at) // 10_000)),  # a tenth of its age
    }
    return {**task, "statusMessage": line(message, 600)} if message else task


def _instant(microseconds: int) -> str:
    at = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request(question: Question) -> dict[str, Any]:
    schema = render_elicitation_schema(question.form)
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": question.message, "requestedSchema": schema},
    }


def _reply(key: str, question: Question, given: Any) -> Reply:
    """The reply to a question. Raises `MCPError` -32602 for one that does not fit it; the values stay out of the
    message, since they are a human's."""
    try:
        result = ElicitResult.model_validate(given, by_name=False)
        content = question.form.model_validate(result.content) if result.action == "accept" else None
    except ValidationError as error:
        wrong = sorted({".".join(str(part) for part in one["loc"]) or "content" for one in error.errors()})
        raise MCPError(
            INVALID_PARAMS,
            f"the response for {line(key)} does not fit its request: {line(', '.join(wrong))}",
            {"code": "invalid_argument", "key": line(key), "fields": [line(one) for one in wrong[:8]]},
        ) from None
    return Reply(result.action, content)


# --- who asks --------------------------------------------------------------------------------------------------------


def declares_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client takes tasks, said with this request: the extension exists on today's protocol only."""
    capabilities = ctx.session.client_capabilities
    extensions = (capabilities.extensions if capabilities is not None else None) or {}
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in extensions


def visit_of(ctx: ServerRequestContext[Any, Any]) -> Visit:
    """Who makes a request. Raises what the server's identification raises."""
    desk: Desk = ctx.lifespan_context
    caller = desk.identify(Context(request_context=ctx))
    return Visit(desk.core, caller, has_forms(ctx.session.client_capabilities), ctx)


def declared_visit(ctx: ServerRequestContext[Any, Any]) -> Visit:
    """The same for a request that is about tasks: `MCPError` -32021 from a client that does not take them."""
    if not declares_tasks(ctx):
        raise undeclared()
    try:
        return visit_of(ctx)
    except OmiumError as error:
        raise refused(error) from error


def undeclared() -> MCPError:
    """For a request that cannot be served without tasks, by a client that does not take them."""
    return MCPError(
        MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"this needs the client capability {TASKS}",
        {"requiredCapabilities": {"extensions": {TASKS: {}}}},
    )


def unknown_task() -> MCPError:
    return MCPError(
        INVALID_PARAMS,
        "there is no such task, or it has expired",
        {"code": "not_found", "hint": "What it stood for may go on: list_runs()."},
    )


async def answered(work: Awaitable[T]) -> T:
    """The work, with an anticipated failure in the form of the protocol."""
    try:
        done = await work
    except OmiumError as error:
        raise (unknown_task() if error.code == "not_found" else refused(error)) from error
    return done
