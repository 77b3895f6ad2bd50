"""Blobs as they are on disk: read past every cache, verified link by link, and quarantined when they are damaged."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, RunId
from omium.orchestration.values import Value, decode
from omium.storage.blobfiles import BlobFiles
from omium.storage.blobs import BlobRow, Packer, damaged
from omium.storage.maintenance.naming import runs_naming
from omium.storage.maintenance.tables import Keeper, Tables

_CACHE_BYTES: Final = 64 * 1024 * 1024

_BLOB = "SELECT digest, size, encoding, base, depth, data FROM blobs WHERE digest = :digest"


class Contents:
    """Verified contents within one transaction. Blobs that build upon each other are opened once, as memory allows."""

    def __init__(self, tables: Tables, files: BlobFiles | None) -> None:
        self._tables = tables
        self._packer = Packer(files)
        self._recent: OrderedDict[Digest, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, digest: Digest) -> bytes:
        """The content. Raises `integrity` or `not_found`; `data["digest"]` is the blob at fault, which may be one that
        this one is a patch upon."""
        rows: list[BlobRow] = []
        content: bytes | None = None
        wanted: Digest | None = digest
        while wanted is not None:
            content = self._recent.get(wanted)
            if content is not None:
                break
            row = self.row(wanted)
            if row is None:
                raise OmiumError("not_found", f"blob {wanted} is not stored.", digest=wanted)
            if any(row.digest == above.digest for above in rows):
                raise damaged(digest, "its chain of patches does not end")
            rows.append(row)
            wanted = row.base
        for row in reversed(rows):
            content = self._packer.open(row, content)
            self._keep(row.digest, content)
        assert content is not None
        return content

    def value(self, digest: Digest) -> Value:
        return decode(self.get(digest))

    def fault(self, digest: Digest) -> OmiumError | None:
        """What is wrong with a blob, or with one below it; None for a sound one."""
        try:
            self.get(digest)
        except OmiumError as error:
            if error.code in ("integrity", "not_found", "unsupported"):
                return error
            raise
        return None

    def row(self, digest: Digest) -> BlobRow | None:
        row = self._tables.first(_BLOB, digest=digest)
        if row is None:
            return None
        name, size, encoding, base, depth, data = row
        return BlobRow(Digest(name), size, encoding, base, depth, bytes(data))

    def _keep(self, digest: Digest, content: bytes) -> None:
        if len(content) > _CACHE_BYTES // 8 or digest in self._recent:
            return
        self._recent[digest] = content
        self._bytes += len(content)
        while self._bytes > _CACHE_BYTES:
            _, old = self._recent.popitem(last=False)
            self._bytes -= len(old)


async def quarantine(keeper: Keeper, digest: Digest) -> bool:
    """Mark a blob as bad if it is damaged itself, and not only one below it: nobody reads it again, and a new copy of
    its content heals it. Looks again first; False when it is sound, gone, or marked already."""

    def work(tables: Tables) -> bool:
        contents = Contents(tables, keeper.files)
        row = contents.row(digest)
        fault = contents.fault(digest)
        if row is None or row.encoding == "bad" or fault is None or fault.data.get("digest", digest) != digest:
            return False
        if row.encoding == "file" and keeper.files is not None:
            # A damaged file of the right size would be taken for a good one by the put that heals the blob.
            keeper.files.set_aside(digest)
        tables.run("UPDATE blobs SET encoding = 'bad' WHERE digest = :digest", digest=digest)
        return True

    return await keeper.write(work)


def resting_on(tables: Tables, digest: Digest) -> set[Digest]:
    """The blob, and all that cannot be read without it because they are patches upon it."""
    found: set[Digest] = set()
    todo = [digest]
    while todo:
        below = todo.pop()
        if below not in found:
            found.add(below)
            todo += [Digest(d) for (d,) in tables.each("SELECT digest FROM blobs WHERE base = :base", base=below)]
    return found


def runs_needing(tables: Tables, digest: Digest) -> list[RunId]:
    """The runs whose logs name the blob, or one that rests upon it, and the branches that may have inherited it."""
    runs: set[RunId] = set()
    for needed in resting_on(tables, digest):
        todo = runs_naming(tables, needed)
        while todo:
            run_id = todo.pop()
            if run_id not in runs:
                runs.add(run_id)
                todo += [RunId(r) for (r,) in tables.each("SELECT id FROM runs WHERE parent_run = :run", run=run_id)]
    return sorted(runs)
