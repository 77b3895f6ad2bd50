"""Where a process gets policies from: the present one for new runs, and those that runs have recorded."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.load import load_policy, policy_of, profile_policy
from omium.orchestration.gates.policy.policy import Policy, digest_of
from omium.orchestration.ids import Digest
from omium.orchestration.stamps import look

logger = logging.getLogger(__name__)

_KEPT: Final = 256


class _File:
    """A policy file that may change. `current()` reads it again when it did; one that is broken changes nothing."""

    def __init__(self, path: Path, now_ns: Callable[[], int]) -> None:
        """Raises `not_found` or `invalid_definition`: there is no last good one yet."""
        self._path = path
        self._now_ns = now_ns
        self._stamps, self._settled = look([path], now_ns())
        self._policy = load_policy(path)
        self.problem: OmiumError | None = None

    def current(self) -> Policy:
        stamps, settled = look([self._path], self._now_ns())
        if stamps != self._stamps or not self._settled:
            self._stamps, self._settled = stamps, settled
            self._read()
        return self._policy

    def _read(self) -> None:
        try:
            policy = load_policy(self._path)
        except OmiumError as error:
            if self.problem is None or self.problem.message != error.message:
                logger.error("the policy %s cannot be read and stays as it was: %s", self._path, error.message)
            self.problem = error
            return
        if policy.digest != self._policy.digest:
            logger.info("the policy %s is now %s", self._path, policy.digest)
        self._policy, self.problem = policy, None


class PolicySource:
    """The policies of a project.

    policy and shadow: a file, which is read again when it has changed, or a policy that stays; None is the profile
    `safe`, and no shadow.
    """

    def __init__(
        self,
        policy: Path | Policy | None = None,
        shadow: Path | Policy | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises `not_found` or `invalid_definition` for a file that cannot be read now."""
        self._policy = _File(policy, now_ns) if isinstance(policy, Path) else policy or profile_policy()
        self._shadow = _File(shadow, now_ns) if isinstance(shadow, Path) else shadow
        self._versions: OrderedDict[Digest, Policy] = OrderedDict()

    def current(self) -> Policy:
        """The policy for a new run. A file that has become unreadable leaves the last good one in force; see
        `problems`."""
        return self._kept(self._now(self._policy)).shadowed_by(self._now_shadow())

    def by_digest(self, document: Mapping[str, Any]) -> Policy:
        """The policy of a document that a run has recorded, compiled once. Raises `invalid_definition` for one that
        this version cannot read."""
        found = self.known(digest_of(document))
        if found is not None:
            return found
        return self._kept(policy_of(document, "the recorded policy")).shadowed_by(self._now_shadow())

    def known(self, digest: Digest) -> Policy | None:
        """The policy of that version if this process has compiled it; spares reading its document."""
        found = self._versions.get(digest)
        if found is None:
            return None
        self._versions.move_to_end(digest)
        return found.shadowed_by(self._now_shadow())

    @property
    def problems(self) -> tuple[OmiumError, ...]:
        """Why files are not in force as they stand."""
        files = (one for one in (self._policy, self._shadow) if isinstance(one, _File))
        return tuple(one.problem for one in files if one.problem is not None)

    def _now_shadow(self) -> Policy | None:
        return None if self._shadow is None else self._now(self._shadow)

    def _now(self, of: _File | Policy) -> Policy:
        return of.current() if isinstance(of, _File) else of

    def _kept(self, policy: Policy) -> Policy:
        if policy.digest not in self._versions:
            self._versions[policy.digest] = policy
            while len(self._versions) > _KEPT:
                self._versions.popitem(last=False)
        return self._versions[policy.digest]
