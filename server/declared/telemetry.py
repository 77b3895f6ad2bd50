"""`telemetry:` of `omium.yaml`: where traces go.

telemetry: {otlp: "http://localhost:4318", service: omium, sample: 0.1}
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from omium.orchestration.definition.schema import FileModel
from omium.server.telemetry.settings import Telemetry

Url = Annotated[str, Field(min_length=8, max_length=2_048, pattern=r"^https?://[!-~]+$")]


class TelemetryFile(FileModel):
    otlp: Url
    service: Annotated[str, Field(min_length=1, max_length=100)] = "omium"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0

    def settings(self) -> Telemetry:
        return Telemetry(self.otlp, self.service, self.sample)
