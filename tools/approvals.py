"""Tools for decisions. An agent may ask for one; what a gate accepts as a decision is a human's.

`approve` asks the human through the client's elicitation form where the gate is content with that and the client has
one, in both protocol eras by one code path. Otherwise it leaves the question open and says how a human decides. The
call of an agent alone has the assurance `none`.
"""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.elicitation import AcceptedElicitation, DeclinedElicitation, ElicitationResult
from mcp.server.mcpserver import Elicit, Resolve
from mcp_types import ClientCapabilities
from mcp_types.version import is_version_at_least
from pydantic import AfterValidator, BaseModel, Field, create_model

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId
from omium.orchestration.service import roles
from omium.orchestration.service.views import ApprovalView, Assurance
from omium.tools.desk import Ctx, committed, desk_of, the_run
from omium.tools.models import ApprovalsOut, DecisionOut
from omium.tools.present import fit, line, paragraph, value_text, when
from omium.tools.runs import Key
from omium.tools.show import approval_out, settled_out

_SHOWN = 3_000  # characters of what is approved that fit a form
_REFUSALS = ("reject", "abort")  # what declining the form means, where the gate offers it

ApprovalArg = Annotated[str, Field(description="apr_...", min_length=4, max_length=64)]
DecisionArg = Annotated[str, Field(description="One of the approval's options", min_length=1, max_length=100)]
FeedbackArg = Annotated[str | None, Field(description="For the agent whose work it is", max_length=4_000)]


class Answer(BaseModel):
    """What the human sends back; the form's own model restricts `decision` to the options."""

    decision: str
    feedback: str | None = None


class NotAsked(Answer):
    """No form was shown: the gate needs none, or wants more than one, or the client has none."""

    decision: str = ""


async def list_approvals(
    ctx: Ctx,
    run_id: Annotated[str | None, Field(description="Only of this run", min_length=4, max_length=64)] = None,
    pending: Annotated[bool, Field(description="false: decided and expired ones too")] = True,
    detail: Annotated[bool, Field(description="With all that is shown for it")] = False,
    after: Annotated[str | None, Field(description="Next page", max_length=64)] = None,
) -> ApprovalsOut:
    """List questions that wait for a human's decision, oldest first. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id) if run_id is not None else None
    views = await core.list_approvals(caller, run_id=found, pending=pending)
    ids = [view.id for view in views]
    rest = (ids.index(ApprovalId(after)) + 1 if after in ids else len(ids)) if after is not None else 0
    shown = fit(approval_out(view, detail=detail) for view in views[rest:])
    left = rest + len(shown)
    return ApprovalsOut(
        approvals=shown,
        after=ids[left - 1] if shown and left < len(ids) else None,
        next="approve(approval_id, decision) puts the question to the human"
        if shown
        else "nothing waits for a decision",
    )


async def ask_human(ctx: Ctx, approval_id: str, decision: str, feedback: str | None) -> Answer | Elicit[Answer]:
    """The question to the human, or `NotAsked`. Depends on nothing but the approval and the arguments, since on today's
    protocol it is put together again when the answer arrives, and an answer counts only for the same question."""
    core, caller = desk_of(ctx)
    view = await core.get_approval(caller, ApprovalId(approval_id))
    if view.status != "pending":
        return NotAsked()
    roles.check_decision(caller, view.min_assurance)  # before a human is bothered with it
    if decision not in view.options:
        raise OmiumError(
            "invalid_argument",
            f"{decision!r} is not offered by approval {view.id}.",
            f"It offers: {', '.join(view.options)}.",
            allowed=list(view.options),
        )
    if decision == "modify":
        raise OmiumError(
            "invalid_argument",
            "arguments are changed by a person, not in a form.",
            f"In a terminal: omium approve {view.id} --arguments JSON",
        )
    if view.min_assurance != "elicited" or not _can_ask(ctx):
        return NotAsked()
    return Elicit(question(view, decision, feedback), decision_form(view, decision))


def _can_ask(ctx: Ctx) -> bool:
    """Whether the client can show a form in this call: declared, and there is a way to reach it."""
    version = ctx.protocol_version
    reachable = ctx.session.can_send_request or (version is not None and is_version_at_least(version, "2026-07-28"))
    return reachable and has_forms(ctx.client_capabilities)


def has_forms(declared: ClientCapabilities | None) -> bool:
    """Whether a client has declared that it shows forms; naming no kind of elicitation means forms."""
    elicitation = declared.elicitation if declared is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def question(view: ApprovalView, decision: str | None = None, feedback: str | None = None) -> str:
    """What a human is asked; with what an agent proposes, if one does."""
    parts = [
        f"{line(view.workflow)} asks for a decision{f' before {line(view.node)}' if view.node else ''}:",
        "",
        paragraph(view.question, 4_000),
        "",
    ]
    if view.details:
        shown = value_text(dict(view.details))
        cut = "" if len(shown) <= _SHOWN else f"... [cut; all of it: omium approve {view.id}]"
        parts += [f"What it is about: {shown[:_SHOWN]}{cut}", ""]
    if view.consequence:
        parts.append(f"Consequence: {line(view.consequence)}")
    if decision is not None:
        parts.append(f"The agent proposes: {line(decision)}{f' ({paragraph(feedback)})' if feedback else ''}")
    parts.append(f"Declining this form means {refusal(view) or 'that it goes on waiting'}; closing it leaves it open.")
    parts.append(f"Run {view.run_id}, open until {when(view.expires_at)}.")
    return "\n".join(parts)


def decision_form(view: ApprovalView, decision: str | None = None) -> type[Answer]:
    """The form of a decision. A proposal is what it shows as chosen; an answer that names none is no decision, and the
    feedback is the human's own: nothing that an agent says counts as theirs."""
    options = formed(view)

    def offered(chosen: str) -> str:
        if chosen not in options:
            raise ValueError("not one of the options")
        return chosen

    shown: dict[str, Any] = {"enum": list(options)} | ({} if decision is None else {"default": decision})
    choice = Annotated[str, AfterValidator(offered), Field(json_schema_extra=shown)]
    fields: dict[str, Any] = {"decision": (choice, ...), "feedback": (str | None, None)}
    return create_model("Decision", __base__=Answer, **fields)


def formed(view: ApprovalView) -> tuple[str, ...]:
    """The options that a form can offer: for `modify` a person needs more room than that."""
    return tuple(option for option in view.options if option != "modify")


def refusal(view: ApprovalView) -> str | None:
    """The option that declining a form chooses; None where the gate offers no refusal."""
    return next((option for option in _REFUSALS if option in view.options), None)


async def approve(
    ctx: Ctx,
    approval_id: ApprovalArg,
    decision: DecisionArg,
    answer: Annotated[ElicitationResult[Answer], Resolve(ask_human)],
    feedback: FeedbackArg = None,
    idempotency_key: Key = None,
) -> DecisionOut:
    """Put a pending approval to the human, with the decision you propose (approve, reject, ...); theirs counts, and the
    run goes on by itself. If the human cannot be asked here, it stays pending and the answer says how they decide."""
    core, caller = desk_of(ctx)
    view = await core.get_approval(caller, ApprovalId(approval_id))
    if view.status != "pending":
        return _was_settled(view, idempotency_key)
    assurance: Assurance = "none"
    if isinstance(answer, AcceptedElicitation) and not isinstance(answer.data, NotAsked):
        decision, feedback, assurance = answer.data.decision, answer.data.feedback or None, "elicited"
    elif isinstance(answer, AcceptedElicitation):
        own = await core.own_assurance(caller, view.id)  # an approver's credential may be enough without a form
        if roles.ASSURANCES.index(own) < roles.ASSURANCES.index(view.min_assurance):
            return _still_pending(view, "This client cannot put the question to a human at the gate's assurance.")
    elif isinstance(answer, DeclinedElicitation):
        refused = refusal(view)
        if refused is None:
            return _still_pending(view, "The human declined the form, and the gate offers no refusal.")
        decision, feedback, assurance = refused, None, "elicited"
    else:
        return _still_pending(view, "The human closed the form without a decision.")
    work = core.decide(
        caller, view.id, decision, feedback=feedback, assurance=assurance, idempotency_key=idempotency_key
    )
    decided = await committed(work)
    return DecisionOut(
        decided=True,
        approval=settled_out(decided),
        next=f"get_run(run_id='{decided.run_id}', wait_seconds=45)",
    )


def _was_settled(view: ApprovalView, idempotency_key: str | None) -> DecisionOut:
    """A repeat with a key gets the decision that there is; without one it is told that it came too late."""
    if idempotency_key is not None and view.status == "decided":
        return DecisionOut(decided=True, approval=settled_out(view), next=f"get_run(run_id='{view.run_id}')")
    who = f"{view.decision} by {view.decided_by}" if view.status == "decided" else f"it is {view.status}"
    raise OmiumError(
        "already_decided",
        f"approval {view.id} takes no decision any more: {who}.",
        run_id=view.run_id,
        state=view.status,
        decision=view.decision,
    )


def _still_pending(view: ApprovalView, why: str) -> DecisionOut:
    return DecisionOut(
        decided=False,
        approval=settled_out(view),
        next=line(f"{why} {how_to_decide(view)}"),
    )


def how_to_decide(view: ApprovalView) -> str:
    """How a human decides who is not asked here."""
    command = roles.way_to_decide(view.id, view.min_assurance)
    return f"A human decides in a terminal: {command} (or {command.replace('approve', 'reject', 1)})"
