"""What Genie remembers. Its state, decisions and failures are the epic's; what helped is the project's, so that the
next epic knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omium.clients.genie.remedies import Failure
from omium.clients.genie.state import Remedy, State, Step, Tried, state_of
from omium.clients.remote import Approval, OmiumClient

STATE: Final = "state"
_LESSONS: Final = 2
_REMEDIES: Final[tuple[Remedy, ...]] = ("play_from", "branch", "rollback")


class GenieMemory:
    """The memory of one epic, by its name."""

    def __init__(self, client: OmiumClient, epic: str) -> None:
        self._client = client
        self._epic = epic
        self.scope = f"epic:{epic}"

    async def load(self) -> State | None:
        found = await self._client.recall(scope=self.scope, key=STATE)
        return state_of(found.memories[0].text.whole) if found.memories else None

    async def save(self, state: State) -> None:
        await self._client.remember(STATE, state.as_text(), scope=self.scope, kind="state")

    async def run_began(self, run_id: str, why: str) -> None:
        await self._client.remember(run_id, why, scope=self.scope, kind="session", tags=[f"run:{run_id}"])

    async def decided(self, approval: Approval) -> None:
        said = f"{approval.node}: {approval.decision} by {approval.decided_by}"
        text = f"{said}. {approval.feedback}" if approval.feedback else said
        tags = [f"phase:{approval.node}", f"decision:{approval.decision}"]
        await self._client.remember(approval.approval_id, text, scope=self.scope, kind="decision", tags=_tags(tags))

    async def failed(self, state: State, failure: Failure) -> None:
        key = f"failure-{state.round}.{len(state.tried) + 1}"
        text = f"{failure.phase} failed ({failure.category}): {failure.message}"
        await self._client.remember(
            key, text[:3_500], scope=self.scope, kind="failure", tags=_about(failure.phase, failure.category)
        )

    async def tried(self, state: State, tried: Tried, step: Step | None) -> None:
        """A remedy, or what came of it."""
        key = f"remedy/{self._epic}/{state.round}.{tried.number}"
        if step is None:
            found = await self._client.recall(scope="project", key=key)
            text = str(found.memories[0].text.whole) if found.memories else tried.kind
        else:
            text = f"{tried.kind} {tried.node}: {step.hypothesis or step.feedback or 'the same again'}"[:3_500]
        tags = [*_about(tried.phase, tried.category), f"remedy:{tried.kind}"]
        await self._client.remember(key, text, scope="project", kind="remedy", tags=_tags(tags), outcome=tried.outcome)

    async def lessons(self, failure: Failure) -> list[str]:
        """What has helped at such failures, newest first."""
        found = await self._client.recall(kind="remedy", tags=_about(failure.phase, failure.category), limit=20)
        helped = [one for one in found.memories if one.outcome == "worked" and one.text.value]
        return [str(one.text.value).splitlines()[0][:200] for one in helped[:_LESSONS]]

    async def rates(self, failure: Failure) -> Mapping[Remedy, tuple[int, float]]:
        """How often each remedy was used at such failures, and the share that worked."""
        known: dict[Remedy, tuple[int, float]] = {}
        for remedy in _REMEDIES:
            tags = [*_about(failure.phase, failure.category), f"remedy:{remedy}"]
            found = await self._client.recall(kind="remedy", tags=_tags(tags), limit=1)
            if found.success_rate is not None:
                known[remedy] = (found.worked + found.failed, found.success_rate)
        return known


def _about(phase: str, category: str) -> list[str]:
    return _tags([f"phase:{phase}", f"category:{category}"])


def _tags(tags: list[str]) -> list[str]:
    """As the server takes them: options of a gate may be any text, and a tag is one word."""
    return ["".join(c if (c.isalnum() and c.isascii()) or c in "_.:@/+=-" else "-" for c in one)[:120] for one in tags]
