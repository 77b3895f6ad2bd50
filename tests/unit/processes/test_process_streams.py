"""Output within bounds, and lines as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.processes.stream import LineSplitter, RingBuffer, is_heartbeat, may_become_heartbeat

chunks = st.lists(st.binary(max_size=60), max_size=30)


@given(chunks, st.integers(0, 100))
def test_ring_buffer_keeps_both_ends_and_counts_everything(parts: list[bytes], limit: int) -> None:
    ring = RingBuffer(limit)
    for part in parts:
        ring.write(part)
    whole = b"".join(parts)
    kept = ring.captured()
    assert kept.total == len(whole)
    assert len(kept.head) + len(kept.tail) == min(limit, len(whole))
    assert whole.startswith(kept.head)
    assert whole.endswith(kept.tail)
    assert kept.truncated == (len(whole) > limit)


def test_a_gap_is_marked_in_the_text() -> None:
    ring = RingBuffer(4)
    ring.write(b"abcdefgh")
    assert ring.captured().text() == "ab\n[... 4 bytes left out ...]\ngh"


def test_invalid_utf8_is_replaced() -> None:
    ring = RingBuffer(10)
    ring.write(b"a\xffb")
    assert ring.captured().text() == "a\N{REPLACEMENT CHARACTER}b"


@given(chunks)
def test_lines_do_not_depend_on_where_the_chunks_end(parts: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for part in parts for line in splitter.feed(part)] + list(splitter.close())
    expected = b"".join(parts).split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines == [line.removesuffix(b"\r") for line in expected]


@given(chunks, st.integers(1, 20))
def test_a_long_line_is_cut_with_a_mark(parts: list[bytes], limit: int) -> None:
    splitter = LineSplitter(limit)
    lines = [line for part in parts for line in splitter.feed(part)] + list(splitter.close())
    originals = b"".join(parts).split(b"\n")
    for line, original in zip(lines, originals, strict=False):
        if len(original) > limit:
            assert line == original[:limit] + f" [... line cut: {len(original)} bytes in all]".encode()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"event": "heartbeat"}', True),
        (b' {"event": "heartbeat", "progress": 3}', True),
        (b'{"event": "approval_needed"}', False),
        (b'{"event": "heartbeat"', False),
        (b'["heartbeat"]', False),
        (b"heartbeat", False),
        (b"", False),
        (b'{"event": "heartbeat", "x": "' + b"x" * 10_000 + b'"}', False),
    ],
)
def test_heartbeats_are_recognised(line: bytes, expected: bool) -> None:
    assert is_heartbeat(line) is expected


def test_what_cannot_become_a_heartbeat_is_known_before_its_line_ends() -> None:
    assert may_become_heartbeat(b"")
    assert may_become_heartbeat(b'{"ev')
    assert not may_become_heartbeat(b"Downloading 4 %")
    assert not may_become_heartbeat(b"{" + b"x" * 10_000)
