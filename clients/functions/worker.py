"""The process that `host.FunctionPool` starts: calls one function after the other, as told over its channel.

`python -m omium.clients.functions.worker FD`: FD is a connected stream socket. Standard output belongs to the
functions. When the other end closes the channel the process ends, in the middle of a function too. It starts often, so
it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, Final, cast

from omium.clients.functions.context import Asking, Context, asking, wants_context
from omium.clients.functions.failure import describe
from omium.clients.functions.frames import PREFIX_BYTES, Header, lengths, pack, unpack
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value, decode, encode

_Stamp = tuple[int, int, int]


class _Closed(Exception):
    """The pool closed the channel."""


class Worker:
    """One worker's side of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._functions: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._code = _CodeOnDisk()
        self._home = Path.cwd()
        self._asking = threading.Lock()
        self._call_number = 0
        self.busy = False

    def serve(self) -> None:
        """Answers calls until the channel is closed or the code on disk has changed."""
        self._send({"kind": "ready"})
        while True:
            header, body = self._receive()
            if self._code.changed():
                self._send({"kind": "stale"})
                return
            self.busy = True
            reply, result = self._call(header, body)
            self._finish_call()
            self._send(reply, result)
            self.busy = False

    def _call(self, header: Header, body: bytes) -> tuple[Header, bytes]:
        self._call_number += 1
        try:
            arguments = cast("dict[str, Any]", decode(body))
            fn, with_context = self._load(header["ref"], header["sys_path"])
            ask = self._asker(self._call_number)
            asking.set(Asking(False, ask))
            if with_context:
                arguments["ctx"] = Context(header["context"], ask)
            result = fn(**arguments)
            if hasattr(result, "__await__"):
                result = _run_async(result)
        except BaseException as error:  # boundary: also SystemExit and KeyboardInterrupt end the call, not the worker
            return {"kind": "raised", "failure": describe(error)}, b""
        try:
            return {"kind": "result"}, encode(result).data
        except OmiumError as error:
            return {"kind": "refused", "error": error.as_dict()}, b""

    def _load(self, ref: str, sys_path: list[str]) -> tuple[Callable[..., Any], bool]:
        if (known := self._functions.get(ref)) is not None:
            return known
        for entry in reversed(sys_path):
            if entry not in sys.path:
                sys.path.insert(0, entry)
        self._code.roots = tuple(f"{entry.rstrip(os.sep)}{os.sep}" for entry in sys_path)
        importlib.invalidate_caches()  # the file may be younger than this process
        module, _, name = ref.partition(":")
        try:
            fn = reduce(getattr, name.split("."), cast(Any, importlib.import_module(module)))
        finally:
            self._code.note()
        if not callable(fn):
            raise TypeError(f"{ref} is not callable")
        self._functions[ref] = fn, wants_context(fn)
        return self._functions[ref]

    def _asker(self, call_number: int) -> Callable[[str, Value], Value]:
        def ask(kind: str, payload: Value) -> Value:
            with self._asking:  # a function may use its context from threads of its own
                if not self.busy or call_number != self._call_number:
                    raise OmiumError("timeout", "The node that this context belonged to has ended.", reason="abandoned")
                self._send({"kind": "request", "what": kind}, encode(payload).data)
                header, body = self._receive()
            if header["kind"] == "refusal":
                error = header["error"]
                raise OmiumError(error["code"], error["message"], error["hint"], **error["data"])
            return decode(body)

        return ask

    def _finish_call(self) -> None:
        with self._asking:
            self._call_number += 1
        self._code.note()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the function closed or replaced it
                continue
        os.chdir(self._home)

    def _send(self, header: Header, body: bytes = b"") -> None:
        try:
            self._channel.sendall(pack(header, body))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Closed from error

    def _receive(self) -> tuple[Header, bytes]:
        head, body = lengths(self._exactly(PREFIX_BYTES))
        return unpack(self._exactly(head)), self._exactly(body)

    def _exactly(self, count: int) -> bytes:
        data = self._channel.recv(count, socket.MSG_WAITALL) if count else b""
        while len(data) < count:  # a signal may cut MSG_WAITALL short
            more = self._channel.recv(count - len(data))
            if not more:
                raise _Closed
            data += more
        return data


class _CodeOnDisk:
    """Which of the functions' files are loaded, and whether one of them has changed since."""

    def __init__(self) -> None:
        self.roots: tuple[str, ...] = ()
        self._stamps: dict[str, _Stamp] = {}
        self._modules = 0

    def note(self) -> None:
        """Remembers the files of modules that were loaded from the roots since the last time."""
        if len(sys.modules) == self._modules or not self.roots:
            return
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path not in self._stamps and self._is_ours(path):
                self._stamps[path] = _stamp(path)
        self._modules = len(sys.modules)

    def _is_ours(self, path: str) -> bool:
        # What is installed does not change under a running process, and would be a thousand files to look at.
        return path.startswith(self.roots) and f"{os.sep}site-packages{os.sep}" not in path

    def changed(self) -> bool:
        """Whether a remembered file is not what it was."""
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - looked at before every call, for every file
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _run_async(awaitable: Any) -> Any:
    import asyncio  # slow to import, and most functions are sync

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


_IDLE_CHECK_S: Final = 0.05


def _die_with_channel(channel: socket.socket, worker: Worker) -> None:
    """Waits until the other end is gone, then ends this process and everything below if a function is still running."""
    poller = select.poll()
    poller.register(channel, select.POLLHUP)
    poller.poll()
    while not worker.busy:  # then the main thread reads the end by itself
        time.sleep(_IDLE_CHECK_S)
    try:
        from omium.clients.processes import tree  # only now: nothing else of it is needed here

        token = os.environ.get(tree.MARKER, "").rpartition("/")[2]
        if token:
            tree.kill_members(token)
    finally:
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serves the channel whose descriptor is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(True)
    os.set_inheritable(channel.fileno(), False)
    for stream in (sys.stdout, sys.stderr):
        cast(Any, stream).reconfigure(line_buffering=True, errors="backslashreplace")
    # The functions' files may be edited twice within the second that bytecode files can tell apart.
    sys.dont_write_bytecode = True
    worker = Worker(channel)
    threading.Thread(target=_die_with_channel, args=(channel, worker), daemon=True, name="omium-channel").start()
    with contextlib.suppress(_Closed):
        worker.serve()


if __name__ == "__main__":
    main()
