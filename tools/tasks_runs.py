"""The tasks of the product: what a call has promised is a run.

A call that starts a run, or awaits one, becomes a task unless it can be answered at once. How the task stands is how
the run stands, read anew each time: it works while the run does, asks what the run's gates ask (as far as they take
the answer of a form), completes with the answer that the call would have given at the end, and is cancelled with the
run. Runs that the run has started belong to it. A run that waits for decisions which nobody can be asked for through
the task is over for it, as for a bounded wait: its answer says how a human decides. A call that awaits has not started
anything: cancelling it ends the waiting, and it is over when the run is paused, since that may be for long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final, cast

import anyio
from mcp.server.context import HandlerResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolRequestParams, CallToolResult
from pydantic import ValidationError

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.ports import RunQuery, RunRow
from omium.orchestration.service import roles
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import ApprovalView, RunView
from omium.orchestration.service.watching import STATUS_CHANGES
from omium.tools.approvals import Answer, decision_form, how_to_decide, question, refusal
from omium.tools.desk import PATIENCE_S, committed, the_run
from omium.tools.history import branch, play_from_node
from omium.tools.models import HistoryOut
from omium.tools.present import line
from omium.tools.runs import get_run, moment, run_workflow
from omium.tools.show import run_ref, run_state
from omium.tools.tasks_source import Changed, Promise, Question, Reply, Standing, Visit
from omium.tools.tool import READS, ToolSpec, answer_result, build_tool

_PATIENCE_S: Final = 0.25  # what ends so soon is answered without a task
_FAMILY: Final = 200  # runs of a task that are asked for their questions

_STARTS, _BRANCHES, _PLAYS, _AWAITS = (tool.__name__ for tool in (run_workflow, branch, play_from_node, get_run))
_MOVING: Final = ("planning", "executing")
_ASKING: Final = "waiting_approval"
_ALIVE: Final = (*_MOVING, "paused", _ASKING)
_TOLD: Final = STATUS_CHANGES | {
    EventType.RUN_CREATED,
    EventType.RUN_PLANNING,
    EventType.RUN_STARTED,
    EventType.RUN_RESUMED,
    EventType.RUN_PLAYED_FROM,
    EventType.APPROVAL_REQUESTED,
    EventType.APPROVAL_DECIDED,
    EventType.APPROVAL_EXPIRED,
}


class RunTasks:
    """read_only: for a server that changes nothing, so that nobody is asked there and nothing is stopped."""

    tools = frozenset({_STARTS, _BRANCHES, _PLAYS, _AWAITS})

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only

    @cached_property
    def _looking(self) -> Tool:
        return build_tool(ToolSpec(get_run, "", READS))

    # --- creation -------------------------------------------------------------------------------------------------

    async def promise(
        self, visit: Visit, params: CallToolRequestParams, proceed: Callable[[], Awaitable[HandlerResult]]
    ) -> Promise | HandlerResult:
        """A promise if the run that the call starts, or awaits, is still under way a moment later."""
        if params.name == _AWAITS:
            return await self._awaited(visit, dict(params.arguments or {})) or await proceed()
        patience = PATIENCE_S.set(_PATIENCE_S)
        try:
            result = await proceed()
        finally:
            PATIENCE_S.reset(patience)
        answer = result.structured_content if isinstance(result, CallToolResult) and not result.is_error else None
        run = (answer if params.name == _STARTS else answer.get("run")) if answer is not None else None
        if answer is None or run is None or run["status"] not in _MOVING:
            return result
        memo = self._noted(visit, {} if params.name == _STARTS else {"answer": answer})
        return Promise(params.name, run["run_id"], memo, f"run {run['run_id']} is {run['status']}")

    async def _awaited(self, visit: Visit, arguments: dict[str, Any]) -> Promise | None:
        """What a call that waits promises; None when it is answered at once. Not by the tool itself, which would look
        before the end for what is only there at the end."""
        border = self._looking.fn_metadata
        try:
            asked = border.arg_model.model_validate(border.pre_parse_json(arguments)).model_dump_one_level()
            if not asked["wait_seconds"]:
                return None
            found = await the_run(visit.core, visit.caller, asked["run_id"])
            run = await visit.core.wait(visit.caller, found, min(_PATIENCE_S, asked["wait_seconds"]))
        except (ValidationError, OmiumError):
            return None  # the tool says what is wrong
        told = {name: given for name, given in arguments.items() if name not in ("run_id", "wait_seconds")}
        memo = self._noted(visit, {"arguments": told} if told else {})
        return Promise(_AWAITS, run.id, memo, f"run {run.id} is {run.status}") if run.status in _MOVING else None

    def _noted(self, visit: Visit, memo: dict[str, Any]) -> dict[str, Any]:
        """With a mark where whoever is promised something cannot be asked: an end is for ever, so a mere look by a
        client without forms must not end the task of one that shows them."""
        return memo if visit.forms and self._may_decide(visit) else {**memo, "unasked": True}

    # --- looking --------------------------------------------------------------------------------------------------

    async def standing(self, visit: Visit, promise: Promise) -> Standing | None:
        run = await _run(visit, promise)
        if run is None:
            return None
        told = f"run {run.id} of {run.workflow}"
        if run.status in ("completed", "failed"):
            return Standing("completed", run.updated_at, f"{told} {run.status}")
        if run.status == "cancelled":
            because = f": {run.reason}" if run.reason else ""
            return Standing("cancelled", run.updated_at, f"{told} was cancelled{because}")
        still = run.status in ("paused", "draft")
        if still and promise.tool == _AWAITS:
            return Standing("completed", run.updated_at, f"{told} is {run.status}")
        pending = await _pending(visit, run.id)
        asked = [one for one in pending if self._may_decide(visit) and _formal(one)]
        # Gates that no form decides are named first: somebody has to know of them.
        waiting = next((one for one in pending if one not in asked), asked[0] if asked else None)
        if still:
            message = f"{told} is {run.status}; control_run(run_id='{run.id}', action='resume') goes on"
        elif waiting is not None:
            message = f"{told} waits for a decision: {line(waiting.question, 200)} {how_to_decide(waiting)}"
        else:
            message = f"{told} is {moment(run)}"
        changed = max([run.updated_at, *(one.requested_at for one in pending)])
        if run.status == _ASKING and pending and not self._anybody(visit, promise, pending):
            return Standing("completed", changed, message)
        questions = [Question(one.id, question(one), decision_form(one)) for one in asked]
        return Standing("working", changed, message, questions)

    def _may_decide(self, visit: Visit) -> bool:
        return not self._read_only and roles.allows(visit.caller.role, "decide")

    def _anybody(self, visit: Visit, promise: Promise, pending: Sequence[ApprovalView]) -> bool:
        """Whether a form of this client, or of the one that was promised the run, may decide any of the gates."""
        here = visit.forms and self._may_decide(visit)
        return any(_formal(one) for one in pending) and (here or not promise.memo.get("unasked"))

    async def outcome(self, visit: Visit, promise: Promise) -> CallToolResult:
        """What the call would have answered, of the run as it is now."""
        if promise.tool == _AWAITS:
            context = Context(request_context=visit.ctx)
            result = await self._looking.run({**promise.memo.get("arguments", {}), "run_id": promise.subject}, context)
            return cast(CallToolResult, result)
        run = await visit.core.get_run(visit.caller, RunId(promise.subject))
        state = run_state(run)
        if promise.tool == _STARTS:
            return answer_result(state)
        done = HistoryOut.model_validate(promise.memo["answer"])
        return answer_result(done.model_copy(update={"run": run_ref(run), "next": state.next}))

    # --- acting ---------------------------------------------------------------------------------------------------

    async def answer(self, visit: Visit, promise: Promise, question: Question, reply: Reply) -> None:
        """A decision, of the assurance that a form has; a form that was closed leaves the approval as it is."""
        if reply.action == "cancel":
            return
        view = await visit.core.get_approval(visit.caller, ApprovalId(question.id))
        given = reply.content if isinstance(reply.content, Answer) else None
        decision = given.decision if given is not None else refusal(view)
        if decision is None or view.status != "pending":
            return
        feedback = (given.feedback or None) if given is not None else None
        try:
            await committed(visit.core.decide(visit.caller, view.id, decision, feedback=feedback, assurance="elicited"))
        except OmiumError as error:
            if error.code not in ("already_decided", "not_allowed"):  # somebody was faster, or the run has ended
                raise

    async def cancel(self, visit: Visit, promise: Promise) -> bool:
        if promise.tool == _AWAITS:
            return False
        if self._read_only:
            raise OmiumError("forbidden", "this server is read-only: it cancels no run.")
        try:
            await visit.core.cancel(visit.caller, RunId(promise.subject), reason="its task was cancelled")
        except OmiumError as error:
            if error.code != "not_allowed":  # it has ended
                raise
        return True

    # --- watching -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watching(self, visit: Visit, promise: Promise) -> AsyncIterator[Changed]:
        """Events of this process are heard; a commit of another one makes us look whether any of the runs moved."""
        store, root = visit.core.store, RunId(promise.subject)
        watch = _Watch({})
        ends = store.listen(watch.hear), store.on_change(watch.bell, own=False)

        async def changed() -> None:
            while True:
                heard = await watch.rung()
                before, watch.runs = watch.runs, await _signs(visit.core, root)
                if heard or watch.runs != before:
                    return

        try:
            watch.runs = await _signs(visit.core, root)
            yield changed
        finally:
            for end in ends:
                end()


def _formal(view: ApprovalView) -> bool:
    """Whether the answer of a form is enough for a gate."""
    return roles.ASSURANCES.index(view.min_assurance) <= roles.ASSURANCES.index("elicited")


class _Watch:
    """Rung by an event of some runs, or by anything that another process does."""

    def __init__(self, runs: Mapping[RunId, object]) -> None:
        self.runs = runs
        self._heard = False
        self._rung = anyio.Event()

    def hear(self, run_id: RunId, events: Sequence[Event]) -> None:
        if any(event.type in _TOLD and (run_id in self.runs or self._starts(event)) for event in events):
            self._heard = True
            self.bell()

    def _starts(self, event: Event) -> bool:
        caller = event.data.get("caller") if event.type is EventType.RUN_CREATED else None
        return caller is not None and caller["run"] in self.runs

    def bell(self) -> None:
        self._rung.set()

    async def rung(self) -> bool:
        """Since the last call; whether it was by an event."""
        await self._rung.wait()
        self._rung = anyio.Event()
        heard, self._heard = self._heard, False
        return heard


async def _family(core: Core, root: RunId) -> list[RunRow]:
    """A run and what below it has not ended; of very many the first."""
    row = await core.store.run(root)
    found = [row] if row is not None else []
    for above in found:  # grows meanwhile
        if len(found) >= _FAMILY:
            break
        started = await core.store.runs(RunQuery(caller=above.id, statuses=_ALIVE, limit=_FAMILY))
        found += started
    return found[:_FAMILY]


async def _signs(core: Core, root: RunId) -> dict[RunId, object]:
    """By run, what makes a difference to a listener; mere progress does not."""
    found: dict[RunId, object] = {}
    for row in await _family(core, root):
        asks = await core.store.approvals(run_id=row.id) if row.id == root or row.status == _ASKING else []
        found[row.id] = (row.status, [one.id for one in asks])
    return found


async def _pending(visit: Visit, root: RunId) -> list[ApprovalView]:
    """What a run, which the caller may see, and those below it, which have its owner, ask; its own questions first."""
    core = visit.core
    found: list[ApprovalView] = []
    for row in await _family(core, root):
        if row.id == root or row.status == _ASKING:
            found += [await core.approval_view(one, row) for one in await core.store.approvals(run_id=row.id)]
    return found


async def _run(visit: Visit, promise: Promise) -> RunView | None:
    try:
        return await visit.core.get_run(visit.caller, RunId(promise.subject))
    except OmiumError as error:
        if error.code == "not_found":
            return None
        raise
