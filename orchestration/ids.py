"""Identifiers: typed, prefixed, time-ordered, unguessable.

A new id is `<prefix>_` and 26 Crockford base-32 digits: 48 bits of milliseconds, then 80 random bits (the ULID layout,
https://github.com/ulid/spec), so ids sort by creation and cannot be guessed.
"""

from __future__ import annotations

import os
import re
import time
from typing import NewType

RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)  # instance id: `draft`, `fan[3]`, `fix[2].test`
ApprovalId = NewType("ApprovalId", str)
EffectId = NewType("EffectId", str)
WorkerId = NewType("WorkerId", str)
PlanToken = NewType("PlanToken", str)
Digest = NewType("Digest", str)  # "sha256:" is implied: 64 hexadecimal digits
Seq = NewType("Seq", int)  # position in a run's log; the first event is 1
Fence = NewType("Fence", int)  # fencing token of a claim; grows with every claim of the same run
Principal = NewType("Principal", str)  # who calls: "user:ada", "token:ci", "engine"
ProjectId = NewType("ProjectId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PATTERN = re.compile(r"\A[a-z]{2,6}_[0-9A-HJKMNP-TV-Z]{26}\Z")


def new_id(prefix: str, at_ms: int | None = None) -> str:
    """A fresh id such as `run_01KAG2...`; `at_ms` is milliseconds since the epoch (now, unless given)."""
    number = ((int(time.time() * 1000) if at_ms is None else at_ms) << 80) | int.from_bytes(os.urandom(10))
    digits = [""] * 26
    for place in range(25, -1, -1):
        digits[place] = _ALPHABET[number & 31]
        number >>= 5
    return f"{prefix}_{''.join(digits)}"


def made_at_ms(identifier: str) -> int:
    """When an id was made, milliseconds since the epoch; 0 for a text that is no id."""
    if _PATTERN.match(identifier) is None:
        return 0
    number = 0
    for digit in identifier.rpartition("_")[2]:
        number = number * 32 + _ALPHABET.index(digit)
    return number >> 80


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id with this prefix. Says nothing about its existence."""
    return text.startswith(f"{prefix}_") and _PATTERN.match(text) is not None
