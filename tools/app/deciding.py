"""The tools behind the view's buttons: all of a question, and the decision about exactly what was shown.

What is shown has a digest, its binding. A decision names it, so that one about anything else is refused. That a person
pressed the button is the host's word, as it is for a form: the assurance is `elicited`, and no more than that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId
from omium.orchestration.service.views import ApprovalView, Assurance, Caller
from omium.orchestration.values import digest_of
from omium.tools.app.uri import FOR_THE_VIEW
from omium.tools.approvals import ApprovalArg, DecisionArg, FeedbackArg
from omium.tools.desk import Ctx, committed, desk_of
from omium.tools.models import Answer, DecisionOut, Line, Text
from omium.tools.present import VALUE_PAGE, paragraph, value_text, when
from omium.tools.runs import Key
from omium.tools.show import settled_out
from omium.tools.tool import READS, STEERS, ToolSpec

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

_QUESTION = 6_000  # characters
_DETAILS = 60_000  # characters that somebody can be said to have seen
_ORDER: tuple[Assurance, ...] = ("none", "elicited", "separate_identity", "out_of_band", "signed")


class ShownApproval(Answer):
    """A question with a page of what it is about. `undecidable`: why it cannot be decided here; None: it can."""

    approval_id: str
    run_id: str
    workflow: Line
    node: Line | None = None
    status: str
    question: Annotated[str, AfterValidator(partial(paragraph, limit=_QUESTION))]
    options: list[Line]
    consequence: Line | None = None
    expires_at: str | None = None
    details: str | None = None
    size: int
    next_offset: int | None = None
    binding: str
    undecidable: Line | None = None
    decision: Line | None = None
    decided_by: Line | None = None
    feedback: Text | None = None


async def show_approval_in_view(
    ctx: Ctx,
    approval_id: ApprovalArg,
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0,
) -> ShownApproval:
    """All that an approval is about, in pages of JSON text, with the binding that a decision names. Changes nothing."""
    core, caller = desk_of(ctx)
    view = await core.get_approval(caller, ApprovalId(approval_id))
    details = value_text(dict(view.details)) if view.details else ""
    end = offset + VALUE_PAGE
    return ShownApproval(
        approval_id=view.id,
        run_id=view.run_id,
        workflow=view.workflow,
        node=view.node,
        status=view.status,
        question=view.question,
        options=list(view.options),
        consequence=view.consequence or None,
        expires_at=when(view.expires_at),
        details=details[offset:end] or None,
        size=len(details),
        next_offset=end if end < len(details) else None,
        binding=binding_of(view),
        undecidable=await _undecidable(core, caller, view, len(details)),
        decision=view.decision,
        decided_by=view.decided_by,
        feedback=view.feedback,
    )


async def decide_in_view(
    ctx: Ctx,
    approval_id: ApprovalArg,
    binding: Annotated[str, Field(description="Of what was shown", min_length=1, max_length=200)],
    decision: DecisionArg,
    feedback: FeedbackArg = None,
    idempotency_key: Key = None,
) -> DecisionOut:
    """Decide an approval as the person at the view did. Refused when it is not what was shown."""
    core, caller = desk_of(ctx)
    view = await core.get_approval(caller, ApprovalId(approval_id))
    if binding != binding_of(view):
        raise OmiumError(
            "conflict",
            f"what was shown of approval {view.id} is not what it asks.",
            "Look at it again.",
            run_id=view.run_id,
        )
    why = await _undecidable(core, caller, view, len(value_text(dict(view.details))) if view.details else 0)
    if view.status == "pending" and why is not None:
        raise OmiumError("forbidden", why, f"A human decides in a terminal: omium approve {view.id}")
    work = core.decide(
        caller, view.id, decision, feedback=feedback or None, assurance="elicited", idempotency_key=idempotency_key
    )
    decided = await committed(work)
    return DecisionOut(decided=True, approval=settled_out(decided), next=f"get_run(run_id='{decided.run_id}')")


def binding_of(view: ApprovalView) -> str:
    """The digest of all that a decision is about. An approval never changes it: another question is another one."""
    return str(
        digest_of(
            {
                "approval": view.id,
                "run": view.run_id,
                "workflow": view.workflow,
                "node": view.node,
                "scope": view.scope,
                "question": view.question,
                "options": list(view.options),
                "details": dict(view.details) if view.details is not None else None,
                "min_assurance": view.min_assurance,
                "requested_at": view.requested_at,
                "expires_at": view.expires_at,
            }
        )
    )


async def _undecidable(core: Core, caller: Caller, view: ApprovalView, size: int) -> str | None:
    """Why this view cannot decide, in a sentence."""
    if len(view.question) > _QUESTION or size > _DETAILS:
        return "This is too long to be shown here in full, so it cannot be decided here."
    own = await core.own_assurance(caller, view.id)
    if max(_ORDER.index("elicited"), _ORDER.index(own)) < _ORDER.index(_assurance(view)):
        return f"The gate asks for a decision of assurance {view.min_assurance}; one from here has elicited."
    return None


def _assurance(view: ApprovalView) -> Assurance:
    """What the gate asks for; the most there is when this does not know its word."""
    return next((one for one in _ORDER if one == view.min_assurance), "signed")


VIEW_TOOLS: tuple[ToolSpec, ...] = (
    ToolSpec(show_approval_in_view, "Show a question (for the view)", READS, FOR_THE_VIEW),
    ToolSpec(decide_in_view, "Decide (for the view)", STEERS, FOR_THE_VIEW),
)
