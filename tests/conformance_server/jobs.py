"""Fixtures of the Tasks extension: tools whose work is a job in this process's memory instead of a run."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from mcp.server.context import HandlerResult
from mcp.server.mcpserver import require_client_extension
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
    TextContent,
)
from pydantic import BaseModel

from omium.tools.tasks_source import Changed, Promise, Question, Reply, Standing, Visit
from tests.conformance_server.asking import answered, form
from tests.conformance_server.content import Ctx

EXTENSION = "io.modelcontextprotocol/tasks"


class Confirmation(BaseModel):
    confirm: bool


class Name(BaseModel):
    name: str


# --- the tools, as clients see them that take no tasks ----------------------------------------------------------------


def greet(name: str) -> str:
    """Answers at once, always."""
    return f"Hello, {name}!"


async def slow_compute(seconds: float, label: str = "") -> str:
    """Takes its time."""
    await anyio.sleep(seconds)  # real time: the caller says how long
    return f"computed {label}"


def failing_job(ctx: Ctx) -> str:
    """Fails, as a task only."""
    require_client_extension(ctx.request_context, EXTENSION)
    raise ToolError("the job failed")


def protocol_error_job(ctx: Ctx) -> str:
    """Ends in an error of the protocol, as a task only."""
    require_client_extension(ctx.request_context, EXTENSION)
    raise ToolError("the job crashed")


def confirm_delete(ctx: Ctx, filename: str) -> str:
    """Asks before it deletes, as a task only."""
    require_client_extension(ctx.request_context, EXTENSION)
    return f"{filename} stays"


def multi_input(ctx: Ctx) -> str:
    """Asks two things at once, as a task only."""
    require_client_extension(ctx.request_context, EXTENSION)
    return "nothing was asked"


def test_tool_with_task(ctx: Ctx) -> str | InputRequiredResult:
    """Asks for a name, and then takes its time, as a task only."""
    require_client_extension(ctx.request_context, EXTENSION)
    name = answered(ctx, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return f"Hello, {name}!"


def tools() -> list[Tool]:
    functions = (
        greet,
        slow_compute,
        failing_job,
        protocol_error_job,
        confirm_delete,
        multi_input,
        test_tool_with_task,
    )
    return [Tool.from_function(function) for function in functions]


# --- the same as tasks ------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """`ends_in`: seconds from the beginning, or from the last answer if it asks. `questions`: still open."""

    result: str
    ends_in: float
    questions: dict[str, Question] = field(default_factory=dict)
    since: float = field(default_factory=time.time)
    cancelled: bool = False
    moved: anyio.Event = field(default_factory=anyio.Event)

    @property
    def ends_at(self) -> float:
        return self.since + self.ends_in

    def over(self) -> bool:
        return self.cancelled or (not self.questions and time.time() >= self.ends_at)

    def move(self) -> None:
        self.since = time.time()
        self.moved.set()
        self.moved = anyio.Event()


class Jobs:
    """The tools above, behind the seam that stands before runs in the product."""

    tools = frozenset(
        {"slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input", "test_tool_with_task"}
    )

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    async def promise(
        self, visit: Visit, params: CallToolRequestParams, proceed: Callable[[], Awaitable[HandlerResult]]
    ) -> Promise | HandlerResult:
        given = params.arguments or {}
        job = Job("done", 0.3)
        if params.name == "slow_compute":
            job = Job(f"computed {given.get('label', '')}", float(given["seconds"]))
        elif params.name == "confirm_delete":
            job.questions["confirm"] = Question("confirm", f"Delete {given.get('filename')}?", Confirmation)
        elif params.name == "multi_input":
            job.questions["first"] = Question("first", "What is your first name?", Name)
            job.questions["second"] = Question("second", "And the second?", Name)
        elif params.name == "test_tool_with_task":
            answer = (params.input_responses or {}).get("user_name")
            if not isinstance(answer, ElicitResult) or not answer.content:
                return await proceed()
            job.result = f"Hello, {answer.content.get('name')}!"
        subject = uuid.uuid4().hex
        self._jobs[subject] = job
        return Promise(params.name, subject)

    async def standing(self, visit: Visit, promise: Promise) -> Standing | None:
        job = self._jobs.get(promise.subject)
        if job is None:
            return None
        if not job.over():
            return Standing("working", _micros(job.since), questions=tuple(job.questions.values()))
        if job.cancelled:
            return Standing("cancelled", _micros(job.since))
        failed = promise.tool == "protocol_error_job"
        return Standing("failed" if failed else "completed", _micros(job.ends_at))

    async def outcome(self, visit: Visit, promise: Promise) -> CallToolResult | ErrorData:
        if promise.tool == "protocol_error_job":
            return ErrorData(code=INTERNAL_ERROR, message="the job crashed")
        text = TextContent(text=self._jobs[promise.subject].result)
        return CallToolResult(content=[text], is_error=promise.tool == "failing_job")

    async def answer(self, visit: Visit, promise: Promise, question: Question, reply: Reply) -> None:
        job = self._jobs[promise.subject]
        if job.questions.pop(question.id, None) is not None:
            job.move()

    async def cancel(self, visit: Visit, promise: Promise) -> bool:
        job = self._jobs[promise.subject]
        if not job.over():
            job.cancelled = True
            job.move()
        return True

    @asynccontextmanager
    async def watching(self, visit: Visit, promise: Promise) -> AsyncIterator[Changed]:
        job = self._jobs[promise.subject]
        event = job.moved

        async def changed() -> None:
            nonlocal event
            left = job.ends_at - time.time()
            with anyio.move_on_after(left if not job.questions and left > 0 else None):
                await event.wait()
            event = job.moved

        yield changed


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
