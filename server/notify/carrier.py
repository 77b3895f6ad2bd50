"""Finding what is to be told, and carrying it out until it is done or given up.

Any process that executes runs does this for the whole project, whoever wrote the events. The outbox has each notice
taken by one of them at a time; one that dies in the middle leaves the notice to be taken again, so a receiver may hear
of an event twice, with the same id, but never not at all.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId, RunId, Seq, new_id
from omium.orchestration.log.events import Event
from omium.orchestration.ports import Clock, Store
from omium.orchestration.ports_notices import NoticeRow, Notifier, Unannounced
from omium.server.notify.documents import document_of
from omium.server.notify.endpoints import Endpoint

_log = logging.getLogger(__name__)

DELAYS_S: Final = (5.0, 30.0, 120.0, 600.0)
"""Between one attempt and the next; after the last of `ATTEMPTS` a notice is dead."""
ATTEMPTS: Final = len(DELAYS_S) + 1

LEAVE_S: Final = 5.0
_JITTER: Final = 0.2  # of a delay, either way
_SPARE_S: Final = 30.0  # beyond its own time limit, before an attempt is taken for one of a dead process
_LOOK_S: Final = 60.0
_GATHER_S: Final = 0.05
_SHARE: Final = 20  # of the time that a look takes; as long is waited before the next one
_RUNS: Final = 200
_AT_ONCE: Final = 8


class Carrier:
    """Serves the endpoints of one project. jitter: gives a number between -1 and 1."""

    def __init__(
        self,
        store: Store,
        project: ProjectId,
        endpoints: Sequence[Endpoint],
        notifier_of: Callable[[Endpoint], Notifier],
        clock: Clock,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads retries, guards nothing
    ) -> None:
        self._store = store
        self._project = project
        self._endpoints = {one.name: one for one in endpoints}
        self._notifiers = {one.name: notifier_of(one) for one in endpoints}
        self._clock = clock
        self._jitter = jitter
        self._wanted = frozenset(kind for one in endpoints for kind in one.types)
        self._since: dict[str, int] = {}
        self._woken = anyio.Event()
        self._busy: set[str] = set()  # the endpoints that `serve` delivers to right now

    # --- finding ----------------------------------------------------------------------------------------------

    async def look(self) -> int:
        """Have a notice for every event that is to be told and was not looked at yet; how many there were."""
        found = 0
        for endpoint in self._endpoints.values():
            since = await self._since_of(endpoint.name)
            while True:
                runs = await self._store.unannounced(self._project, endpoint.name, since, _RUNS)
                found += await self._announce(endpoint, since, runs)
                if len(runs) < _RUNS:
                    break
        return found

    async def _since_of(self, name: str) -> int:
        if name not in self._since:
            self._since[name] = await self._store.endpoint_since(self._project, name)
        return self._since[name]

    async def _announce(self, endpoint: Endpoint, since: int, runs: Sequence[Unannounced]) -> int:
        if not runs:
            return 0
        now = self._clock.now_us()
        notices: list[NoticeRow] = []
        seen: dict[RunId, Seq] = {}
        for one in runs:
            seen[one.run_id] = one.head
            events = await self._store.events_of(one.run_id, one.seen, one.head, endpoint.types)
            told = [event for event in events if event.at >= since]
            row = await self._store.run(one.run_id) if told else None
            if row is None or not endpoint.wants(row.workflow):
                continue
            notices += [
                NoticeRow(
                    new_id("ntc"), self._project, endpoint.name, event.run_id, event.seq, event.type.value,
                    "waiting", 0, now, now,
                )
                for event in told
            ]  # fmt: skip
        await self._store.announce(endpoint.name, notices, seen)
        return len(notices)

    # --- carrying out -----------------------------------------------------------------------------------------

    async def deliver(self) -> int:
        """Try whatever is due, at each endpoint by itself: one that hangs does not keep the others waiting. How many
        attempts were made."""
        made = 0

        async def deliver(endpoint: Endpoint) -> None:
            nonlocal made
            made += await self._deliver_to(endpoint)

        async with anyio.create_task_group() as tasks:
            for endpoint in self._endpoints.values():
                tasks.start_soon(deliver, endpoint)
        return made

    async def _deliver_to(self, endpoint: Endpoint) -> int:
        made = 0
        while taken := await self._take(endpoint):
            made += len(taken)
            async with anyio.create_task_group() as tasks:
                for notice in taken:
                    tasks.start_soon(self._attempt, endpoint, notice)
        return made

    async def _take(self, endpoint: Endpoint) -> list[NoticeRow]:
        now = self._clock.now_us()
        until = now + int((endpoint.timeout_s + _SPARE_S) * 1e6)
        return await self._store.take_notices(self._project, endpoint.name, now, until, _AT_ONCE)

    async def _attempt(self, endpoint: Endpoint, notice: NoticeRow) -> None:
        if notice.attempts > ATTEMPTS:  # the process of the last one died before it could say so
            await self._give_up(notice, "the process that tried it last has ended")
            return
        try:
            await self._notifiers[endpoint.name].send(notice.id, await self._document(notice))
        except OmiumError as error:
            await self._failed(notice, error)
            return
        except Exception as error:  # whatever a receiver makes of us, the others are to be served
            _log.exception("telling %s failed", endpoint.name)
            await self._failed(notice, OmiumError("internal", f"{type(error).__name__}."))
            return
        now = self._clock.now_us()
        await self._store.settle_notice(notice.id, notice.attempts, "delivered", due_us=now, ended_us=now)

    async def _document(self, notice: NoticeRow) -> Mapping[str, Any]:
        run = await self._store.run(notice.run_id)
        events = await self._store.events(notice.run_id, Seq(notice.seq - 1), 1)
        if run is None or not events:
            raise OmiumError("not_found", f"the run {notice.run_id} was forgotten meanwhile.")
        return document_of(events[0], run)

    async def _failed(self, notice: NoticeRow, error: OmiumError) -> None:
        problem = f"{error.code}: {error.message}"[:500]
        if notice.attempts >= ATTEMPTS or error.code == "not_found":
            await self._give_up(notice, problem)
            return
        delay = DELAYS_S[notice.attempts - 1] * (1 + _JITTER * self._jitter())
        due = self._clock.now_us() + int(delay * 1e6)
        await self._store.settle_notice(notice.id, notice.attempts, "waiting", due_us=due, problem=problem)
        _log.info("%s could not be told of %s, attempt %d: %s", notice.endpoint, notice.type, notice.attempts, problem)

    async def _give_up(self, notice: NoticeRow, problem: str) -> None:
        now = self._clock.now_us()
        await self._store.settle_notice(notice.id, notice.attempts, "dead", due_us=now, ended_us=now, problem=problem)
        _log.error(
            "%s was not told of %s in %s: %s. See `omium notify list --status dead`",
            notice.endpoint, notice.type, notice.run_id, problem,
        )  # fmt: skip

    # --- going on -----------------------------------------------------------------------------------------------

    async def once(self) -> None:
        """Look, and try what is due."""
        await self.look()
        await self.deliver()

    def _hear(self, _: RunId, events: Sequence[Event]) -> None:
        if any(event.type.value in self._wanted for event in events):
            self._woken.set()

    async def serve(self) -> None:
        """Go on until it is cancelled. What the database refuses is tried again at the next look. Each endpoint is
        delivered to beside the others and beside the looks: one that hangs holds nobody up."""
        ends = self._store.listen(self._hear), self._store.on_change(lambda: self._woken.set(), own=False)
        try:
            async with anyio.create_task_group() as deliveries:
                while True:
                    self._woken = anyio.Event()
                    began = self._clock.monotonic()
                    try:
                        await self.look()
                        looked = self._clock.monotonic() - began
                        wait = await self._begin_what_is_due(deliveries)
                    except OmiumError as error:
                        _log.warning("who is to be told of what has to wait: %s", error)
                        looked, wait = 0.0, _LOOK_S
                    with anyio.move_on_after(wait):
                        await self._woken.wait()
                    await anyio.sleep(max(_GATHER_S, looked * _SHARE))
        finally:
            self._busy.clear()
            for end in ends:
                end()

    async def _begin_what_is_due(self, deliveries: TaskGroup) -> float:
        """Deliver to the endpoints that have something due and are not delivered to yet. In how many seconds another
        one will have; the end of a delivery wakes `serve` by itself."""
        wait = _LOOK_S
        for name in [name for name in self._endpoints if name not in self._busy]:
            due = await self._store.next_notice(self._project, [name])
            left = _LOOK_S if due is None else (due - self._clock.now_us()) / 1e6
            if left > 0:
                wait = min(wait, left)
            else:
                self._busy.add(name)
                deliveries.start_soon(self._deliver_beside, self._endpoints[name])
        return wait

    async def _deliver_beside(self, endpoint: Endpoint) -> None:
        try:
            await self._deliver_to(endpoint)
            self._woken.set()
        except* OmiumError as errors:  # of any attempt; it has to wait for the next look
            _log.warning("%s cannot be told now: %s", endpoint.name, errors.exceptions[0])
        finally:
            self._busy.discard(endpoint.name)


@asynccontextmanager
async def carrying(carrier: Carrier) -> AsyncIterator[None]:
    """Serve in the background, for the length of the block; what happened until its end is still told, if the receivers
    answer within `LEAVE_S` seconds. What they do not, the next process does."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carrier.serve)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
    with anyio.move_on_after(LEAVE_S, shield=True):
        try:
            await carrier.once()
        except OmiumError as error:
            _log.warning("not everybody could be told at the end: %s", error)
