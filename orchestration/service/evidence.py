"""What of a failure shows where to look: the end of what a program wrote to stderr, or the line that raised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_FRAME: Final = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)$', re.M)
_NOT_THEIRS: Final = re.compile(r"/(?:site-packages|dist-packages|lib/python3[^/]*|omium)/|\A<frozen ")
_LONGEST: Final = 300  # characters


def evidence(error: Mapping[str, Any] | None) -> str:
    """One short line of a stored error: the last line of `stderr`, else the place in the `traceback` (the innermost
    frame that is not of a library), else the hint. "" when there is none of them."""
    if not error:
        return ""
    said = str(error.get("stderr") or "").strip()
    if said:
        return said.splitlines()[-1].strip()[:_LONGEST]
    place = where(str(error.get("traceback") or ""))
    return place or str(error.get("hint") or "")[:_LONGEST]


def where(traceback: str) -> str:
    """`steps.py:14 in boom`, as the last of the tracebacks in a text says; "" when it says nothing."""
    frames = list(_FRAME.finditer(traceback))
    if not frames:
        return ""
    theirs = [one for one in frames if not _NOT_THEIRS.search(one["file"])]
    found = (theirs or frames)[-1]
    return f"{found['file'].rpartition('/')[2]}:{found['line']} in {found['name']}"[:_LONGEST]


def own_part(traceback: str) -> str:
    """A traceback without the frames of what called the function."""
    if not traceback.startswith("Traceback"):
        return traceback
    frames = list(_FRAME.finditer(traceback))
    first = next((one for one in frames if not _NOT_THEIRS.search(one["file"])), None)
    if first is None or first is frames[0]:
        return traceback
    return f"{traceback.partition(chr(10))[0]}\n{traceback[first.start() :]}"
