"""Trace and span ids that follow from the run's own id.

A run may be begun by one process, go on in another and be decided about in a third; each of them has to name the same
trace, and so has whoever reads a log line with a run's id in it. A digest gives that without anything to hand over.
Nothing of a run can be read from it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

_RUN: Final = re.compile(r"\brun_[0-9A-HJKMNP-TV-Z]{26}\b")


def trace_id(run_id: str) -> int:
    """128 bits, as OpenTelemetry counts them."""
    return int.from_bytes(_digest("trace", run_id)[:16]) or 1


def span_id(run_id: str, *parts: object) -> int:
    """64 bits: of the run itself without parts, of a node, attempt or call with them."""
    return int.from_bytes(_digest("span", run_id, *parts)[:8]) or 1


def trace_of_text(text: str) -> str | None:
    """The trace, in hexadecimal, of the one run that a text names; None for none, or several."""
    runs = set(_RUN.findall(text))
    return f"{trace_id(runs.pop()):032x}" if len(runs) == 1 else None


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\n".join(("omium", *map(str, parts))).encode()).digest()
