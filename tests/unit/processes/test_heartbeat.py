"""Heartbeats as a supervised program sends them."""

from __future__ import annotations

import io
import json
import queue

import pytest

from omium.clients.processes.heartbeat import HeartbeatEmitter
from omium.clients.processes.stream import is_heartbeat


class Lines(io.StringIO):
    """A stream that hands over each write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: queue.Queue[str] = queue.Queue()

    def write(self, text: str) -> int:
        self.written.put(text)
        return len(text)


def test_it_beats_until_it_is_stopped_and_stops_at_once() -> None:
    stream = Lines()
    emitter = HeartbeatEmitter(interval_s=0.01, stream=stream, progress=lambda: 7)
    emitter.start()
    emitter.start()  # once more changes nothing
    events = [json.loads(stream.written.get(timeout=5)) for _ in range(5)]
    emitter.stop()
    emitter.stop()
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5]
    assert {(event["event"], event["progress"]) for event in events} == {("heartbeat", 7)}
    while not stream.written.empty():
        stream.written.get()
    assert stream.written.empty()


def test_stopping_does_not_wait_for_the_interval() -> None:
    stream = Lines()
    with HeartbeatEmitter(interval_s=3600, stream=stream):
        line = stream.written.get(timeout=5)
    # Leaving the block joined the thread, or this test would not have ended.
    assert is_heartbeat(line.encode())
    event = json.loads(line)
    assert (event["interval_s"], event["grace_s"]) == (3600, 90)


def test_one_can_be_sent_by_hand() -> None:
    stream = Lines()
    HeartbeatEmitter(stream=stream).emit_once()
    assert json.loads(stream.written.get_nowait())["number"] == 1


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["interval_s", "grace_s"])
def test_a_time_that_is_none_is_refused(name: str, wrong: float) -> None:
    """Without an interval it would send heartbeats without end."""
    with pytest.raises(ValueError, match=name):
        HeartbeatEmitter(stream=Lines(), **{name: wrong})  # type: ignore[arg-type]
