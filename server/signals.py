"""What a process that serves does at signals: it goes at SIGINT, SIGTERM and when its terminal hangs up, and reads the
settings of supervision anew at any other SIGHUP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from omium.server.wiring.supervision import LiveSupervision

_TERMINAL = "/dev/tty"


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; no more once that has hung up."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Signals:
    """To be made before anything is opened. A hang-up has two meanings, and only the terminal tells them apart: one
    that was closed is gone when its SIGHUP arrives, and there still for a SIGHUP that somebody sends. Without a file
    to read anew each SIGHUP means that it has hung up; under `nohup` none does."""

    def __init__(self, supervision: LiveSupervision, terminal: Callable[[], bool] = has_terminal) -> None:
        self._supervision = supervision
        self._terminal = terminal
        self._deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._had_terminal = not self._deaf and terminal()
        self._came_early = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """A SIGHUP that comes before `heed` listens is heeded then, and one after it ends nothing. That takes a
        handler, and not SIG_IGN, which every program that is started here would inherit."""
        before = signal.getsignal(signal.SIGHUP)
        if self._supervision.reloads and not self._deaf:
            signal.signal(signal.SIGHUP, self._missed)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    async def heed(self, go: Callable[[signal.Signals], object]) -> None:
        """Listen until cancelled, and call `go` at each signal that means to go."""
        before = signal.getsignal(signal.SIGHUP)
        try:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                if self._came_early and await self._is_hung_up():
                    go(signal.SIGHUP)
                async for number in signals:
                    if number != signal.SIGHUP or await self._is_hung_up():
                        go(number)
        finally:
            signal.signal(signal.SIGHUP, before)

    async def _is_hung_up(self) -> bool:
        if self._is_gone():
            return True
        if self._supervision.reloads:
            await self._supervision.reload()
            return self._is_gone()  # when a shell ends, its SIGHUP can come a moment before the terminal is taken
        return not self._deaf

    def _is_gone(self) -> bool:
        return self._had_terminal and not self._terminal()

    def _missed(self, _number: int, _frame: object) -> None:
        self._came_early = True
