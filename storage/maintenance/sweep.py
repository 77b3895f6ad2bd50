"""Remove what nobody refers to: blobs, their files, and what interrupted work left lying about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.ids import Digest
from omium.storage.blobfiles import BlobFiles
from omium.storage.maintenance.erasing import Beside, finish_interrupted
from omium.storage.maintenance.naming import UNNAMED
from omium.storage.maintenance.tables import Keeper, Tables

KEEP_S: Final = 86_400.0

_BATCH: Final = 200  # blobs of one transaction: some milliseconds
_FILES: Final = 500
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")

_UNUSED: Final = (
    f"touched_at < :cut AND {UNNAMED}"  # noqa: S608 - names of ours
    " AND NOT EXISTS (SELECT 1 FROM blobs above WHERE above.base = blobs.digest)"
)
_CANDIDATES: Final = f"SELECT digest FROM blobs WHERE digest > :after AND {_UNUSED} ORDER BY digest LIMIT :most"  # noqa: S608
_DELETE: Final = f"DELETE FROM blobs WHERE digest = :digest AND {_UNUSED} RETURNING encoding, base"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Swept:
    """How many were removed. `orphans`: files of blobs that no row names; `temporaries`: of writes that never ended.
    `erasures`: how many that were interrupted are finished now."""

    blobs: int
    orphans: int
    temporaries: int
    erasures: int


async def sweep(keeper: Keeper, now_us: int, keep_s: float = KEEP_S, beside: Beside | None = None) -> Swept:
    """Remove every blob that no log names, that no kept blob is a patch upon, that no previewed plan names, and that
    nobody has stored for `keep_s` seconds; before that, finish erasures that were begun an hour ago or earlier, for
    which `beside` removes what is not in the database. `now_us`: microseconds since the epoch. Raises
    `storage_unavailable`.

    They are looked for without a lock and looked at again in the transaction that deletes them, some hundred at a time.
    """
    erasures = await finish_interrupted(keeper, now_us, beside)
    cut = now_us - int(keep_s * 1_000_000)
    blobs, after, files = 0, "", keeper.files
    while True:
        found = await keeper.read(partial(_candidates, after=after, cut=cut))
        if not found:
            break
        after = found[-1]
        gone = await keeper.write(partial(_delete, candidates=found, cut=cut))
        crash_point("blobs.rows_deleted")
        blobs += len(gone)
        if files is not None:
            filed = [digest for digest, encoding in gone if encoding == "file"]
            await anyio.to_thread.run_sync(_delete_files, files, filed, cut / 1e6)
    if blobs:
        await keeper.scrub()
    if files is None:
        return Swept(blobs, 0, 0, erasures)
    orphans = await _sweep_orphans(keeper, files, cut / 1e6)
    temporaries = await anyio.to_thread.run_sync(files.sweep_temporaries, keep_s, now_us / 1e6)
    return Swept(blobs, orphans, temporaries, erasures)


def _candidates(tables: Tables, after: str, cut: int) -> list[Digest]:
    return [Digest(name) for (name,) in tables.all(_CANDIDATES, after=after, cut=cut, most=_BATCH)]


def _delete(tables: Tables, candidates: Sequence[Digest], cut: int) -> list[tuple[Digest, str]]:
    """Those that are still unused, and then what they were patches upon, if nothing else is."""
    planned = {
        digest.decode()
        for (document,) in tables.each("SELECT document FROM plans")
        for digest in _DIGEST.findall(bytes(document))
    }
    gone: list[tuple[Digest, str]] = []
    for candidate in candidates:
        digest: Digest | None = candidate
        while digest is not None and digest not in planned:
            rows = tables.all(_DELETE, digest=digest, cut=cut)
            if not rows:
                break
            gone.append((digest, rows[0][0]))
            digest = rows[0][1]
    return gone


def _delete_files(files: BlobFiles, digests: Iterable[Digest], untouched_since: float) -> int:
    # A put that has found the file, and whose transaction is still to come, has refreshed its time.
    return sum(files.delete(digest, untouched_since=untouched_since) for digest in digests)


async def _sweep_orphans(keeper: Keeper, files: BlobFiles, untouched_since: float) -> int:
    """Files without a row: their rows were deleted before a crash, never committed, or keep the content otherwise."""
    stored = files.list()
    orphans = 0
    while names := await anyio.to_thread.run_sync(lambda: list(islice(stored, _FILES))):

        def unnamed(tables: Tables, names: Sequence[Digest] = names) -> list[Digest]:
            row = "SELECT 1 FROM blobs WHERE digest = :digest AND encoding = 'file'"
            return [name for name in names if tables.first(row, digest=name) is None]

        lost = await keeper.read(unnamed)
        orphans += await anyio.to_thread.run_sync(_delete_files, files, lost, untouched_since)
    return orphans


__all__ = ["KEEP_S", "Swept", "sweep"]
