"""Calls of a server that behaves: several at once, failing, slow, large; what is sent, and what is not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio
import psutil
import pytest

from omium.clients.external.spec import Credential, OutputLimits
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Store
from omium.orchestration.ports_calls import READ_ONLY, Allowed, Limits
from tests.external.help import stdio, world

pytestmark = pytest.mark.anyio


def _children() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


async def test_two_servers_take_interleaved_calls_and_leave_nothing(store: Store) -> None:
    before, tasks = _children(), len(asyncio.all_tasks())
    answers: dict[int, object] = {}

    with anyio.fail_after(60):
        async with world(store, stdio("one"), stdio("two")) as w:

            async def ask(n: int) -> None:
                answers[n] = await w.call(f"{('one', 'two')[n % 2]}/add", f"k{n}", a=n, b=n)

            async with anyio.create_task_group() as group:
                for n in range(100):
                    group.start_soon(ask, n)
            assert len(_children() - before) == 2
    assert answers == {n: {"sum": 2 * n} for n in range(100)}
    assert _children() == before
    assert len(asyncio.all_tasks()) == tasks


async def test_a_server_starts_on_first_use(store: Store) -> None:
    before = _children()
    async with world(store, stdio("one")):
        assert _children() == before


async def test_an_error_of_the_tool_is_a_failure(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        with pytest.raises(OmiumError) as failed:
            await w.call("one/fail", text="no such table")
    assert failed.value.code == "tool_failed"
    assert failed.value.data["reason"] == "is_error" and failed.value.data["sent"]
    assert "no such table" in failed.value.message


async def test_arguments_are_held_against_the_tools_own_schema(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        for wrong in ({"a": 1}, {"a": "x", "b": 1}, {"a": -1, "b": 1}):
            with pytest.raises(OmiumError) as refused:
                await w.call("one/add", **wrong)
            assert refused.value.code == "invalid_argument"
        assert w.gate.calls == []


async def test_arguments_that_a_person_changed_are_held_against_it_too(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        w.gate.change = lambda _: {"a": 2, "b": 3}
        assert await w.call("one/add", a=1, b=1) == {"sum": 5}
        w.gate.change = lambda _: {"a": "all of it"}
        with pytest.raises(OmiumError) as refused:
            await w.call("one/add", "other", a=1, b=1)
        assert refused.value.code == "invalid_argument"


async def test_a_slow_tool_ends_at_its_limit_and_is_not_called_again(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        await w.call("one/add", a=1, b=1)
        w.gate.terms = Allowed(None, Limits(timeout_s=0.2))
        with anyio.fail_after(5), pytest.raises(OmiumError) as late:
            await w.call("one/slow", seconds=30)
        assert late.value.code == "timeout" and late.value.data["sent"]
        w.gate.terms = Allowed(None)
        assert await w.call("one/echo", text="still there") == "still there"


async def test_a_crash_fails_the_call_and_not_the_next_one(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        with pytest.raises(OmiumError) as died:
            await w.call("one/die")
        assert died.value.code == "tool_failed" and died.value.data["sent"]
        assert "exit code 7" in died.value.message and "the last words" in died.value.message
        assert await w.call("one/add", a=1, b=1) == {"sum": 2}


async def test_what_may_have_happened_is_repeated_only_where_policy_trusts_the_tool(store: Store) -> None:
    async with world(store, stdio("one", retries=replace(stdio("x").retries, attempts=2))) as w:
        started: list[int] = []

        def pids() -> set[int]:
            return _children()

        await w.call("one/add", a=1, b=1)
        started += pids()
        with pytest.raises(OmiumError):
            await w.call("one/die")  # read_only_hint or not: nobody trusts it
        await w.call("one/add", "again", a=1, b=1)
        first = pids()
        w.gate.terms = Allowed(None, trusts=frozenset({READ_ONLY}))
        with pytest.raises(OmiumError) as died:
            await w.call("one/die", "trusted")
        assert died.value.data["sent"]
        await w.call("one/add", "third", a=1, b=1)
        assert pids().isdisjoint(first)


async def test_long_text_is_cut_in_the_middle_and_says_so(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        text = await w.call("one/long", characters=100_000)
        assert 25_000 <= len(text) < 25_200 and "75000 of 100000 characters left out" in text
        w.gate.terms = Allowed(None, Limits(output_bytes=1_000))
        assert len(await w.call("one/long", characters=5_000)) < 1_200


async def test_structured_content_is_whole_or_text(store: Store) -> None:
    async with world(store, stdio("one", output=OutputLimits(structured=2_000))) as w:
        assert await w.call("one/wide", items=10) == {"items": list(range(10))}
        text = await w.call("one/wide", items=20_000)
        assert isinstance(text, str) and "characters left out" in text and len(text) < 25_200


async def test_a_message_beyond_the_limit_fails_its_call_alone(store: Store) -> None:
    async with world(store, stdio("one", output=OutputLimits(message=100_000))) as w:
        with anyio.fail_after(20), pytest.raises(OmiumError) as large:
            await w.call("one/long", characters=300_000)
        assert large.value.data["reason"] == "too_large"
        assert await w.call("one/echo", text="on") == "on"


async def test_the_environment_is_what_was_declared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("HANDED_ON", "yes")
    spec = stdio("one", env={"SERVER_NAME": "x"}, pass_env=("HANDED_ON",))
    async with world(store, spec) as w:
        lines = (await w.call("one/environment")).splitlines()
    assert "HANDED_ON=yes" in lines and "SERVER_NAME=x" in lines and "OMIUM_SERVER=one" in lines
    assert not [line for line in lines if line.startswith(("CANARY_TOKEN", "LD_PRELOAD"))]
    assert [line for line in lines if line.startswith("OMIUM_PROCESS=")]


async def test_a_credential_reaches_the_server_and_comes_back_to_nobody(store: Store) -> None:
    spec = stdio("one", credentials=(Credential("env", "API_KEY", variable="OUR_KEY"),))
    async with world(store, spec, environ={"OUR_KEY": "correct-horse-battery"}) as w:
        text = await w.call("one/environment")
        assert "API_KEY=[redacted]" in text and "horse" not in text
        with pytest.raises(OmiumError) as failed:
            await w.call("one/fail", text="it is correct-horse-battery")
        assert "horse" not in str(failed.value)
        assert "horse" not in repr(spec)


async def test_a_missing_credential_is_a_call_that_was_not_sent(store: Store) -> None:
    spec = stdio("one", credentials=(Credential("env", "API_KEY", variable="OUR_KEY"),))
    async with world(store, spec, environ={}) as w:
        with pytest.raises(OmiumError) as refused:
            await w.call("one/add", a=1, b=1)
        assert refused.value.code == "unauthenticated" and refused.value.data["sent"] is False


async def test_a_repeat_has_the_same_idempotency_key_and_no_other_call(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        sent = [(await w.call("one/meta", key))["meta"] for key in ("a", "b")]
    keys = [one["omium.dev/idempotencyKey"] for one in sent]
    assert all(keys) and keys[0] != keys[1]


async def test_a_call_tells_its_price_to_the_gate(store: Store) -> None:
    async with world(store, stdio("one", prices={"add": 0.001, "*": 0.5})) as w:
        await w.call("one/add", a=1, b=1)
        await w.call("one/echo", text="x")
    assert [one.usd for one in w.gate.calls] == [0.001, 0.5]


async def test_a_program_that_is_not_there_says_so(store: Store) -> None:
    spec = replace(stdio("gone"), command=("/nonexistent/program",))
    async with world(store, spec) as w:
        with anyio.fail_after(20), pytest.raises(OmiumError) as refused:
            await w.call("gone/add", a=1, b=1)
        assert refused.value.data["sent"] is False
        assert "/nonexistent/program" in refused.value.message


async def test_a_call_that_is_cancelled_leaves_the_connection(store: Store) -> None:
    async with world(store, stdio("one")) as w:
        await w.call("one/add", a=1, b=1)
        with anyio.move_on_after(0.2) as scope:
            await w.call("one/slow", seconds=30)
        assert scope.cancelled_caught
        assert await w.call("one/echo", text="on") == "on"
