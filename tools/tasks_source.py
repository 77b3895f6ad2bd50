"""What stands behind a task of the protocol: the seam between `tools/tasks.py`, which speaks the protocol, and work.

The extension `TasksExtension(sources)` is given one or more sources, each for some tools. Of a call of such a tool by
a client that takes tasks it asks the source for a `Promise`, stores that as a task, and from then on only asks how the
work stands. Between two requests nothing is kept but the stored task: a source finds its work again by the promise
alone, in another process too.

    class Jobs:                                             # a source, in short
        tools = frozenset({"slow_compute"})

        async def promise(self, visit, params, proceed):    # begin the work, durably; or answer now
            if params.arguments["seconds"] == 0:
                return await proceed()                      # the tool's own answer: no task
            return Promise("slow_compute", subject=self.begin(params.arguments))

        async def standing(self, visit, promise): ...       # Standing("working", changed_at)
        async def outcome(self, visit, promise): ...        # CallToolResult, or ErrorData if it failed
        async def answer(self, visit, promise, question, reply): ...
        async def cancel(self, visit, promise): ...
        def watching(self, visit, promise): ...             # async context manager: `await changed()`

In the product there is one source, `tools/tasks_runs.py`, whose work is a run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp_types import CallToolRequestParams, CallToolResult, ErrorData
from pydantic import BaseModel

from omium.orchestration.service.views import Caller

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

Ending: TypeAlias = Literal["completed", "failed", "cancelled"]
Changed: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Visit:
    """A request about a task: who makes it, and whether their client can show a form to a human."""

    core: Core
    caller: Caller
    forms: bool
    ctx: ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a call of `tool` has promised. `subject` names the work (the product's: a run), `memo` is what else the
    source needs to keep the promise: plain JSON, small, and nothing that must not be stored. `message`, a sentence
    for people, goes out with the new task and is not kept."""

    tool: str
    subject: str
    memo: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What the work asks a human now. `id` is unique within the promise: the work never asks anything else by it.
    `form` is the model of an accepted answer; its fields are of the kinds that an elicitation form can have."""

    id: str
    message: str
    form: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `content` is an instance of the question's form if it was accepted, and None otherwise."""

    action: Literal["accept", "decline", "cancel"]
    content: BaseModel | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How the work stands: not over ("working", perhaps with questions) or over.

    changed_at: microseconds since the epoch. message: one sentence for people."""

    status: Literal["working"] | Ending
    changed_at: int
    message: str = ""
    questions: Sequence[Question] = ()


class TaskSource(Protocol):
    """Turns calls of some tools into durable promises. Methods raise `OmiumError` for what is anticipated."""

    @property
    def tools(self) -> frozenset[str]:
        """The names of the tools whose calls may become tasks."""

    async def promise(
        self, visit: Visit, params: CallToolRequestParams, proceed: Callable[[], Awaitable[HandlerResult]]
    ) -> Promise | HandlerResult:
        """Begin what a call asks for. `proceed` carries the call out as if there were no tasks and gives its answer.

        Gives that answer when there is nothing to wait for: it is the result, a failure, or a question that has to be
        answered first. Otherwise a promise; the work must be durable by then, since the client is told next."""

    async def standing(self, visit: Visit, promise: Promise) -> Standing | None:
        """How the work stands now; None when there is none any more, and the task is unknown."""

    async def outcome(self, visit: Visit, promise: Promise) -> CallToolResult | ErrorData:
        """The answer of the call, once the work is over: what the call would have given if it had waited so long.
        `ErrorData` is for status "failed" only; a tool's own failure is a result."""

    async def answer(self, visit: Visit, promise: Promise, question: Question, reply: Reply) -> None:
        """Take the reply to a question that was open a moment ago. The question is not put again in this task,
        whether or not the reply settled it. May be called again with the same reply after a crash."""

    async def cancel(self, visit: Visit, promise: Promise) -> bool:
        """Stop the work. True: how it ends shows in `standing`; also when it was over. False: this call only awaited
        the work of another, which goes on; the task alone is cancelled."""

    def watching(self, visit: Visit, promise: Promise) -> AbstractAsyncContextManager[Changed]:
        """Watch the work: within, awaiting the given function returns whenever its standing may have changed since
        the function was last called (since entering, for the first call), in whichever process that happened."""
