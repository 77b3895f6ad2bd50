"""The records of an export, log by log, from one consistent snapshot of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson

from omium.orchestration.ids import ProjectId, RunId
from omium.storage.maintenance.logs import Follower, project_log, project_rows, run_rows

if TYPE_CHECKING:
    from omium.orchestration.log.chain import Chain
    from omium.storage.maintenance import Tables

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it is linked: what its hash is over, and the hash. log: a run's id, or `project:<name>`. at:
    microseconds since the epoch. data: canonical JSON, as it is stored. problem: why it does not chain, if it does
    not."""

    log: str
    seq: int
    type: str
    at: int
    actor: str
    data: bytes
    prev_hash: str
    hash: str
    problem: str | None

    @property
    def time(self) -> str:
        """RFC 3339, UTC."""
        return (_EPOCH + timedelta(microseconds=self.at)).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def value(self) -> Any:
        """The data, where that can be read."""
        try:
            return orjson.loads(self.data)
        except orjson.JSONDecodeError:
            return {"unreadable": self.data.hex()}


@dataclass(slots=True)
class Proof:
    """Of one log: that each event is linked to the one before it by its hash. head: the last hash, which stands for
    everything before it: whoever keeps it elsewhere can show later that nothing was changed or cut off."""

    log: str
    events: int = 0
    head: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Scope:
    """Which logs are exported: those of runs, and that of a project for what belongs to no run."""

    runs: Sequence[RunId]
    project: ProjectId | None = None

    @property
    def logs(self) -> int:
        return len(self.runs) + (self.project is not None)


def records(tables: Tables, chain: Chain, scope: Scope) -> Iterator[Record | Proof]:
    """The records of each log, and behind them its proof."""
    if scope.project is not None:
        name = project_log(scope.project)
        yield from _log(name, Follower(chain, name), project_rows(tables, scope.project))
    for run_id in scope.runs:
        yield from _log(run_id, Follower(chain, run_id), run_rows(tables, run_id))


def _log(name: str, follower: Follower, rows: Iterator[Any]) -> Iterator[Record | Proof]:
    proof = Proof(name)
    for row in rows:
        problem = follower.follow(row)
        _, seq, kind, at, actor, raw, prev_hash, digest = row
        if problem is not None:
            proof.problems.append(f"{name}@{seq}: {problem}")
        proof.events += 1
        proof.head = bytes(digest).hex()
        yield Record(
            name, int(seq), str(kind), int(at), str(actor), bytes(raw), bytes(prev_hash).hex(), proof.head, problem
        )
    yield proof
