"""Deciding. One decision per approval, with the assurance that its gate asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.plan import parse_plan
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Principal, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import NewBlob, Write
from omium.orchestration.service import roles
from omium.orchestration.service.views import ApprovalView, Assurance, Caller
from omium.orchestration.values import Encoded, Value, encode

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
        arguments: Value = None,
        assurance: Assurance,
        idempotency_key: str | None = None,
    ) -> ApprovalView:
        """Decide a pending approval; the run goes on by itself.

        assurance: what the surface knows of who decided; it counts for more when the caller's own identity is worth
        more. arguments: with `modify`, what is to be done instead: the arguments of the call, which policy then judges
        anew, or the plan, which has to be valid here. Raises `forbidden` for the role, or when the gate asks for more,
        `invalid_argument` for an option that is not offered, `already_decided` (with who and what), `not_found`."""
        roles.check(caller, "decide")
        view: ApprovalView = await self.get_approval(caller, approval_id)  # type: ignore[attr-defined]
        roles.check_decision(caller, view.min_assurance)
        assurance = roles.stronger(assurance, await self._worth(caller, view.run_id))
        if roles.ASSURANCES.index(assurance) < roles.ASSURANCES.index(view.min_assurance):
            raise OmiumError(
                "forbidden",
                f"approval {approval_id} needs a decision of assurance {view.min_assurance}; this one has {assurance}.",
                f"A human decides it in a terminal: {roles.way_to_decide(approval_id, view.min_assurance)}",
                required=view.min_assurance,
                achieved=assurance,
            )
        if feedback is not None and len(feedback) > _MAX_FEEDBACK:
            raise OmiumError("invalid_argument", f"feedback of {len(feedback)} characters; at most {_MAX_FEEDBACK}.")
        key = self.idempotency(  # type: ignore[attr-defined]
            caller, "decide", idempotency_key, [approval_id, decision, feedback, arguments], {"approval": approval_id}
        )
        instead = await self._instead(view, decision, arguments)
        command = c.Decide(
            approval_id, decision, caller.principal, assurance, feedback, None if instead is None else instead.digest
        )
        blobs = () if instead is None else (NewBlob(instead),)
        await self.store.write(  # type: ignore[attr-defined]
            Write(view.run_id, [command], caller.principal, blobs=blobs, idempotency=key)
        )
        decided: ApprovalView = await self.get_approval(caller, approval_id)  # type: ignore[attr-defined]
        return decided

    async def _instead(self, view: ApprovalView, decision: str, arguments: Value) -> Encoded | None:
        """What is to be done instead of what was asked about. Raises `invalid_argument` when that is missing, or given
        with another decision, and `invalid_definition` for a plan that could not be carried out."""
        if (decision == "modify") != (arguments is not None):
            what = "needs the arguments that are to be used" if arguments is None else "takes no arguments"
            raise OmiumError("invalid_argument", f"the decision {decision!r} {what}.", "Only `modify` takes arguments.")
        if arguments is None:
            return None
        if view.scope == "plan" and view.node is not None:
            state: RunState = await self.store.state(view.run_id)  # type: ignore[attr-defined]
            structure: Structure = await self.structure(state)  # type: ignore[attr-defined]
            definition = structure.node_def(view.node)
            nodes = parse_plan(
                arguments,
                inputs=structure.workflow.inputs,
                readable=structure.readable(view.node),
                agent=definition.use if definition.kind == "agent" else None,
            )
            self.catalog.check_steps(nodes)  # type: ignore[attr-defined]
        elif not isinstance(arguments, dict):
            raise OmiumError("invalid_argument", f"arguments are an object, not {type(arguments).__name__}.")
        elif view.scope == "call":
            await self._check_call(view, arguments)
        return encode(arguments)

    async def _check_call(self, view: ApprovalView, arguments: dict[str, Any]) -> None:
        """Refuse arguments that could not be sent anyway, so that the question stays open: those that the tool does not
        take (`invalid_argument`), and those that policy denies (`denied`). Policy is asked again when it is made."""
        from omium.orchestration.definition.json_schema import value_problems
        from omium.orchestration.gates.deciding import Policies
        from omium.orchestration.gates.policy import Question

        state: RunState = await self.store.state(view.run_id)  # type: ignore[attr-defined]
        told = dict(view.details or {})
        server, tool = told.get("server"), str(told.get("tool"))
        if server is not None:
            for pin in await self.store.pins(state.project, server):  # type: ignore[attr-defined]
                schema = pin.document.get("definition", {}).get("inputSchema") if pin.tool == tool else None
                problems = value_problems(schema, arguments) if schema is not None else []
                if problems:
                    raise OmiumError("invalid_argument", f"{server}/{tool} does not take these: {problems[0]}")
        question = Question(
            action=told["action"],
            server=server,
            tool=tool,
            arguments=arguments,
            workflow=state.workflow,
            node=view.node,
            agent=told.get("agent"),
            principal=state.owner,
            project=state.project,
            at=datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC),  # type: ignore[attr-defined]
        )
        policies = Policies(self.store.value, self.policies)  # type: ignore[attr-defined]
        decision = await policies.decide(state.policy, question)
        if decision.effect == "deny":
            raise OmiumError("denied", f"policy does not allow these arguments: {decision.reason}.", rule=decision.rule)

    async def own_assurance(self, caller: Caller, approval_id: ApprovalId) -> Assurance:
        """What a decision of this approval is worth for being the caller's, before anything else is known of it."""
        roles.check(caller, "own_assurance")
        view: ApprovalView = await self.get_approval(caller, approval_id)  # type: ignore[attr-defined]
        return await self._worth(caller, view.run_id)

    async def _worth(self, caller: Caller, run_id: RunId) -> Assurance:
        if roles.own_assurance(caller, ()) == "none":
            return "none"
        return roles.own_assurance(caller, await self._requesters(run_id))

    async def _requesters(self, run_id: RunId) -> set[Principal]:
        """The owners of a run, of those that started it, and of those that it branched from."""
        found: set[Principal] = set()
        above, seen = [run_id], {run_id}
        while above:
            row = await self.store.run(above.pop())  # type: ignore[attr-defined]
            if row is None:
                continue
            found.add(Principal(row.owner))
            more = [one for one in (row.caller_run, row.parent_run) if one is not None and one not in seen]
            seen.update(more)
            above += more
        return found
