"""The shortest way to a commit, for the write that is made most: a node has ended, and what follows it starts.

Such a step adds to the log of one run and to the contents, and changes the run's own row. A batch keeps books of all
that there may be besides (several runs, branches, approvals, effects, labels, claims), which for a write that comes
alone takes as long as a third of its fsync. What is surely no more than a step is written without them, row for row as
a batch would write it.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import CompleteNode, StartNode
from omium.orchestration.log.events import Event
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.load import append_at_head
from omium.orchestration.log.references import references
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import Write
from omium.storage.batch import SNAPSHOT_EVERY
from omium.storage.blobs import BlobRow
from omium.storage.codec import RAW_BELOW
from omium.storage.sqlite import statements as sql

_COMMANDS: Final = frozenset({CompleteNode, StartNode})
_MOST_EVENTS: Final = 3  # that one of them becomes


def is_step(write: Write, state: RunState) -> bool:
    """Whether an owner's write to a run in this state is a step, with contents that are stored as they are, and without
    a snapshot after it."""
    if state.approvals or state.effects or write.tried or write.below is not None or write.idempotency is not None:
        return False
    for command in write.commands:
        if type(command) not in _COMMANDS:
            return False
    for blob in write.blobs:
        if blob.encoded.size >= RAW_BELOW:
            return False
    every = max(SNAPSHOT_EVERY, len(state.nodes))
    return state.seq // every == (state.seq + _MOST_EVENTS * len(write.commands)) // every


def write_step(db: sqlite3.Connection, state: RunState, write: Write, at: int, chain: Chain) -> list[Event]:
    """Fold a step into `state` and write its rows, in a transaction that has begun. When this raises, by what the
    transition table or SQLite says, the state is spoiled."""
    run_id, actor = write.run_id, write.actor
    added = append_at_head(state, write.commands, actor=actor, at=at, chain=chain, touched=Touched())
    named = [command.output for command in write.commands if type(command) is CompleteNode]
    new = []
    for blob in write.blobs:
        content = blob.encoded
        brought_by = run_id if content.digest in named else None
        row = (content.digest, content.size, "raw", None, 0, at, brought_by, content.data)
        if db.execute(sql.NEW_BLOB, row).rowcount:
            new.append(content.digest)
    if new != named:  # some were stored before
        links = [(run_id, digest) for event in added.events for digest in references(event.data)]
        packed = [BlobRow(b.encoded.digest, b.encoded.size, "raw", None, 0, b.encoded.data) for b in write.blobs]
        sql.insert_contents(db, at, links, packed)
    rows: list[Any] = []
    for event, raw in zip(added.events, added.stored, strict=True):
        rows += (run_id, event.seq, event.type._value_, at, actor, raw, event.prev_hash, event.hash)
    sql.EVENTS.flat(db, len(added.events), rows)
    hot = (at, state.seq, state.head, state.completed_nodes, state.cost_usd, state.tokens, run_id)
    db.execute(sql.STEP, hot)
    return added.events
