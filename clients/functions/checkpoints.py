"""Checkpoints that functions set themselves: `@checkpoint` around a call, `with checkpoint(...)` around a part of one.

    from omium.clients.functions import checkpoint

    @checkpoint("charge", validate=lambda receipt: receipt["paid"] > 0)
    def charge(order: str, amount: int) -> dict: ...

Before the call its arguments are recorded as a checkpoint of the run: a label at that position of the log, in the list
of checkpoints like any other. When the run is taken back to it, the node runs again from its beginning, and the same
call (the nth of this label in the node) is given the recorded arguments, whatever it would have been passed then.

Where it is durable. In a worker process (`host: process`), in a thread (`host: thread`) and in an async function
(`host: async`) the checkpoint is durable before the call begins. A sync function that is called on the loop of an async
node cannot wait for that: its checkpoint is written with what the node writes next, at the latest with its end, and a
crash before that leaves none. A sync `with` is refused there, since its end could not be waited for either.

Outside of a run, where nothing could be recorded, it is refused: CheckpointError `not_allowed`. Tests of such functions
say what they mean with `standalone()`, which keeps the checkpoints in a list.

What cannot be recorded is never passed over: CheckpointError tells it, chained to what was the cause.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, cast, overload

from omium.clients.functions.context import Asking, asking
from omium.orchestration.errors import ErrorCode, OmiumError
from omium.orchestration.values import Value, decode, encode

P = ParamSpec("P")
R = TypeVar("R")
Outcome = Literal["done", "failed", "invalid"]
Validate = Callable[[Any], Any]

_NO_ARGUMENT = frozenset({"ctx", "self", "cls"})  # never part of what a checkpoint holds
_MESSAGE = 2_000


class CheckpointError(OmiumError):
    """A checkpoint could not be recorded, or what came of it is not what it should be (code `precondition_failed`).

    label: whose. The other codes are those of what failed: `not_allowed` outside of a run, `invalid_value` for a state
    that cannot be stored, `invalid_argument` for a label, `storage_unavailable`, ..."""

    def __init__(self, code: ErrorCode, message: str, hint: str = "", *, label: str, **data: Any) -> None:
        super().__init__(code, message, hint, label=label, **data)
        self.label = label


@overload
def checkpoint(label: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def checkpoint(
    label: str | None = None,
    /,
    *,
    validate: Validate | None = None,
    only: Collection[str] | None = None,
    state: Mapping[str, Value] | None = None,
    note: str | None = None,
) -> Checkpoint: ...
def checkpoint(
    label: str | Callable[..., Any] | None = None,
    /,
    *,
    validate: Validate | None = None,
    only: Collection[str] | None = None,
    state: Mapping[str, Value] | None = None,
    note: str | None = None,
) -> Any:
    """A checkpoint around a function (as a decorator) or around a block (`with`, `async with`).

    label: its name in the list of checkpoints; a function's own name, unless given. note: a line for people.
    validate: called with what the function gave, or with the state at the end of a block; it may be async where those
    are. When it returns False or raises, that is recorded and raised as CheckpointError `precondition_failed`.
    only: the arguments that are recorded (all but `ctx`, `self` and `cls`, unless given): the others have to be passed
    anew, and need not be values that can be stored. state: what a block begins with.

    An exception is recorded with its type and message, and goes on as it is. A generator function is refused
    (TypeError): its body does not run when it is called."""
    if callable(label):
        return Checkpoint(None)(label)
    return Checkpoint(label, validate=validate, only=only, state=state, note=note)


class Checkpoint:
    """See `checkpoint`. Each call and each block is a checkpoint of its own."""

    def __init__(
        self,
        label: str | None,
        *,
        validate: Validate | None = None,
        only: Collection[str] | None = None,
        state: Mapping[str, Value] | None = None,
        note: str | None = None,
    ) -> None:
        self._label = label
        self._validate = validate
        self._only = None if only is None else frozenset(only)
        self._state = dict(state or {})
        self._note = note
        self._open: _Point | None = None

    # --- around a function --------------------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function with a checkpoint before it. Async functions stay async, sync ones sync."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: there is no call that a checkpoint could be before."
            )
        held = _Arguments(function, self._only)
        label = self._label or function.__name__

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                point = _Point(label, self._note)
                bound = held.bind(args, kwargs)
                restored = await point.begin_async(held.state(bound))
                held.restore(bound, restored)
                try:
                    result = await function(*bound.args, **bound.kwargs)
                except Exception as error:  # recorded, then raised as it is
                    await point.end_async("failed", error)
                    raise
                await self._check_async(point, result)
                await point.end_async("done")
                return result

            return cast(Callable[P, R], awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            point = _Point(label, self._note)
            bound = held.bind(args, kwargs)
            restored = point.begin(held.state(bound))
            held.restore(bound, restored)
            try:
                result = function(*bound.args, **bound.kwargs)
            except Exception as error:  # recorded, then raised as it is
                point.end("failed", error)
                raise
            self._check(point, result)
            point.end("done")
            return result

        return called

    # --- around a block -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Point:
        """Record the state; what this gives has it in `state`. Refused on the loop of an async node: `async with`."""
        point = self._named()
        if point.asking.is_async and _on_loop():
            raise point.refused("cannot be waited for here", "Write async with.")
        restored = point.begin(self._state)
        self._open = point
        point.block = block = Point(point, _state_of(restored, self._state), restored is not None)
        return block

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        point, self._open = self._open, None
        assert point is not None and isinstance(point.block, Point)
        if error is None:
            self._check(point, point.block.state)
            point.end("done", state=point.block.state)
        elif isinstance(error, Exception):
            point.end("failed", error, state=point.block.state)

    async def __aenter__(self) -> AsyncPoint:
        """As `__enter__`, to be awaited."""
        point = self._named()
        restored = await point.begin_async(self._state)
        self._open = point
        point.block = block = AsyncPoint(point, _state_of(restored, self._state), restored is not None)
        return block

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        point, self._open = self._open, None
        assert point is not None and isinstance(point.block, AsyncPoint)
        if error is None:
            await self._check_async(point, point.block.state)
            await point.end_async("done", state=point.block.state)
        elif isinstance(error, Exception):
            await point.end_async("failed", error, state=point.block.state)

    def _named(self) -> _Point:
        if self._label is None:
            raise TypeError('a block needs a label: with checkpoint("its name")')
        if self._open is not None:
            raise TypeError(f"the checkpoint {self._label!r} is around a block already: each block needs its own")
        return _Point(self._label, self._note)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _check(self, point: _Point, result: Any) -> None:
        if self._validate is None:
            return
        try:
            holds = self._validate(result)
        except Exception as error:
            point.end("invalid", error)
            raise point.invalid(error) from error
        if inspect.iscoroutine(holds):
            holds.close()
            raise TypeError("an async validate= goes with an async function or block")
        if holds is False:
            point.end("invalid")
            raise point.invalid(None)

    async def _check_async(self, point: _Point, result: Any) -> None:
        if self._validate is None:
            return
        try:
            holds = self._validate(result)
            if inspect.isawaitable(holds):
                holds = await holds
        except Exception as error:
            await point.end_async("invalid", error)
            raise point.invalid(error) from error
        if holds is False:
            await point.end_async("invalid")
            raise point.invalid(None)


# --- blocks -----------------------------------------------------------------------------------------------------------


class Point:
    """A block's checkpoint. state: what it holds; restored: the run was taken back to it, so that `state` is what it
    held then."""

    def __init__(self, point: _Point, state: dict[str, Value], restored: bool) -> None:
        self._point = point
        self._held = state
        self.restored = restored

    @property
    def state(self) -> dict[str, Value]:
        return self._held

    def update_state(self, **changes: Value) -> None:
        """Change the state, and record it: durable when this returns, a checkpoint of the same label that the run can
        be taken back to. Raises CheckpointError when that fails; the state is then as it was."""
        changed = {**self._held, **changes}
        self._point.begin(changed)
        self._held = changed


class AsyncPoint:
    """As `Point`, to be awaited."""

    def __init__(self, point: _Point, state: dict[str, Value], restored: bool) -> None:
        self._point = point
        self._held = state
        self.restored = restored

    @property
    def state(self) -> dict[str, Value]:
        return self._held

    async def update_state(self, **changes: Value) -> None:
        """See `Point.update_state`."""
        changed = {**self._held, **changes}
        await self._point.begin_async(changed)
        self._held = changed


# --- recording --------------------------------------------------------------------------------------------------------


class _Point:
    """One checkpoint: recorded when it begins, and again with what came of it."""

    def __init__(self, label: str, note: str | None) -> None:
        self.label = label
        self.block: Point | AsyncPoint | None = None
        found = asking.get()
        if found is None:
            raise CheckpointError(
                "not_allowed",
                f"the checkpoint {label!r} is outside of a run: nothing could be recorded.",
                "Call it from a function node, or within standalone() in a test.",
                label=label,
            )
        self.asking: Asking = found
        self._note = note
        self._call: str | None = None

    def begin(self, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What is restored; None when nothing is."""
        return self._begun(self._put("checkpoint", self._beginning(state)))

    async def begin_async(self, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._begun(await self._put_async("checkpoint", self._beginning(state)))

    def end(self, outcome: Outcome, error: Exception | None = None, state: Mapping[str, Any] | None = None) -> None:
        self._put("checkpoint_end", self._ending(outcome, error, state))

    async def end_async(
        self, outcome: Outcome, error: Exception | None = None, state: Mapping[str, Any] | None = None
    ) -> None:
        await self._put_async("checkpoint_end", self._ending(outcome, error, state))

    def _beginning(self, state: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {"label": self.label, "state": dict(state)}
        if self._note is not None:
            told["note"] = self._note
        if self._call is not None:
            told["call"] = self._call
        return told

    def _begun(self, answer: Any) -> Mapping[str, Any] | None:
        self._call = answer["call"]
        return None if answer["restored"] is None else cast(Mapping[str, Any], answer["restored"]["state"])

    def _ending(self, outcome: Outcome, error: Exception | None, state: Mapping[str, Any] | None) -> dict[str, Any]:
        told: dict[str, Any] = {"label": self.label, "call": self._call, "outcome": outcome}
        if error is not None:
            kind = type(error)
            told["error"] = {"type": f"{kind.__module__}.{kind.__qualname__}", "message": _text_of(error)}
        if state is not None:
            told["state"] = dict(state)
        elif outcome == "done":
            told["later"] = True  # nothing is lost with it: it is no place to come back to
        return told

    def _put(self, kind: str, payload: dict[str, Any]) -> Any:
        try:
            if not self.asking.is_async:
                return self.asking.ask(kind, payload)
            if _on_loop():
                return _at_once(self.asking.ask(kind, {**payload, "later": True}))
            return _from_thread(self.asking.ask, kind, payload)
        except OmiumError as error:
            self._refuse(error)

    async def _put_async(self, kind: str, payload: dict[str, Any]) -> Any:
        try:
            answer = self.asking.ask(kind, payload)
            return await answer if inspect.isawaitable(answer) else answer
        except OmiumError as error:
            self._refuse(error)

    def _refuse(self, error: OmiumError) -> NoReturn:
        raise CheckpointError(
            error.code,
            f"the checkpoint {self.label!r} could not be recorded: {error.message}",
            error.hint,
            label=self.label,
        ) from error

    def refused(self, why: str, hint: str) -> CheckpointError:
        return CheckpointError("unsupported", f"the checkpoint {self.label!r} {why}.", hint, label=self.label)

    def invalid(self, error: Exception | None) -> CheckpointError:
        why = "what came of it is not valid" if error is None else _text_of(error)
        return CheckpointError("precondition_failed", f"the checkpoint {self.label!r}: {why}.", label=self.label)


def _on_loop() -> bool:
    """Whether this thread runs an event loop. A worker process without one never imports asyncio, which takes long."""
    loops = sys.modules.get("asyncio.events")
    return loops is not None and loops._get_running_loop() is not None


def _at_once(answer: Any) -> Any:
    """The answer of a coroutine that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    raise AssertionError("a checkpoint that is written later waits for nothing")


def _from_thread(ask: Callable[[str, Any], Any], kind: str, payload: dict[str, Any]) -> Any:
    """Have the loop of the node answer, from a thread that it started."""
    import anyio.from_thread  # only where there is a loop, so it is loaded already

    try:
        return anyio.from_thread.run(ask, kind, payload)
    except RuntimeError as error:
        raise OmiumError(
            "unsupported", "this thread is none of the node's.", "Start it with anyio.to_thread.run_sync."
        ) from error


def _state_of(restored: Mapping[str, Any] | None, given: Mapping[str, Value]) -> dict[str, Value]:
    return dict(given if restored is None else restored)


def _text_of(error: Exception) -> str:
    try:
        return (str(error) or type(error).__name__)[:_MESSAGE].encode("utf-8", "backslashreplace").decode()
    except Exception:  # a __str__ that raises is not to hide what it is about
        return type(error).__name__


# --- arguments --------------------------------------------------------------------------------------------------------


class _Arguments:
    """The arguments of a function as a state, and back. Raises TypeError for names in `only` that it has not."""

    def __init__(self, function: Callable[..., Any], only: frozenset[str] | None) -> None:
        self._signature = inspect.signature(function)
        names = self._signature.parameters
        unknown = sorted((only or frozenset()) - set(names))
        if unknown:
            raise TypeError(f"{function.__qualname__} has no argument {unknown[0]!r}")
        self._names = [name for name in names if (name in only if only is not None else name not in _NO_ARGUMENT)]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound

    def state(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        return {name: self._shown(name, bound.arguments[name]) for name in self._names if name in bound.arguments}

    def restore(self, bound: inspect.BoundArguments, held: Mapping[str, Any] | None) -> None:
        for name in self._names if held is not None else ():
            if held is not None and name in held:
                rest = self._signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
                bound.arguments[name] = tuple(held[name]) if rest else held[name]

    def _shown(self, name: str, value: Any) -> Any:
        return list(value) if self._signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL else value


# --- outside of runs --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Kept:
    """A checkpoint of `standalone`: what it held when it began, or was updated last, and what came of it."""

    label: str
    held: Any
    outcome: Outcome | None = None
    error: Mapping[str, str] | None = None


@contextmanager
def standalone() -> Iterator[list[Kept]]:
    """For tests and scripts: checkpoints within the block are kept in the list that this gives, and nowhere else. They
    survive nothing, and nothing is taken back to them."""
    kept: list[Kept] = []

    def ask(kind: str, payload: Any) -> Any:
        payload = decode(encode(payload).data)  # as it is now, if it can be stored at all
        if kind == "checkpoint_end":
            one = kept[int(payload["call"])]
            one.outcome, one.error = payload["outcome"], payload.get("error")
            one.held = payload.get("state", one.held)
            return None
        call = payload.get("call")
        if call is None:
            kept.append(Kept(payload["label"], payload["state"]))
            return {"call": str(len(kept) - 1), "restored": None}
        kept[int(call)].held = payload["state"]
        return {"call": call, "restored": None}

    token = asking.set(Asking(False, ask))
    try:
        yield kept
    finally:
        asking.reset(token)


__all__ = ["AsyncPoint", "Checkpoint", "CheckpointError", "Kept", "Point", "checkpoint", "standalone"]
