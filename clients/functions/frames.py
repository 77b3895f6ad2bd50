"""What travels between the pool and a worker: frames of a small JSON header and an encoded value.

A frame is the length of the header and of the body (two big-endian 32-bit numbers), the header, the body.
From the pool: `call` (ref, sys_path, context; body: the arguments), then for each `request` an `answer` (body) or a
`refusal` (error). From the worker: `ready` once; for a call any number of `request` (what; body: payload), then one of
`result` (body), `raised` (failure), `refused` (error: the result cannot be stored) or `stale` (nothing was called: the
code on disk has changed, and the worker ends).
"""

from __future__ import annotations

import struct
from typing import Any, Final

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.values import MAX_SIZE

_LENGTHS: Final = struct.Struct(">II")
PREFIX_BYTES: Final = _LENGTHS.size
_HEADER_LIMIT: Final = 1024 * 1024

Header = dict[str, Any]


def pack(header: Header, body: bytes = b"") -> bytes:
    """A whole frame. `header` holds JSON values only."""
    head = orjson.dumps(header)
    return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))


def lengths(prefix: bytes) -> tuple[int, int]:
    """The lengths of header and body, from the first `PREFIX_BYTES` bytes of a frame.

    Raises OmiumError("process_failed", reason="protocol_error") for lengths that `pack` cannot have written.
    """
    head, body = _LENGTHS.unpack(prefix)
    if head > _HEADER_LIMIT or body > MAX_SIZE:
        raise OmiumError("process_failed", "What came over a worker's channel is no frame.", reason="protocol_error")
    return head, body


def unpack(head: bytes) -> Header:
    """The header. Raises OmiumError("process_failed", reason="protocol_error") when it is none."""
    try:
        header = orjson.loads(head)
    except orjson.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise OmiumError("process_failed", "What came over a worker's channel is no frame.", reason="protocol_error")
    return header
