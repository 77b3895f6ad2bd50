"""The git binary, run so that nothing but its arguments decides what it does.

Arguments go as a list; the environment is built from nothing; the configuration of system, user and hooks is switched
off; the repository is always named, never searched for. So neither a user's settings nor what an agent wrote into a
workspace (configuration, attributes, hooks) can make git start a program or change bytes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import Process

from omium.clients.workspaces.locks import held
from omium.orchestration.errors import OmiumError

T = TypeVar("T")

_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.symlinks": "true",
    # Names that other systems cannot have are escaped or refused by us, not by git's settings for them.
    "core.protectNTFS": "false",
    "core.protectHFS": "false",
    "core.fsync": "all",
    "core.untrackedCache": "false",
    # Making files is most of a checkout and waits in the kernel, so several at once; many runs may check out together.
    "checkout.workers": str(min(4, os.cpu_count() or 1)),
    "core.askPass": "",
    "credential.helper": "",
    "commit.gpgSign": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    # Always one pack an import: one fsync instead of one a file.
    "fastimport.unpackLimit": "1",
    "pack.window": "0",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "transfer.fsckObjects": "false",
    "diff.renames": "false",
    "advice.detachedHead": "false",
    "protocol.ext.allow": "never",
}
_USERINFO = re.compile(r"://[^/@\s]+@")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Git:
    """Runs git. `executable` is looked up once, on the operator's PATH, so a workspace cannot supply it."""

    def __init__(self, executable: str | None = None) -> None:
        self._executable = executable or shutil.which("git")

    async def run(
        self,
        args: Sequence[str | bytes],
        *,
        git_dir: Path | None = None,
        work_tree: Path | None = None,
        input: bytes | None = None,
        may_fail: bool = False,
        network: bool = False,
        also_objects: bytes | None = None,
    ) -> bytes | None:
        """Standard output. With `may_fail`, a non-zero exit gives None; otherwise it raises `workspace`.

        network: lets git reach the operator's ssh agent. also_objects: a further object directory to read from (in
        git's quoting). Cancelling kills the process.
        """
        env = _environment(network)
        if also_objects is not None:
            env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = os.fsdecode(also_objects)
        done = await anyio.run_process(
            self._command(args, git_dir, work_tree),
            input=input,
            stdin=None if input else subprocess.DEVNULL,
            env=env,
            cwd="/",
            check=False,
            pass_fds=held(),
        )
        if done.returncode == 0:
            return done.stdout
        if may_fail:
            return None
        raise _failure(args, done.returncode, done.stderr)

    async def output(
        self,
        args: Sequence[str | bytes],
        *,
        git_dir: Path | None = None,
        network: bool = False,
        also_objects: bytes | None = None,
    ) -> bytes:
        """Standard output; raises `workspace` for a non-zero exit."""
        out = await self.run(args, git_dir=git_dir, network=network, also_objects=also_objects)
        return b"" if out is None else out

    async def converse(
        self,
        args: Sequence[str | bytes],
        work: Callable[[IO[bytes], IO[bytes], threading.Event], T],
        *,
        git_dir: Path,
        stdin: IO[bytes] | None = None,
    ) -> T:
        """Runs `work(to_git, from_git, stop)` in a thread beside git and gives its result once git ended well.

        With `stdin`, git reads that file and `to_git` is closed. `work` closes `to_git` when it has written all. On
        cancellation git is killed and `stop` is set, so that `work` soon ends: with an error of the pipe, or by looking
        at `stop`. An exception of `work` kills git, except a broken pipe, which is git's failure and raised as such.
        """
        with tempfile.TemporaryFile() as errors:
            ours, theirs = _pipes(stdin)
            try:
                process = await anyio.open_process(
                    self._command(args, git_dir, None),
                    stdin=theirs[0],
                    stdout=theirs[1],
                    stderr=errors.fileno(),
                    env=_environment(False),
                    cwd="/",
                    pass_fds=held(),
                )
            except BaseException:
                for stream in ours:
                    stream.close()
                raise
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
            async with process:
                results = await _beside(process, work, *ours)
                code = await process.wait()
            # Whoever is cancelled hears of that, and not of the git that was killed for it.
            await anyio.lowlevel.checkpoint_if_cancelled()
            if code != 0 or not results:
                errors.seek(0)
                raise _failure(args, code, errors.read(4096))
            return results[0]

    def _command(self, args: Sequence[str | bytes], git_dir: Path | None, work_tree: Path | None) -> list[str | bytes]:
        if self._executable is None:
            raise OmiumError("unsupported", "git is not installed.", "Install git 2.34 or later; workspaces need it.")
        command: list[str | bytes] = [self._executable, "--no-pager", "--literal-pathspecs"]
        if git_dir is not None:
            command.append(f"--git-dir={git_dir}")
        if work_tree is not None:
            command.append(f"--work-tree={work_tree}")
        return command + list(args)


async def _beside(
    process: Process, work: Callable[[IO[bytes], IO[bytes], threading.Event], T], to_git: IO[bytes], from_git: IO[bytes]
) -> list[T]:
    """The result of `work`, run in a thread; empty when git hung up on it.

    Cancellation kills git, which ends `work`.
    """
    stop = threading.Event()
    results: list[T] = []
    failures: list[BaseException] = []
    ended = False

    def attempt() -> None:
        try:
            results.append(work(to_git, from_git, stop))
        except BrokenPipeError:
            pass  # git ended by itself; its exit code and message say why
        except BaseException as error:  # carried to the task that waits, which raises it
            failures.append(error)
        finally:
            to_git.close()
            from_git.close()

    async def kill_on_cancel() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not ended:
                stop.set()
                _kill(process)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_on_cancel)
        await anyio.to_thread.run_sync(attempt)
        ended = True
        tasks.cancel_scope.cancel()
    if failures:
        _kill(process)
        raise failures[0]
    return results


def _kill(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it may end in this very moment
            process.kill()


def _pipes(stdin: IO[bytes] | None) -> tuple[tuple[IO[bytes], IO[bytes]], tuple[int, int]]:
    """Our ends (to git, from git) and git's (its standard input and output)."""
    from_git, their_out = os.pipe()
    if stdin is not None:
        closed = io.BytesIO()
        closed.close()
        return (closed, os.fdopen(from_git, "rb", buffering=1 << 20)), (os.dup(stdin.fileno()), their_out)
    their_in, to_git = os.pipe()
    return (io.FileIO(to_git, "w"), os.fdopen(from_git, "rb", buffering=1 << 20)), (their_in, their_out)


def _environment(network: bool) -> dict[str, str]:
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_AUTHOR_NAME": "Omium",
        "GIT_AUTHOR_EMAIL": "omium@localhost",
        "GIT_COMMITTER_NAME": "Omium",
        "GIT_COMMITTER_EMAIL": "omium@localhost",
        "GIT_CONFIG_COUNT": str(len(_CONFIG)),
    }
    for position, (key, value) in enumerate(_CONFIG.items()):
        env[f"GIT_CONFIG_KEY_{position}"] = key
        env[f"GIT_CONFIG_VALUE_{position}"] = value
    if network and "SSH_AUTH_SOCK" in os.environ:
        env["SSH_AUTH_SOCK"] = os.environ["SSH_AUTH_SOCK"]
    return env


def redact(text: str) -> str:
    """Text without the user name and password of a URL."""
    return _USERINFO.sub("://", text)


def _failure(args: Sequence[str | bytes], code: int, errors: bytes) -> OmiumError:
    verb = args[0] if isinstance(args[0], str) else os.fsdecode(args[0])
    said = redact(_CONTROL.sub("?", errors.decode("utf-8", "replace")).strip())[-500:]
    return OmiumError("workspace", f"git {verb} failed ({code}): {said or 'no message'}", exit_code=code)
