"""What the plans of history know of runs below a run, for their writes to say."""

from __future__ import annotations

from collections.abc import Callable

from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.below import Below, why_ended
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import RunQuery, RunRow, Store

_MANY = 100_000


async def known_below(
    store: Store, run: RunState | RunRow, of: Callable[[NodeId], bool] = lambda node_id: True
) -> Below:
    """What is known at least, once the calls of a run and of those below it are read after this, and what ends when
    these nodes (`of`), or all, are reset."""
    run_id = run.run_id if isinstance(run, RunState) else run.id
    known: dict[RunId, Seq] = {run_id: run.seq}
    ends: dict[RunId, str] = {}
    if run.ended_at is None:
        state = run if isinstance(run, RunState) else await store.state(run_id)
        for node_id, node in state.nodes.items():
            if node.wait is not None and "run" in node.wait and of(node_id):  # it may be created by then
                child = RunId(node.wait["run"])
                known[child], ends[child] = Seq(0), why_ended(run_id, node_id, isinstance(run, RunState))
    for row in await store.runs(RunQuery(caller=run_id, limit=_MANY)):  # after the state, for what has ended by then
        if row.caller_node is None or not of(row.caller_node):
            continue
        if row.ended_at is None:
            ends[row.id] = why_ended(run_id, row.caller_node, isinstance(run, RunState))
        found = await known_below(store, row)
        known |= found.known
        ends |= found.ends or {}
    return Below(known, ends)
