"""What a consensus node runs, in the one text that executors are called with: its voters, its quorum, its choice."""

from __future__ import annotations

import json

from omium.orchestration.definition.model import ConsensusSpec, NodeDef
from omium.orchestration.errors import OmiumError


def used(node: NodeDef) -> str:
    """The name under which a node's executor finds what to run; for a vote, its specification."""
    vote = node.consensus
    if node.kind != "consensus" or vote is None:
        return node.use or ""
    return json.dumps({"voters": list(vote.voters), "quorum": vote.quorum, "choice": vote.choice})


def vote_of(use: str) -> ConsensusSpec:
    """The specification again. Raises `invalid_argument` for any other text."""
    try:
        told = json.loads(use)
        return ConsensusSpec(tuple(told["voters"]), int(told["quorum"]), told["choice"])
    except (ValueError, KeyError, TypeError) as error:
        raise OmiumError("invalid_argument", f"{use[:80]!r} is no vote.") from error
