"""How the executors of functions and commands treat their attempts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients import executors
from omium.clients.commands import CommandSpec
from omium.clients.executors import CommandExecutor, FunctionExecutor, copied
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.ports_calls import Guidance
from omium.orchestration.service.catalog import FunctionSpec, Host
from omium.orchestration.values import Value

pytestmark = pytest.mark.anyio


@dataclass
class Attempt:
    """An attempt that remembers what it was asked."""

    run_id: RunId = RunId("run_1")
    node_id: NodeId = NodeId("n")
    attempt: int = 1
    generation: int = 0
    timeout_s: float | None = None
    workspace: Path | None = None
    scratch: Path | None = None
    guidance: Guidance = field(default_factory=Guidance)
    resumed: bool = False
    asked: list[tuple[str, Value]] = field(default_factory=list)
    effects: list[tuple[str, str, str | None, Any]] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    async def ask(self, kind: str, payload: Value) -> Value:
        self.asked.append((kind, payload))
        return None

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        self.effects.append((call, kind, on_unknown, detail))
        try:
            return await action()
        except BaseException as error:
            self.failed.append(error)
            raise


def function(fn: Callable[..., Any], host: Host = "async", **more: Any) -> FunctionExecutor:
    return FunctionExecutor({"f": FunctionSpec("f", "m:f", host, **more)}, callables={"f": fn})


async def plain(n: int) -> int:
    return n + 1


async def test_an_async_function_gets_its_arguments_and_no_context_unless_it_asks_for_one() -> None:
    done = await function(plain).run("f", {"n": 1}, Attempt())
    assert (done.output, done.usage) == (2, None)

    async def with_context(n: int, ctx: Any) -> str:
        await ctx.progress("half")
        return f"{ctx.run_id} {ctx.node_id} {n}"

    attempt = Attempt()
    assert (await function(with_context).run("f", {"n": 1}, attempt)).output == "run_1 n 1"
    assert attempt.asked == [("progress", {"text": "half"})]


async def test_a_sync_function_runs_in_a_thread() -> None:
    import threading

    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert (await function(where, "thread").run("f", {}, Attempt())).output is False


@pytest.mark.parametrize("host", ["async", "thread"])
async def test_a_function_that_does_not_fit_its_host_is_refused(host: Host) -> None:
    fn: Callable[..., Any] = (lambda n: n) if host == "async" else plain
    with pytest.raises(OmiumError) as refused:
        await function(fn, host).run("f", {"n": 1}, Attempt())
    assert refused.value.code == "invalid_definition"


async def test_what_an_async_function_raises_comes_as_it_is() -> None:
    async def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await function(broken).run("f", {}, Attempt())


async def test_a_function_cannot_end_the_process_or_pretend_that_it_was_stopped() -> None:
    async def leaves() -> None:
        sys.exit(3)

    async def cancels() -> None:
        raise asyncio.CancelledError

    for fn in (leaves, cancels):
        with pytest.raises(OmiumError) as failed:
            await function(fn).run("f", {}, Attempt())
        assert failed.value.code == "process_failed"


async def test_a_cancellation_from_outside_goes_through() -> None:
    began = anyio.Event()

    async def waits() -> None:
        began.set()
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(function(waits).run, "f", {}, Attempt())
            await began.wait()
            tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


async def test_the_functions_own_time_out() -> None:
    with pytest.raises(OmiumError) as failed:
        await function(anyio.sleep_forever, timeout_s=0.01).run("f", {}, Attempt())
    assert (failed.value.code, failed.value.data["limit_s"]) == ("timeout", 0.01)


async def test_schemas_are_checked_around_the_call() -> None:
    schemas = {"input_schema": {"properties": {"n": {"type": "integer"}}}, "output_schema": {"maximum": 5}}
    run = function(plain, **schemas).run
    assert (await run("f", {"n": 4}, Attempt())).output == 5
    for n in ("x", 5):
        with pytest.raises(OmiumError) as refused:
            await run("f", {"n": n}, Attempt())
        assert refused.value.code == "precondition_failed"


@pytest.mark.parametrize(
    ("on_unknown", "recorded"),
    [
        (None, []),
        ("rerun", []),
        ("ask", [("call", "function", "ask", None)]),
        ("fail", [("call", "function", "fail", None)]),
    ],
)
async def test_calls_that_must_not_be_repeated_blindly_are_recorded(on_unknown: Any, recorded: list[Any]) -> None:
    attempt = Attempt()
    assert (await function(plain, on_unknown=on_unknown).run("f", {"n": 1}, attempt)).output == 2
    assert attempt.effects == recorded


async def test_arguments_are_an_object_and_names_are_registered() -> None:
    with pytest.raises(OmiumError) as refused:
        await function(plain).run("f", [1], Attempt())
    assert refused.value.code == "invalid_argument"
    with pytest.raises(OmiumError) as refused:
        await function(plain).run("g", {}, Attempt())
    assert refused.value.code == "not_registered"


def test_a_copy_shares_no_container() -> None:
    given: dict[str, Any] = {"a": [1, {"b": [2.5, None, True]}], "c": {"d": "x"}, "e": 2**70, "f": b"bytes"}
    for value in (given, {"a": given["a"]}):
        copy = copied(value)
        assert copy == value
        copy["a"][1]["b"].append(3)
        assert value["a"][1]["b"] == [2.5, None, True]


def test_code_of_a_worker_process_may_change_and_that_of_this_process_not(tmp_path: Path) -> None:
    specs = {host: FunctionSpec(host, "code_a:f", host) for host in ("async", "process")}
    executor = FunctionExecutor(specs, path=[tmp_path])
    (tmp_path / "code_a.py").write_text("async def f(): return 1\n")
    before = {name: executor.digest(name) for name in specs}
    (tmp_path / "code_a.py").write_text("async def f(): return 22\n")
    after = {name: executor.digest(name) for name in specs}
    assert after["async"] == before["async"]
    assert after["process"] != before["process"]
    assert len(set(before.values())) == 2


async def test_a_module_of_the_same_name_from_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code_b.py").write_text(f"async def f(): return {name!r}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "code_b", raising=False)
    spec = {"f": FunctionSpec("f", "code_b:f", "async")}
    assert (await FunctionExecutor(spec, path=[tmp_path / "one"]).run("f", {}, Attempt())).output == "one"
    with pytest.raises(OmiumError) as refused:
        await FunctionExecutor(spec, path=[tmp_path / "two"]).run("f", {}, Attempt())
    assert refused.value.code == "invalid_definition"
    monkeypatch.delitem(sys.modules, "code_b")


async def test_a_function_that_could_not_be_imported_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    executor = FunctionExecutor({"f": FunctionSpec("f", "code_c:f", "async")}, path=[tmp_path])
    with pytest.raises(ModuleNotFoundError):
        await executor.run("f", {}, Attempt())
    (tmp_path / "code_c.py").write_text("async def f(): return 1\n")
    assert (await executor.run("f", {}, Attempt())).output == 1
    monkeypatch.delitem(sys.modules, "code_c")


# --- commands -----------------------------------------------------------------------------------------------------


def command(tmp_path: Path, code: str, **more: Any) -> CommandExecutor:
    return CommandExecutor(
        {"c": CommandSpec("c", (sys.executable, "-c", code), cwd=tmp_path, **more)}, {"safe": "rerun"}
    )


async def test_a_command_is_recorded_with_what_finds_its_process_again(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps([os.environ['OMIUM_RUN_ID'], os.environ['OMIUM_NODE_ID']]))"
    attempt = Attempt()
    done = await command(tmp_path, code).run("c", {}, attempt)
    assert done.output == ["run_1", "n"]
    ((call, kind, on_unknown, detail),) = attempt.effects
    assert (call, kind, on_unknown, detail["command"]) == ("command", "command", None, "c")
    assert detail["token"].startswith("proc_")


async def test_the_output_of_a_command_is_kept_and_shown_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "PROGRESS_EVERY_S", 0.01)
    told = anyio.Event()

    class Shown(Attempt):
        async def ask(self, kind: str, payload: Value) -> Value:
            await super().ask(kind, payload)
            (tmp_path / "go").touch()
            told.set()
            return None

    code = "import os, time, sys\nprint('one', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    code += "print('two', file=sys.stderr); print('3')"
    (tmp_path / "logs").mkdir()
    attempt = Shown(scratch=tmp_path)
    with anyio.fail_after(20):
        assert (await command(tmp_path, code).run("c", {}, attempt)).output == 3
    assert attempt.asked[0] == ("progress", {"text": "one"})
    assert (tmp_path / "logs" / "stdout.log").read_text() == "one\n3\n"
    assert (tmp_path / "logs" / "stderr.log").read_text() == "two\n"


async def test_a_command_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as failed:
        await command(tmp_path, "raise SystemExit(7)").run("c", {}, Attempt())
    assert (failed.value.code, failed.value.data["exit_code"]) == ("process_failed", 7)
    assert "sent" not in failed.value.data


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (CommandSpec("c", ("/nonexistent/program",), cwd=Path("/")), {}),
        (CommandSpec("c", ("true", "{input.name}"), cwd=Path("/")), {}),
        (CommandSpec("c", ("true",)), {}),
    ],
    ids=["no program", "no argument", "no workspace"],
)
async def test_what_was_never_started_is_known_not_to_have_happened(spec: CommandSpec, inputs: Value) -> None:
    attempt = Attempt()
    with pytest.raises(OmiumError) as failed:
        await CommandExecutor({"c": spec}).run("c", inputs, attempt)
    assert failed.value.data["sent"] is False
    assert [getattr(error, "data", {}).get("sent") for error in attempt.failed] == [False]


def test_the_digest_of_a_command_follows_its_files(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("one")
    spec = CommandSpec("c", (sys.executable, str(script)), cwd=tmp_path)
    executor = CommandExecutor({"c": spec})
    before = executor.digest("c")
    assert executor.digest("c") == before
    script.write_text("two!")
    assert executor.digest("c") != before
    other = CommandSpec("c", (sys.executable, str(script)), cwd=tmp_path, env={"A": "1"})
    assert CommandExecutor({"c": other}).digest("c") != executor.digest("c")
