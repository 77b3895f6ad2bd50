"""What passes between the engine and an attempt: calls outside, what the gate answers, the tools, what it is told.

An executor makes a call through `Attempt.call`, which looks it up in the ledger, has policy and people decide about it,
reserves its budget and records it. It never decides by itself whether a call may be made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from omium.orchestration.ports import Attempt

Action = Literal["tool", "permission", "command", "model", "network", "file"]
"""What kinds of call there are: a tool of an external server, what a coding CLI asks leave for, a registered command, a
request to a model, a connection, a path outside of the workspace."""

READ_ONLY, IDEMPOTENT = "read_only", "idempotent"


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that an attempt is about to do outside.

    key: names the call within (run, node, generation); the same call has the same key when it is met again after a
    crash. tool: what is called; server: whose it is, for tools of external servers. arguments: exactly what would be
    sent, without credentials. pin: the hash of the tool's definition. preview: what a person is shown beside the
    arguments. agent: the registered agent that asks. usd: what the call
    costs, by the operator's price list. hints: what the server says of its tool; never a reason to allow.

    Raises `invalid_argument` for a name with a NUL, which a model may make up and no database column holds.
    """

    key: str
    action: Action
    tool: str
    arguments: Value
    server: str | None = None
    pin: str | None = None
    preview: str | None = None
    agent: str | None = None
    usd: float = 0.0
    hints: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "\0" in f"{self.key}{self.tool}{self.server}{self.agent}":
            raise OmiumError("invalid_argument", f"a call of {self.tool!r:.120} has a NUL in a name.", sent=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What policy allows a call: seconds, bytes of its result, calls in a time. None: nothing beyond the defaults."""

    timeout_s: float | None = None
    output_bytes: int | None = None
    rate: tuple[int, float] | None = None  # calls, seconds
    run_budget_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The gate's leave. `arguments` is what may be sent, which a person may have changed; nothing else was approved.
    redact: kinds of content that are to be taken out of the result (`secrets`, `email`, ...). trusts: what the
    operator's policy, not the server, says of the tool (`read_only`, `idempotent`)."""

    arguments: Value
    limits: Limits = Limits()
    redact: tuple[str, ...] = ()
    trusts: frozenset[str] = frozenset()
    approval: ApprovalId | None = None
    rule: str | None = None
    rate_rule: str | None = None  # whose rate `limits.rate` is: calls are counted by it
    idempotency_key: str = ""  # the same for every repeat of this call, and for no other call


@dataclass(frozen=True, slots=True)
class Decided:
    """What a person answered to a question that an attempt asked. decision: one of the options; by: the principal."""

    decision: str
    feedback: str | None
    approval: ApprovalId
    by: str | None = None


class Suspended(BaseException):
    """The attempt ends here and goes on, as another attempt of its node, when a person has decided.

    A BaseException for the reason that a cancellation is one: code between the gate and the engine, much of it other
    people's, must not take it for a failed call. An executor lets it pass, or returns at once; the engine knows.
    """


class Reservation(Protocol):
    """A part of the budgets, held for one call until it is known what that cost."""

    async def settle(
        self, *, tokens: int = 0, usd: float | None = 0.0, calls: int = 1, model: str | None = None
    ) -> None:
        """What it did cost, which may be more; `usd` None: nobody knows. Counts for the node and the run too. Once."""


@dataclass(frozen=True, slots=True)
class ToolDef:
    """A tool of an external server, as it is pinned. name: `server/tool`."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    pin: Digest
    title: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)


class Tools(Protocol):
    """The external tools of a project, for executors whose agents call tools."""

    async def offered(self, patterns: Sequence[str], attempt: Attempt) -> list[ToolDef]:
        """The pinned, enabled tools whose `server/tool` matches one of the patterns (`db/*`), less those that the run's
        policy could never allow. A pattern that names a server which cannot be reached gives none of it."""

    async def call(
        self, name: str, arguments: Mapping[str, Any], attempt: Attempt, *, key: str, agent: str | None = None
    ) -> Value:
        """Call a tool under policy, approvals, budget and ledger; its structured content, or its text. `key` and
        `agent`: see `Call`. Raises OmiumError: `not_registered`, `denied`, `tool_failed` (the server's own error;
        `data["sent"]` False when nothing was sent), `budget_exceeded`, `timeout`, `invalid_argument` (its schema); and
        `Suspended`."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What an attempt is told: earlier failures, newest last, what a human said, what mended such failures before."""

    failures: Sequence[Mapping[str, Any]] = ()
    feedback: Sequence[str] = ()
    mended: Sequence[str] = ()
