"""The orchestrator: one epic, watched until it is done, or until only a person can go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import anyio

from omium.clients.genie.memory import GenieMemory
from omium.clients.genie.remedies import FEEDBACK, Failure, failure_of, reworked, step_for
from omium.clients.genie.report import Report, Standing
from omium.clients.genie.spec import EpicSpec
from omium.clients.genie.state import State, Step, Tried
from omium.clients.remote import Approval, Epic, OmiumClient
from omium.orchestration.errors import OmiumError

POLL_S: Final = 2.0  # between looks at a gate that a person has not decided
_LOOK_S: Final = 45.0
_REFUSED: Final = "refused"  # how a round ended that was never started
_REFUSALS: Final = frozenset(
    {"invalid_argument", "invalid_definition", "invalid_value", "not_found", "not_registered", "forbidden"}
)

Tell = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


def _silent(_: str) -> None:
    """For whoever does not want to be told."""


class Genie:
    """Drives one epic through a client that is connected, with the toolsets `TOOLSETS`.

    tell: hears in a line what happens. sleep: how it waits between two looks at a gate."""

    def __init__(
        self, client: OmiumClient, spec: EpicSpec, *, tell: Tell = _silent, sleep: Sleep = anyio.sleep
    ) -> None:
        self._client = client
        self._spec = spec
        self._tell = tell
        self._sleep = sleep
        self._memory = GenieMemory(client, spec.name)
        self._labelled: set[tuple[str, str, int]] = set()
        self._heard: set[str] = set()  # decisions that are remembered
        self._asked: set[str] = set()  # gates that were answered, or are a person's
        self._told = ""

    async def drive(
        self, *, wait_for_people: bool = False, seconds: float | None = None, again: bool = False
    ) -> Report:
        """Take the epic on from where it is: of this process, of one that was killed, or from the beginning.

        wait_for_people: go on watching while a gate waits for a person; otherwise that ends the drive, and the next one
        goes on. seconds: for how long at most. again: begin another round of an epic that has ended. Raises `conflict`
        when the epic goes on and was asked for otherwise, and whatever the server refuses."""
        state = await self._taken_up(again)
        end = anyio.current_time() + seconds if seconds is not None else None
        while True:
            if state.step is not None:
                blocked = await self._make(state, state.step)
                if blocked is not None:
                    return await self._report(state, await self._client.get_epic(state.run), "needs_person", blocked)
            left = _LOOK_S if end is None else min(_LOOK_S, max(0.0, end - anyio.current_time()))
            epic = await self._client.get_epic(state.run, wait_seconds=left)
            await self._note(state, epic)
            report = await self._react(state, epic)
            if report is not None and (report.standing != "waiting" or not wait_for_people):
                return report
            if end is not None and anyio.current_time() >= end:
                return report or await self._report(state, epic, "running", "the time to watch is over")
            if report is not None:
                await self._sleep(POLL_S)

    # --- beginning ----------------------------------------------------------------------------------------------------

    async def _taken_up(self, again: bool) -> State:
        state, asked = await self._memory.load(), self._spec.digest()
        if state is not None and not state.ended:
            if state.spec != asked:
                raise OmiumError(
                    "conflict",
                    f"the epic {self._spec.name} goes on, and was asked for otherwise.",
                    "Give what is new another name, or cancel the run that goes on.",
                    run_id=state.run,
                )
            return state
        if state is not None and state.spec == asked and not again and state.ended != _REFUSED:
            return state
        begun = State(round=1 if state is None else state.round + 1, spec=asked)
        begun.step = Step(number=0, kind="start")
        await self._memory.save(begun)
        return begun

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _make(self, state: State, step: Step) -> str | None:
        """Make the step that the state holds; whoever was killed in the middle has it made again, with the same key.
        What a person has to look at first, if that is so."""
        try:
            run_id = await self._made(state, step)
        except OmiumError as error:
            if step.kind == "start" and error.code in _REFUSALS:  # nothing goes on, so what is mended can be begun
                state.step, state.ended = None, _REFUSED
                await self._memory.save(state)
            if error.code != "plan_required":
                raise
            state.step = None
            await self._memory.save(state)
            return f"{step.kind} {step.node}: {error.message} {error.hint}".strip()
        if run_id not in state.runs:
            state.runs.append(run_id)
            await self._memory.run_began(run_id, step.hypothesis or self._spec.goal.splitlines()[0][:300])
        if step.kind != "start":
            tried = Tried(step.number, step.kind, run_id, step.node, step.phase, step.category)
            state.tried.append(tried)
            await self._memory.tried(state, tried, step)
        state.step = None
        await self._memory.save(state)
        return None

    async def _made(self, state: State, step: Step) -> str:
        """The run that goes on."""
        client, spec = self._client, self._spec
        key = f"genie/{spec.name}/{state.round}.{step.number}"
        self._say(f"{step.kind} {step.node}".strip() + (f": {step.hypothesis}" if step.hypothesis else ""))
        if step.kind == "start":
            run = await client.start_epic(
                spec.goal,
                acceptance=spec.acceptance,
                workflow=spec.workflow,
                inputs=spec.inputs,
                workspace=spec.workspace,
                phases=spec.phases,
                idempotency_key=key,
            )
            return run.run_id
        overrides = {"inputs": {spec.feedback: step.feedback}} if spec.feedback and step.feedback else None
        reason = f"Genie: {step.phase} failed ({step.category})"
        if step.kind == "play_from":
            played = await client.play_from(
                step.run, step.node, overrides=overrides, reason=reason, idempotency_key=key
            )
            return played.run.run_id
        if step.kind == "branch":
            made = await client.branch(
                step.run,
                at=f"before:{step.node}",
                name=f"try-{state.round}-{step.number}",
                hypothesis=step.hypothesis,
                overrides=overrides,
                idempotency_key=key,
            )
            return made.run.run_id
        await client.rollback_phase(step.run, step.node, reason=reason, idempotency_key=key)
        await client.control(step.run, "resume", reason=reason, idempotency_key=f"{key}/resume")
        return step.run

    # --- watching -----------------------------------------------------------------------------------------------------

    async def _note(self, state: State, epic: Epic) -> None:
        """Label the ends of phases, remember decisions, and say what is new."""
        for phase in epic.phases:
            mark = (epic.run_id, phase.id, phase.generation)
            if phase.end is None or mark in self._labelled:
                continue
            key = f"genie/{state.round}/{epic.run_id}/{phase.id}/{phase.generation}"
            try:
                await self._client.checkpoint(epic.run_id, phase.id, at=phase.end, idempotency_key=key)
            except OmiumError as error:
                if error.code not in ("not_found", "conflict"):  # it ended before the branch began, or is played again
                    raise
            self._labelled.add(mark)
            self._say(f"{phase.id}: {phase.status}")
        if any(phase.kind == "approval" and phase.status in ("completed", "failed") for phase in epic.phases):
            for approval in await self._client.approvals(epic.run_id, pending=False):
                if approval.status == "decided" and approval.approval_id not in self._heard:
                    await self._memory.decided(approval)
                    self._heard.add(approval.approval_id)
        await self._learn(state, epic)

    async def _learn(self, state: State, epic: Epic) -> None:
        """Whether the last remedy worked: the phase that had failed has completed, or something has failed again."""
        if not state.tried or state.tried[-1].outcome is not None:
            return
        last = state.tried[-1]
        mended = any(one.id == last.phase and one.status == "completed" for one in epic.phases)
        if not mended and epic.status not in ("failed", "completed"):
            return
        last.outcome = "worked" if mended else "failed"
        await self._memory.tried(state, last, None)
        await self._memory.save(state)

    async def _react(self, state: State, epic: Epic) -> Report | None:
        """What to do now; None to go on watching."""
        match epic.status:
            case "waiting_approval":
                return await self._at_gates(state, epic)
            case "completed":
                await self._close(state, epic)
                return await self._ended(state, epic, "completed", "")
            case "cancelled":
                return await self._ended(state, epic, "cancelled", epic.reason or "")
            case "paused":
                return await self._report(state, epic, "paused", epic.reason or "somebody has paused it")
            case "failed":
                return await self._mend(state, epic)
            case _:
                return None

    async def _at_gates(self, state: State, epic: Epic) -> Report | None:
        """Answer what may be answered, and leave the rest to people."""
        left: list[Approval] = []
        for approval in await self._client.approvals(epic.run_id):
            answer = self._spec.answers.get((approval.node or "").partition("[")[0])
            if answer is None or answer not in approval.options or approval.approval_id in self._asked:
                left.append(approval)
                continue
            self._asked.add(approval.approval_id)
            try:
                decided = await self._client.approve(
                    approval.approval_id, answer, idempotency_key=f"genie/{approval.approval_id}"
                )
            except OmiumError as error:
                if error.code not in ("already_decided", "forbidden"):
                    raise
                continue
            self._say(f"{approval.node}: {answer}" + ("" if decided.decided else " proposed; a person decides"))
            if not decided.decided:
                left.append(approval)
        if not left:
            return None
        nodes = ", ".join(one.node or one.approval_id for one in left)
        self._say(f"waits for a person: {nodes}")
        return await self._report(state, epic, "waiting", f"a person decides: {nodes}", left)

    # --- failures -----------------------------------------------------------------------------------------------------

    async def _mend(self, state: State, epic: Epic) -> Report | None:
        """Decide the next remedy, or end. The state holds it afterwards."""
        failure = failure_of(epic.phases)
        if failure is None:
            return await self._ended(state, epic, "out_of_attempts", epic.reason or "the run failed outside of a phase")
        self._say(f"{failure.phase} failed: {failure.message}")
        await self._memory.failed(state, failure)
        refused = next((one for one in epic.phases if one.id == failure.phase and one.kind == "approval"), None)
        word = await self._word_of(epic, failure.phase) if refused is not None else ""
        if refused is not None and not word:
            return await self._ended(state, epic, "rejected", failure.message)
        if len(state.tried) >= self._spec.bounds.attempts:
            return await self._ended(state, epic, "out_of_attempts", failure.message)
        over = await self._over(state)
        if over:
            return await self._ended(state, epic, "over_budget", over)
        state.ended = ""  # it may have ended before, and was given more room since
        state.step = await self._step(state, epic, failure, word)
        await self._memory.save(state)
        return None

    async def _step(self, state: State, epic: Epic, failure: Failure, word: str) -> Step:
        """word: what a person said who rejected a gate; that is done, and nothing else."""
        if word:
            return Step(
                number=len(state.tried) + 1,
                kind="play_from",
                run=state.run,
                node=reworked(self._spec, epic.phases, failure.phase),
                phase=failure.phase,
                category="rejected",
                feedback=f"A person rejected it at {failure.phase}: {word}"[:FEEDBACK],
            )
        lessons, rates = await self._memory.lessons(failure), await self._memory.rates(failure)
        return step_for(self._spec, state, epic.phases, failure, lessons=lessons, rates=rates)

    async def _word_of(self, epic: Epic, node: str) -> str:
        """What was said with the last rejection at a gate; empty for nothing, and where it is to be aborted."""
        decided = [one for one in await self._client.approvals(epic.run_id, pending=False) if one.node == node]
        last = next((one for one in reversed(decided) if one.status == "decided"), None)
        return (last.feedback or "").strip() if last is not None and last.decision != "abort" else ""

    async def _over(self, state: State) -> str:
        """Which bound of what it may cost is reached; empty if none is."""
        bounds = self._spec.bounds
        usd, tokens = await self._spent(state)
        if bounds.usd is not None and usd >= bounds.usd:
            return f"{usd:.2f} of {bounds.usd:.2f} USD are spent"
        if bounds.tokens is not None and tokens >= bounds.tokens:
            return f"{tokens:,} of {bounds.tokens:,} tokens are spent"
        return ""

    async def _spent(self, state: State) -> tuple[float, int]:
        runs = [await self._client.get_run(one) for one in state.runs]
        return sum(run.cost_usd for run in runs), sum(run.tokens for run in runs)

    # --- ending -------------------------------------------------------------------------------------------------------

    async def _close(self, state: State, epic: Epic) -> None:
        """Say of the branches which one was right."""
        for run_id in state.runs[1:]:
            outcome: Any = "adopted" if run_id == epic.run_id else "abandoned"
            try:
                await self._client.close_branch(
                    run_id, outcome, reason=f"Genie: {self._spec.name}", idempotency_key=f"genie/close/{run_id}"
                )
            except OmiumError as error:
                if error.code not in ("not_allowed", "conflict"):  # somebody has said it, or it is no branch
                    raise

    async def _ended(self, state: State, epic: Epic, standing: Standing, reason: str) -> Report:
        if state.ended != standing:
            state.ended = standing
            await self._memory.save(state)
            self._say(standing.replace("_", " ") + (f": {reason}" if reason else ""))
        report = await self._report(state, epic, standing, reason)
        if standing != "completed":
            return report
        return replace(report, output=await self._client.output(epic.run_id))

    async def _report(
        self, state: State, epic: Epic, standing: Standing, reason: str, approvals: list[Approval] | None = None
    ) -> Report:
        usd, tokens = await self._spent(state)
        return Report(
            self._spec.name, standing, epic.run_id, tuple(state.runs), tuple(epic.phases), tuple(state.tried),
            usd, tokens, tuple(approvals or ()), reason,
        )  # fmt: skip

    def _say(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._tell(line)
