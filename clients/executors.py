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
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import orjson

from omium.clients.asked import Asked
from omium.clients.commands import CommandSpec, Launch, launch_of, run_command
from omium.clients.functions.code import Sources, Stamp, of_callable, stamp_of
from omium.clients.functions.context import AskAsync, Asking, AsyncContext, asking, wants_context
from omium.clients.functions.failure import FunctionError, describe
from omium.clients.functions.host import FunctionPool
from omium.clients.functions.printed import Printed
from omium.clients.functions.threads import call_in_thread
from omium.clients.processes.counters import counters
from omium.clients.processes.credentials import Credentials
from omium.clients.processes.environment import declared
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import OnLine
from omium.clients.watched import Program, Supervision, Watched
from omium.orchestration.definition.model import OnUnknown
from omium.orchestration.engine.failures import classify
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, new_id
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.service.catalog import FunctionSpec
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

Body = Callable[[dict[str, Any], Attempt], Awaitable[Value]]

PROGRESS_EVERY_S: Final = 5.0
_THREADS: Final = 64
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_FEW: Final = 32
_HASHED_WHOLE: Final = 16 * 1024 * 1024  # bytes; of a larger program only size and time of change count
_RECORDED: Final = frozenset({"ask", "fail"})


class FunctionExecutor:
    """Runs registered functions, each on the host that its spec names.

    specs: by name. callables: functions registered as objects, which need no import; they run on the hosts `async` and
    `thread`. pool: the worker processes, needed if a spec has the host `process`. path: absolute directories from which
    functions are imported, besides what is installed. threads: how many calls may be in threads at a time; one that
    was abandoned keeps its place until it returns. scratch: the directory of an attempt (run, node, attempt), where
    what a function in a worker process prints is kept; what the others print is their process's. handed_on: the
    variables that worker processes are given besides, and that functions in this process find in its environment;
    credentials among them are taken out of what comes back, whatever the host.
    """

    def __init__(
        self,
        specs: Mapping[str, FunctionSpec],
        pool: FunctionPool | None = None,
        *,
        callables: Mapping[str, Callable[..., Any]] | None = None,
        path: Sequence[Path] = (),
        threads: int = _THREADS,
        scratch: Callable[[RunId, NodeId, int], Path] | None = None,
        handed_on: Mapping[str, str] | None = None,
    ) -> None:
        self._specs = specs
        self._scratch = scratch
        self._credentials = Credentials.of(handed_on or {})
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
                on_loop = spec.host == "async"
                quiet = self._quiet if self._credentials else None
                body = _on_loop(function, quiet) if on_loop else self._in_thread(function)
                body = _discreet_here(spec.ref, body, self._credentials) if self._credentials else body
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
        plain = partial(pool.call, spec.ref, timeout_s=spec.timeout_s, sys_path=self._path)
        call = _discreet(plain, self._credentials) if self._credentials else plain
        make = self._scratch

        async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
            if make is None:
                return await call(inputs, context=_context(attempt), on_request=attempt.ask)
            with Printed(partial(make, attempt.run_id, attempt.node_id, attempt.attempt)) as printed:
                return await call(inputs, context=_context(attempt), on_request=attempt.ask, on_line=printed.take)

        return body

    def _in_thread(self, function: Callable[..., Value]) -> Body:
        async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
            return await call_in_thread(
                function,
                copied(inputs),
                context=_context(attempt),
                on_request=self._quiet(attempt.ask),
                limiter=self._limiter,
            )

        return body

    def _quiet(self, ask: AskAsync) -> AskAsync:
        """`ask` for a function that knows credentials: what it tells has them no more."""
        return _discreet_ask(ask, self._credentials) if self._credentials else ask


def _discreet(call: Callable[..., Awaitable[Value]], credentials: Credentials) -> Callable[..., Awaitable[Value]]:
    """`FunctionPool.call` for workers that were given credentials: nothing that comes back has them in it."""

    async def discreet(
        inputs: dict[str, Any], *, context: dict[str, Any], on_request: AskAsync, on_line: OnLine | None = None
    ) -> Value:
        ask = _discreet_ask(on_request, credentials)

        def hear(stream: StreamName, line: str) -> None:
            if on_line is not None:
                on_line(stream, credentials.text(line))

        try:
            return cast(Value, credentials.value(await call(inputs, context=context, on_request=ask, on_line=hear)))
        except OmiumError as error:
            credentials.clean(error)
            raise

    return discreet


def _discreet_ask(ask: AskAsync, credentials: Credentials) -> AskAsync:
    async def discreet(what: str, payload: Value) -> Value:
        return await ask(what, credentials.value(payload))

    return discreet


def _discreet_here(ref: str, body: Body, credentials: Credentials) -> Body:
    """The same for functions in this process, which raise what they like. An exception that has a credential in its
    text, or in its causes, becomes a `FunctionError` without it, of the same category."""

    async def discreet(inputs: dict[str, Any], attempt: Attempt) -> Value:
        try:
            return cast(Value, credentials.value(await body(inputs, attempt)))
        except OmiumError as error:
            credentials.clean(error)
            raise error from None
        except Exception as error:  # boundary: of the user's code
            failure = describe(error)
            clean = credentials.value(failure)
            if clean == failure:
                raise
            told = FunctionError(ref, clean)
            told.data = {**told.data, "category": classify(error)}
            raise told from None

    return discreet


def _on_loop(function: Callable[..., Awaitable[Value]], quiet: Callable[[AskAsync], AskAsync] | None) -> Body:
    """The shortest way: no context, no task, no scope of its own unless the function asks for it."""
    with_context = wants_context(function)

    async def body(inputs: dict[str, Any], attempt: Attempt) -> Value:
        arguments, ask = copied(inputs), attempt.ask if quiet is None else quiet(attempt.ask)
        if with_context:
            arguments["ctx"] = AsyncContext(_context(attempt), ask)
        token = asking.set(Asking(True, ask))
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
        finally:
            asking.reset(token)

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
    return {name: item if type(item) in _ATOMS else _copied(item) for name, item in value.items()}


def _copied(value: Any) -> Any:
    if type(value) is dict and len(value) <= _FEW and _ATOMS.issuperset(map(type, value.values())):
        return value.copy()  # a few long texts, as agents have them, need not be written and read
    try:
        # Three times as fast as a walk in Python, and exact for the JSON types; it refuses all others.
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME))
    except TypeError:
        return _copy(value)


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
    asked about (`fail`); all others are asked about after a crash. supervision: what is kept of them besides.
    """

    def __init__(
        self,
        specs: Mapping[str, CommandSpec],
        on_unknown: Mapping[str, OnUnknown] | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self._specs = specs
        self._on_unknown = on_unknown or {}
        self.supervision = supervision or Supervision()
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

    def change(self, specs: Mapping[str, CommandSpec]) -> None:
        """What starts from now on is supervised as these say; what runs, as it was started."""
        self._specs = dict(specs)

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """Run the command on `inputs`; the ledger holds its intent before and its output after.

        A program that asks a person has done nothing yet, and is run again with the answer, as it was run before.
        """
        spec = self._spec(use)
        if self.supervision.reconciler is not None and attempt.resumed:
            await self.supervision.reconciler.end(attempt.run_id, attempt.node_id)
        asked = await Asked.of(attempt)
        while True:
            await asked.answered(spec, attempt)
            token = new_id("proc")
            try:
                output = await attempt.effect(
                    "command",
                    partial(self._call, spec, inputs, attempt, token, asked),
                    kind="command",
                    on_unknown=self._on_unknown.get(use),
                    detail={"command": use, "token": token},
                )
            except OmiumError as error:
                if error.data.get("reason") == "protocol_error":
                    counters.protocol_errors += 1
                if error.data.get("reason") != "approval_requested":
                    raise
                await asked.add(error.data["asked"], asked.launch or launch_of(spec, inputs), spec, attempt)
            else:
                return Done(output)

    def _spec(self, use: str) -> CommandSpec:
        spec = self._specs.get(use)
        if spec is None:
            raise OmiumError("not_registered", f"the command {use!r} is not registered.")
        return spec

    async def _call(self, spec: CommandSpec, inputs: Value, attempt: Attempt, token: str, asked: Asked) -> Value:
        marker = {"run_id": attempt.run_id, "node_id": attempt.node_id, "attempt": str(attempt.attempt)}
        credentials = Credentials()
        try:
            launch = asked.launch or launch_of(spec, inputs)
            credentials = Credentials.of({**declared(launch.pass_env, {}), **spec.env})
            program = Program(
                spec.name,
                launch.argv,
                str(launch.cwd or attempt.workspace or ""),
                tuple(sorted((*launch.pass_env, *launch.constants))),
                spec.hard_timeout_s,
            )
            with Watched(self.supervision, program, attempt, token, credentials) as watched:
                output = await self._run(spec, inputs, attempt, watched, launch, asked, marker, token)
            return cast(Value, credentials.value(output) if credentials else output)
        except OmiumError as error:
            credentials.clean(error)
            if not _was_not_started(error):
                raise
            raise OmiumError(error.code, error.message, error.hint, **{**error.data, "sent": False}) from error

    async def _run(
        self,
        spec: CommandSpec,
        inputs: Value,
        attempt: Attempt,
        watched: Watched,
        launch: Launch,
        asked: Asked,
        marker: Mapping[str, str],
        token: str,
    ) -> Value:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_report, watched, attempt)
                result = await run_command(
                    spec,
                    inputs,
                    workspace=attempt.workspace,
                    marker=marker,
                    token=token,
                    launch=launch,
                    answers=asked.answers,
                    on_line=watched.line,
                    on_start=watched.started,
                    on_status=watched.status,
                )
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # the tasks' way of raising; the reporter raises nothing of its own
            raise _only(group) from None
        return result


async def _report(watched: Watched, attempt: Attempt) -> None:
    """Note the last line from time to time; each note is a commit, so most lines are in the log files only."""
    told: str | None = None
    while True:
        await anyio.sleep(PROGRESS_EVERY_S)
        watched.refresh()
        if watched.last is None or watched.last == told:
            continue
        told = watched.last
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
