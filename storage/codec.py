"""How the bytes of a blob are stored: raw, compressed, or as a patch against another blob.

A patch is a zstd frame whose dictionary is the whole base (as `zstd --patch-from` makes it), so a state of 100 KB of
which 1 KB changed takes about 1 KB. The codec knows nothing of digests: whoever unpacks verifies the digest of the full
content, which also finds a patch that met the wrong base.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import zstandard

from omium.orchestration.errors import OmiumError
from omium.orchestration.records import record

Encoding: TypeAlias = Literal["raw", "zstd", "patch"]

# Level 1 on JSON: 1 KB 5 us, 100 KB 0.1 ms, 1 MB 1.4 ms at 7:1; levels 2 and 3 are slower there and not smaller.
# Random bytes need no probe of ours: zstd itself skips through 1 MB of them in 0.07 ms.
_LEVEL: Final = 1
# Bytes. For less, compression costs more than the part of a page of 4 KB that it saves.
RAW_BELOW: Final = 2048
_PATCH_FROM: Final = 4096  # bytes; below it a patch saves too little to pay for reading a second blob
_MANY_AT_ONCE: Final = "multi_compress_to_buffer" in zstandard.backend_features
_NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})
_WINDOW_LOG_MAX: Final = 27  # 128 MiB for base and content together: the most that zstd decodes without being told to
# A table of an eighth of the window finds every unchanged stretch. The level's own table has 2^14 entries and loses the
# start of a base of 1 MB (140 KB instead of 0.7 KB); a table as large as the window takes up to seven times as long.
_HASH_LOG_BELOW_WINDOW_LOG: Final = 3


@record
class Packed:
    """data: the bytes to store; encoding: what `unpack` needs to know about them."""

    encoding: Encoding
    data: bytes


class _ThreadContexts(threading.local):
    """zstd contexts are costly to make and must not be shared: the library works in them without the GIL."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts: Final = _ThreadContexts()


def compressed(contents: Iterable[bytes]) -> dict[bytes, bytes]:
    """The compressed forms of the small ones among `contents`, for `pack`. The library gives up the interpreter's lock
    for each call, and may wait longer to have it back than a small content takes: many at once need it once."""
    small = [data for data in contents if RAW_BELOW <= len(data) < _PATCH_FROM]
    if len(small) < 2 or not _MANY_AT_ONCE:
        return {}
    try:
        forms = _contexts.compressor.multi_compress_to_buffer([*small])
        return {data: forms[place].tobytes() for place, data in enumerate(small)}
    except (MemoryError, zstandard.ZstdError):
        return {}  # `pack` meets the fault where only one write suffers for it


def pack(data: bytes, base: bytes | None = None, known: Mapping[bytes, bytes] = _NOTHING) -> Packed:
    """The smallest reasonable form of `data`; `base` is the full content of a blob that may resemble it; `known` comes
    from `compressed`.

    A patch is chosen only when it is at most three quarters of the plain compressed form, since reading it costs
    reading its base. The encoding is "patch" only if a base was given.
    """
    if len(data) < RAW_BELOW:
        return Packed("raw", data)
    patch = _patch(data, base) if base and len(data) >= _PATCH_FROM else None
    if patch is not None and len(patch) <= len(data) // 32:  # plain zstd hardly gets there: do not try it
        return Packed("patch", patch)
    form = known.get(data) or _contexts.compressor.compress(data)
    shrinks = len(form) <= len(data) - len(data) // 32  # else the cost of decompression buys nothing
    plain = Packed("zstd", form) if shrinks else Packed("raw", data)
    if patch is not None and len(patch) <= len(plain.data) * 3 // 4:
        return Packed("patch", patch)
    return plain


def unpack(encoding: str, data: bytes, base: bytes | None, size_limit: int) -> bytes:
    """The content that `pack` was given; `base` is the full content of the patch's base, None for other encodings.

    Nothing larger than `size_limit` bytes is ever allocated. Raises OmiumError("integrity") for bytes that are no such
    form, that claim or give more than `size_limit` bytes, or for a patch without base; OmiumError("unsupported") for an
    encoding that this version does not know.
    """
    if encoding == "raw":
        _check_size(len(data), size_limit)
        return data
    if encoding == "zstd":
        decompressor = _contexts.decompressor
    elif encoding == "patch":
        if base is None:
            raise OmiumError("integrity", "A blob is stored as a patch, and its base is missing.")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(base))
    else:
        raise OmiumError(
            "unsupported", f"A blob has the encoding {encoding!r}.", "Upgrade omium-mcp to the version that wrote it."
        )
    try:
        # The frame's own claim bounds what is allocated; `pack` always writes it, and -1 says that it is absent.
        claimed = zstandard.frame_content_size(data)
        _check_size(claimed, size_limit)
        return decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise OmiumError("integrity", f"A stored blob does not decompress: {error}.") from error


def _check_size(size: int, limit: int) -> None:
    if not 0 <= size <= limit:
        claim = f"{size} bytes" if size >= 0 else "an unknown number of bytes"
        raise OmiumError("integrity", f"A stored blob claims {claim}, the limit is {limit}.", size=size, limit=limit)


def _patch(data: bytes, base: bytes) -> bytes | None:
    window_log = (len(base) + len(data)).bit_length()
    if window_log > _WINDOW_LOG_MAX:
        return None
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(data),
        dict_size=len(base),
        window_log=window_log,
        hash_log=window_log - _HASH_LOG_BELOW_WINDOW_LOG,
    )
    return zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters).compress(data)


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
