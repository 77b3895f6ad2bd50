"""Deciding. One decision per approval, with the assurance that its gate asks for."""

from __future__ import annotations

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Write
from omium.orchestration.service.views import ApprovalView, Assurance, Caller

_ORDER: tuple[Assurance, ...] = ("none", "elicited", "separate_identity", "out_of_band", "signed")
_MAX_FEEDBACK = 16_000


class ApprovalService:
    """Needs the store and the readings of the core that it is part of."""

    async def decide(
        self,
        caller: Caller,
        approval_id: ApprovalId,
        decision: str,
        *,
        feedback: str | None = None,
        assurance: Assurance,
        idempotency_key: str | None = None,
    ) -> ApprovalView:
        """Decide a pending approval; the run goes on by itself.

        assurance: what is known of who decided. Raises `forbidden` when the gate asks for more, `invalid_argument` for
        an option that is not offered, `already_decided` (with who and what), `not_found`."""
        view = await self.get_approval(caller, approval_id)  # type: ignore[attr-defined]
        if caller.role not in ("operator", "approver", "admin"):
            raise OmiumError("forbidden", f"{caller.principal} has the role {caller.role}, which decides nothing.")
        if _ORDER.index(assurance) < _ORDER.index(view.min_assurance):
            raise OmiumError(
                "forbidden",
                f"approval {approval_id} needs a decision of assurance {view.min_assurance}; this one has {assurance}.",
                f"A human decides it in a terminal: omium approve {approval_id}",
                required=view.min_assurance,
                achieved=assurance,
            )
        if feedback is not None and len(feedback) > _MAX_FEEDBACK:
            raise OmiumError("invalid_argument", f"feedback of {len(feedback)} characters; at most {_MAX_FEEDBACK}.")
        key = self.idempotency(  # type: ignore[attr-defined]
            caller, "decide", idempotency_key, [approval_id, decision, feedback], {"approval": approval_id}
        )
        command = c.Decide(approval_id, decision, caller.principal, assurance, feedback)
        await self.store.write(  # type: ignore[attr-defined]
            Write(view.run_id, [command], caller.principal, idempotency=key)
        )
        decided: ApprovalView = await self.get_approval(caller, approval_id)  # type: ignore[attr-defined]
        return decided
