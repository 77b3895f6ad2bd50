"""For those who look after the server: `/readyz` and `/metrics`, beside `/healthz`, which only says that it runs.

On loopback both are there for everybody who can reach them. Elsewhere readiness says no more than its one word, and
metrics, which tell how much is going on, are given to callers with a credential; Prometheus can send one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from omium.clients.processes.liveness import HostProcesses
from omium.orchestration.ids import ProjectId
from omium.orchestration.service.core import Core
from omium.server.health import health_of
from omium.server.http.failures import JSON
from omium.server.metrics import CONTENT_TYPE, Metrics

READY: Final = "/readyz"
METRICS: Final = "/metrics"


@dataclass(frozen=True, slots=True)
class Operations:
    """What a server is built with: routes, and the paths among them that need no credential."""

    routes: Sequence[BaseRoute]
    public: Sequence[str]
    metrics: Metrics

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what this process commits, for the length of the block."""
        ends = self.metrics.listening()
        try:
            yield
        finally:
            ends()


def operations(core: Core, project: ProjectId, *, loopback: bool, version: str = "0") -> Operations:
    """loopback: whether only this machine reaches the server."""
    processes = HostProcesses()
    metrics = Metrics(core.store, project, core.clock, processes, version=version)

    async def ready(_: Request) -> Response:
        health = await health_of(core.store, project, processes, core.clock.now_us())
        shown = asdict(health) if loopback else {"status": health.status}
        return JSON(shown, status_code=503 if health.status == "unhealthy" else 200)

    async def scrape(_: Request) -> Response:
        return Response(await metrics.text(), media_type=CONTENT_TYPE)

    routes = [Route(READY, ready, methods=["GET"]), Route(METRICS, scrape, methods=["GET"])]
    return Operations(routes, [READY, METRICS] if loopback else [READY], metrics)
