"""Votes among agents: each voter answers the same input on its own, and a quorum of them has to agree.

Every voter has its own conversation and its own names in the ledger; a vote that was given is kept, so that a voter who
stops to ask, or a crash, does not have the others vote again. A voter that fails has not voted. Without a quorum, or
with a tie, the node fails and its error holds the votes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final, cast

import anyio

from omium.clients.agents.executor import AgentExecutor
from omium.clients.agents.scoped import ScopedAttempt
from omium.orchestration.definition.expressions import evaluate
from omium.orchestration.definition.model import ConsensusSpec
from omium.orchestration.definition.voting import vote_of
from omium.orchestration.engine.failures import classify
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.ports_calls import Suspended
from omium.orchestration.values import Value, digest_of

_log = logging.getLogger(__name__)

_FORMAT: Final = 1
_ENDING: Final = frozenset({"storage_unavailable", "fenced", "integrity", "internal", "not_allowed", "budget_exceeded"})


class ConsensusExecutor:
    """Runs nodes of kind `consensus`. Their output: {choice, output, votes, agreeing, quorum}."""

    def __init__(self, agents: AgentExecutor) -> None:
        self._agents = agents

    def known(self, agents: Digest) -> ConsensusExecutor | None:
        """See `ports_agents.KeepsAgents`."""
        found = self._agents.known(agents)
        return None if found is None else ConsensusExecutor(found)

    def keeping(self, agents: Digest, document: Any) -> ConsensusExecutor:
        """See `ports_agents.KeepsAgents`."""
        return ConsensusExecutor(self._agents.keeping(agents, document))

    def digest(self, use: str) -> str:
        told = [use, *(self._agents.digest(voter) for voter in vote_of(use).voters)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        spec = vote_of(use)
        ballot = _Ballot(attempt, await attempt.kept())
        failures: list[BaseException] = []

        async def vote(voter: str) -> None:
            own = ScopedAttempt(attempt, f"vote:{voter}/", states=ballot.states, save=ballot.save)
            try:
                done = await self._agents.run(voter, inputs, own)
                await ballot.cast(voter, {"choice": _choice(spec, done.output), "output": done.output}, done.usage)
            except OmiumError as error:
                if error.code in _ENDING:
                    failures.append(error)
                    return
                await ballot.cast(voter, {"error": error.message[:500], "category": classify(error)}, None)
            except Suspended as suspended:  # the others come to their own ends first
                failures.append(suspended)

        async with anyio.create_task_group() as tasks:
            for voter in spec.voters:
                if voter not in ballot.votes:
                    tasks.start_soon(vote, voter)
        if failures:
            ending = [one for one in failures if not isinstance(one, Suspended)]
            raise ending[0] if ending else failures[0]
        return Done(_result(spec, ballot.votes), ballot.usage())


class _Ballot:
    """The votes that were cast, and the conversations of those who are not done."""

    def __init__(self, attempt: Attempt, kept: Value) -> None:
        told: Any = kept if isinstance(kept, dict) and kept.get("format") == _FORMAT else {}
        self.votes: dict[str, dict[str, Any]] = dict(told.get("votes", {}))
        self.states: dict[str, Value] = dict(told.get("states", {}))
        self._attempt = attempt
        self._saving = anyio.Lock()
        # Whoever could not vote may do so in the next attempt.
        self.votes = {voter: vote for voter, vote in self.votes.items() if "error" not in vote}

    async def cast(self, voter: str, vote: dict[str, Any], usage: Mapping[str, Any] | None) -> None:
        self.votes[voter] = {**vote, "usage": dict(usage or {})}
        if "error" not in vote:
            self.states.pop(f"vote:{voter}/", None)
        await self.save()

    async def save(self) -> None:
        async with self._saving:
            kept = {"format": _FORMAT, "votes": self.votes, "states": self.states}
            await self._attempt.keep(cast(Value, kept))

    def usage(self) -> dict[str, Any]:
        sums = dict.fromkeys(("tokens", "input_tokens", "output_tokens", "cost_usd", "calls"), 0)
        for vote in self.votes.values():
            for name in sums:
                sums[name] += vote["usage"].get(name) or 0
        unknown = any(vote["usage"].get("price_unknown") for vote in self.votes.values())
        return {**sums, "price_unknown": True} if unknown else dict(sums)


def _choice(spec: ConsensusSpec, output: Value) -> Value:
    return output if spec.choice is None else cast(Value, evaluate(spec.choice, {"output": output}))


def _result(spec: ConsensusSpec, votes: Mapping[str, Mapping[str, Any]]) -> Value:
    """What was decided. Raises `precondition_failed` with the votes when nothing was."""
    shown = {voter: {name: part for name, part in vote.items() if name != "usage"} for voter, vote in votes.items()}
    groups: dict[str, list[str]] = {}
    for voter in spec.voters:
        if "error" not in votes[voter]:
            groups.setdefault(digest_of(votes[voter]["choice"]), []).append(voter)
    agreed = sorted((group for group in groups.values() if len(group) >= spec.quorum), key=len, reverse=True)
    if not agreed:
        counts = ", ".join(str(len(group)) for group in sorted(groups.values(), key=len, reverse=True)) or "none"
        raise _undecided(
            f"{spec.quorum} of {len(spec.voters)} had to agree, and the largest groups are {counts}", shown
        )
    if len(agreed) > 1 and len(agreed[0]) == len(agreed[1]):
        raise _undecided(f"{len(agreed[0])} against {len(agreed[1])} voters is a tie", shown)
    first = votes[agreed[0][0]]
    return cast(
        Value,
        {
            "choice": first["choice"],
            "output": first["output"],
            "agreeing": list(agreed[0]),
            "quorum": spec.quorum,
            "votes": shown,
        },
    )


def _undecided(why: str, votes: Mapping[str, Any]) -> OmiumError:
    return OmiumError(
        "precondition_failed",
        f"the vote decided nothing: {why}. {_said(votes)}",
        "Look at the votes; ask again, or have a person decide.",
        votes=dict(votes),
    )


def _said(votes: Mapping[str, Any]) -> str:
    told = [f"{voter}: {str(vote.get('choice', vote.get('error')))[:80]}" for voter, vote in votes.items()]
    return "; ".join(told)[:1_500]
