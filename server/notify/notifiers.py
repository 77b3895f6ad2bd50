"""Carrying one document to one receiver."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock
from omium.orchestration.ports_notices import Notifier
from omium.server.identity.fetching import Fetch
from omium.server.notify import signing
from omium.server.notify.endpoints import KINDS, Endpoint
from omium.server.notify.formats import pagerduty, slack
from omium.server.plugins import NOTIFIERS_GROUP, called, left_out, load, points, unusable


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


class Unusable:
    """A `Notifier` of a package that cannot be used: what it should carry waits, and the other endpoints are served."""

    def __init__(self, error: OmiumError) -> None:
        self._error = error

    async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
        raise OmiumError(self._error.code, self._error.message, self._error.hint)


def notifier_of(endpoint: Endpoint, clock: Clock) -> Notifier:
    """How this endpoint is told. A kind that is not ours is what an installed package offers under its name: a function
    of the endpoint and the clock that gives a `Notifier`."""
    if endpoint.kind not in KINDS:
        try:
            return _offered(endpoint, clock)
        except OmiumError as error:
            left_out(error)
            return Unusable(error)
    return Posting(endpoint, Fetch(allow_private=endpoint.private), clock)


def _offered(endpoint: Endpoint, clock: Clock) -> Notifier:
    """Raises `unsupported`."""
    found = [point for point in points(NOTIFIERS_GROUP) if point.name == endpoint.kind]
    if not found:
        raise OmiumError("unsupported", f"no installed package offers the kind {endpoint.kind!r} of {endpoint.name}.")
    if len(found) > 1:
        raise OmiumError("unsupported", f"several packages offer the kind {endpoint.kind!r} of {endpoint.name}.")
    made: Notifier = called(found[0], load(found[0]), endpoint, clock)
    if not callable(getattr(made, "send", None)):
        raise unusable(found[0], "it gives nothing that has send")
    return made
