"""Traces of a process that executes runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio.to_thread

from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from omium.orchestration.ports import Store
    from omium.server.config import Config


@asynccontextmanager
async def tracing(config: Config, store: Store) -> AsyncIterator[None]:
    """Trace what this process commits, for the length of the block, if the configuration says where to.

    Raises `unsupported` when what that needs is not installed."""
    if config.telemetry is None:
        yield
        return
    try:
        from omium.server.telemetry.exporting import FLUSH_MS, provider_of
    except ModuleNotFoundError as error:
        told = "this installation cannot send traces, which `telemetry` in omium.yaml asks for."
        raise OmiumError("unsupported", told, "Run: pip install 'omium-mcp[otel]'") from error
    from importlib.metadata import PackageNotFoundError, version

    from omium.server.telemetry.tracing import traced

    try:
        installed = version("omium-mcp")
    except PackageNotFoundError:
        installed = "0"
    provider = provider_of(config.telemetry, installed, config.project.id)
    try:
        async with traced(store, provider.get_tracer("omium", installed)):
            yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(provider.force_flush, FLUSH_MS)
            await anyio.to_thread.run_sync(provider.shutdown)
