"""Branching: a new run that begins with another's results, at a position or before a node.

At a plain position it costs the same whatever the size of the parent: the new log begins with a pointer, and nothing of
the parent is read but its row and its first event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.known import known_below
from omium.orchestration.history.ledger import deeds_of, to_be_reused
from omium.orchestration.history.overrides import check_nodes, merged_inputs
from omium.orchestration.history.plans import Draft
from omium.orchestration.history.playing import start_tree
from omium.orchestration.history.positions import Place
from omium.orchestration.history.recorded import cost_of, has_run
from omium.orchestration.history.reset import plan_reset
from omium.orchestration.history.rollback import asked, went_back
from omium.orchestration.ids import Digest, NodeId, RunId, Seq, made_at_ms
from omium.orchestration.log import commands as c
from omium.orchestration.log.below import Below
from omium.orchestration.log.courses import name_taken
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import stands
from omium.orchestration.log.state import RUN_TERMINAL, RunStatus, is_unsafe
from omium.orchestration.ports import IdempotencyKey, NewBlob, RunRow, Write, Written
from omium.orchestration.service.views import Caller, Reuse
from omium.orchestration.values import encode

MAX_DEPTH = 64
"""How many branches may branch off each other: folding the last goes through all of them."""

_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_./-]{0,99}\Z")
_MAX_HYPOTHESIS = 4_000
_BEING_MADE_MS = 60_000  # between the note of a branch and its first event lies one write
_AFTER_ERASING = 8  # events that are looked at from the end of a log


@dataclass(frozen=True, slots=True)
class Fork:
    """A branch, worked out. reset: as the log records it, the node that is played first; inputs: the child's, when they
    differ from the parent's."""

    parent: RunRow
    created: Event  # the parent's first event
    at: Seq
    known: Mapping[RunId, Seq]  # see `Below`
    reset: tuple[NodeId, ...] = ()
    again: tuple[NodeId, ...] = ()  # of them, those that the parent has run
    tree: str | None = None
    overrides: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] | None = None
    reuse: Reuse = "none"


def check_name(name: str) -> None:
    """Raises `invalid_argument` for what cannot be the name of a branch."""
    if not _NAME.match(name) or ".." in name or "//" in name or name.endswith(("/", ".", ".lock")):
        raise OmiumError(
            "invalid_argument",
            f"{name[:120]!r} cannot be the name of a branch.",
            "Use letters, digits and - _ . /, beginning with a letter or digit, at most 100 characters.",
        )


def check_hypothesis(text: str | None) -> None:
    if text is not None and len(text) > _MAX_HYPOTHESIS:
        raise OmiumError("invalid_argument", f"a hypothesis of {len(text)} characters; at most {_MAX_HYPOTHESIS}.")


async def plan_fork(
    ground: Ground, parent: RunRow, at: Seq, before: Place | None, overrides: Mapping[str, Any]
) -> Fork:
    """Work a branch out. Only one before a node, or with overrides, reads more of the parent than its first event.

    Raises `not_found`, `invalid_argument` and `forbidden` (the overrides), `integrity`, `not_allowed` (too deep)."""
    created = (await ground.store.events(parent.id, limit=1))[0]
    await _check_depth(ground, created)
    fork = Fork(parent, created, at, (await known_below(ground.store, parent)).known)
    if before is None and not overrides and not await _is_erased(ground, parent):
        return fork
    base = await ground.state(parent.id, at)
    structure = await ground.structure(base)
    recorded = await ground.check_loadable(base)
    if before is not None:
        reset = plan_reset(structure, base, NodeId(before.name))
        fork = replace(fork, reset=reset.listed, again=reset.nodes, tree=start_tree(base, reset))
    again = {*fork.reset, *fork.again}
    check_nodes(overrides, structure, base, lambda one: one in again or not stands(base.node(one)))
    inputs = merged_inputs(structure, recorded.inputs, overrides) if "inputs" in overrides else None
    return replace(fork, overrides=overrides or None, inputs=inputs)


async def _is_erased(ground: Ground, parent: RunRow) -> bool:
    """Whether what a branch goes on from may be gone, so that it wants a closer look. Little comes after an erasure."""
    if RunStatus(parent.status) not in RUN_TERMINAL:
        return False
    latest = await ground.store.events(parent.id, Seq(max(0, parent.seq - _AFTER_ERASING)))
    return any(event.type is EventType.ERASED for event in latest)


async def _check_depth(ground: Ground, created: Event) -> None:
    depth, parent = 1, created.data.get("parent")
    while parent is not None:
        depth += 1
        parent = (await ground.store.events(RunId(parent["run"]), limit=1))[0].data.get("parent")
    if depth > MAX_DEPTH:
        raise OmiumError("not_allowed", f"run {created.run_id} is the last of {MAX_DEPTH} branches off each other.")


async def draft_fork(ground: Ground, fork: Fork, overrides: Mapping[str, Any]) -> Draft:
    """The same as a preview: what the child runs again of what its parent has run."""
    now = await ground.state(fork.parent.id)
    base = now if fork.at == now.seq else await ground.state(fork.parent.id, fork.at)
    await ground.check_loadable(base)
    waiting = to_be_reused(base) if fork.reuse == "none" else {}
    again = {*fork.again, *went_back(now, base), *waiting}
    reruns = tuple(sorted(one for one in again if has_run(now, one) or one in waiting))
    deeds = await deeds_of(ground.store, now, lambda one: one in again)
    return Draft(
        operation="branch",
        run_id=fork.parent.id,
        at=fork.at,
        arguments={"at": f"before:{fork.reset[0]}" if fork.reset else fork.at, "overrides": overrides},
        definition=now.definition,
        generation=now.generation if fork.reset else 0,
        in_place=False,
        reruns=reruns,
        asked_again=asked(now, reruns),
        repeats=deeds,
        files=await ground.changed_files(now.tree, fork.tree or base.tree),
        cost=cost_of(now, reruns),
    )


async def may_repeat(ground: Ground, fork: Fork) -> bool:
    """Whether there are calls at all that may not be repeated unseen: most runs have none, and need no closer look."""
    if fork.reset and fork.parent.parent_run is not None:
        return True  # what is played again may be an ancestor's
    if any(is_unsafe(row.kind, row.on_unknown) for row in await ground.store.effects(fork.parent.id)):
        return True
    return len(fork.known) > 1  # it has started other runs


# --- doing it -----------------------------------------------------------------------------------------------------


async def note(
    ground: Ground,
    caller: Caller,
    fork: Fork,
    child: RunId,
    name: str,
    hypothesis: str | None,
    key: IdempotencyKey | None,
) -> tuple[RunId, Written]:
    """Have the parent's log name the child before there is one, so that its name is the child's alone and a crash in
    between leaves nothing that nobody knows of. The child that was noted: where such a crash has left a name without
    a run, it may be that one. Raises `conflict` when the name is taken, and when the plan is overtaken."""

    async def write(child: RunId, replaces: RunId | None) -> Written:
        seen = max(fork.at, fork.parent.seq)  # the least that the plan knows of
        command = c.NoteBranch(child, fork.at, name, hypothesis, replaces, seen)
        told = None if key is None else replace(key, result={**key.result, "run": child})
        about: Any = {"idempotency": told, "below": Below(fork.known)}
        return await ground.store.write(Write(fork.parent.id, [command], caller.principal, **about))

    try:
        return child, await write(child, None)
    except OmiumError as error:
        if error.code != "conflict" or error.data.get("run") is None:
            raise
        known = RunId(error.data["run"])
        if await ground.store.run(known) is not None:
            raise
    # Whoever noted it may be about to create it: with the same id, only one of both is created. An older one was cut
    # off, or was dropped since; what is dropped does not come back under its id.
    if ground.clock.now_us() // 1000 - made_at_ms(known) < _BEING_MADE_MS:
        child = known
    return child, await write(child, known)


async def create(
    ground: Ground, caller: Caller, fork: Fork, child: RunId, name: str, hypothesis: str | None, start: bool
) -> Written:
    """Write the child's log: a pointer to its parent, and what differs. Raises `conflict` when somebody else has just
    made the branch that `note` found without a run."""
    data, blobs = fork.created.data, []
    inputs, reset = Digest(data["inputs"]), None
    if fork.inputs is not None:
        given = encode(dict(fork.inputs))
        inputs, blobs = given.digest, [NewBlob(given)]
    if fork.reset:
        listed = encode(list(fork.reset))
        reset, blobs = listed.digest, [*blobs, NewBlob(listed)]
    policy = ground.policy_now()
    if policy is not None:
        blobs = [*blobs, NewBlob(policy)]
    agents = ground.agents_now()
    if agents is not None:
        blobs = [*blobs, NewBlob(agents)]
    deadline = data.get("deadline_at")
    command = c.CreateRun(
        definition=fork.parent.definition,
        workflow=fork.parent.workflow,
        inputs=inputs,
        project=fork.parent.project,
        title=fork.parent.title,
        priority=fork.parent.priority,
        deadline_at=None if deadline is None else ground.clock.now_us() + (deadline - fork.created.at),
        parent={"run": fork.parent.id, "seq": fork.at, **({"before": fork.reset[0]} if fork.reset else {})},
        reset=reset,
        reset_nodes=fork.reset,
        tree=fork.tree,
        reuse=fork.reuse,
        overrides=fork.overrides or {},
        branch=name,
        hypothesis=hypothesis,
        session=caller.session,
        workspace=data.get("workspace"),
        policy=policy.digest if policy is not None else None,
        agents=agents.digest if agents is not None else None,
    )
    commands: list[c.Command] = [command]
    if start:
        commands += [c.PlanRun(), c.StartRun()]
    try:
        written = await ground.store.write(Write(child, commands, caller.principal, blobs=blobs))
    except OmiumError as error:
        raise name_taken(fork.parent.id, name, child) if error.code == "conflict" else error from error
    if ground.engine is not None and start:
        ground.engine.look()
    return written
