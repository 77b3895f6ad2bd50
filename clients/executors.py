"""The executors of functions and commands: how an attempt of such a node is run.

`FunctionExecutor` runs nodes of kind `function`, `CommandExecutor` those of kind `cli`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import logging
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, reduce
from pathlib import Path
from typing import IO, Any, Final, cast

import anyio
import anyio.to_thread
import orjson

from omium.clients.commands import CommandSpec, run_command
from omium.clients.functions.code import Sources, Stamp, of_callable, stamp_of
from omium.clients.functions.context import AsyncContext, wants_context
from omium.clients.functions.host import FunctionPool
from omium.clients.functions.threads import call_in_thread
from omium.clients.processes.stream import StreamName
from omium.orchestration.definition.model import OnUnknown
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import new_id
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.service.catalog import FunctionSpec
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

Body = Callable[[dict[str, Any], Attempt], Awaitable[Value]]

PROGRESS_EVERY_S: Final = 5.0
_THREADS: Final = 64
_LINE_SHOWN: Final = 500
_HASHED_WHOLE: Final = 16 * 1024 * 1024  # bytes; of a larger program only size and time of change count
_RECORDED: Final = frozenset({"ask", "fail"})


class FunctionExecutor:
    """Runs registered functions, each on the host that its spec names.

    specs: by name. callables: functions registered as objects, which need no import; they run on the hosts `async` and
    `thread`. pool: the worker processes, needed if a spec has the host `process`. path: absolute directories from which
    functions are imported, besides what is installed. threads: how many calls may be in threads at a time; one that
    was abandoned keeps its place until it returns.
    """

    def __init__(
        self,
        specs: Mapping[str, FunctionSpec],
        pool: FunctionPool | None = None,
        *,
        callables: Mapping[str, Callable[..., Any]] | None = None,
        path: Sequence[Path] = (),
        threads: int = _THREADS,
    ) -> None:
        self._specs = specs
        self._pool = pool
        self._callables = dict(callables or {})
        self._path = tuple(str(entry) for entry in path)
        self._limiter = anyio.CapacityLimiter(threads)
        self._sources = Sources(path)
        self._digests: dict[str, str] = {}  # of what this process has loaded, or will load, once
        self._bodies: dict[str, Body] = {}
        self._importing = anyio.Lock()

    def digest(self, use: str) -> str:
        """Changes when the reference or a file behind it does. Code that runs in this process is loaded once, so its
        digest stays; that of a worker process follows the files. Raises `not_registered`, `not_found`."""
        known = self._digests.get(use)
        if known is not None:
            return known
        spec = self._spec(use)
        told = hashlib.sha256(f"{spec.ref}\0{spec.host}\0{self._code(spec)}".encode()).hexdigest()
        if spec.host != "process":
            self._digests[use] = told
        return told

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """Call the function with the fields of `inputs` as keyword arguments."""
        body = self._bodies.get(use)
        if body is None:
            body = await self._resolve(self._spec(use))
        if type(inputs) is not dict:
            raise OmiumError(
                "invalid_argument", f"the function {use!r} needs an object of arguments, not {inputs!r:.80}."
            )
        return Done(await body(inputs, attempt))

    def _spec(self, use: str) -> FunctionSpec:
        spec = self._specs.get(use)
        if spec is None:
            raise OmiumError("not_registered", f"the function {use!r} is not registered.")
        return spec

    def _code(self, spec: FunctionSpec) -> str:
        held = self._callables.get(spec.name)
        module = spec.ref.partition(":")[0]
        if held is not None and self._sources.find(module) is None:
            return of_callable(held)
        return self._sources.digest(module)

    # --- bodies: what is called for a node, made once for each function ---------------------------------------------

    async def _resolve(self, spec: FunctionSpec) -> Body:
        async with self._importing:
            body = self._bodies.get(spec.name)
            if body is not None:
                return body
            if spec.host == "process":
                body = self._in_process(spec)
            else:
                function = self._callables.get(spec.name)
                if function is None:  # importing runs code of the user's, which may take long
                    function = await anyio.to_thread.run_sync(self._load, spec.ref)
                _check_host(spec, function)
                body = _on_loop(function) if spec.host == "async" else self._in_thread(function)
            if spec.timeout_s is not None and spec.host != "process":
                body = _bounded(spec.ref, body, spec.timeout_s)
            if spec.on_unknown in _RECORDED:
                body = _recorded(body, spec.on_unknown)
            if spec.input_schema is not None or spec.output_schema is not None:
                body = _checked(spec, body)
            self._bodies[spec.name] = body
            return body

    def _load(self, ref: str) -> Callable[..., Any]:
        """Import what a reference names. Raises what the import raises; `invalid_definition` if it is no function, or
        if the module of this name that this process has is another one."""
        for entry in reversed(self._path):
            if entry not in sys.path:
                sys.path.insert(0, entry)
        importlib.invalidate_caches()  # the file may be younger than this process
        name, _, attributes = ref.partition(":")
        module = importlib.import_module(name)
        meant, loaded = self._sources.find(name), getattr(module, "__file__", None)
        if meant is not None and meant.file is not None and loaded is not None and not meant.file.samefile(loaded):
            raise OmiumError(
                "invalid_definition",
                f"{ref} is in {meant.file}, but this process has loaded {name!r} from {loaded}.",
                "Rename the module, or declare host: process.",
            )
        function = reduce(getattr, attributes.split("."), cast(Any, module))
        if not callable(function):
            raise OmiumError("invalid_definition", f"{ref} is not callable.")
        return cast("Callable[..., Any]", function)

    def _in_process(self, spec: FunctionSpec) -> Body:
        pool = self._pool
        if pool is None:
            raise OmiumError("unsupported", f"there are no worker processes for the function {spec.name!r}.")
        call = partial(pool.call, spec.ref, timeout_s=spec.timeout_s, sys_path=self._path)

        async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
            return await call(inputs, context=_context(attempt), on_request=attempt.ask)

        return body

    def _in_thread(self, function: Callable[..., Value]) -> Body:
        async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
            return await call_in_thread(
                function,
                copied(inputs),
                context=_context(attempt),
                on_request=attempt.ask,
                limiter=self._limiter,
            )

        return body


def _on_loop(function: Callable[..., Awaitable[Value]]) -> Body:
    """The shortest way: no context, no task, no scope of its own unless the function asks for it."""
    with_context = wants_context(function)

    async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
        arguments = copied(inputs)
        if with_context:
            arguments["ctx"] = AsyncContext(_context(attempt), attempt.ask)
        try:
            return await function(**arguments)
        except SystemExit as error:
            raise OmiumError("process_failed", f"the function exited with {error.code!r}.", reason="raised") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody stops it: something inside it was cancelled, and that must not look like the end of the attempt.
            raise OmiumError("process_failed", "the function cancelled itself.", reason="raised") from None

    return body


def _bounded(ref: str, body: Body, timeout_s: float) -> Body:
    async def bounded(inputs: dict[str, Any], attempt: Attempt) -> Value:
        with anyio.move_on_after(timeout_s):
            return await body(inputs, attempt)
        message = f"{ref} took longer than {timeout_s:g} s."
        raise OmiumError("timeout", message, reason="hard_timeout", limit_s=timeout_s)

    return bounded


def _recorded(body: Body, on_unknown: OnUnknown | None) -> Body:
    """Every call goes through the ledger: after a crash its unsettled intent is asked about, or fails the node."""

    async def recorded(inputs: dict[str, Any], attempt: Attempt) -> Value:
        return await attempt.effect("call", lambda: body(inputs, attempt), kind="function", on_unknown=on_unknown)

    return recorded


def _checked(spec: FunctionSpec, body: Body) -> Body:
    from omium.orchestration.definition.json_schema import value_problems

    def check(schema: dict[str, Any] | None, value: Any, what: str) -> None:
        problems = [] if schema is None else value_problems(schema, value)
        if problems:
            raise OmiumError(
                "precondition_failed",
                f"the {what} of the function {spec.name!r} does not fit its schema: {problems[0]}",
                problems=[str(problem) for problem in problems[:20]],
            )

    async def checked(inputs: dict[str, Any], attempt: Attempt) -> Value:
        check(spec.input_schema, inputs, "input")
        output = await body(inputs, attempt)
        check(spec.output_schema, output, "output")
        return output

    return checked


def _context(attempt: Attempt) -> dict[str, Any]:
    return {
        "run_id": attempt.run_id,
        "node_id": attempt.node_id,
        "attempt": attempt.attempt,
        "generation": attempt.generation,
        "workspace": attempt.workspace,
    }


def copied(value: dict[str, Any]) -> dict[str, Any]:
    """A copy down to the last container: what a function does to its arguments must not reach the other readers."""
    try:
        # Three times as fast as a walk in Python, and exact for the JSON types; it refuses all others.
        copy: dict[str, Any] = orjson.loads(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME))
    except TypeError:
        copy = _copy(value)
    return copy


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if type(value) is list else value


def _check_host(spec: FunctionSpec, function: Callable[..., Any]) -> None:
    """A sync function would stop every other run on the loop; an async one gives nothing in a thread."""
    call = getattr(function, "__call__", None)  # noqa: B004 - looked into, not asked whether it can be called
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    if is_async and spec.host == "thread":
        raise OmiumError(
            "invalid_definition",
            f"{spec.ref} is async, and declared with host: thread.",
            "Declare host: async or process.",
        )
    if not is_async and spec.host == "async":
        what = f"{spec.ref} is not async, and declared with host: async."
        raise OmiumError("invalid_definition", what, "Declare host: process, or thread.")


# --- commands -----------------------------------------------------------------------------------------------------


class CommandExecutor:
    """Runs registered commands under the supervisor and under the ledger.

    specs: by name. on_unknown: for commands that the operator declared to be safe to repeat (`rerun`) or not to be
    asked about (`fail`); all others are asked about after a crash.
    """

    def __init__(self, specs: Mapping[str, CommandSpec], on_unknown: Mapping[str, OnUnknown] | None = None) -> None:
        self._specs = specs
        self._on_unknown = on_unknown or {}
        self._digests: dict[str, tuple[str, dict[Path, Stamp]]] = {}

    def digest(self, use: str) -> str:
        """Changes when the specification, the program or a file named in its fixed arguments does."""
        known = self._digests.get(use)
        if known is not None and all(stamp_of(path) == stamp for path, stamp in known[1].items()):
            return known[0]
        spec = self._spec(use)
        files = _files_of(spec)
        told = json.dumps(
            [
                *(spec.argv, spec.stdin, spec.output, str(spec.cwd), spec.pass_env, sorted(spec.env.items())),
                *(spec.success_codes, [_hash_file(path) for path in files]),
            ]
        )
        digest = hashlib.sha256(told.encode()).hexdigest()
        self._digests[use] = digest, {path: stamp_of(path) for path in files}
        return digest

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """Run the command on `inputs`; the ledger holds its intent before and its output after."""
        spec = self._spec(use)
        token = new_id("proc")
        output = await attempt.effect(
            "command",
            partial(self._call, spec, inputs, attempt, token),
            kind="command",
            on_unknown=self._on_unknown.get(use),
            detail={"command": use, "token": token},
        )
        return Done(output)

    def _spec(self, use: str) -> CommandSpec:
        spec = self._specs.get(use)
        if spec is None:
            raise OmiumError("not_registered", f"the command {use!r} is not registered.")
        return spec

    async def _call(self, spec: CommandSpec, inputs: Value, attempt: Attempt, token: str) -> Value:
        marker = {"run_id": attempt.run_id, "node_id": attempt.node_id, "attempt": str(attempt.attempt)}
        with _Output(attempt.scratch) as output:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_report, output, attempt)
                    result = await run_command(
                        spec, inputs, workspace=attempt.workspace, marker=marker, token=token, on_line=output.take
                    )
                    tasks.cancel_scope.cancel()
            except BaseExceptionGroup as group:  # the tasks' way of raising; the reporter raises nothing of its own
                error = _only(group)
                if isinstance(error, OmiumError) and _was_not_started(error):
                    raise OmiumError(error.code, error.message, error.hint, **{**error.data, "sent": False}) from error
                raise error from None
        return result


class _Output:
    """The lines that a command writes: kept in its scratch directory, the last one shown now and then."""

    def __init__(self, scratch: Path | None) -> None:
        self._logs = None if scratch is None else scratch / "logs"
        self._files: dict[StreamName, IO[str]] = {}
        self._stack = ExitStack()
        self.last: str | None = None

    def __enter__(self) -> _Output:
        if self._logs is not None:
            names: tuple[StreamName, ...] = ("stdout", "stderr")
            for name in names:
                descriptor = os.open(self._logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                file = self._stack.enter_context(open(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
                self._files[name] = file
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, stream: StreamName, line: str) -> None:
        file = self._files.get(stream)
        if file is not None:
            file.write(f"{line}\n")
        if line.strip():
            self.last = line.strip()[:_LINE_SHOWN]


async def _report(output: _Output, attempt: Attempt) -> None:
    """Note the last line from time to time; each note is a commit, so most lines are in the log files only."""
    told: str | None = None
    while True:
        await anyio.sleep(PROGRESS_EVERY_S)
        if output.last is None or output.last == told:
            continue
        told = output.last
        try:
            with anyio.CancelScope(shield=True):
                await attempt.ask("progress", {"text": told})
        except OmiumError as error:  # the node is no longer ours, or the database is away: the engine deals with that
            _log.info("progress of %s is not noted: %s", attempt.node_id, error)
            return


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _was_not_started(error: OmiumError) -> bool:
    """Nothing was executed: the argument vector could not be built, or the program not started."""
    return error.code in ("invalid_argument", "workspace") or error.data.get("reason") == "not_started"


def _files_of(spec: CommandSpec) -> list[Path]:
    """The program, and what its fixed arguments name by absolute path: scripts, configurations."""
    program = shutil.which(spec.argv[0])
    named = [Path(argument) for argument in spec.argv[1:] if argument.startswith("/")]
    return [path for path in ([Path(program)] if program else []) + named if path.is_file()]


def _hash_file(path: Path) -> str:
    stamp = stamp_of(path)
    if stamp[1] > _HASHED_WHOLE:
        return repr(stamp)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return repr(stamp)
