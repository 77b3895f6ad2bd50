"""What a function is given when it declares a parameter `ctx`: its run, and the ledger of its effects.

Whatever must be the same when the node is recovered (the time, random numbers, ids, effects) is asked from the engine,
which logs it. A question is `(kind, payload)`, its answer a value:

| kind | payload | answer |
|---|---|---|
| `progress` | `{"text"}` | None |
| `now` | None | an aware datetime |
| `random` | None | a float in [0, 1) |
| `uuid` | None | the text of a UUID |
| `effect_intent` | `{"key"}` | `{"known": False}`, or `{"known": True, "result"}`: it has happened, do not repeat it |
| `effect_settle` | `{"key", "ok": True, "result"}` or `{"key", "ok": False, "error_type", "message"}` | None |
| `effect_settle` | `{"key", "ok": None}`: it was cut off in the middle, and nobody knows; it waits for nothing | None |
| `artifact` | `{"name", "value"}` | None |
| `checkpoint` | `{"label", "state", "note"?, "call"?, "later"?}` | `{"call", "restored"}`: None or `{"state"}` |
| `checkpoint_end` | `{"label", "call", "outcome", "error"?, "state"?, "later"?}` | None |
| `scratch` | None | the path of a directory of this attempt's own |

This module is imported by every worker process, so it imports next to nothing.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

T = TypeVar("T")
Ask = Callable[[str, Value], Value]
AskAsync = Callable[[str, Value], Awaitable[Value]]


class Asking(NamedTuple):
    """How the function that runs here asks the engine, whether or not it takes a `ctx`. is_async: `ask` is awaited."""

    is_async: bool
    ask: Callable[[str, Any], Any]


asking: ContextVar[Asking | None] = ContextVar("omium_asking", default=None)
_inside: ContextVar[tuple[object, ...]] = ContextVar("omium_inside", default=())  # of which calls this code is a part


class _Place:
    """What both contexts know without asking. workspace: the run's directory, if the node declares one."""

    _own: Path | None = None  # the directory of this attempt, once it was asked for

    def __init__(self, context: dict[str, Any]) -> None:
        workspace = context.get("workspace")
        self.run_id: str = context.get("run_id", "")
        self.node_id: str = context.get("node_id", "")
        self.attempt: int = context.get("attempt", 1)
        self.generation: int = context.get("generation", 1)
        self.workspace: Path | None = None if workspace is None else Path(workspace)
        self._calls: dict[str, object] = {}  # the call that is under way, by key

    def _check_not_inside(self, key: str) -> None:
        """Raises `invalid_argument` for a call that would wait for the one that it is a part of, and so for itself."""
        if self._calls.get(key) in _inside.get():
            hint = "A call inside of another needs a key of its own."
            raise OmiumError("invalid_argument", f"the call {key[:200]!r} waits for itself.", hint)

    @contextmanager
    def _under_way(self, key: str) -> Generator[None]:
        call = self._calls[key] = object()  # a task that outlives the call is no part of the next one of this key
        token = _inside.set((*_inside.get(), call))
        try:
            yield
        finally:
            _inside.reset(token)
            del self._calls[key]


class Context(_Place):
    """The `ctx` of a sync function. Its methods block; threads that the function starts may call them too."""

    def __init__(self, context: dict[str, Any], ask: Ask) -> None:
        super().__init__(context)
        self._ask = ask
        self._alone: dict[str, threading.RLock] = {}  # by key

    def progress(self, text: str) -> None:
        """Says how far it is; shown to whoever watches the run."""
        self._ask("progress", {"text": text})

    def now(self) -> datetime:
        """The time, in UTC, the same when the node is recovered."""
        return cast(datetime, self._ask("now", None))

    def random(self) -> float:
        """A random number in [0, 1), the same when the node is recovered."""
        return cast(float, self._ask("random", None))

    def uuid(self) -> str:
        """A random UUID, the same when the node is recovered."""
        return cast(str, self._ask("uuid", None))

    def artifact(self, name: str, value: Value) -> None:
        """Saves a value of the run under a name; the newest of a name is what is shown. It is durable on return."""
        self._ask("artifact", {"name": name, "value": value})

    def file(self, name: str) -> Path:
        """A place for a file of this attempt's own, such as `outputs/table.csv`: no node that runs beside it writes
        there. Its directory exists. It is no part of the workspace: it goes neither back nor forward with the run.
        Raises ValueError for a name that leads elsewhere."""
        self._own = self._own or Path(cast(str, self._ask("scratch", None)))
        return _beneath(self._own, name)

    def effect(self, key: str, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls `fn` and records it, so that it is not called again when it is known to have happened.

        key: names this effect within the node; the result must be a value that can be stored. Raises what `fn` raises.
        Asked for twice at once, it is made once: the second waits, and then finds what the first has given. Asked for
        again after it was cut off in the middle, it follows the node's `on_unknown`, as after a crash.
        Raises OmiumError("invalid_argument") when it is asked for inside of itself. A thread that `fn` starts is known
        to be inside if it runs in a copy of its context, as `asyncio.to_thread` has it; asked for the same key in any
        other, it waits for the first like everybody else, so that `fn` must not wait for it.
        """
        self._check_not_inside(key)
        with self._alone.setdefault(key, threading.RLock()), self._under_way(key):
            return self._effect(key, fn, args, kwargs)

    def _effect(self, key: str, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        known = cast(dict[str, Any], self._ask("effect_intent", {"key": key}))
        if known["known"]:
            return cast(T, known["result"])
        try:
            result = fn(*args, **kwargs)
        except Exception as error:  # recorded, then raised as it is
            self._ask("effect_settle", _failed(key, error))
            raise
        self._ask("effect_settle", {"key": key, "ok": True, "result": cast(Value, result)})
        return result


class AsyncContext(_Place):
    """The `ctx` of an async function that runs in Omium's own process: as `Context`, but to be awaited."""

    def __init__(self, context: dict[str, Any], ask: AskAsync) -> None:
        super().__init__(context)
        self._ask = ask
        self._alone: dict[str, Any] = {}  # by key: an anyio.Lock

    async def progress(self, text: str) -> None:
        """See `Context.progress`."""
        await self._ask("progress", {"text": text})

    async def now(self) -> datetime:
        """See `Context.now`."""
        return cast(datetime, await self._ask("now", None))

    async def random(self) -> float:
        """See `Context.random`."""
        return cast(float, await self._ask("random", None))

    async def uuid(self) -> str:
        """See `Context.uuid`."""
        return cast(str, await self._ask("uuid", None))

    async def artifact(self, name: str, value: Value) -> None:
        """See `Context.artifact`."""
        await self._ask("artifact", {"name": name, "value": value})

    async def file(self, name: str) -> Path:
        """See `Context.file`."""
        self._own = self._own or Path(cast(str, await self._ask("scratch", None)))
        return _beneath(self._own, name)

    async def effect(self, key: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See `Context.effect`; `fn` may be sync or async."""
        from anyio import Lock  # here it is loaded already; a worker process has no need of it

        self._check_not_inside(key)
        async with self._alone.setdefault(key, Lock(fast_acquire=True)):
            with self._under_way(key):
                return await self._effect(key, fn, args, kwargs)

    async def _effect(self, key: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = cast(dict[str, Any], await self._ask("effect_intent", {"key": key}))
        if known["known"]:
            return known["result"]
        try:
            result = fn(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # recorded, then raised as it is
            await self._ask("effect_settle", _failed(key, error))
            raise
        except BaseException:  # cancelled in the middle, so that nobody knows whether it happened
            await self._ask("effect_settle", {"key": key, "ok": None})  # waits for nothing, so it needs no shield
            raise
        await self._ask("effect_settle", {"key": key, "ok": True, "result": result})
        return result


def wants_context(fn: Callable[..., Any]) -> bool:
    """Whether the function declares a parameter named `ctx`."""
    try:
        return "ctx" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def _beneath(directory: Path, name: str) -> Path:
    """The place of a file in a directory, with the directories on the way. Links that were put there count as what they
    lead to."""
    top = directory.resolve()
    place = (top / name).resolve()
    if not name or place == top or not place.is_relative_to(top):
        raise ValueError(f"{name[:200]!r} is no file of this attempt's own; expected a name such as outputs/table.csv")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def _failed(key: str, error: Exception) -> dict[str, Value]:
    kind = type(error)
    return {
        "key": key,
        "ok": False,
        "error_type": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error)[:4096],
    }
