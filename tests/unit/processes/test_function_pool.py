"""Functions in worker processes: calls, contexts, failures, and an end that is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.functions.failure import FunctionError
from omium.clients.functions.host import FunctionPool
from omium.clients.processes.identity import ProcessIdentity, identity, is_alive
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

pytestmark = pytest.mark.anyio

FUNCTIONS = """
import os, subprocess, sys, threading, time
from pathlib import Path

class Odd(FileNotFoundError):
    pass

class Group:
    @staticmethod
    def member(x): return x + 1

def add(a, b): return a + b
async def later(x):
    import asyncio
    await asyncio.sleep(0)
    return [x, x]
def pid(): return os.getpid()
def meet(directory):
    Path(directory, str(os.getpid())).touch()
    while len(os.listdir(directory)) < 2: time.sleep(0.001)
    return os.getpid()
def echo(value): return value
def fail(): raise Odd("no such thing")
def leave(): sys.exit(4)
def vanish(): os._exit(5)
def unstorable(): return {"path": Path("x")}
def spin(path):
    Path(path).write_text(str(os.getpid()))
    while True: pass
def spin_with_child(path):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    while True: pass
def talk():
    print("to stdout"); print("to stderr", file=sys.stderr)
    os.write(1, b"raw\\n"); sys.stdout.write("without an end")
    return "answer"
def close_output():
    sys.stdout.close()
    return 1
def grow():
    held = bytearray(300_000_000)
    time.sleep(600)
def wander(): os.chdir("/"); return os.getcwd()
def where(): return os.getcwd()
def environment(): return dict(os.environ)
def about(ctx):
    ctx.progress("half")
    place = [ctx.run_id, ctx.node_id, ctx.attempt, ctx.generation, str(ctx.workspace)]
    return [*place, ctx.now(), ctx.random(), ctx.uuid()]
def pay(ctx, path):
    def charge(amount):
        with open(path, "a") as file: file.write("charged\\n")
        return {"paid": amount}
    return ctx.effect("charge", charge, 5)
def pay_twice(ctx):
    made, found = [], []
    def charge():
        made.append(1)
        if len(made) == 1:
            other.start()
            other.join(0.2)  # real time: it must be waiting for as long as this one is under way
        return len(made)
    other = threading.Thread(target=lambda: found.append(ctx.effect("charge", charge)))
    found.append(ctx.effect("charge", charge))
    other.join()
    return found
def pay_inside(ctx): return ctx.effect("charge", lambda: ctx.effect("charge", add, 1, 2))
def pay_badly(ctx): return ctx.effect("charge", add, 1)
def keep(ctx):
    global kept
    kept = ctx
def reuse(): return kept.uuid()
def broken_text():
    class Mute(Exception):
        def __str__(self): raise RuntimeError
    raise Mute
"""

CONTEXT = {"run_id": "run_1", "node_id": "fan[3]", "attempt": 2, "generation": 4}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("code")
    (directory / "functions_under_test.py").write_text(FUNCTIONS)
    return str(directory)


class Caller:
    """Calls functions of `FUNCTIONS` within a bound."""

    def __init__(self, pool: FunctionPool, code: str) -> None:
        self.pool = pool
        self.code = code

    async def __call__(self, name: str, options: dict[str, Any] | None = None, **kwargs: Value) -> Value:
        with anyio.fail_after(30):
            return await self.pool.call(
                f"functions_under_test:{name}", kwargs, sys_path=(self.code,), **(options or {})
            )

    async def failure(self, name: str, options: dict[str, Any] | None = None, **kwargs: Value) -> OmiumError:
        with pytest.raises(OmiumError) as caught:
            await self(name, options, **kwargs)
        return caught.value


@pytest.fixture
async def call(code: str, tmp_path: Path) -> AsyncIterator[Caller]:
    async with FunctionPool(1, cwd=tmp_path) as pool:
        yield Caller(pool, code)


async def written(path: Path) -> list[ProcessIdentity]:
    """The processes whose pids a function writes to this file."""
    with anyio.fail_after(20):
        while not (path.exists() and path.read_text()):
            await anyio.sleep(0.01)
    found = [identity(int(text)) for text in path.read_text().split()]
    assert all(found)
    return [each for each in found if each is not None]


async def test_functions_are_called_and_answer(call: Caller) -> None:
    assert await call("add", a=2, b=3) == 5
    assert await call("later", x="y") == ["y", "y"]
    assert await call("Group.member", x=1) == 2
    value: Value = {
        "b": b"\0\xff",
        "t": datetime(2026, 1, 1, tzinfo=UTC),
        "n": None,
        "big": 2**80,
        "s": "x" * 3_000_000,
    }
    assert await call("echo", value=value) == value


async def test_a_worker_lives_through_many_calls(call: Caller) -> None:
    assert await call("pid") == await call("pid") != os.getpid()


async def test_an_exception_comes_back_with_its_types(call: Caller) -> None:
    error = await call.failure("fail")
    assert isinstance(error, FunctionError)
    assert (error.code, error.data["reason"]) == ("process_failed", "raised")
    assert error.error_type == "functions_under_test.Odd"
    assert error.mro[1:] == ("builtins.FileNotFoundError", "builtins.OSError", "builtins.Exception",
                             "builtins.BaseException", "builtins.object")  # fmt: skip
    assert "no such thing" in error.message
    assert "in fail" in error.traceback


@pytest.mark.parametrize(
    ("ref", "kind"),
    [
        ("functions_under_test:missing", "builtins.AttributeError"),
        ("no_such_module_anywhere:f", "builtins.ModuleNotFoundError"),
        ("functions_under_test:FileNotFoundError", "builtins.AttributeError"),
        ("functions_under_test:__name__", "builtins.TypeError"),
    ],
)
async def test_what_cannot_be_loaded_is_a_failure_too(call: Caller, ref: str, kind: str) -> None:
    with pytest.raises(FunctionError) as caught, anyio.fail_after(20):
        await call.pool.call(ref, {}, sys_path=(call.code,))
    assert caught.value.error_type == kind


@pytest.mark.parametrize("ref", ["", "os", "os:", ":f", "os.path/x:f", "os:system()", "a:b:c", "os:sys tem"])
async def test_what_is_no_reference_is_refused(call: Caller, ref: str) -> None:
    with pytest.raises(OmiumError) as caught:
        await call.pool.call(ref, {})
    assert caught.value.code == "invalid_argument"


async def test_wrong_arguments_leaving_and_a_mute_exception_end_the_call_only(call: Caller) -> None:
    first = await call("pid")
    kinds = [(await call.failure(name)).data["error_type"] for name in ("add", "leave", "broken_text")]
    assert kinds == ["builtins.TypeError", "builtins.SystemExit", "functions_under_test.broken_text.<locals>.Mute"]
    assert await call("pid") == first


async def test_only_what_can_be_stored_comes_and_goes(call: Caller) -> None:
    error = await call.failure("unstorable")
    assert (error.code, error.data["path"]) == ("invalid_value", "$.path")
    assert (await call.failure("echo", value=float("nan"))).code == "invalid_value"


async def test_prints_are_captured_and_do_not_disturb(call: Caller) -> None:
    lines: list[tuple[str, str]] = []
    answer = await call("talk", {"on_line": lambda stream, line: lines.append((stream, line))})
    assert answer == "answer"
    assert ("stderr", "to stderr") in lines
    assert [line for stream, line in lines if stream == "stdout"][:2] == ["to stdout", "raw"]
    assert await call("close_output") == 1
    assert await call("add", a=1, b=1) == 2


async def test_a_listener_that_fails_fails_the_call_only(call: Caller) -> None:
    def refuse(_stream: str, _line: str) -> None:
        raise LookupError("no listener")

    with pytest.raises(LookupError, match="no listener"):
        await call("talk", {"on_line": refuse})
    assert await call("add", a=1, b=1) == 2


async def test_a_worker_that_is_killed_is_reported_and_replaced(call: Caller, tmp_path: Path) -> None:
    errors: list[OmiumError] = []

    async def spin() -> None:
        errors.append(await call.failure("spin", path=str(tmp_path / "pid")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spin)
        (worker,) = await written(tmp_path / "pid")
        os.kill(worker.pid, signal.SIGKILL)
    assert (errors[0].code, errors[0].data["reason"], errors[0].data["signal"]) == ("process_failed", "worker_died", 9)
    assert await call("add", a=1, b=1) == 2


async def test_a_worker_that_leaves_is_reported_and_replaced(call: Caller) -> None:
    error = await call.failure("vanish")
    assert (error.data["reason"], error.data["exit_code"]) == ("worker_died", 5)
    assert await call("add", a=1, b=1) == 2


async def test_a_timeout_stops_an_endless_loop_and_its_children(call: Caller, tmp_path: Path) -> None:
    await call("pid")  # the time-out runs from a worker that is ready, its start is not in it
    path = tmp_path / "pids"
    error = await call.failure("spin_with_child", {"timeout_s": 1.0}, path=str(path))
    assert (error.code, error.data["reason"], error.data["limit_s"]) == ("timeout", "hard_timeout", 1.0)
    left = [identity(int(text)) for text in path.read_text().split()]
    assert len(left) == 2
    assert not any(each is not None and is_alive(each) for each in left)
    assert await call("add", a=1, b=1) == 2


async def test_a_cancellation_stops_the_work(call: Caller, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:

        async def spin() -> None:
            await call("spin_with_child", path=str(tmp_path / "pids"))

        tasks.start_soon(spin)
        processes = await written(tmp_path / "pids")
        assert all(is_alive(each) for each in processes)
        tasks.cancel_scope.cancel()
    assert not any(is_alive(each) for each in processes)
    assert await call("add", a=1, b=1) == 2


async def test_too_much_memory_ends_the_worker(code: str, tmp_path: Path) -> None:
    async with FunctionPool(1, cwd=tmp_path, memory_limit_bytes=200_000_000) as pool:
        error = await Caller(pool, code).failure("grow")
    assert (error.code, error.data["reason"]) == ("process_failed", "memory")


async def test_leaving_the_pool_ends_everything(code: str, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        async with FunctionPool(1, cwd=tmp_path) as pool:
            caller = Caller(pool, code)

            async def spin() -> None:
                await caller.failure("spin_with_child", path=str(tmp_path / "pids"))

            tasks.start_soon(spin)
            processes = await written(tmp_path / "pids")
        assert not any(is_alive(each) for each in processes)


@pytest.mark.parametrize("busy", [True, False])
async def test_workers_end_when_their_parent_is_killed(code: str, tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "pids"
    script = f"""
import anyio
from omium.clients.functions.host import FunctionPool

async def main():
    async with FunctionPool(1) as pool:
        if {busy}:
            await pool.call("functions_under_test:spin_with_child", {{"path": {str(path)!r}}}, sys_path=({code!r},))
        pid = await pool.call("functions_under_test:pid", {{}}, sys_path=({code!r},))
        open({str(path)!r}, "w").write(str(pid))
        await anyio.sleep_forever()

anyio.run(main)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])  # noqa: ASYNC220 - to be killed
    try:
        processes = await written(path)
    finally:
        parent.kill()
        parent.wait()
    with anyio.fail_after(10):
        while any(is_alive(each) for each in processes):
            await anyio.sleep(0.01)


async def test_a_hundred_calls_at_once_over_two_workers(code: str, tmp_path: Path) -> None:
    async with FunctionPool(2, cwd=tmp_path) as pool:
        caller = Caller(pool, code)
        sums: list[int] = []
        pids: set[Value] = set()
        there = tmp_path / "there"
        there.mkdir()

        async def meet() -> None:
            pids.add(await caller("meet", directory=str(there)))

        async def one(number: int) -> None:
            total, pid = await caller("add", a=number, b=1), await caller("pid")
            assert isinstance(total, int)
            sums.append(total)
            pids.add(pid)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet)  # each in a worker of its own, or they would not meet
            tasks.start_soon(meet)
            for number in range(100):
                tasks.start_soon(one, number)
    assert sorted(sums) == list(range(1, 101))
    assert len(pids) == 2


async def test_a_worker_is_replaced_after_its_calls(code: str, tmp_path: Path) -> None:
    async with FunctionPool(1, cwd=tmp_path, max_calls=2) as pool:
        caller = Caller(pool, code)
        pids = [await caller("pid") for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


async def test_an_unused_worker_ends(code: str, tmp_path: Path) -> None:
    async with FunctionPool(1, cwd=tmp_path, idle_s=0.1) as pool:
        pid = await Caller(pool, code)("pid")
        assert isinstance(pid, int)
        worker = identity(pid)
        with anyio.fail_after(10):
            while worker is not None and is_alive(worker):
                await anyio.sleep(0.01)
        assert await Caller(pool, code)("pid") != pid


async def test_projects_with_modules_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_name.py").write_text(f"def who(): return {name!r}")
    async with FunctionPool(1, cwd=tmp_path) as pool:
        with anyio.fail_after(30):
            answers = [
                await pool.call("shared_name:who", {}, sys_path=(str(tmp_path / name),))
                for name in ("one", "two", "one")
            ]
    assert answers == ["one", "two", "one"]
    with pytest.raises(OmiumError, match="absolute"):
        await pool.call("shared_name:who", {}, sys_path=("one",))


async def test_code_that_was_edited_is_loaded_anew(tmp_path: Path) -> None:
    (tmp_path / "edited.py").write_text("from helper import word\ndef who(): return word()")
    answers = []
    async with FunctionPool(1, cwd=tmp_path) as pool:
        for word in ("old", "new", "abc", "def"):
            (tmp_path / "helper.py").write_text(f"def word(): return {word!r}")
            with anyio.fail_after(30):
                answers.append(await pool.call("edited:who", {}, sys_path=(str(tmp_path),)))
    assert answers == ["old", "new", "abc", "def"]


async def test_a_function_that_changes_the_directory_does_not_lead_the_next_astray(
    call: Caller, tmp_path: Path
) -> None:
    assert await call("wander") == "/"
    assert await call("where") == str(tmp_path)


async def test_secrets_of_the_parent_are_not_in_a_worker(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_SECRET", "canary")
    async with FunctionPool(1, cwd=tmp_path, env={"MODE": "fast"}) as pool:
        environment = await Caller(pool, code)("environment")
    assert isinstance(environment, dict)
    assert environment["MODE"] == "fast"
    assert "canary" not in str(environment)


async def test_an_interpreter_that_cannot_be_a_worker_is_named(code: str, tmp_path: Path) -> None:
    async with FunctionPool(1, cwd=tmp_path, python="/bin/false") as pool:
        error = await Caller(pool, code).failure("pid")
    assert (error.code, error.data["reason"]) == ("process_failed", "not_started")


# --- the context ---


class Engine:
    """Answers what a function asks, as the engine does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Value]] = []
        self.known: dict[str, Value] = {}

    async def answer(self, kind: str, payload: Value) -> Value:
        self.asked.append((kind, payload))
        if kind == "now":
            return datetime(2026, 1, 1, tzinfo=UTC)
        if kind == "random":
            return 0.25
        if kind == "uuid":
            return "u"
        if kind == "effect_intent":
            assert isinstance(payload, dict)
            key = str(payload["key"])
            return {"known": True, "result": self.known[key]} if key in self.known else {"known": False}
        if kind == "effect_settle":
            assert isinstance(payload, dict)
            if payload["ok"]:
                self.known[str(payload["key"])] = payload["result"]
        return None


async def test_a_context_tells_where_it_is_and_asks_for_the_rest(call: Caller, tmp_path: Path) -> None:
    engine = Engine()
    options = {"context": {**CONTEXT, "workspace": tmp_path}, "on_request": engine.answer}
    assert await call("about", options) == [
        "run_1", "fan[3]", 2, 4, str(tmp_path), datetime(2026, 1, 1, tzinfo=UTC), 0.25, "u",
    ]  # fmt: skip
    assert engine.asked[0] == ("progress", {"text": "half"})


async def test_an_effect_that_is_known_is_not_repeated(call: Caller, tmp_path: Path) -> None:
    engine, ledger = Engine(), tmp_path / "ledger"
    options = {"context": CONTEXT, "on_request": engine.answer}
    for _ in range(3):
        assert await call("pay", options, path=str(ledger)) == {"paid": 5}
    assert ledger.read_text() == "charged\n"
    assert engine.asked[:2] == [
        ("effect_intent", {"key": "charge"}),
        ("effect_settle", {"key": "charge", "ok": True, "result": {"paid": 5}}),
    ]


async def test_an_effect_that_two_threads_ask_for_at_once_is_made_once(call: Caller) -> None:
    assert await call("pay_twice", {"context": CONTEXT, "on_request": Engine().answer}) == [1, 1]


async def test_an_effect_inside_of_itself_is_refused(call: Caller) -> None:
    error = await call.failure("pay_inside", {"context": CONTEXT, "on_request": Engine().answer})
    assert error.data["cause"]["code"] == "invalid_argument"


async def test_an_effect_that_fails_is_settled_as_failed(call: Caller) -> None:
    engine = Engine()
    error = await call.failure("pay_badly", {"context": CONTEXT, "on_request": engine.answer})
    assert error.data["error_type"] == "builtins.TypeError"
    _, settled = engine.asked[1]
    assert isinstance(settled, dict)
    assert (settled["ok"], settled["error_type"]) == (False, "builtins.TypeError")


async def test_a_refusal_arrives_in_the_function_and_comes_back_as_its_cause(call: Caller) -> None:
    async def refuse(kind: str, _payload: Value) -> Value:
        raise OmiumError("forbidden", f"no {kind}", by="policy")

    error = await call.failure("about", {"on_request": refuse})
    assert error.data["cause"] == {"code": "forbidden", "message": "no progress", "hint": "", "data": {"by": "policy"}}
    assert (await call.failure("about")).data["cause"]["code"] == "unsupported"


async def test_an_engine_that_breaks_ends_the_call_and_the_worker(call: Caller) -> None:
    async def breaks(_kind: str, _payload: Value) -> Value:
        raise LookupError("a bug")

    first = await call("pid")
    with pytest.raises(LookupError, match="a bug"):
        await call("about", {"on_request": breaks})
    assert await call("pid") != first


async def test_a_context_that_was_kept_is_dead(call: Caller) -> None:
    engine = Engine()
    assert await call("keep", {"on_request": engine.answer}) is None
    error = await call.failure("reuse", {"on_request": engine.answer})
    assert error.data["cause"]["data"] == {"reason": "abandoned"}


async def test_a_call_costs_little(call: Caller) -> None:
    await call("add", a=1, b=1)
    took = []
    for _ in range(200):
        began = time.perf_counter()
        await call("add", a=1, b=1)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.005  # ten times what it should be, for machines under load
