"""The hash chain: `hash = SHA-256(prev_hash || canonical(event))`, or HMAC-SHA-256 when the operator sets a key.

The canonical form is orjson with sorted keys over `{actor, at, data, run, seq, type}`. A flipped byte, a swapped or a
missing event breaks the chain at its place; only a truncated tail needs an exported head to show.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log.events import Event

GENESIS = bytes(32)  # what the first event of every log chains to


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain does not hold: the position, and what is wrong with it."""

    run_id: RunId
    seq: Seq
    problem: str


class Chain:
    """Links events. `key` makes it an HMAC, which only the holder of the key can forge or check."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    @property
    def keyed(self) -> bool:
        """Whether it is an HMAC."""
        return self._key is not None

    def link(
        self, prev_hash: bytes, run_id: str, seq: int, kind: str, at: int, actor: str, data: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        """The stored form of `data` and the hash of the event that carries it. Raises `invalid_value` for what has no
        JSON form: a lone surrogate, an integer beyond 64 bits."""
        try:
            stored = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
        except TypeError as error:
            raise OmiumError("invalid_value", f"an event {kind} cannot be stored: {error}.") from error
        # The keys are written in sorted order, so that only `data` needs sorting; its bytes are reused as they are.
        canonical = orjson.dumps(
            {"actor": actor, "at": at, "data": orjson.Fragment(stored), "run": run_id, "seq": seq, "type": kind}
        )
        if self._key is None:
            return stored, hashlib.sha256(prev_hash + canonical).digest()
        return stored, hmac.digest(self._key, prev_hash + canonical, "sha256")

    def breaks(self, events: Iterable[Event], *, after: Seq = Seq(0), prev_hash: bytes = GENESIS) -> list[Break]:
        """Every place where these consecutive events of one run, from `after` on, do not chain. Empty is good."""
        found: list[Break] = []
        expected = after + 1
        for event in events:
            if event.seq != expected:
                found.append(Break(event.run_id, Seq(expected), f"event {expected} is missing, {event.seq} follows"))
            elif event.prev_hash != prev_hash:
                found.append(Break(event.run_id, event.seq, "it does not follow from the event before it"))
            _, digest = self.link(
                event.prev_hash, event.run_id, event.seq, event.type, event.at, event.actor, event.data
            )
            if digest != event.hash:
                found.append(Break(event.run_id, event.seq, "its content does not match its hash"))
            prev_hash, expected = event.hash, event.seq + 1
        return found
