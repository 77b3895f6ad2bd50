"""The client: a method for each tool, typed answers, one error.

What changes something carries an idempotency key, of the caller's or of its own, so that a call which was cut off with
the connection can be repeated: the server does it once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from uuid import uuid4

import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from omium.clients.remote.answers import (
    Approval,
    Checkpoint,
    ClosedBranch,
    Comparison,
    Decision,
    Epic,
    Event,
    Memories,
    Memory,
    Operation,
    Phase,
    Plan,
    Run,
    Wire,
    Workflow,
)
from omium.clients.remote.connection import ANSWER_S, PATIENCE_S, Connect, Connection
from omium.orchestration.errors import OmiumError

DEFAULT: Final = "default"
WAIT_S: Final = 45.0  # the longest that one call waits at the server
_LOOK_S: Final = (0.1, 2.0)  # how long nothing new is looked for again: at first, and at most
_SERVE: Final = (sys.executable, "-c", "from omium.server.cli import main; main()", "serve")
_CONNECT_S: Final = 10.0

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""How a human is asked: the question and the JSON Schema of the form give what was filled in, or None for declined."""

Reuse = Literal["none", "unchanged"]


class OmiumClient:
    """A client, as an async context manager, made by `stdio` or `http`. connection: for other transports."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    def stdio(
        cls,
        project: Path | str,
        *,
        toolsets: Sequence[str] = (DEFAULT,),
        ask: Ask | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = _SERVE,
        options: Sequence[str] = (),
        patience_s: float = PATIENCE_S,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Over a server of its own, in a process below this one, for the project in this directory. It starts again
        when it dies; runs go on meanwhile, or are taken up by the next one. environment: instead of this process's."""
        variables = {**(os.environ if environment is None else environment), "OMIUM_PROJECT": str(project)}
        arguments = [*command[1:], "--toolsets", ",".join(toolsets), *options]
        server = StdioServerParameters(command=command[0], args=arguments, env=variables)

        @asynccontextmanager
        async def connect() -> AsyncIterator[Client]:
            async with Client(server, elicitation_callback=_form(ask)) as client:
                yield client

        return cls(Connection(connect, patience_s=patience_s, tell=tell))

    @classmethod
    def http(
        cls,
        url: str,
        *,
        token: str | None = None,
        ask: Ask | None = None,
        patience_s: float = PATIENCE_S,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Over a server that is running, at its `/mcp`. token: sent as a bearer token, and only there."""
        return cls(Connection(_over_http(url, token, ask), patience_s=patience_s, tell=tell))

    async def __aenter__(self) -> Self:
        await self.connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.connection.__aexit__(kind, error, trace)

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Any tool by its name, for those that have no method here. What is None is not sent."""
        return await self.connection.call(tool, arguments)

    # --- runs ---------------------------------------------------------------------------------------------------------

    async def run_workflow(
        self,
        workflow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        workspace: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run; it goes on without this client."""
        answer = await self.call(
            "run_workflow",
            workflow=workflow,
            inputs=dict(inputs) if inputs is not None else None,
            title=title,
            workspace=workspace,
            deadline_seconds=deadline_seconds,
            idempotency_key=_key(idempotency_key),
        )
        return Run.model_validate(answer)

    async def get_run(self, run_id: str, *, wait_seconds: float = 0, detail: bool = False) -> Run:
        """A run as it stands; with wait_seconds (45 at most), once it has settled or the time is over."""
        answer = await self.call("get_run", run_id=run_id, wait_seconds=wait_seconds, detail=detail)
        return Run.model_validate(answer)

    async def wait(self, run_id: str, *, seconds: float | None = None) -> Run:
        """The run once it has ended, waits for a decision or is paused. Raises `timeout` after `seconds`."""
        return await self._until_settled(lambda span: self.get_run(run_id, wait_seconds=span), seconds)

    async def output(self, run_id: str, node: str | None = None) -> Any:
        """What a run, or one of its nodes, gave; however long it is."""
        text, offset = "", 0
        while True:
            detail = True if node is None and offset == 0 else None
            answer = await self.call("get_run", run_id=run_id, node=node, offset=offset, detail=detail)
            piece = Run.model_validate(answer).output
            if piece is None:
                return None
            if piece.text is None:
                return piece.value
            text += piece.text
            if piece.next_offset is None:
                return json.loads(text)
            offset = piece.next_offset

    async def list_runs(
        self,
        *,
        statuses: Sequence[str] | None = None,
        workflow: str | None = None,
        text: str | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> list[Run]:
        """Newest first; give the last one's id as `before` for those after it."""
        answer = await self.call(
            "list_runs",
            statuses=list(statuses) if statuses is not None else None,
            workflow=workflow,
            text=text,
            limit=limit,
            before=before,
        )
        return [Run.model_validate(one) for one in answer["runs"]]

    async def control(
        self,
        run_id: str,
        action: Literal["pause", "resume", "cancel"],
        *,
        reason: str | None = None,
        interrupt: bool = False,
        idempotency_key: str | None = None,
    ) -> Run:
        answer = await self.call(
            "control_run",
            run_id=run_id,
            action=action,
            reason=reason,
            interrupt=interrupt or None,
            idempotency_key=_key(idempotency_key),
        )
        return Run.model_validate(answer)

    async def list_workflows(self) -> list[Workflow]:
        found: list[Workflow] = []
        after: str | None = None
        while True:
            answer = await self.call("list_workflows", after=after)
            found += [Workflow.model_validate(one) for one in answer["workflows"]]
            after = answer.get("after")
            if after is None:
                return found

    # --- history ------------------------------------------------------------------------------------------------------

    async def checkpoint(
        self,
        run_id: str,
        label: str,
        *,
        at: str | int | None = None,
        note: str | None = None,
        idempotency_key: str | None = None,
    ) -> Checkpoint:
        answer = await self.call(
            "checkpoint", run_id=run_id, label=label, at=at, note=note, idempotency_key=_key(idempotency_key)
        )
        return Checkpoint.model_validate(answer)

    async def checkpoints(self, run_id: str, *, before: int | None = None, limit: int = 20) -> list[Checkpoint]:
        """Newest first."""
        answer = await self.call("list_checkpoints", run_id=run_id, before=before, limit=limit)
        return [Checkpoint.model_validate(one) for one in answer["checkpoints"]]

    async def preview(self, operation: Literal["rollback", "branch", "play_from_node"], **arguments: Any) -> Plan:
        """What an operation would do. The plan's token, given to it with the same arguments, does just that."""
        return Plan.model_validate((await self.call(operation, preview=True, **arguments))["plan"])

    async def rollback(
        self,
        run_id: str,
        to: str | int,
        *,
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Raises `plan_required`, with the plan in its data, where calls would be undone or repeated."""
        return await self._operation(
            "rollback",
            run_id=run_id,
            to=to,
            reason=reason,
            plan_token=plan_token,
            idempotency_key=_key(idempotency_key),
        )

    async def branch(
        self,
        run_id: str,
        *,
        name: str,
        at: str | int | None = None,
        hypothesis: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        start: bool = True,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """The new run is the answer's `run`."""
        return await self._operation(
            "branch",
            run_id=run_id,
            name=name,
            at=at,
            hypothesis=hypothesis,
            overrides=dict(overrides) if overrides is not None else None,
            start=start,
            plan_token=plan_token,
            idempotency_key=_key(idempotency_key),
        )

    async def play_from(
        self,
        run_id: str,
        node: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        reuse: Reuse = "none",
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        """In place, or in a new run if it has completed or was cancelled: the answer's `run` goes on."""
        return await self._operation(
            "play_from_node",
            run_id=run_id,
            node=node,
            overrides=dict(overrides) if overrides is not None else None,
            reuse=reuse,
            reason=reason,
            plan_token=plan_token,
            idempotency_key=_key(idempotency_key),
        )

    async def compare(self, a: str, b: str, *, detail: bool = False) -> Comparison:
        return Comparison.model_validate(await self.call("compare_runs", a=a, b=b, detail=detail))

    async def _operation(self, tool: str, **arguments: Any) -> Operation:
        return Operation.model_validate(await self.call(tool, **arguments))

    # --- decisions ----------------------------------------------------------------------------------------------------

    async def approvals(self, run_id: str | None = None, *, pending: bool = True) -> list[Approval]:
        """Oldest first."""
        found: list[Approval] = []
        after: str | None = None
        while True:
            answer = await self.call("list_approvals", run_id=run_id, pending=pending, after=after)
            found += [Approval.model_validate(one) for one in answer["approvals"]]
            after = answer.get("after")
            if after is None:
                return found

    async def approve(
        self,
        approval_id: str,
        decision: str = "approve",
        *,
        feedback: str | None = None,
        idempotency_key: str | None = None,
    ) -> Decision:
        """Propose a decision. A human decides, who is asked through `ask`; what a program decides alone counts only
        where the gate asks for nothing more."""
        answer = await self.call(
            "approve",
            approval_id=approval_id,
            decision=decision,
            feedback=feedback,
            idempotency_key=_key(idempotency_key),
        )
        return Decision.model_validate(answer)

    # --- toolset epics ------------------------------------------------------------------------------------------------

    async def start_epic(
        self,
        goal: str,
        *,
        acceptance: Sequence[str] = (),
        workflow: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        workspace: str | None = None,
        phases: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """phases: only these and what they need; `"auto"`: as far as the goal says."""
        answer = await self.call(
            "start_epic",
            goal=goal,
            acceptance=list(acceptance),
            workflow=workflow,
            inputs=dict(inputs) if inputs is not None else None,
            workspace=workspace,
            phases=phases if phases is None or isinstance(phases, str) else list(phases),
            idempotency_key=_key(idempotency_key),
        )
        return Run.model_validate(answer)

    async def get_epic(self, run_id: str, *, wait_seconds: float = 0) -> Epic:
        return Epic.model_validate(await self.call("get_epic", run_id=run_id, wait_seconds=wait_seconds))

    async def rollback_phase(
        self,
        run_id: str,
        phase: str,
        *,
        reason: str | None = None,
        plan_token: str | None = None,
        idempotency_key: str | None = None,
    ) -> Operation:
        return await self._operation(
            "rollback_phase",
            run_id=run_id,
            phase=phase,
            reason=reason,
            plan_token=plan_token,
            idempotency_key=_key(idempotency_key),
        )

    # --- toolset memory -----------------------------------------------------------------------------------------------

    async def remember(
        self,
        key: str,
        text: str,
        *,
        scope: str = "project",
        kind: str = "note",
        tags: Sequence[str] = (),
        outcome: str | None = None,
    ) -> Memory:
        answer = await self.call(
            "remember", key=key, text=text, scope=scope, kind=kind, tags=list(tags), outcome=outcome
        )
        return Memory.model_validate(answer)

    async def recall(
        self,
        text: str | None = None,
        *,
        scope: str | None = None,
        key: str | None = None,
        kind: str | None = None,
        tags: Sequence[str] = (),
        offset: int = 0,
        limit: int = 20,
    ) -> Memories:
        answer = await self.call(
            "recall", text=text, scope=scope, key=key, kind=kind, tags=list(tags), offset=offset, limit=limit
        )
        return Memories.model_validate(answer)

    async def forget(self, scope: str, key: str | None = None) -> int:
        """How many there were."""
        return int((await self.call("forget", scope=scope, key=key))["forgotten"])

    # --- toolset supervision ------------------------------------------------------------------------------------------

    async def signal(self, run_id: str, name: str, payload: Any = None, *, idempotency_key: str | None = None) -> Run:
        answer = await self.call(
            "send_signal", run_id=run_id, name=name, payload=payload, idempotency_key=_key(idempotency_key)
        )
        return Run.model_validate(answer)

    async def events(self, run_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """The run's log from behind the position `after`, as it goes on, until the run has ended and all of it was
        given: each event once and in order, whatever becomes of the connection meanwhile. Needs the toolset
        `supervision`."""
        import anyio

        pause = _LOOK_S[0]
        while True:
            page = await self.call("list_events", run_id=run_id, after=after, limit=50)
            for one in page["events"]:
                yield Event.model_validate(one)
            pause = _LOOK_S[0] if page["events"] else min(2 * pause, _LOOK_S[1])
            after = page["after"]
            if page["more"]:
                continue
            run = await self.get_run(run_id)
            if run.seq > after:
                continue
            if run.ended:
                return
            await anyio.sleep(pause)

    async def close_branch(
        self,
        run_id: str,
        outcome: Literal["adopted", "abandoned"],
        *,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> ClosedBranch:
        answer = await self.call(
            "close_branch", run_id=run_id, outcome=outcome, reason=reason, idempotency_key=_key(idempotency_key)
        )
        return ClosedBranch.model_validate(answer)

    async def _until_settled(self, look: Callable[[float], Awaitable[Run]], seconds: float | None) -> Run:
        """Ask again and again, each time for as long as the server holds a call."""
        import anyio

        end = anyio.current_time() + seconds if seconds is not None else None
        while True:
            left = WAIT_S if end is None else min(WAIT_S, end - anyio.current_time())
            run = await look(max(0.0, left))
            if run.settled:
                return run
            if end is not None and anyio.current_time() >= end:
                raise OmiumError(
                    "timeout",
                    f"the run {run.run_id} is {run.status} after {seconds:g} s.",
                    "It goes on. Wait again.",
                    run_id=run.run_id,
                )


def _key(given: str | None) -> str:
    """The caller's key, or one that is good for this call and its repeats."""
    return given if given is not None else f"call-{uuid4().hex}"


def _over_http(url: str, token: str | None, ask: Ask | None) -> Connect:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        refused = False

        async def look(response: httpx2.Response) -> None:
            nonlocal refused
            refused = refused or response.status_code == httpx2.codes.UNAUTHORIZED

        try:
            async with open_http(look) as client:
                yield client
        except Exception as error:
            if not refused:
                raise
            raise OmiumError(
                "unauthenticated",
                "the server takes no such credential." if token else "the server asks for a credential.",
                "Give a token that `omium token create` has made.",
            ) from error

    @asynccontextmanager
    async def open_http(look: Callable[[httpx2.Response], Awaitable[None]]) -> AsyncIterator[Client]:
        async with httpx2.AsyncClient(
            headers=headers,
            event_hooks={"response": [look]},
            timeout=httpx2.Timeout(_CONNECT_S, read=ANSWER_S),
            trust_env=False,  # no proxy or .netrc of the environment sees the token
            follow_redirects=False,
        ) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, elicitation_callback=_form(ask)) as client:
                yield client

    return connect


def _form(ask: Ask | None) -> Any:
    """The SDK's callback for a form; None declares that there is nobody to ask."""
    if ask is None:
        return None

    async def fill(_: Any, params: ElicitRequestParams) -> ElicitResult:
        if not isinstance(params, ElicitRequestFormParams):
            return ElicitResult(action="cancel")
        filled = await ask(params.message, params.requested_schema)
        if filled is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content=dict(filled))

    return fill


__all__ = ["Ask", "Epic", "OmiumClient", "Phase", "Wire"]
