"""Where spans go: OTLP over HTTP. Needs the extra `otel`.

What the variables `OTEL_EXPORTER_OTLP_*` say, such as headers with a credential, is taken by the exporter itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from omium.server.telemetry.settings import Telemetry
from omium.server.telemetry.tracing import ids

FLUSH_MS: Final = 3_000


class DerivedIds(IdGenerator):
    """The ids that the span's maker has chosen; random ones for the spans of others."""

    def __init__(self) -> None:
        self._others = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        given = ids.get()
        return given[0] if given is not None else self._others.generate_trace_id()

    def generate_span_id(self) -> int:
        given = ids.get()
        return given[1] if given is not None else self._others.generate_span_id()


def provider_of(
    settings: Telemetry, version: str, project: str, processors: Sequence[SpanProcessor] | None = None
) -> TracerProvider:
    """The SDK's provider. processors: unless given, one that sends batches where the settings say."""
    resource = Resource.create(
        {"service.name": settings.service, "service.version": version, "service.namespace": project}
    )
    # By the trace's id alone: every process decides alike, and a trace is there as a whole or not at all.
    share = TraceIdRatioBased(settings.sample)
    sampler = ParentBased(share, remote_parent_sampled=share)
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=DerivedIds())
    for processor in [_otlp(settings)] if processors is None else processors:
        provider.add_span_processor(processor)
    return provider


def _otlp(settings: Telemetry) -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp.rstrip('/')}/v1/traces"))
