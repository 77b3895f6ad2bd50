"""How Python's cycle collector behaves in Omium's own processes."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Mapping
from typing import Any, Final

# By default a collection runs at every 700 new objects: while a program of this size is imported, and while thousands
# of nodes go by, it looks at everything again and again and finds nothing, since little here refers to itself in a
# circle. So it comes seldom, and more often only while there is something to find.
_FEWEST, _AT_FIRST, _MOST = 50_000, 200_000, 400_000  # new objects until the next one
_OLDER: Final = (20, 20)
_WORTH_IT: Final = 0.02  # of the new objects: a collection that finds fewer came too early


def tune() -> None:
    """Collect less often, and not at all at the very end. For programs of ours at their start, never for a program that
    uses Omium as a library."""
    gc.set_threshold(_AT_FIRST, *_OLDER)
    gc.callbacks.append(_adapt)
    # The interpreter's last collections walk through everything that was imported, to give it back to a process that is
    # no more: half a second, seconds on a busy machine, and clients kill a server that takes two.
    atexit.register(gc.freeze)


def _adapt(phase: str, about: Mapping[str, Any]) -> None:
    """Twice as many new objects until the next collection when this one found next to nothing, as with a thousand runs
    under way, all of whose objects are in use; few as soon as there is something to find."""
    if phase == "stop":
        young = gc.get_threshold()[0]
        found = about["collected"] + about["uncollectable"]
        gc.set_threshold(min(2 * young, _MOST) if found < young * _WORTH_IT else _FEWEST, *_OLDER)
