"""The event loop of Omium's own processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TypeVar

import anyio

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` to its end, on uvloop where that can be had (not on Windows): a chain of nodes is a tenth quicker.
    For programs of ours; one that uses Omium as a library brings a loop of its own."""
    return anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
