"""The connections of one process to the servers of its project, each made on first use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from omium.clients.external.connection import Connection
from omium.clients.external.link import Link
from omium.clients.external.redact import Redactor
from omium.clients.external.spec import Breaking, ServerSpec
from omium.clients.processes.environment import declared
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock

_TRANSPORT_FAILURES: Final = frozenset({"unavailable", "disconnected", "not_sent"})


class ServerPool:
    """An async context manager: within the block servers can be reached, and nothing of them is left behind it.

    environ: where credentials and handed-on variables come from (this process's environment).
    """

    def __init__(self, specs: Mapping[str, ServerSpec], clock: Clock, environ: Mapping[str, str] | None = None) -> None:
        self.specs = specs
        self._clock = clock
        self._environ = environ
        self._tasks: TaskGroup | None = None
        self._connections: dict[str, Connection] = {}
        self._redactors: dict[str, Redactor] = {}
        self._breakers = {name: Breaker(spec.breaking, clock.monotonic) for name, spec in specs.items()}

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        tasks, self._tasks = self._tasks, None
        tasks.cancel_scope.cancel()
        # The tasks raise nothing, so what the block raised is left to itself and does not come out as a group.
        await tasks.__aexit__(None, None, None)

    def connection(self, name: str) -> Connection:
        """The connection to a declared server; its task runs from now on, the server from its first use."""
        found = self._connections.get(name)
        if found is None:
            if self._tasks is None:
                raise OmiumError("tool_failed", "external servers are reached no more.", sent=False)
            spec = self.specs[name]
            found = Connection(spec, lambda: self._opened(spec), self._clock.monotonic)
            self._connections[name] = found
            self._tasks.start_soon(found.serve)
        return found

    def breaker(self, name: str) -> Breaker:
        return self._breakers[name]

    def redactor(self, name: str) -> Redactor:
        """Knows the credentials with which the server was last connected to."""
        found = self._redactors.get(name)
        return found if found is not None else Redactor(self.specs[name].secrets, self.specs[name].redact)

    def _opened(self, spec: ServerSpec) -> Link:
        """A new transport with the credentials as they are now."""
        secrets = [(one, one.read(self._environ)) for one in spec.credentials]
        redactor = Redactor([*(secret for _, secret in secrets), *spec.secrets], spec.redact)
        self._redactors[spec.name] = redactor
        given = {one.name: one.prefix + secret for one, secret in secrets}
        link: Link
        if spec.transport == "stdio":
            from omium.clients.external.stdio import StdioLink

            parent = os.environ if self._environ is None else self._environ
            link = StdioLink(spec, {**declared(spec.pass_env, spec.env, parent), **given})
        else:
            from omium.clients.external.http import HttpLink

            link = HttpLink(spec, {**spec.headers, **given})
        link.redact = redactor.text
        return link


class Breaker:
    """Refuses calls of a server that has failed too often in a row; after a while it lets one through to see."""

    def __init__(self, terms: Breaking, clock: Callable[[], float]) -> None:
        self._terms = terms
        self._clock = clock
        self._failures = 0
        self._opened_at = -math.inf
        self._trying = False

    def left_s(self) -> float:
        """For how long calls are refused; 0 when one may be made. Whoever makes one must tell how it went."""
        if self._failures < self._terms.failures:
            return 0.0
        left = self._opened_at + self._terms.reset_s - self._clock()
        if left > 0 or self._trying:
            return max(left, 1.0)
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """The server answered, whatever it said."""
        self._failures = 0
        self._trying = False

    def failed(self) -> None:
        self._failures += 1
        self._trying = False
        if self._failures >= self._terms.failures:
            self._opened_at = self._clock()

    def given_up(self) -> None:
        """The call ended without the server having shown anything."""
        self._trying = False


def is_transport_failure(error: OmiumError) -> bool:
    """Whether an error says something of the server's health."""
    return error.code == "timeout" or error.data.get("reason") in _TRANSPORT_FAILURES
