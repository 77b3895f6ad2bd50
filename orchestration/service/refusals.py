"""What was refused to somebody, in the log of the project, so rarely that nobody fills it by being refused."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId
from omium.orchestration.ports import Clock, Store
from omium.orchestration.service.roles import RoleRefused

_log = logging.getLogger(__name__)

ROLE_REFUSED: Final = "role.refused"
_SAME_AFTER_S: Final = 60.0  # between two records of the same refusal
_REMEMBERED: Final = 256  # kinds of refusals


class RefusalLog:
    """Records refusals. The same one is written once a minute at most, with how often it came meanwhile."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when written, and not since
        self._written_at = float("-inf")  # of any kind, once there are too many kinds to tell apart

    async def role(self, error: OmiumError) -> None:
        """Record that somebody's role did not suffice. Every other error is none of this."""
        if isinstance(error, RoleRefused):
            caller = error.caller
            told = {name: error.data[name] for name in ("role", "verb", "needed")}
            await self.record(caller.project, ROLE_REFUSED, caller.principal, told)

    async def record(self, project: ProjectId, kind: str, actor: Principal, data: Mapping[str, Any]) -> None:
        """Never raises: whoever was refused is told that, and not that the log cannot be written."""
        same = repr((project, kind, actor, sorted(data.items())))
        now = self._clock.monotonic()
        at, left_out = self._seen.get(same, (float("-inf"), 0))
        crowded = same not in self._seen and len(self._seen) >= _REMEMBERED
        if now - at < _SAME_AFTER_S or (crowded and now - self._written_at < _SAME_AFTER_S):
            if same in self._seen:
                self._seen[same] = (at, left_out + 1)
            return
        if crowded:
            self._seen.popitem(last=False)
        self._seen[same] = (now, 0)
        self._written_at = now
        try:
            await self._store.record(project, kind, actor, {**data, "before_and_not_written": left_out})
        except OmiumError as failure:
            _log.error("a refusal could not be recorded: %s", failure)
