"""Values that the engine has at hand: what a node has just given is what the next one reads."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

import anyio

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.ports import Store
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)
_PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)  # between tries of a database that is away
_SMALL = 1024  # bytes, where the size is not known


class Held:
    """A value that can be loaded as long as somebody keeps this."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Value) -> None:
        self.value = value


class ValueCache:
    """Values by digest, bounded by the size of their encoded forms; the oldest go first. Whoever gets one must not
    change it."""

    def __init__(self, store: Store, max_bytes: int = 128 * 1024 * 1024) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[Digest, tuple[Any, int]] = OrderedDict()
        self._held: WeakValueDictionary[Digest, Held] = WeakValueDictionary()

    def put(self, digest: Digest, value: Value, size: int) -> bool:
        """False for one that is too large to be kept."""
        if digest in self._values:
            return True
        if size > self._max_bytes // 4:
            return False
        self._values[digest] = (value, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, old) = self._values.popitem(last=False)
            self._bytes -= old
        return True

    def hold(self, digest: Digest, value: Value) -> Held:
        """Have a value at hand that is on its way to the store, whatever its size, for as long as the result lives."""
        held = self._held.get(digest)
        if held is None:
            held = self._held[digest] = Held(value)
        return held

    def at_hand(self, digest: Digest) -> tuple[Value, int] | None:
        """A value that need not be waited for, and its size."""
        return self._values.get(digest)

    async def load(self, digest: Digest, size: int = _SMALL) -> Value:
        """The value, from the store if need be; `size` in bytes. Raises what `Store.value` raises, except that a
        database that is away for some seconds is waited for: no node fails because of that."""
        if (found := self.at_hand(digest)) is not None:
            return found[0]
        held = self._held.get(digest)
        if held is not None:
            return held.value
        for pause in _PAUSES_S:
            try:
                value = await self._store.value(digest)
                break
            except OmiumError as error:
                if error.code != "storage_unavailable":
                    raise
                _log.warning("a value cannot be read, trying again: %s", error)
                await anyio.sleep(pause)
        else:
            value = await self._store.value(digest)
        self.put(digest, value, size)
        return value
