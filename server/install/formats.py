"""The two kinds of configuration files, as texts in which the entry of one server is read, set and taken out.

Whatever a change does is checked on the result: it parses, our entry is what was asked for, and everything else is what
it was. A file that cannot be changed like that is not changed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from omium.orchestration.errors import OmiumError
from omium.server.install import json_text

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

Entry = Mapping[str, Any]

# What an entry for another transport has. One of these under our name is replaced whole.
_REMOTE = frozenset({"url", "httpUrl", "serverUrl"})


class ConfigFormat(Protocol):
    """A kind of file. The methods raise `invalid_argument` for a text that is not of that kind; `data["at"]` is the
    index of the character where that shows, if it is known."""

    def servers(self, text: str) -> Mapping[str, Any]:
        """The entries of all servers, by name."""
        ...

    def with_entry(self, text: str, name: str, entry: Entry) -> str:
        """The text with this entry. Keys of an entry that is there already and that we know nothing of are kept; the
        same text when there is nothing to change."""
        ...

    def without_entry(self, text: str, name: str) -> str:
        """The text without the entry; the same text when there is none."""
        ...


def _missing_keys(found: Any, entry: Entry) -> dict[str, Any] | None:
    """What has to be set in an entry that is there; None when it has to be replaced."""
    if not isinstance(found, Mapping) or _REMOTE & set(found):
        return None
    return {key: value for key, value in entry.items() if found.get(key) != value}


@dataclass(frozen=True, slots=True)
class JsonConfig:
    """`{"mcpServers": {name: entry}}` beside whatever else the client keeps there."""

    key: str = "mcpServers"
    comments: bool = False

    def servers(self, text: str) -> Mapping[str, Any]:
        return json_text.entries(self._parsed(text), self.key) if text.strip() else {}

    def with_entry(self, text: str, name: str, entry: Entry) -> str:
        found = self.servers(text).get(name)
        changes = _missing_keys(found, entry)
        if changes is None:
            return self._checked(text, self._set(text, [self.key, name], dict(entry)), name, dict(entry))
        changed = text
        for key, value in changes.items():
            changed = self._set(changed, [self.key, name, key], value)
        return self._checked(text, changed, name, {**(found or {}), **entry})

    def without_entry(self, text: str, name: str) -> str:
        if name not in self.servers(text):
            return text
        return self._checked(text, json_text.remove_member(text, [self.key, name], comments=self.comments), name, None)

    def _parsed(self, text: str) -> json_text.Node:
        return json_text.parse(text, comments=self.comments)

    def _set(self, text: str, path: list[str], value: Any) -> str:
        return json_text.set_member(text, path, value, comments=self.comments)

    def _checked(self, before: str, after: str, name: str, entry: Any) -> str:
        was = self._parsed(before).value if before.strip() else {}
        _check(was, self._parsed(after).value, self.key, name, entry)
        return after


@dataclass(frozen=True, slots=True)
class TomlConfig:
    """`[mcp_servers.<name>]` tables."""

    key: str = "mcp_servers"

    def servers(self, text: str) -> Mapping[str, Any]:
        found = self._parsed(text).get(self.key, {})
        if not isinstance(found, dict):
            raise OmiumError("invalid_argument", f"{self.key} is to be a table")
        return found

    def with_entry(self, text: str, name: str, entry: Entry) -> str:
        found = self.servers(text).get(name)
        changes = _missing_keys(found, entry)
        if changes == {}:
            return text
        wanted = dict(entry) if changes is None else {**(found or {}), **entry}
        if found is None:  # a table of its own at the end: what TOML is made for, and nothing else can move
            appended = text + ("" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n")
            appended += self._table(name, entry)
            if self._is(text, appended, name, wanted):
                return appended
        document = self._document(text)
        servers: Any = document.setdefault(self.key, {})
        if changes is None:
            servers[name] = dict(entry)
        else:
            servers[name].update(changes)
        return self._checked(text, _dumped(document), name, wanted)

    def without_entry(self, text: str, name: str) -> str:
        if name not in self.servers(text):
            return text
        document = self._document(text)
        servers: Any = document[self.key]
        del servers[name]
        return self._checked(text, _dumped(document), name, None)

    def _table(self, name: str, entry: Entry) -> str:
        from tomlkit import document, dumps, table

        made, servers, own = document(), table(is_super_table=True), table()
        own.update(entry)
        servers[name] = own
        made[self.key] = servers
        return dumps(made)

    def _is(self, before: str, after: str, name: str, entry: Any) -> bool:
        try:
            self._checked(before, after, name, entry)
        except OmiumError:
            return False
        return True

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OmiumError("invalid_argument", str(error)) from error

    def _document(self, text: str) -> TOMLDocument:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            return tomlkit.parse(text)
        except TOMLKitError as error:  # stricter than the standard library in some corner
            raise OmiumError("invalid_argument", str(error)) from error

    def _checked(self, before: str, after: str, name: str, entry: Any) -> str:
        _check(self._parsed(before), self._parsed(after), self.key, name, entry)
        return after


def _dumped(document: TOMLDocument) -> str:
    from tomlkit import dumps

    return dumps(document)


def _check(was: Any, now: Any, key: str, name: str, entry: Any) -> None:
    """Raises `internal` unless `now` is `was` with this entry (None: without it), and not a bit more."""
    wanted = deepcopy(was)
    servers = wanted.setdefault(key, {})
    if entry is None:
        del servers[name]
    else:
        servers[name] = entry
    if not servers and not now.get(key):  # tables without content may go with the last of them
        wanted.pop(key)
        now = {one: value for one, value in now.items() if one != key}
    if json.dumps(wanted, sort_keys=True, default=str) != json.dumps(now, sort_keys=True, default=str):
        raise OmiumError("internal", "the change would touch more than our entry; nothing was written")
