"""Agents in a process of their own: `framework: worker`, for frameworks that cannot be installed beside Omium.

The process is started and watched by the supervisor, has an environment of its own, and holds no truth: when a person
has to decide, it is ended, and run again with what it last kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Final

import anyio

from omium.clients.agents.adapter import AgentContext, ModelCall, Outcome, Task
from omium.clients.agents.executor import category_of_status
from omium.clients.agents.kept import unreadable
from omium.clients.agents.spec import AgentDef, WorkerSpec
from omium.clients.agents.worker_adapter.protocol import (
    Calls,
    Done,
    Emit,
    Failed,
    Human,
    Keep,
    ModelBegins,
    ModelEnds,
    Request,
    read,
    written,
)
from omium.clients.processes.environment import check_declared
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Command, Exit, Running, run_process
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import digest_of

FORMAT: Final = 1
PROTOCOL: Final = "1"
_CLIENT: Final = Path(__file__).parent / "client" / "omium_worker.py"
_SHOWN: Final = 2_000


class WorkerAdapter:
    """See `adapter.Adapter`."""

    framework = "worker"
    formats = frozenset({FORMAT})

    def version(self) -> str:
        return PROTOCOL

    def check(self, agent: AgentDef) -> Sequence[tuple[str, str]]:
        spec = agent.worker
        if spec is None:
            return [("worker", "is missing; it names the interpreter and the script")]
        found = [] if spec.script.is_file() else [("worker.script", f"there is no file {str(spec.script)!r}")]
        if not spec.python.is_file():
            found.append(
                ("worker.python", f"there is no file {str(spec.python)!r}; make the virtual environment first")
            )
        try:
            check_declared(spec.pass_env)
        except OmiumError as error:
            found.append(("worker.pass_env", error.message.rstrip(".")))
        if agent.factory is not None:
            found.append(("factory", "means nothing to a worker; its script has the function run"))
        return found

    async def run(self, task: Task, ctx: AgentContext) -> Outcome:
        assert ctx.agent.worker is not None, "checked when the agent was registered"
        return await _Worker(task, ctx, ctx.agent.worker).run()


class _Worker:
    """One process, from its start to its end."""

    def __init__(self, task: Task, ctx: AgentContext, spec: WorkerSpec) -> None:
        self._task = task
        self._ctx = ctx
        self._spec = spec
        self._said, self._heard = anyio.create_memory_object_stream[str](float("inf"))
        self._running: Running | None = None
        self._started = anyio.Event()
        self._exit: Exit | None = None
        self._problem: OmiumError | None = None
        self._counts: Counter[str] = Counter()
        self._open: dict[int, tuple[AbstractAsyncContextManager[ModelCall], ModelCall]] = {}
        self._model_error: tuple[OmiumError, int | None] | None = None

    async def run(self) -> Outcome:
        with self._said, self._heard:
            return await self._run()

    async def _run(self) -> Outcome:
        first = self._first()
        outcome: Outcome | None = None
        stopped: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._supervised)
            try:
                await self._started.wait()
                await self._send(first)
                outcome = await self._converse()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # `Suspended` is none of Exception; raised below, when the process is gone
                stopped = error
            finally:
                with anyio.CancelScope(shield=True):
                    await self._settle_all()
            tasks.cancel_scope.cancel()
        if stopped is not None:
            raise stopped
        assert outcome is not None
        return outcome

    def _first(self) -> dict[str, Any]:
        """What the worker is told first."""
        state: Any = None
        if self._ctx.restored is not None:
            blob: Any = self._ctx.restored.blob
            if not isinstance(blob, dict) or "state" not in blob:
                raise unreadable("it holds no state of a worker")
            state = blob["state"]
        model = self._ctx.agent.model
        return {
            "protocol": int(PROTOCOL),
            "system": self._task.system,
            "message": self._task.message,
            "tools": [
                {"name": one.name, "description": one.description, "parameters": dict(one.parameters)}
                for one in self._ctx.offers
            ],
            "model": None
            if model is None
            else {
                "provider": model.provider,
                "name": model.name,
                "base_url": model.base_url,
                "options": dict(model.options),
            },
            "output_schema": self._ctx.output_schema,
            "attempt": self._ctx.attempt,
            "news": self._ctx.news(),
            "state": state,
        }

    # --- the process ------------------------------------------------------------------------------------------------

    async def _supervised(self) -> None:
        env = {name: self._ctx.secret(name) for name in self._spec.pass_env}
        command = Command(
            argv=(str(self._spec.python), "-u", str(_CLIENT), str(self._spec.script)),
            cwd=self._spec.cwd,
            env={name: value for name, value in env.items() if value is not None},
            interactive=True,
            hard_timeout_s=None,  # the agent's limit of seconds ends it
            marker={"agent": self._ctx.agent.name},
        )
        try:
            self._exit = await run_process(command, on_line=self._hear, on_start=self._begin)
        except OmiumError as error:
            self._problem = error
        finally:
            self._started.set()
            self._said.close()

    async def _begin(self, running: Running) -> None:
        self._running = running
        self._started.set()

    def _hear(self, stream: StreamName, line: str) -> None:
        if stream == "stdout":
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                self._said.send_nowait(line)

    async def _send(self, message: dict[str, Any]) -> None:
        if self._running is not None:
            with suppress(OmiumError):  # it has gone: what it last said, and then how it ended, is read next
                await self._running.send(written(message))

    # --- the conversation -------------------------------------------------------------------------------------------

    async def _converse(self) -> Outcome:
        async for line in self._heard:
            said = read(line)
            if isinstance(said, Done):
                return self._ended(said)
            if isinstance(said, Failed):
                return self._failed(said)
            answer = await self._answered(said)
            if answer is None:
                return Outcome("handed_over")
            await self._send({**answer, "id": said.id})
        return self._died()

    def _ended(self, done: Done) -> Outcome:
        text = done.output if isinstance(done.output, str) else written({"o": done.output})[5:-2].decode()
        output, problem = self._ctx.check_output(text)
        if problem:
            why = f"the answer does not fit what the agent has to give: {problem}"
            return Outcome("failed", error=OmiumError("invalid_value", why), category="validation")
        return Outcome("ok", output)

    def _failed(self, failed: Failed) -> Outcome:
        if self._model_error is not None and self._model_error[0].message == failed.message:
            error, status = self._model_error
        else:
            error, status = OmiumError("process_failed", failed.message[:_SHOWN] or "it failed."), failed.status
        return Outcome("failed", error=error, category=category_of_status(status) if status is not None else None)

    def _died(self) -> Outcome:
        if self._problem is not None:
            return Outcome("failed", error=self._problem)
        ended = self._exit
        assert ended is not None, "the output ends with the process"
        how = f"code {ended.code}" if ended.code is not None else f"signal {ended.signal}"
        said = ended.stderr.text()[-_SHOWN:]
        error = OmiumError("process_failed", f"the worker ended without a result ({how}): {said}", reason="died")
        return Outcome("unknown", error=error)

    async def _answered(self, said: Request) -> dict[str, Any] | None:
        """The answer to a request; None when the work has passed to somebody else."""
        match said:
            case Calls():
                calls = [(str(name), made, self._call_id(name, made, known)) for name, made, known in said.calls]
                answers = await self._ctx.call_tools(calls)
                if any(one.final for one in answers):
                    return None
                return {"answers": [{"text": one.text, "failed": one.failed} for one in answers]}
            case Human():
                call_id = self._call_id("human", [said.question, said.options], None)
                return {"text": await self._ctx.human(said.question, call_id, said.options)}
            case Keep():
                await self._ctx.checkpoint({"state": said.state})
            case Emit():
                await self._ctx.emit("turn", said.text)
            case ModelBegins():
                block = self._ctx.model_call(said.chars)
                self._open[said.id] = (block, await block.__aenter__())
            case ModelEnds():
                await self._settle(said)
        return {}

    def _call_id(self, name: Any, arguments: Any, known: Any) -> str:
        """The worker's own id of a call, or what it is and how often it was made: the same when it is run again."""
        if isinstance(known, str | int):
            return f"w:{str(known)[:100]}"
        plain = digest_of([str(name), arguments])[:16]
        self._counts[plain] += 1
        return f"w.{plain}.{self._counts[plain]}"

    async def _settle(self, said: ModelEnds) -> None:
        block, call = self._open.pop(said.model, (None, None))
        if block is None or call is None:
            raise OmiumError("process_failed", "the worker ended a call of a model that it did not begin.")
        if said.used is not None:
            used = said.used
            call.used(input_tokens=used.input, output_tokens=used.output, cached_tokens=used.cached, model=used.model)
        if said.failed is None:
            await block.__aexit__(None, None, None)
            return
        error = OmiumError("process_failed", said.failed.message[:_SHOWN])
        self._model_error = (error, said.failed.status)
        with suppress(OmiumError):
            await block.__aexit__(OmiumError, error, None)

    async def _settle_all(self) -> None:
        """What was under way when the process ended was used."""
        while self._open:
            block, _ = self._open.popitem()[1]
            await block.__aexit__(None, None, None)
