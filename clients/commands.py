"""Registered commands: a program of the operator's choice as the body of a node.

A command is an argument vector with places for values of the node's input. A value can only ever become the content of
an argument: it cannot start a shell, become an option, or add a variable to the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast

from omium.clients.processes.environment import check_declared, declared
from omium.clients.processes.protocol import (
    APPROVAL_EXIT_CODE,
    DECISION_VARIABLE,
    Answer,
    Listener,
    Question,
    decision_text,
    parse_json,
)
from omium.clients.processes.stream import Captured, StreamName, is_heartbeat
from omium.clients.processes.supervisor import Command, Exit, OnLine, OnStatus, ProgressBy, Running, run_process
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import new_id
from omium.orchestration.values import Value

_TAIL_BYTES: Final = 4096

_TIME_LIMITS: Final = {  # reason: the field that holds the limit, and what it was about
    "hard_timeout": ("hard_timeout_s", "took longer than"),
    "idle_timeout": ("idle_timeout_s", "made no progress for"),
    "heartbeat_timeout": ("heartbeat_timeout_s", "gave no sign of life for"),
}

_PLACEHOLDER: Final = re.compile(
    r"\A(?P<prefix>--?[A-Za-z0-9][A-Za-z0-9._-]*=)?\{input(?P<path>(?:\.[A-Za-z0-9_-]+)*)\}\Z"
)
_SHELLS: Final = re.compile(r"\A(?:ba|da|k|z|fi|c|tc|a)?sh\Z")
_INTERPRETERS: Final = re.compile(r"\A(?:python[0-9.]*|node|perl|ruby|php|lua)\Z")
_CODE_OPTION: Final = re.compile(r"\A(?:-[A-Za-z]*[ceEpr]|--eval|--command|--print|--execute)\Z")


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the argument vector: `{input.path}`, possibly behind a fixed `--flag=`."""

    prefix: str
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        return ".".join(("input", *self.path))


@dataclass(frozen=True, slots=True)
class Asking:
    """What becomes of the questions of a program. expires_s: how long a person has; min_assurance: what their decision
    must be worth; max_resumes: how often it may be run again for the very same question."""

    expires_s: float = 86_400.0
    min_assurance: str = "elicited"
    max_resumes: int = 3


@dataclass(frozen=True, slots=True)
class Launch:
    """How a program is started: what is stored when it asks, and what it is run again with. Names of variables only:
    their values may be secrets. cwd: None is the workspace."""

    argv: tuple[str, ...]
    cwd: Path | None
    pass_env: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command that the operator registered.

    argv: the program, then fixed arguments and places: `{input.field}` as a whole argument (a list gives several) or
    behind a fixed `--flag=`. A value that begins with `-` is refused in an argument of its own unless a fixed `--`
    stands before it. stdin: "json" feeds the input as JSON, "text" the input itself or its field `text`. output: "json"
    is stdout as one JSON value or, failing that, its last line; "text" all of it; "lines" a list of its lines.
    cwd: the run's workspace, or a fixed directory. pass_env: variables handed on from Omium's environment;
    env: constants. Times in seconds. output_limit_bytes: stdout and stderr together; more ends the program.
    progress, stall_after_s, heartbeat_timeout_s: see `supervisor.Command`. asking: what becomes of its questions.
    Raises OmiumError("invalid_definition") for a specification that is none.
    """

    name: str
    argv: tuple[str, ...]
    stdin: Literal["none", "json", "text"] = "json"
    output: Literal["json", "text", "lines"] = "json"
    cwd: Literal["workspace"] | Path = "workspace"
    pass_env: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    hard_timeout_s: float | None = 1800.0
    idle_timeout_s: float | None = 300.0
    grace_s: float = 5.0
    memory_limit_bytes: int | None = None
    output_limit_bytes: int = 32 * 1024 * 1024
    success_codes: tuple[int, ...] = (0,)
    progress: ProgressBy = "activity"
    stall_after_s: float | None = 120.0
    heartbeat_timeout_s: float | None = 90.0
    asking: Asking = Asking()

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            _bad(self.name, "needs at least the name of a program")
        if "{input" in self.argv[0]:
            _bad(
                self.name, "takes its program from the input", "Name the program, and let values be its arguments only."
            )
        if APPROVAL_EXIT_CODE in self.success_codes:
            _bad(self.name, f"declares exit code {APPROVAL_EXIT_CODE} a success, which asks for an approval")
        if isinstance(self.cwd, Path) and not self.cwd.is_absolute():
            _bad(self.name, f"has the relative directory {str(self.cwd)!r}", "Give an absolute one.")
        for index, place in enumerate(_template(self)):
            if isinstance(place, _Place) and _is_code(self.argv, index, place):
                _bad(
                    self.name,
                    f"lets {place.name} be code that an interpreter executes",
                    "Put the code into a script and hand the value over as its argument or on stdin.",
                )
        check_declared((*self.pass_env, *self.env))


def launch_of(spec: CommandSpec, input: Value) -> Launch:
    """How the command is started for this input. Raises what `build_argv` raises."""
    cwd = spec.cwd if isinstance(spec.cwd, Path) else None
    return Launch(tuple(build_argv(spec, input)), cwd, spec.pass_env, tuple(spec.env))


async def run_command(
    spec: CommandSpec,
    input: Value,
    *,
    workspace: Path | None = None,
    marker: Mapping[str, str],
    token: str | None = None,
    launch: Launch | None = None,
    answers: Sequence[Answer] = (),
    on_line: OnLine | None = None,
    on_start: Callable[[Running], Awaitable[None]] | None = None,
    on_status: OnStatus | None = None,
) -> Value:
    """Runs a registered command on `input` and gives its output.

    marker, token, on_start, on_status: see `supervisor`; launch: how it was started when it asked, unless it is to be
    started as its specification says; answers: what a human decided about its questions, oldest first, which the
    program finds as JSON in the variable OMIUM_DECISION.

    Raises OmiumError: "invalid_argument" when the input does not fit the argument vector; "workspace" when there is
    none; "timeout" (data: reason "hard_timeout", "idle_timeout" or "heartbeat_timeout", limit_s); "process_failed" with
    data exit_code, signal, stderr (its end) and reason: "not_started", "exit_code", "signal", "memory", "output",
    "cancelled", "invalid_output", "protocol_error", or "approval_requested" (with `asked`, the fields of a
    `Question`, and `sent` False: a program asks before it does anything).
    """
    listener = Listener()

    def watch(stream: StreamName, line: str) -> None:
        if stream == "stderr":
            listener.hear(line)
        if on_line is not None:
            on_line(stream, line)

    started = launch or launch_of(spec, input)
    decision = {DECISION_VARIABLE: decision_text(answers)} if answers else {}
    command = Command(
        argv=started.argv,
        cwd=_directory(spec, started, workspace),
        env=_environment(spec, started),
        stdin=_stdin(spec, input),
        hard_timeout_s=spec.hard_timeout_s,
        idle_timeout_s=spec.idle_timeout_s,
        heartbeat_timeout_s=spec.heartbeat_timeout_s,
        stall_after_s=spec.stall_after_s,
        progress=spec.progress,
        grace_s=spec.grace_s,
        memory_limit_bytes=spec.memory_limit_bytes,
        output_limit_bytes=spec.output_limit_bytes,
        keep_bytes=spec.output_limit_bytes,  # what is not ended for its output is kept whole
        marker={**marker, **decision},
        token=token or new_id("proc"),
    )
    ended = await run_process(command, on_line=watch, on_start=on_start, on_status=on_status)
    _check_exit(spec, ended, listener)
    return _output(spec, ended)


def build_argv(spec: CommandSpec, input: Value) -> Iterator[str]:
    """The argument vector for this input. Raises OmiumError("invalid_argument") for a value that cannot be one."""
    options_ended = False
    for part in _template(spec):
        if isinstance(part, str):
            options_ended = options_ended or part == "--"
            yield part
            continue
        value = _look_up(spec, part, input)
        if isinstance(value, list):
            if part.prefix:
                _refuse(spec, part, "is a list, which cannot stand behind a flag")
            texts = [_argument(spec, part, item) for item in value]
        else:
            texts = [_argument(spec, part, value)]
        for text in texts:
            if text.startswith("-") and not part.prefix and not options_ended:
                _refuse(
                    spec,
                    part,
                    f"is {text[:80]!r}, which the program would take for an option",
                    "The command may put a fixed `--` before the value, or hand it over as `--flag={input.field}`.",
                )
            yield part.prefix + text


# --- the argument vector ---


def _template(spec: CommandSpec) -> Iterator[str | _Place]:
    for argument in spec.argv:
        if (match := _PLACEHOLDER.match(argument)) is not None:
            yield _Place(match["prefix"] or "", tuple(match["path"].split(".")[1:]))
        elif "{input" in argument:
            _bad(
                spec.name,
                f"has the argument {argument!r}",
                "A value stands as a whole argument `{input.field}` or behind a fixed flag, `--flag={input.field}`.",
            )
        else:
            yield argument


def _is_code(argv: tuple[str, ...], index: int, place: _Place) -> bool:
    """Whether the place is the argument of `sh -c`, `python -c`, `node --eval=` and the like."""
    option = place.prefix.removesuffix("=") or argv[index - 1]
    if not _CODE_OPTION.match(option):
        return False
    # Back over the interpreter's own options; behind a script's name the option is the script's.
    program = index - 1
    while program > 0 and argv[program].startswith("-"):
        program -= 1
    name = Path(argv[program]).name
    return bool(_SHELLS.match(name) or _INTERPRETERS.match(name))


def _look_up(spec: CommandSpec, place: _Place, input: Value) -> Value:
    value = input
    for key in place.path:
        if not isinstance(value, dict) or key not in value:
            _refuse(spec, place, "is missing")
        value = value[key]
    return value


def _argument(spec: CommandSpec, place: _Place, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        _refuse(spec, place, f"is {_kind(value)}, which cannot be an argument")
    if "\0" in value:
        _refuse(spec, place, "contains a NUL character")
    return value


def _kind(value: Value) -> str:
    names: dict[type, str] = {list: "a list within a list", dict: "an object", bytes: "bytes"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


# --- around the process ---


def _directory(spec: CommandSpec, started: Launch, workspace: Path | None) -> Path:
    if started.cwd is not None:
        return started.cwd
    if workspace is None:
        raise OmiumError(
            "workspace",
            f"The command {spec.name!r} runs in the workspace, and this node has none.",
            "Declare `workspace: read` or `workspace: write` at the node.",
        )
    return workspace


def _environment(spec: CommandSpec, started: Launch) -> dict[str, str]:
    gone = [name for name in started.constants if name not in spec.env]
    if gone:
        raise OmiumError(
            "precondition_failed",
            f"The command {spec.name!r} asked with the variable {gone[0]} set, which is not declared any more.",
            "Play the run from this node, so that it asks anew.",
            sent=False,
        )
    return declared(started.pass_env, {name: spec.env[name] for name in started.constants})


def _stdin(spec: CommandSpec, input: Value) -> bytes | None:
    if spec.stdin == "none":
        return None
    if spec.stdin == "json":
        try:
            return json.dumps(input, ensure_ascii=False, allow_nan=False, default=_plain).encode()
        except (TypeError, ValueError) as error:
            raise OmiumError(
                "invalid_argument", f"The input of the command {spec.name!r} is not JSON: {error}."
            ) from error
    text = input.get("text") if isinstance(input, dict) else input
    if not isinstance(text, str):
        raise OmiumError(
            "invalid_argument",
            f"The command {spec.name!r} reads text: its input must be a string or have a field `text` that is one.",
        )
    return text.encode()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _check_exit(spec: CommandSpec, ended: Exit, listener: Listener) -> None:
    data: dict[str, Any] = {"exit_code": ended.code, "signal": ended.signal, "stderr": tail_text(ended.stderr)}
    if ended.reason in _TIME_LIMITS:
        field_name, what = _TIME_LIMITS[ended.reason]
        limit = getattr(spec, field_name)
        message = f"The command {spec.name!r} {what} {limit:g} s and was ended."
        raise OmiumError("timeout", message, reason=ended.reason, limit_s=limit, **data)
    if ended.reason != "exited":
        limits = {
            "memory": f"{spec.memory_limit_bytes} bytes of memory",
            "output": f"{spec.output_limit_bytes} bytes of output",
        }
        why = f"exceeded its limit of {limits[ended.reason]}" if ended.reason in limits else "was cancelled"
        _failed(spec, f"{why} and was ended", ended.reason, data)
    succeeded = ended.code in spec.success_codes
    asked = listener.result(ended.code, succeeded=succeeded)
    if isinstance(asked, Question):
        _failed(spec, "asks for an approval", "approval_requested", {**data, "asked": asdict(asked), "sent": False})
    if asked is not None:
        raise OmiumError(
            "process_failed",
            f"The command {spec.name!r} broke the approval protocol with exit code {ended.code}: {asked}.",
            f"It writes one line that asks on stderr and exits with {APPROVAL_EXIT_CODE}, or neither.",
            reason="protocol_error",
            **data,
        )
    if ended.signal is not None:
        _failed(spec, f"died of signal {ended.signal}", "signal", data)
    if not succeeded:
        _failed(spec, f"ended with exit code {ended.code}", "exit_code", data)


def _failed(spec: CommandSpec, what: str, reason: str, data: Mapping[str, Any]) -> NoReturn:
    raise OmiumError("process_failed", f"The command {spec.name!r} {what}.", reason=reason, **data)


def _output(spec: CommandSpec, ended: Exit) -> Value:
    text = ended.stdout.text()
    if spec.output == "text":
        return text
    if spec.output == "lines":
        return list[Value](text.splitlines())
    stripped = text.strip()
    last_line = stripped.rpartition("\n")[2]
    for candidate in (stripped, last_line):
        try:
            return cast(Value, parse_json(candidate))
        except ValueError:
            continue
    raise OmiumError(
        "process_failed",
        f"The command {spec.name!r} should write JSON, but the last line of its output is {last_line[:200]!r}.",
        "Make the program write one JSON value as its last line, or declare `output: text`.",
        reason="invalid_output",
        exit_code=ended.code,
        signal=None,
        stderr=tail_text(ended.stderr),
    )


def tail_text(stream: Captured, limit: int = _TAIL_BYTES) -> str:
    """The end of what was kept, without heartbeats, for an error message."""
    lines = stream.text()[-16 * limit :].splitlines()
    return "\n".join(_without_heartbeats(lines))[-limit:]


def _without_heartbeats(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if not is_heartbeat(line.encode("utf-8", "replace")))


def _bad(name: str, what: str, hint: str = "") -> NoReturn:
    raise OmiumError("invalid_definition", f"The command {name!r} {what}.", hint, command=name)


def _refuse(spec: CommandSpec, place: _Place, what: str, hint: str = "") -> NoReturn:
    raise OmiumError(
        "invalid_argument", f"The value of {place.name} for the command {spec.name!r} {what}.", hint, command=spec.name
    )
