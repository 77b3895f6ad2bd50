"""The gate in front of every call that an attempt makes outside: policy, a person where policy says so, budgets.

A decision is bound to exactly what was asked about. It is used up in the transaction that makes the call's intent
durable, and covers that intent's repeats after a crash until the call is known to have been made; everything that has
changed since, an argument, a pin, the policy's word, is another question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from omium.orchestration.definition.model import Assurance
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import ApprovalState
from omium.orchestration.ports import NewBlob
from omium.orchestration.ports_calls import IDEMPOTENT, READ_ONLY, Allowed, Call, Decided, Limits, Suspended
from omium.orchestration.values import Encoded, Value, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.attempt import NodeAttempt
    from omium.orchestration.gates.policy import Decision

_ASSURANCES = get_args(Assurance)  # the weakest first
CALL_OPTIONS = ("approve", "reject", "modify")
_PREVIEW_LIMIT = 4_000
_MAX_MODIFIED = 16  # a person who changes arguments into what has to be asked about again, and again


def binding_of(what: Mapping[str, Any]) -> Digest:
    return encode(dict(what)).digest


async def leave(attempt: NodeAttempt, call: Call) -> Allowed:
    """The gate's word on a call. What was decided is noted with the attempt's next commit, a refusal at once. Raises
    `denied`, and `Suspended` once the question is the attempt's."""
    arguments = call.arguments
    rests_on: tuple[ApprovalId, ApprovalState] | None = None
    for _ in range(_MAX_MODIFIED):
        decision = await _decide(attempt, call, arguments)
        if decision.effect == "deny":
            await attempt.flush()
            raise _denied(call, decision.reason or "no rule allows it", rule=decision.rule)
        if decision.effect == "allow" and rests_on is None:
            return _allowed(attempt, call, arguments, decision, None)
        if rests_on is not None and not _is_less(rests_on[1], decision):
            return _allowed(attempt, call, arguments, decision, rests_on[0])
        bound = _bound(attempt, call, arguments, decision)
        found = _asked(attempt, "call", bound)
        if found is None or _was_for_a_failure(attempt, call, *found):
            _ask(attempt, call, arguments, decision, bound)
        identity, approval = found
        if approval.decision is None:
            raise Suspended
        _check_usable(attempt, call, identity, approval)
        if approval.decision == "approve":
            return _allowed(attempt, call, arguments, decision, identity)
        if approval.decision != "modify" or approval.arguments is None:
            what = "expired" if approval.decision == "expired" else f"was refused by {approval.by}"
            raise _denied(call, f"the approval {identity} {what}", rule=decision.rule, feedback=approval.feedback)
        arguments, rests_on = await attempt.load(approval.arguments), found  # and policy is asked about those
    raise _denied(call, "it was changed too often", rule=None)


def _is_less(approval: ApprovalState, decision: Decision) -> bool:
    """Whether what a person gave instead needs more than that person was good for."""
    if decision.effect == "allow":
        return False
    needed = decision.approval.min_assurance if decision.approval is not None else "elicited"
    return _ASSURANCES.index(approval.assurance or "none") < _ASSURANCES.index(needed)


def _was_for_a_failure(attempt: NodeAttempt, call: Call, identity: ApprovalId, approval: ApprovalState) -> bool:
    """Whether the decision was for this call when it failed: to make it once more is another question."""
    effect = attempt.ledger(call.key)
    return approval.consumed and effect is not None and (effect.approval, effect.outcome) == (identity, "failed")


def _check_usable(attempt: NodeAttempt, call: Call, identity: ApprovalId, approval: ApprovalState) -> None:
    """One decision, one call: used before, it is good only for the repeats of the very call that used it."""
    if not approval.consumed:
        return
    effect = attempt.ledger(call.key)
    if effect is None or effect.approval != identity:
        raise _denied(call, f"the approval {identity} was used before", rule=None)


async def _decide(attempt: NodeAttempt, call: Call, arguments: Value) -> Decision:
    from omium.orchestration.gates.policy import Question

    run = attempt.run
    question = Question(
        action=call.action,
        server=call.server,
        tool=call.tool,
        arguments=arguments,
        workflow=run.workflow,
        node=attempt.node_id,
        agent=call.agent,
        principal=run.owner,
        project=run.project,
        hints=call.hints,
        at=datetime.fromtimestamp(attempt.engine.clock.now_us() / 1e6, UTC),
    )
    decision = await attempt.engine.policies.decide(run.policy, question)
    asked = encode({**question.as_dict(), "arguments": attempt.engine.redact(arguments)})
    shadow = decision.shadow
    attempt.decided_on[call.key] = asked.digest
    attempt.later(
        c.NoteDecision(
            node=attempt.node_id,
            generation=attempt.generation,
            attempt=attempt.attempt,
            call=call.key,
            action=call.action,
            tool=call.tool,
            effect=decision.effect,
            input=asked.digest,
            version=decision.policy,
            server=call.server,
            agent=call.agent,
            rule=decision.rule,
            reason="; ".join((decision.reason, *decision.warnings)) or None,
            micros=decision.micros,
            shadow=None if shadow is None else f"{shadow.effect} by {shadow.rule or 'default'} of {shadow.policy}",
        ),
        NewBlob(asked),
    )
    return decision


def _allowed(
    attempt: NodeAttempt, call: Call, arguments: Value, decision: Decision, approval: ApprovalId | None
) -> Allowed:
    return Allowed(
        arguments,
        decision.limits,
        tuple(decision.redact),
        frozenset(decision.trusts),
        approval,
        decision.rule,
        decision.rate_rule,
        attempt.effect_id(call.key),
    )


def on_unknown(attempt: NodeAttempt, allowed: Allowed) -> str:
    """What becomes of the call when a crash takes its result: policy's word that it may be repeated, never the
    server's; otherwise what the node says, or a person is asked."""
    if allowed.trusts & {READ_ONLY, IDEMPOTENT}:
        return "rerun"
    own = attempt.node.on_unknown
    return own if own in ("fail", "rerun") else "ask"


def _bound(attempt: NodeAttempt, call: Call, arguments: Value, decision: Decision) -> Digest:
    """What a decision is about: nothing of this may change between the question and the call."""
    return binding_of(
        {
            "run": attempt.run_id,
            "node": attempt.node_id,
            "generation": attempt.generation,
            "call": call.key,
            "action": call.action,
            "server": call.server,
            "tool": call.tool,
            "pin": call.pin,
            "arguments": encode(arguments).digest,
            "policy": decision.policy,
        }
    )


def _asked(attempt: NodeAttempt, scope: str, bound: Digest) -> tuple[ApprovalId, ApprovalState] | None:
    """The question that this node has asked before, in this generation; the latest, if an older one ran out."""
    found: tuple[ApprovalId, ApprovalState] | None = None
    for identity, approval in attempt.run.approvals.items():
        own = (approval.node, approval.generation, approval.scope) == (attempt.node_id, attempt.generation, scope)
        if own and approval.binding == bound and approval.decision != "cancelled":
            found = identity, approval
    return found


def _ask(attempt: NodeAttempt, call: Call, arguments: Value, decision: Decision, bound: Digest) -> NoReturn:
    """Make the question the attempt's, which ends it. Raises `Suspended`."""
    terms = decision.approval
    what = f"{call.server}/{call.tool}" if call.server else call.tool
    shown = encode(attempt.engine.redact(arguments))
    details = {
        "call": call.key,
        "action": call.action,
        "tool": call.tool,
        "server": call.server,
        "pin": call.pin,
        "agent": call.agent,
        "rule": decision.rule,
        "reason": decision.reason,
        "preview": call.preview[:_PREVIEW_LIMIT] if call.preview else None,
        "arguments": shown.digest,
    }
    attempt.question(
        c.RequestApproval(
            approval=ApprovalId(new_id("apr", attempt.engine.clock.now_us() // 1000)),
            node=attempt.node_id,
            generation=attempt.generation,
            scope="call",
            question=f"{attempt.node_id} wants to call {what}. Allow it?",
            options=CALL_OPTIONS if call.action == "tool" or call.action == "permission" else CALL_OPTIONS[:2],
            expires_at=attempt.engine.clock.now_us() + int((terms.ttl_s if terms is not None else 86_400.0) * 1e6),
            min_assurance=terms.min_assurance if terms is not None else "elicited",
            binding=bound,
            details={name: value for name, value in details.items() if value is not None},
        ),
        NewBlob(shown),
    )
    raise Suspended


async def answer(
    attempt: NodeAttempt,
    question: str,
    options: Sequence[str],
    *,
    key: str,
    details: Mapping[str, Any] | None,
    expires_s: float,
    min_assurance: str,
) -> Decided:
    """What a person answered; see `ports.Attempt.decide`. The answer is used up by whoever gets it first."""
    told = dict(details or {})
    bound = binding_of({"key": key, "question": question, "options": list(options), "details": told})
    found = _asked(attempt, "question", bound)
    if found is None:
        if not options:
            raise OmiumError("invalid_argument", "a question needs at least one option.")
        attempt.question(
            c.RequestApproval(
                approval=ApprovalId(new_id("apr", attempt.engine.clock.now_us() // 1000)),
                node=attempt.node_id,
                generation=attempt.generation,
                scope="question",
                question=question,
                options=tuple(options),
                expires_at=attempt.engine.clock.now_us() + int(expires_s * 1e6),
                min_assurance=min_assurance,
                binding=bound,
                details=told or None,
            )
        )
        raise Suspended
    identity, approval = found
    if approval.decision is None:
        raise Suspended
    if not approval.consumed:
        await attempt.commit(c.UseDecision(identity, attempt.node_id, attempt.generation))
    return Decided(approval.decision, approval.feedback, identity, approval.by)


def _denied(call: Call, why: str, *, rule: str | None, feedback: str | None = None) -> OmiumError:
    what = f"{call.server}/{call.tool}" if call.server else call.tool
    message = f"{what} is not allowed: {why}."
    if feedback:
        message += f" A person said: {feedback}"
    return OmiumError(
        "denied",
        message,
        "`omium policy explain` says which rule decided.",
        rule=rule,
        reason=why,
        feedback=feedback,
        sent=False,
    )


def made_perhaps(call: Call) -> OmiumError:
    """What is said of a call that went out before, of which nobody knows whether it was made."""
    what = f"{call.server}/{call.tool}" if call.server else call.tool
    return OmiumError(
        "tool_failed",
        f"{what} was called like this before, and it is unknown whether that happened.",
        "A call of which policy says that it is harmless (`trusts`) is made again.",
        reason="unknown_outcome",
        sent=False,
    )


def permission(call: Call, allowed: Allowed) -> Encoded:
    """Leave that was given, as the ledger keeps it: without the arguments, unless a person changed them."""
    limits = asdict(allowed.limits)
    rate = limits["rate"]
    asked, given = encode(call.arguments).digest, encode(allowed.arguments).digest
    return encode(
        {
            "asked": asked,
            "modified": None if asked == given else {"arguments": allowed.arguments},
            "limits": {**limits, "rate": None if rate is None else list(rate)},
            "redact": list(allowed.redact),
            "trusts": sorted(allowed.trusts),
            "approval": allowed.approval,
            "rule": allowed.rule,
            "idempotency_key": allowed.idempotency_key,
        }
    )


def permitted(call: Call, document: Any) -> Allowed:
    """Leave as `permission` wrote it, for the same call. Raises `denied` when it was given for other arguments."""
    if document["asked"] != encode(call.arguments).digest:
        raise _denied(call, f"leave under the key {call.key!r} was given for other arguments", rule=None)
    limits = dict(document["limits"])
    rate = limits.pop("rate")
    modified = document["modified"]
    return Allowed(
        call.arguments if modified is None else modified["arguments"],
        Limits(**limits, rate=None if rate is None else (rate[0], rate[1])),
        tuple(document["redact"]),
        frozenset(document["trusts"]),
        document["approval"],
        document["rule"],
        idempotency_key=document["idempotency_key"],
    )
