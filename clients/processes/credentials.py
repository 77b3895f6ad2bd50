"""The credentials that are handed on to programs, taken out of whatever comes back from them.

A program that is given a key prints it sooner or later: in a trace, in a command that it echoes, in the address that it
could not reach. What it prints is stored, shown and told to models, so it goes no further than this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from omium.clients.external.redact import HIDDEN, forms_of
from omium.orchestration.errors import OmiumError

# Whole words of a name, and words that stand anywhere in it: `PGPASSWORD`, but not `AUTHOR` or `MONKEY`.
_NAME: Final = re.compile(
    r"(?i)(?:\A|_)(?:keys?|auth|pass|pat|cookie|bearer|dsn)(?:\Z|_)"
    r"|password|passwd|passphrase|secret|token|credential|api_?key"
)
_PLACE: Final = re.compile(
    r"(?i)_(?:file|path|dir|directory|url|host|name|type|ttl)\Z"
)  # says where one is, or what kind
_SETTING: Final = re.compile(  # `AUTH=enabled` chooses something; taking the word out of every text would spoil them
    r"(?i)(?:true|false|yes|no|on|off|none|null|enabled?|disabled?|optional|required|default|always|never|automatic|"
    r"bearer|basic|digest|oauth2?|token|password|secret)"
)
_IN_ADDRESS: Final = re.compile(r"://[^\s/:@]*:([^\s/@]+)@")
_SHORTEST: Final = 6  # a shorter one would be found in everything
_SHORTEST_LINE: Final = 16  # of a key that has several


def credentials_in(variables: Mapping[str, str]) -> list[str]:
    """What must not be seen of these variables: the values of those whose names say that they hold a credential, and
    passwords within addresses, whatever their variables are called."""
    found = [value for name, value in variables.items() if _NAME.search(name) and not _PLACE.search(name)]
    for value in variables.values():
        found += _IN_ADDRESS.findall(value)
    return found


class Credentials:
    """Takes these credentials out, as they stand and in the encodings in which they are commonly written."""

    def __init__(self, credentials: Iterable[str] = ()) -> None:
        wanted: dict[str, None] = {}
        for one in (text.strip() for text in credentials):
            if _SETTING.fullmatch(one):
                continue
            wanted[one] = None
            lines = one.splitlines()
            if len(lines) > 1:  # output comes in lines
                wanted.update(dict.fromkeys(line for line in lines if len(line) >= _SHORTEST_LINE))
        needles = forms_of([one for one in wanted if len(one) >= _SHORTEST])
        self._texts = tuple(sorted(needles, key=len, reverse=True))
        self._bytes = tuple(one.encode() for one in self._texts)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Credentials:
        return cls(credentials_in(variables))

    def __bool__(self) -> bool:
        """Whether there is anything to take out."""
        return bool(self._texts)

    def text(self, text: str) -> str:
        for needle in self._texts:
            if needle in text:
                text = text.replace(needle, HIDDEN)
        return text

    def value(self, value: Any) -> Any:
        """A value with its texts and bytes cleaned, names of fields included; the value itself if nothing is found."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            for needle in self._bytes:
                value = value.replace(needle, HIDDEN.encode())
            return value
        if isinstance(value, dict):
            return {self.value(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def clean(self, error: OmiumError) -> None:
        """Take them out of an error, in place: its type and its code stay."""
        error.message, error.hint = self.text(error.message), self.text(error.hint)
        error.data = {name: self.value(item) for name, item in error.data.items()}
        error.args = tuple(self.value(one) for one in error.args)
