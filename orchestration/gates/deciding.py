"""The policies of runs: each run keeps the version that it was created with, whatever is declared by now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from omium.orchestration.gates.policy import Decision, Policy, PolicySource, Question

Load = Callable[[Digest], Awaitable[Value]]
Tighten = Callable[["Question", "Decision"], Awaitable["Decision"]]


class Policies:
    """load: the content behind a digest. source: the project's policies; without one the profile `safe` holds. tighten:
    somebody who is asked after the policy and can only take back what it allows, such as a policy server; it raises
    nothing and loosens nothing."""

    def __init__(self, load: Load, source: PolicySource | None = None, tighten: Tighten | None = None) -> None:
        self._load = load
        self._source = source
        self._tighten = tighten
        self._versions: dict[Digest, Digest] = {}  # of a stored document: the version that it is

    async def of(self, digest: Digest | None) -> Policy:
        """The policy whose document this is the digest of; None is what holds where a project declares none. Raises
        what loading raises, and then nothing may be called."""
        from omium.orchestration.gates.policy import PolicySource, profile_policy

        source = self._source = self._source or PolicySource()
        if digest is None:
            return profile_policy()
        version = self._versions.get(digest)
        known = source.known(version) if version is not None else None
        if known is not None:
            return known
        document = await self._load(digest)
        if not isinstance(document, dict):
            raise OmiumError("integrity", f"the policy {digest} is no document.")
        found = source.by_digest(document)
        self._versions[digest] = found.digest
        return found

    async def decide(self, digest: Digest | None, question: Question) -> Decision:
        """What the run's version says of a call."""
        decision = (await self.of(digest)).decide(question)
        if self._tighten is not None and decision.effect != "deny":
            decision = await self._tighten(question, decision)
        return decision
