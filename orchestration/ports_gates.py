"""What the gates have in the store: pins of external tools, decisions of policy, and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omium.orchestration.ids import Digest, NodeId, Principal, ProjectId, RunId, Seq


@dataclass(frozen=True, slots=True)
class PinRow:
    """What is held of one tool of an external server. `pinned`: it may be called as `digest` says; `changed`: the
    server defines it otherwise by now; `disabled`: nobody has approved it, or somebody has taken that back. `document`
    has the definition with that digest, what was found in it, and one that waits for approval, if there is."""

    project: ProjectId
    server: str
    tool: str
    digest: Digest
    document: Mapping[str, Any]
    status: Literal["pinned", "changed", "disabled"]
    approved_by: Principal | None
    at: int


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """What policy said of one call. `input`: the digest of the question, with its secrets taken out; `version`: that of
    the policy; `micros`: how long it took; `shadow`: what a version on trial would have said, where it differs."""

    run_id: RunId
    seq: Seq
    node: NodeId
    call: str
    action: str
    server: str | None
    tool: str
    agent: str | None
    effect: str
    rule: str | None
    reason: str | None
    input: Digest
    version: Digest
    micros: float | None
    shadow: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Amounts:
    """What budgets count."""

    usd: float = 0.0
    tokens: float = 0.0
    calls: float = 0.0


@dataclass(frozen=True, slots=True)
class Counter:
    """Something that is counted, with how much of it is allowed; None: it is counted only."""

    name: str
    usd: float | None = None
    tokens: float | None = None
    calls: float | None = None


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A counter as it stands. `held`: for calls that are under way; `extra`: what somebody allowed beyond the limit."""

    project: ProjectId
    name: str
    spent: Amounts
    held: Amounts
    extra: Amounts
    updated_at: int
