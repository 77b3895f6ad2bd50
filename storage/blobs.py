"""Content between the core's values and the rows of `blobs`.

A blob is packed before its transaction: as it is, compressed, or as a patch against a similar one. What stays large
goes to a file, and the row says so. Every read verifies the digest over the full content.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.ports import NewBlob
from omium.orchestration.records import record
from omium.orchestration.values import MAX_SIZE
from omium.storage.blobfiles import BlobFiles
from omium.storage.codec import pack, unpack

MAX_CHAIN = 64  # patches upon patches: how many reads an old value may cost
IN_DATABASE = 256 * 1024  # bytes, packed; larger ones become files
_PATCH_ABOVE = 4096  # bytes
_CACHE_BYTES = 64 * 1024 * 1024


@record
class BlobRow:
    """A row of `blobs`: `encoding` is raw, zstd, patch or file (then `data` is empty), or bad once quarantined."""

    digest: Digest
    size: int
    encoding: str
    base: Digest | None
    depth: int
    data: bytes


FindRow = Callable[[Digest], BlobRow | None]


class Packer:
    """Packs and unpacks, with the lately used contents at hand. Not safe for use by several threads at once."""

    def __init__(self, files: BlobFiles | None) -> None:
        """`files`: where large blobs go; None: into the database, like the others."""
        self._files = files
        self._recent: OrderedDict[Digest, tuple[bytes, int]] = OrderedDict()  # content, depth of its chain
        self._bytes = 0

    def knows(self, digest: Digest) -> bool:
        """Whether the content is at hand, so that nothing has to be read for it."""
        return digest in self._recent

    def bases(self, blobs: Sequence[NewBlob]) -> set[Digest]:
        """The bases that `pack` will ask for."""
        return {
            b.base for b in blobs if b.base is not None and b.encoded.size > _PATCH_ABOVE and not self.knows(b.base)
        }

    def pack(
        self, blobs: Sequence[NewBlob], find: FindRow, known: Mapping[bytes, bytes] | None = None
    ) -> list[BlobRow]:
        """Rows to insert. Files are durable when this returns, so a row never names a file that is not there. `known`:
        what `codec.compressed` gave for these and others."""
        rows = []
        for blob in blobs:
            encoded = blob.encoded
            base, depth = self._base(blob.base, encoded.size, find) if blob.base != encoded.digest else (None, 0)
            packed = pack(encoded.data, base, known or {})
            patched = packed.encoding == "patch"
            row = BlobRow(
                encoded.digest, encoded.size, packed.encoding, blob.base if patched else None, depth if patched else 0,
                packed.data,
            )  # fmt: skip
            if self._files is not None and len(packed.data) > IN_DATABASE:
                self._files.put(encoded.digest, encoded.data)
                row = BlobRow(encoded.digest, encoded.size, "file", None, 0, b"")
            self.remember(encoded.digest, encoded.data, row.depth)
            rows.append(row)
        return rows

    def _base(self, digest: Digest | None, size: int, find: FindRow) -> tuple[bytes | None, int]:
        if digest is None or size <= _PATCH_ABOVE:
            return None, 0
        known = self._recent.get(digest)
        if known is None:
            row = find(digest)
            if row is None or row.encoding == "bad" or row.depth + 1 > MAX_CHAIN:
                return None, 0
            known = (self.unpack(digest, find), row.depth)
        return (None, 0) if known[1] + 1 > MAX_CHAIN else (known[0], known[1] + 1)

    def unpack(self, digest: Digest, find: FindRow) -> bytes:
        """The content, verified. Raises `not_found`, or `integrity` when it is not what its digest says."""
        known = self._recent.get(digest)
        if known is not None:
            self._recent.move_to_end(digest)
            return known[0]
        chain: list[BlobRow] = []
        wanted: Digest | None = digest
        content: bytes | None = None
        while wanted is not None:
            row = find(wanted)
            if row is None:
                raise OmiumError("not_found", f"blob {wanted} is not stored; it may have been erased.")
            # Not bounded by MAX_CHAIN: whoever stores again what another process keeps as a patch starts to count anew.
            if any(row.digest == below.digest for below in chain):
                raise damaged(digest, "its chain of patches does not end")
            chain.append(row)
            wanted = row.base
        for row in reversed(chain):
            content = self.open(row, content)
        assert content is not None
        self.remember(digest, content, chain[0].depth)
        return content

    def open(self, row: BlobRow, base: bytes | None) -> bytes:
        """The verified content of one row, given that of its base."""
        if row.encoding == "bad":
            raise damaged(row.digest, "it is quarantined")
        if row.encoding == "file":
            if self._files is None:
                raise OmiumError(
                    "storage_unavailable",
                    f"blob {row.digest} is in a file, and no directory of blobs is configured.",
                    "Give this process the directory that the other ones have.",
                )
            content = self._files.get(row.digest)
        else:
            try:
                content = unpack(row.encoding, row.data, base, min(row.size, MAX_SIZE + 16))
            except OmiumError as error:
                raise damaged(row.digest, error.message) from error
        if len(content) != row.size or hashlib.sha256(content).hexdigest() != row.digest:
            raise damaged(row.digest, "its content does not match its digest")
        return content

    def remember(self, digest: Digest, content: bytes, depth: int) -> None:
        """Have a content at hand that is stored by now, at this depth of a chain of patches."""
        if digest in self._recent or len(content) > _CACHE_BYTES // 8:
            return
        self._recent[digest] = (content, depth)
        self._bytes += len(content)
        while self._bytes > _CACHE_BYTES:
            _, (old, _) = self._recent.popitem(last=False)
            self._bytes -= len(old)

    def forget(self) -> None:
        """Drop the contents at hand, so that the next read sees what is stored."""
        self._recent.clear()
        self._bytes = 0


def damaged(digest: Digest, problem: str) -> OmiumError:
    return OmiumError(
        "integrity",
        f"blob {digest} is damaged: {problem}.",
        "Run `omium verify` to see which runs need it, and go back to a checkpoint before it.",
        digest=digest,
    )
