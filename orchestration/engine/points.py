"""Checkpoints that a function sets itself, in the middle of its node: labelled positions that hold what it was given.

When the run is taken back to one, the node runs again from its beginning, and when it comes to the same checkpoint it
is given what that held, whatever it would have passed now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omium.orchestration.definition.names import place_problem, prose_problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import Value, decode, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.attempt import NodeAttempt

_MAX_NOTE = 4_000
_MAX_MESSAGE = 2_000


class Points:
    """Those of one attempt. The same label again is another checkpoint: it has the next number."""

    __slots__ = ("_attempt", "_numbers")

    def __init__(self, attempt: NodeAttempt) -> None:
        self._attempt = attempt
        self._numbers: Counter[str] = Counter()

    async def set(self, data: Mapping[str, Any]) -> Value:
        """Record what the work behind the label begins with: durable when this returns, unless `later` leaves it to
        the attempt's next commit. With `call` it replaces what that checkpoint held.

        Raises `invalid_argument` for the label or note, `invalid_value` for the state, and what a commit raises."""
        attempt, label = self._attempt, str(data["label"])
        problem, note = place_problem(label), data.get("note")
        if problem:
            raise OmiumError("invalid_argument", f"{problem}.", "Use a short text that is no number.")
        if note is not None and (len(str(note)) > _MAX_NOTE or prose_problem(str(note))):
            raise OmiumError("invalid_argument", f"the note of {label!r} is no text that can be shown.")
        again = data.get("call")
        restored = None
        if again is None:
            self._numbers[label] += 1
            call = f"{label}#{self._numbers[label]}"
            if call in attempt.restored:
                restored = {"state": attempt.restored[call]}
        else:
            call = str(again)
        encoded = encode(restored["state"] if restored is not None else data["state"])
        told = None if note is None else str(note)
        where = (attempt.node_id, attempt.generation, attempt.attempt)
        await self._write(c.SetPoint(*where, label, call, encoded.digest, encoded.size, told), NewBlob(encoded), data)
        if restored is not None:  # a copy: what the function does to it must not reach the others that read it
            restored = {"state": decode(encoded.data)}
        return {"call": call, "restored": restored}

    async def end(self, data: Mapping[str, Any]) -> Value:
        """Record what came of it."""
        attempt, error = self._attempt, data.get("error")
        where = (attempt.node_id, attempt.generation, attempt.attempt)
        told = None if error is None else {name: str(error[name])[:_MAX_MESSAGE] for name in ("type", "message")}
        encoded = encode(data["state"]) if "state" in data else None
        digest, size = (None, 0) if encoded is None else (encoded.digest, encoded.size)
        command = c.EndPoint(*where, str(data["label"]), str(data["call"]), data["outcome"], told, digest, size)
        await self._write(command, None if encoded is None else NewBlob(encoded), data)
        return None

    async def _write(self, command: c.Command, blob: NewBlob | None, data: Mapping[str, Any]) -> None:
        blobs = () if blob is None else (blob,)
        self._attempt.later(command, *blobs)
        if not data.get("later"):
            await self._attempt.flush()
