"""How Python's cycle collector behaves in Omium's own processes."""

from __future__ import annotations

import atexit
import gc
from typing import Final

# By default a collection runs at every 700 new objects: while a program of this size is imported, and while thousands
# of nodes go by, it looks at everything again and again and finds nothing, since little here refers to itself in a
# circle.
_THRESHOLDS: Final = (50_000, 20, 20)


def tune() -> None:
    """Collect less often, and not at all at the very end. For programs of ours at their start, never for a program that
    uses Omium as a library."""
    gc.set_threshold(*_THRESHOLDS)
    # The interpreter's last collections walk through everything that was imported, to give it back to a process that is
    # no more: half a second, seconds on a busy machine, and clients kill a server that takes two.
    atexit.register(gc.freeze)
