"""What a connection needs of a way to reach a server, whatever that way is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio

from omium.clients.external.scan import harmless

Streams = tuple[Any, Any]  # what the SDK takes for a transport: messages of the server, messages for it

# Codes of JSON-RPC errors that our own transports answer with; servers are free to use -32000 to -32099, so what a
# server sends with one of these codes only says something worse of itself.
TOO_LARGE: Final = -32098  # the answer came, and is not read
NOT_SENT: Final = -32097  # the request did not go out
BROKEN: Final = -32096  # the request went out, and the answer did not come
REFUSED: Final = -32095  # the server's HTTP side refused the request before it reached the protocol


class Link(ABC):
    """One connection's transport. `shown` makes what the server printed fit to be told: without its credentials."""

    def __init__(self) -> None:
        self.redact: Callable[[str], str] = str

    def shown(self, text: str) -> str:
        return harmless(self.redact(text)).replace("\n", " ")

    @property
    def pid(self) -> int | None:
        """The process behind it, if it has one."""
        return None

    async def ended(self) -> None:
        """Returns when the transport has ended by itself; never, for one that has no end of its own."""
        await anyio.sleep_forever()

    def worn(self) -> bool:
        """Whether it had better be made anew at the next opportunity."""
        return False

    def trouble(self) -> str:
        """What is known of why it does not work; empty if nothing."""
        return ""

    @abstractmethod
    def streams(self) -> AbstractAsyncContextManager[Streams]:
        """The transport, to be entered once, in the task that owns the connection."""
