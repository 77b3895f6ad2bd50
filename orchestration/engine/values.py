"""Values that the engine has at hand: what a node has just given is what the next one reads."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from omium.orchestration.ids import Digest
from omium.orchestration.ports import Store
from omium.orchestration.values import Value

_MISSING = object()


class ValueCache:
    """The lately used values by digest, bounded by the size of their encoded forms. Whoever gets one must not change it."""

    def __init__(self, store: Store, max_bytes: int = 128 * 1024 * 1024) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[Digest, tuple[Any, int]] = OrderedDict()

    def put(self, digest: Digest, value: Value, size: int) -> None:
        if digest in self._values or size > self._max_bytes // 4:
            return
        self._values[digest] = (value, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, old) = self._values.popitem(last=False)
            self._bytes -= old

    def get(self, digest: Digest) -> Any:
        """The value, or `MISSING`."""
        found = self._values.get(digest)
        return _MISSING if found is None else found[0]

    async def load(self, digest: Digest) -> Value:
        """The value, from the store if need be. Raises what `Store.value` raises."""
        found = self._values.get(digest)
        if found is not None:
            value: Value = found[0]
            return value
        value = await self._store.value(digest)
        self.put(digest, value, 1024)
        return value


MISSING = _MISSING
