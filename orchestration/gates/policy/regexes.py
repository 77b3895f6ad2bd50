"""Regular expressions over texts that attackers write: RE2, which takes time linear in the text, and no other engine.

Its syntax (https://github.com/google/re2/wiki/Syntax) has no backreferences and no look-around, which is why.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

MAX_SOURCE: Final = 2048
MAX_TEXT: Final = 1024 * 1024
"""Characters of a text that is searched. One that is longer cannot be told."""


def regex_problem(source: str) -> str:
    """What is wrong with a regular expression; empty if nothing is."""
    if len(source) > MAX_SOURCE:
        return f"is longer than {MAX_SOURCE} characters; expected a shorter expression"
    try:
        _program(source)
    except ValueError as error:
        return f"{source!r:.80} is no regular expression of RE2: {error}; expected one without look-around or \\1"
    return ""


def compiled(source: str) -> Callable[[str], bool]:
    """Whether the expression is found anywhere in a text. The test raises UnicodeEncodeError for a text with a lone
    surrogate."""
    search = _program(source).search

    def found(text: str) -> bool:
        return search(text.encode()) is not None

    return found


def quoted(text: str) -> str:
    """The expression that finds this text."""
    import re2  # type: ignore[import-untyped]

    return str(re2.escape(text))


@lru_cache(maxsize=4096)
def _program(source: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # whether it is found is all that is asked
    try:
        # From bytes to bytes: with texts the binding also counts characters, which takes twice as long.
        return re2.compile(source.encode(), options)
    except UnicodeEncodeError:
        raise ValueError("it has a lone surrogate") from None
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
