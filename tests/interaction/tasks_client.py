"""A client that takes tasks, for tests: the SDK's own, with the extension declared and its methods spelled out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp.client.session import ElicitationFnT
from mcp_types import (
    CallToolResult,
    ElicitResult,
    Request,
    RequestParams,
    Result,
    SubscriptionsAcknowledgedNotification,
)
from pydantic import BaseModel, ConfigDict, Field

from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.mcp import build_server
from tests.interaction.studio import ADA

TASKS = "io.modelcontextprotocol/tasks"
ENDS = ("completed", "failed", "cancelled")


class Anything(Result):
    """A result as it came."""

    model_config = ConfigDict(extra="allow")

    @property
    def raw(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude={"meta"})


class TaskResult(Result):
    """Nothing but the fields that the protocol gives a new task."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    result_type: Literal["task"] = Field(alias="resultType")
    task_id: str = Field(alias="taskId")
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    created_at: str = Field(alias="createdAt")
    last_updated_at: str = Field(alias="lastUpdatedAt")
    ttl_ms: int | None = Field(alias="ttlMs")
    poll_interval_ms: int = Field(alias="pollIntervalMs", gt=0)
    status_message: str | None = Field(None, alias="statusMessage")


class Params(RequestParams):
    model_config = ConfigDict(extra="allow")


class TaskRequest(Request[Params, str]):
    name_param: ClassVar[str | None] = "taskId"

    method: str
    params: Params


class Listen(Request[Params, str]):
    method: str = "subscriptions/listen"
    params: Params


class Told(BaseModel):
    model_config = ConfigDict(extra="allow")


class Tasking(ClientExtension):
    """`finish` answers for `Client.call_tool`, which is to give an ordinary result."""

    identifier = TASKS

    def __init__(self) -> None:
        self.message: Callable[[Any], Awaitable[None]] | None = None
        self.heard, self.hears = anyio.create_memory_object_stream[dict[str, Any]](1_000)

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskResult, resolve=self._finish)]

    def notifications(self) -> list[NotificationBinding[Any]]:
        return [NotificationBinding(method="notifications/tasks", params_type=Told, handler=self._hear)]

    async def _finish(self, task: TaskResult, ctx: ClaimContext) -> CallToolResult:
        while True:
            request = TaskRequest(method="tasks/get", params=Params.model_validate({"taskId": task.task_id}))
            now = (await ctx.session.send_request(request, Anything)).raw
            if now["status"] in ENDS:
                return CallToolResult.model_validate(now["result"])
            await anyio.sleep(0.02)  # real time: how the protocol waits, and the server may be another process

    async def other(self, message: Any) -> None:
        if self.message is not None:
            await self.message(message)

    async def _hear(self, told: Told) -> None:
        await self.heard.send(told.model_dump())


@dataclass
class Taker:
    """Speaks the protocol's methods; answers are plain JSON."""

    client: Client
    extension: Tasking

    async def call(self, name: str, /, **arguments: Any) -> CallToolResult | TaskResult:
        result = await self.client.session.call_tool(name, arguments, allow_claimed=True)
        assert isinstance(result, CallToolResult | TaskResult)
        return result

    async def task(self, name: str, /, **arguments: Any) -> str:
        """The id of the task that a call must become."""
        result = await self.call(name, **arguments)
        assert isinstance(result, TaskResult), result
        return result.task_id

    async def plain(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured content of a call that must not become a task."""
        result = await self.call(name, **arguments)
        assert isinstance(result, CallToolResult), result
        assert not result.is_error, result
        assert result.structured_content is not None
        return dict(result.structured_content)

    async def method(self, method: str, **params: Any) -> dict[str, Any]:
        request = TaskRequest(method=method, params=Params.model_validate(params))
        return (await self.client.session.send_request(request, Anything)).raw

    async def get(self, task_id: str) -> dict[str, Any]:
        task = await self.method("tasks/get", taskId=task_id)
        assert task.pop("resultType") == "complete"
        assert task["taskId"] == task_id
        held = {"completed": "result", "failed": "error", "input_required": "inputRequests"}.get(task["status"])
        for name in ("result", "error", "inputRequests"):
            assert (name in task) == (name == held), task
        return task

    async def update(self, task_id: str, **responses: Any) -> None:
        ack = await self.method("tasks/update", taskId=task_id, inputResponses=responses)
        assert ack == {"resultType": "complete"}

    async def cancel(self, task_id: str) -> None:
        assert await self.method("tasks/cancel", taskId=task_id) == {"resultType": "complete"}

    async def until(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """The task once it has one of these statuses."""
        while (task := await self.get(task_id))["status"] not in statuses:
            await anyio.sleep(0.01)  # real time: how the protocol waits
        return task

    async def ended(self, task_id: str) -> dict[str, Any]:
        return await self.until(task_id, *ENDS)

    @asynccontextmanager
    async def listening(self, *task_ids: str) -> AsyncIterator[MemoryObjectReceiveStream[dict[str, Any]]]:
        """What is told of these tasks while the subscription is open."""
        wanted = {"notifications": {"taskIds": list(task_ids)}}
        async with anyio.create_task_group() as tasks:
            request = Listen(params=Params.model_validate(wanted))
            tasks.start_soon(self.client.session.send_request, request, Anything)
            yield self.extension.hears
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def acknowledged(self, *task_ids: str) -> AsyncIterator[dict[str, Any]]:
        """What the server says it will tell of."""
        honored: dict[str, Any] = {}
        acked = anyio.Event()

        async def hear(message: Any) -> None:
            if isinstance(message, SubscriptionsAcknowledgedNotification):
                honored.update(message.params.notifications.model_dump(by_alias=True, exclude_none=True))
                acked.set()

        self.extension.message = hear
        async with self.listening(*task_ids):
            await acked.wait()
            yield honored


def result_of(task: dict[str, Any]) -> dict[str, Any]:
    """The structured content of a completed task's result."""
    result = CallToolResult.model_validate(task["result"])
    assert not result.is_error, result
    assert result.structured_content is not None
    return dict(result.structured_content)


@asynccontextmanager
async def taking(
    core: Core,
    *,
    caller: Caller = ADA,
    forms: bool = True,
    read_only: bool = False,
) -> AsyncIterator[Taker]:
    """A client with tasks of a new server over this core; with `forms` it declares elicitation, too."""

    async def answer(_: Any, params: Any) -> ElicitResult:
        raise AssertionError("nobody is asked but through the task")

    server = build_server(core, caller, read_only=read_only)
    extension = Tasking()
    async with (
        extension.heard,
        extension.hears,
        Client(
            server,
            extensions=[extension],
            elicitation_callback=cast(ElicitationFnT, answer) if forms else None,
            message_handler=extension.other,
        ) as client,
    ):
        yield Taker(client, extension)
