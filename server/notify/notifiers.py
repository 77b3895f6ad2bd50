"""Carrying one document to one receiver."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock
from omium.orchestration.ports_notices import Notifier
from omium.server.identity.fetching import Fetch
from omium.server.notify import signing
from omium.server.notify.endpoints import Endpoint
from omium.server.notify.formats import pagerduty, slack


class Posting:
    """A `Notifier` that posts JSON. Any status of 2xx is a delivery; redirects are not followed."""

    def __init__(self, endpoint: Endpoint, fetch: Fetch, clock: Clock) -> None:
        self._endpoint = endpoint
        self._fetch = fetch
        self._clock = clock

    async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
        endpoint = self._endpoint
        headers = {"content-type": "application/json"}
        if endpoint.kind == "slack":
            body = orjson.dumps(slack(document))
        elif endpoint.kind == "pagerduty":
            assert endpoint.key is not None
            body = orjson.dumps(pagerduty(document, endpoint.key.read()))
        else:
            body = orjson.dumps(document)
            assert endpoint.key is not None
            key = signing.key_of(endpoint.key.read())
            headers |= signing.headers(key, notice_id, self._clock.now_us() // 1_000_000, body)
        answered = await self._fetch.post(endpoint.address(), body, headers, endpoint.timeout_s)
        if not 200 <= answered < 300:
            raise OmiumError(
                "unsupported", f"{endpoint.name} answered {answered}.", "2xx is expected.", answered=answered
            )


def notifier_of(endpoint: Endpoint, clock: Clock) -> Notifier:
    """How this endpoint is told."""
    return Posting(endpoint, Fetch(allow_private=endpoint.private), clock)
