"""Checkpoints in functions, without a run: what is recorded, what is raised, and where they are refused."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.functions import CheckpointError, checkpoint, standalone
from omium.clients.functions.code import of_callable
from omium.clients.functions.context import Asking, asking, wants_context
from omium.orchestration.errors import OmiumError


@checkpoint
def plain(a: int, b: int = 2, *rest: int, ctx: Any = None, **more: int) -> int:
    return a + b + sum(rest) + sum(more.values())


@checkpoint("slowly")
async def slowly(a: int) -> int:
    return a + 1


def test_the_arguments_are_kept_before_the_call() -> None:
    with standalone() as kept:
        assert plain(1, 2, 3, ctx=object(), c=4) == 10
        [one] = kept
        assert (one.label, one.outcome, one.error) == ("plain", "done", None)
        assert one.held == {"a": 1, "b": 2, "rest": [3], "more": {"c": 4}}


def test_they_are_kept_as_they_were_whatever_the_function_does_to_them() -> None:
    @checkpoint("change")
    def change(items: list[int]) -> None:
        items.append(2)
        raise ValueError("no")

    with standalone() as kept:
        with pytest.raises(ValueError, match="no"):
            change([1])
        assert (kept[0].held, kept[0].outcome) == ({"items": [1]}, "failed")
        assert kept[0].error == {"type": "builtins.ValueError", "message": "no"}


@pytest.mark.anyio
async def test_a_sync_function_within_a_loop_gives_its_value_and_an_async_one_is_awaited() -> None:
    with standalone() as kept:
        assert plain(1) == 3
        assert inspect.iscoroutinefunction(slowly) and await slowly(1) == 2
        assert [one.label for one in kept] == ["plain", "slowly"]


def test_an_async_function_outside_of_a_loop() -> None:
    with standalone() as kept:
        assert asyncio.run(slowly(1)) == 2
        assert kept[0].outcome == "done"


def test_the_function_looks_as_before() -> None:
    assert (plain.__name__, wants_context(plain)) == ("plain", True)
    assert list(inspect.signature(plain).parameters) == ["a", "b", "rest", "ctx", "more"]


def test_the_code_behind_a_decorated_function_counts() -> None:
    def one(x: int) -> int:
        return x + 1

    def two(x: int) -> int:
        return x * 2

    two.__qualname__ = one.__qualname__
    assert of_callable(checkpoint("c")(one)) != of_callable(checkpoint("c")(two))


def test_only_some_arguments_may_be_kept() -> None:
    @checkpoint("c", only=["x"])
    def both(x: int, connection: Any) -> int:
        return x

    with standalone() as kept:
        both(1, object())
        assert kept[0].held == {"x": 1}
    with pytest.raises(TypeError, match="no argument 'y'"):
        checkpoint("c", only=["y"])(plain)


def test_what_cannot_be_stored_is_told_before_the_call() -> None:
    called: list[Any] = []

    @checkpoint("c")
    def take(x: Any) -> None:
        called.append(x)

    with standalone(), pytest.raises(CheckpointError) as refused:
        take(object())
    assert (refused.value.code, refused.value.label, called) == ("invalid_value", "c", [])
    assert isinstance(refused.value.__cause__, OmiumError)


@pytest.mark.parametrize("outcome", [True, None, 1])
def test_what_came_of_it_may_be_checked(outcome: Any) -> None:
    seen: list[int] = []

    def look(result: int) -> Any:
        seen.append(result)
        return outcome

    with standalone() as kept:
        assert checkpoint("c", validate=look)(lambda: 7)() == 7
        assert (seen, kept[0].outcome) == ([7], "done")


def test_what_is_not_valid_is_recorded_and_raised() -> None:
    def bad(result: int) -> None:
        raise ValueError("less than nothing")

    with standalone() as kept:
        for validate, said in ((lambda result: False, "not valid"), (bad, "less than nothing")):
            with pytest.raises(CheckpointError, match=said) as refused:
                checkpoint("c", validate=validate)(lambda: 7)()
            assert refused.value.code == "precondition_failed"
        assert [one.outcome for one in kept] == ["invalid", "invalid"]
        assert kept[1].error == {"type": "builtins.ValueError", "message": "less than nothing"}


@pytest.mark.anyio
async def test_a_check_may_be_async_where_the_function_is() -> None:
    async def never(result: int) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    with standalone() as kept:
        with pytest.raises(CheckpointError):
            await checkpoint("c", validate=never)(slowly)(1)
        with pytest.raises(TypeError):
            checkpoint("c", validate=never)(plain)(1)
        assert kept[0].outcome == "invalid"


# --- blocks -------------------------------------------------------------------------------------------------------


def test_a_block_has_a_state_that_can_be_changed() -> None:
    with standalone() as kept:
        with checkpoint("phase", state={"n": 0}) as point:
            assert (point.state, point.restored) == ({"n": 0}, False)
            point.update_state(n=1, more="x")
            assert kept[0].held == {"n": 1, "more": "x"} and kept[0].outcome is None
        assert (kept[0].held, kept[0].outcome, len(kept)) == ({"n": 1, "more": "x"}, "done", 1)


@pytest.mark.anyio
async def test_an_async_block_likewise() -> None:
    with standalone() as kept:
        async with checkpoint("phase", state={"n": 0}, validate=lambda state: state["n"] == 1) as point:
            await point.update_state(n=1)
        with pytest.raises(CheckpointError):
            async with checkpoint("again", state={"n": 0}, validate=lambda state: state["n"] == 1):
                pass
        assert [one.outcome for one in kept] == ["done", "invalid"]


@pytest.mark.parametrize("error", [KeyError("x"), ExceptionGroup("many", [ValueError("a")])])
def test_an_exception_is_recorded_and_goes_on_as_it_is(error: Exception) -> None:
    with standalone() as kept:
        with pytest.raises(type(error)) as raised, checkpoint("phase"):
            raise error
        assert raised.value is error and kept[0].outcome == "failed"


def test_an_update_that_cannot_be_recorded_changes_nothing() -> None:
    with standalone(), checkpoint("phase", state={"n": 0}) as point:
        with pytest.raises(CheckpointError):
            point.update_state(n=object())  # type: ignore[arg-type]
        assert point.state == {"n": 0}


class Broken:
    """A store that fails at its nth question."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def ask(self, kind: str, payload: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise OmiumError("storage_unavailable", "the disk is full.")
        return {"call": "1", "restored": None}

    async def ask_async(self, kind: str, payload: Any) -> Any:
        return self.ask(kind, payload)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("failing", [False, True])
def test_a_save_that_fails_is_told_and_chained_to_all_that_went_wrong(nth: int, failing: bool) -> None:
    token = asking.set(Asking(False, Broken(nth).ask))
    try:
        with pytest.raises(CheckpointError) as raised, checkpoint("phase"):
            if failing:
                raise KeyError("the work's own")
    finally:
        asking.reset(token)
    error = raised.value
    assert (error.code, error.label) == ("storage_unavailable", "phase")
    assert isinstance(error.__cause__, OmiumError) and error.__cause__.code == "storage_unavailable"
    if failing and nth == 2:
        assert isinstance(error.__context__, OmiumError)
        assert isinstance(error.__context__.__context__, KeyError), "the work's own error is in the chain"


@pytest.mark.anyio
async def test_so_it_is_with_an_async_block_and_with_functions() -> None:
    for nth in (1, 2):
        token = asking.set(Asking(True, Broken(nth).ask_async))
        try:
            with pytest.raises(CheckpointError):
                async with checkpoint("phase"):
                    pass
        finally:
            asking.reset(token)
        token = asking.set(Asking(True, Broken(nth).ask_async))
        try:
            with pytest.raises(CheckpointError):
                await slowly(1)
        finally:
            asking.reset(token)


# --- where they are refused ---------------------------------------------------------------------------------------


def test_outside_of_a_run_nothing_is_pretended() -> None:
    for use in (lambda: plain(1), lambda: checkpoint("x").__enter__(), lambda: asyncio.run(slowly(1))):
        with pytest.raises(CheckpointError) as refused:
            use()
        assert refused.value.code == "not_allowed"


@pytest.mark.anyio
async def test_a_block_that_could_not_be_waited_for_is_refused_on_a_loop() -> None:
    token = asking.set(Asking(True, Broken(9).ask_async))
    try:
        with pytest.raises(CheckpointError, match="async with") as refused, checkpoint("phase"):
            pass
    finally:
        asking.reset(token)
    assert refused.value.code == "unsupported"


def test_what_cannot_have_a_checkpoint() -> None:
    def generator() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        checkpoint("c")(generator)
    with standalone(), pytest.raises(TypeError, match="needs a label"), checkpoint():
        pass
    with standalone():
        one = checkpoint("c")
        with one, pytest.raises(TypeError, match="each block needs its own"), one:
            pass


@given(st.lists(st.integers()), st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), max_size=3))
def test_whatever_the_arguments_the_call_is_the_same(numbers: list[int], more: dict[str, int]) -> None:
    def take(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with standalone() as kept:
        assert checkpoint("c")(take)(*numbers, **more) == (tuple(numbers), more)
        assert kept[0].held == {"args": numbers, "kwargs": more}
