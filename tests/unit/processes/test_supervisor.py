"""The supervisor with real processes: start, output, limits, end."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import anyio
import pytest

from omium.clients.processes.supervisor import Command, Exit, Running, run_process
from omium.orchestration.errors import OmiumError

pytestmark = pytest.mark.anyio


def python(code: str, cwd: Path, **options: object) -> Command:
    return Command((sys.executable, "-c", code), cwd, **options)  # type: ignore[arg-type]  # the fields of Command


async def run(command: Command, within_s: float = 20.0) -> tuple[Exit, list[tuple[str, str]]]:
    lines: list[tuple[str, str]] = []
    with anyio.fail_after(within_s):
        ended = await run_process(command, on_line=lambda stream, line: lines.append((stream, line)))
    return ended, lines


async def test_output_exit_code_and_times_are_reported(tmp_path: Path) -> None:
    before = time.time()
    ended, lines = await run(
        python("import sys; print('out'); print('err', file=sys.stderr); print('rest', end=''); sys.exit(7)", tmp_path)
    )
    assert (ended.code, ended.signal, ended.reason) == (7, None, "exited")
    assert (ended.stdout.text(), ended.stderr.text()) == ("out\nrest", "err\n")
    assert sorted(lines) == [("stderr", "err"), ("stdout", "out"), ("stdout", "rest")]
    assert before <= ended.started_at <= ended.ended_at <= time.time()
    assert ended.pid > 0
    assert ended.start_time > 0


async def test_a_signal_that_ended_it_is_told_from_a_code(tmp_path: Path) -> None:
    ended, _ = await run(python("import os; os.kill(os.getpid(), 9)", tmp_path))
    assert (ended.code, ended.signal, ended.reason) == (None, signal.SIGKILL, "exited")


async def test_it_starts_in_its_directory_with_a_session_and_a_marker_of_its_own(tmp_path: Path) -> None:
    code = "import os, json; print(json.dumps([os.getcwd(), os.getsid(0) == os.getpid(), dict(os.environ)]))"
    command = python(code, tmp_path, marker={"run_id": "run_1", "node_id": "fan[3]", "attempt": "2"}, env={"MODE": "x"})
    ended, _ = await run(command)
    directory, leads, environment = json.loads(ended.stdout.text())
    assert Path(directory) == tmp_path
    assert leads
    expected = {"OMIUM_RUN_ID": "run_1", "OMIUM_NODE_ID": "fan[3]", "OMIUM_ATTEMPT": "2", "MODE": "x"}
    assert expected.items() <= environment.items()
    assert environment["OMIUM_PROCESS"].endswith(command.token)
    assert (environment["HEADLESS"], environment["CI"]) == ("1", "1")


@pytest.mark.parametrize("stdin", [None, b"", b"some input", b"x" * 3_000_000])
async def test_a_reader_gets_its_input_and_then_the_end(tmp_path: Path, stdin: bytes | None) -> None:
    ended, _ = await run(python("import sys; print(len(sys.stdin.buffer.read()))", tmp_path, stdin=stdin))
    assert ended.stdout.text() == f"{len(stdin or b'')}\n"


async def test_a_child_that_reads_nothing_does_not_disturb(tmp_path: Path) -> None:
    ended, _ = await run(Command(("true",), tmp_path, stdin=b"x" * 3_000_000))
    assert ended.code == 0


async def test_an_interactive_process_is_talked_to(tmp_path: Path) -> None:
    code = "for line in iter(input, 'bye'): print('echo', line, flush=True)"
    answers: list[str] = []
    heard = anyio.Event()
    process: list[Running] = []

    def on_line(_stream: str, line: str) -> None:
        answers.append(line)
        heard.set()

    async def talk(running: Running) -> None:
        process.append(running)
        await running.send(b"hello\n")
        await heard.wait()
        await running.send(b"bye\n")

    with anyio.fail_after(20):
        ended = await run_process(python(code, tmp_path, interactive=True), on_line=on_line, on_start=talk)
    assert (ended.code, answers) == (0, ["echo hello"])
    with pytest.raises(OmiumError) as caught:
        await process[0].send(b"too late")
    assert caught.value.data["reason"] == "input_closed"


async def test_ending_the_input_of_an_interactive_process(tmp_path: Path) -> None:
    async def end(running: Running) -> None:
        running.end_input()

    with anyio.fail_after(20):
        ended = await run_process(Command(("cat",), tmp_path, interactive=True), on_start=end)
    assert ended.code == 0


async def test_a_line_of_more_than_a_megabyte_passes(tmp_path: Path) -> None:
    code = "import json; print(json.dumps({'x': 'y' * 1_200_000})); print('after')"
    _, lines = await run(python(code, tmp_path))
    assert json.loads(lines[0][1]) == {"x": "y" * 1_200_000}
    assert lines[1] == ("stdout", "after")


async def test_invalid_utf8_is_tolerated(tmp_path: Path) -> None:
    _, lines = await run(python(r"import sys; sys.stdout.buffer.write(b'a\xff\n')", tmp_path))
    assert lines == [("stdout", "a\N{REPLACEMENT CHARACTER}")]


async def test_a_flood_is_counted_and_kept_within_bounds(tmp_path: Path) -> None:
    ended, _ = await run(Command(("head", "-c", "50000000", "/dev/zero"), tmp_path, keep_bytes=1000))
    assert (ended.reason, ended.stdout.total) == ("exited", 50_000_000)
    assert len(ended.stdout.head) + len(ended.stdout.tail) == 1000
    assert ended.stdout.truncated


async def test_more_output_than_allowed_ends_it(tmp_path: Path) -> None:
    ended, _ = await run(Command(("yes",), tmp_path, output_limit_bytes=100_000, keep_bytes=100))
    assert (ended.reason, ended.code, ended.signal) == ("output", None, signal.SIGTERM)
    assert ended.stdout.total > 100_000


async def test_hard_timeout_asks_first(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('cleaned up'));"
        "print('ready', flush=True); time.sleep(600)"
    )
    ended, _ = await run(python(code, tmp_path, hard_timeout_s=1.0))
    assert (ended.reason, ended.code, ended.stderr.text()) == ("hard_timeout", 1, "cleaned up\n")


async def test_idle_timeout_fires_without_output(tmp_path: Path) -> None:
    ended, _ = await run(Command(("sleep", "600"), tmp_path, idle_timeout_s=0.2))
    assert (ended.reason, ended.signal) == ("idle_timeout", signal.SIGTERM)


HEARTBEATS = """
import sys, time
while True:
    print('{"event": "heartbeat"}', file=sys.stderr, flush=True)
    time.sleep(0.02)
"""


async def test_heartbeats_prove_life_and_not_progress(tmp_path: Path) -> None:
    seen: list[Running] = []

    async def note(running: Running) -> None:
        seen.append(running)

    lines: list[str] = []
    with anyio.fail_after(20):
        ended = await run_process(
            python(HEARTBEATS, tmp_path, idle_timeout_s=0.6),
            on_line=lambda _stream, line: lines.append(line),
            on_start=note,
        )
    assert ended.reason == "idle_timeout"
    assert lines == []
    assert seen[0].last_heartbeat_at is not None
    assert seen[0].last_heartbeat_at > seen[0].last_output_at


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_resets_the_idle_clock(tmp_path: Path, stream: str) -> None:
    # Without line ends, as progress bars do. Twenty steps of 0.1 s last longer than the limit.
    code = f"import sys, time\nfor _ in range(20): sys.{stream}.write('.'); sys.{stream}.flush(); time.sleep(0.1)"
    ended, _ = await run(python(code, tmp_path, idle_timeout_s=1.5))
    assert (ended.reason, ended.code) == ("exited", 0)


async def test_the_limits_run_on_the_clock_that_is_given(tmp_path: Path) -> None:
    clock = iter([0.0, *[1.0] * 3, *[1801.0] * 1000])
    with anyio.fail_after(20):
        ended = await run_process(Command(("sleep", "600"), tmp_path), clock=lambda: next(clock))
    assert ended.reason == "hard_timeout"


async def test_too_much_memory_ends_the_whole_tree(tmp_path: Path) -> None:
    child = "x = bytearray(150_000_000); import time; time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    ended, _ = await run(python(code, tmp_path, memory_limit_bytes=100_000_000))
    assert (ended.reason, ended.signal) == ("memory", signal.SIGKILL)


async def test_stopping_on_request(tmp_path: Path) -> None:
    async def stop(running: Running) -> None:
        running.stop()

    with anyio.fail_after(20):
        ended = await run_process(Command(("sleep", "600"), tmp_path), on_start=stop)
    assert (ended.reason, ended.signal) == ("cancelled", signal.SIGTERM)


async def test_killing_on_request(tmp_path: Path) -> None:
    async def kill(running: Running) -> None:
        running.kill()

    with anyio.fail_after(20):
        ended = await run_process(Command(("sleep", "600"), tmp_path), on_start=kill)
    assert (ended.reason, ended.signal) == ("cancelled", signal.SIGKILL)


@pytest.mark.parametrize("where", ["on_line", "on_start"])
async def test_a_callback_that_fails_ends_the_process_and_is_heard(tmp_path: Path, where: str) -> None:
    seen: list[Running] = []

    def on_line(_stream: str, _line: str) -> None:
        if where == "on_line":
            raise LookupError("no such line")

    async def on_start(running: Running) -> None:
        seen.append(running)
        if where == "on_start":
            raise LookupError("no such start")

    with anyio.fail_after(20), pytest.raises(LookupError, match="no such"):
        await run_process(Command(("yes",), tmp_path), on_line=on_line, on_start=on_start)
    assert seen[0].exit is not None
    assert seen[0].exit.signal == signal.SIGTERM


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (("no-such-program-anywhere",), "process_failed", "not_started"),
        (("/",), "process_failed", "not_started"),
        ((), "invalid_argument", None),
        (("",), "invalid_argument", None),
        (("echo", "a\0b"), "invalid_argument", None),
    ],
)
async def test_what_cannot_start_says_so(tmp_path: Path, argv: tuple[str, ...], code: str, reason: str | None) -> None:
    with pytest.raises(OmiumError) as caught:
        await run_process(Command(argv, tmp_path))
    assert (caught.value.code, caught.value.data.get("reason")) == (code, reason)


async def test_an_argument_that_is_too_long_has_advice_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as caught:
        await run_process(Command(("true", "a" * 4_000_000), tmp_path))
    assert caught.value.data["reason"] == "not_started" and "standard input" in caught.value.hint


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OmiumError, match="gone") as caught:
        await run_process(Command(("true",), tmp_path / "gone"))
    assert caught.value.data["reason"] == "not_started"


async def test_a_relative_entry_of_the_path_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "planted"
    planted.write_text("#!/bin/sh\necho hijacked\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", ".:")
    with pytest.raises(OmiumError) as caught:
        await run_process(Command(("planted",), tmp_path))
    assert caught.value.data["reason"] == "not_started"


async def test_what_is_cancelled_already_starts_nothing(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_process(Command(("touch", "started"), tmp_path))
    assert scope.cancelled_caught
    assert not (tmp_path / "started").exists()
