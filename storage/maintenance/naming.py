"""Which runs' logs name a blob: what the sweep must leave.

A blob says itself which run brought it, if that run's log named it then; every further run whose log does has a row in
`links`. A run that brings new contents, as most do at every node, so writes nothing but these. When it is dropped, what
it brought is left as it is: a run that has no log names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from omium.orchestration.ids import Digest, RunId
from omium.storage.maintenance.tables import Tables

_BRINGER: Final = "EXISTS (SELECT 1 FROM events e WHERE e.run_id = brought_by)"
UNNAMED: Final = f"NOT {_BRINGER} AND NOT EXISTS (SELECT 1 FROM links l WHERE l.digest = blobs.digest)"  # noqa: S608
"""A condition on a row of `blobs`."""

_BROUGHT: Final = "SELECT 1 FROM blobs WHERE digest = :digest AND brought_by = :run"
_LINKED: Final = "SELECT 1 FROM links WHERE digest = :digest AND run_id = :run"
_BROUGHT_BY: Final = f"SELECT brought_by FROM blobs WHERE digest = :digest AND {_BRINGER}"  # noqa: S608 - names of ours
_NAMING: Final = f"{_BROUGHT_BY} UNION SELECT run_id FROM links WHERE digest = :digest"  # noqa: S608
_UNLINK: Final = "DELETE FROM links WHERE digest = :digest AND run_id = :run"
_DISOWN: Final = "UPDATE blobs SET brought_by = NULL WHERE digest = :digest AND brought_by = :run"
_COUNTS: Final = (
    "SELECT run_id, count(*) FROM links GROUP BY run_id"
    " UNION ALL SELECT brought_by, count(*) FROM blobs WHERE brought_by IS NOT NULL GROUP BY brought_by"
)


def runs_naming(tables: Tables, digest: Digest) -> list[RunId]:
    return [RunId(run_id) for (run_id,) in tables.all(_NAMING, digest=digest)]


def is_unrecorded(tables: Tables, run_id: RunId, digest: Digest) -> bool:
    """Whether the blob is stored, and nothing says that the run's log names it."""
    stored = tables.first("SELECT 1 FROM blobs WHERE digest = :digest", digest=digest) is not None
    return stored and not _is_recorded(tables, run_id, digest)


def _is_recorded(tables: Tables, run_id: RunId, digest: Digest) -> bool:
    values = {"digest": digest, "run": run_id}
    return tables.first(_BROUGHT, **values) is not None or tables.first(_LINKED, **values) is not None


def unlink(tables: Tables, run_id: RunId, digests: Iterable[Digest]) -> None:
    """The run's log names these blobs no more, or is no more. What it brought says so still: see `disown`."""
    tables.many(_UNLINK, [{"digest": digest, "run": run_id} for digest in sorted(digests)])


def disown(tables: Tables, run_id: RunId, digest: Digest) -> None:
    """A blob that the run has brought stays, though the run's log names it no more. It is written anew whole."""
    tables.run(_DISOWN, digest=digest, run=run_id)


def counts(tables: Tables) -> dict[RunId, int]:
    """How many blobs are on record as named, run by run. Reads both tables whole."""
    found: dict[RunId, int] = {}
    for run_id, number in tables.each(_COUNTS):
        found[run_id] = found.get(run_id, 0) + number
    return found


def record_names(tables: Tables, run_id: RunId, digests: Iterable[Digest], on_record: int) -> None:
    """Have it on record that the run's log names these blobs, and no others. `on_record`: how many are, by `counts`."""
    wanted = sorted(digests)
    missing = [digest for digest in wanted if not _is_recorded(tables, run_id, digest)]
    if on_record > len(wanted) - len(missing):  # both statements read a whole table: only when they must
        tables.run("DELETE FROM links WHERE run_id = :run", run=run_id)
        tables.run("UPDATE blobs SET brought_by = NULL WHERE brought_by = :run", run=run_id)
        missing = wanted
    rows = [{"digest": digest, "run": run_id} for digest in missing]
    tables.many("INSERT INTO links (digest, run_id) VALUES (:digest, :run) ON CONFLICT DO NOTHING", rows)
