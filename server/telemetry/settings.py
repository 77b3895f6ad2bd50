"""What `telemetry:` of `omium.yaml` comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Telemetry:
    """otlp: the base URL of a collector that takes OTLP over HTTP, such as http://localhost:4318; service: what these
    processes are called there; sample: the share of runs that are traced, 0 to 1."""

    otlp: str
    service: str = "omium"
    sample: float = 1.0
