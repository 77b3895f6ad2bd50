"""LangGraph's serializer in its strictest form: plain values, its own types, and classes that the operator names.

What is stored may have been written by somebody else. LangGraph's serializer can import and call whatever a document
names; here a document that names anything but a listed class is refused whole, when it is written and before it is
read, and so is every kind of document that this saver never writes (pickles, JSON with constructors).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
)

from omium.orchestration.errors import OmiumError

_KINDS: Final = frozenset({"null", "bytes", "bytearray", "msgpack"})
_CALLED: Final = frozenset(
    {EXT_CONSTRUCTOR_SINGLE_ARG, EXT_CONSTRUCTOR_POS_ARGS, EXT_CONSTRUCTOR_KW_ARGS, EXT_PYDANTIC_V1, EXT_PYDANTIC_V2}
)
_DEEPEST: Final = 100


class StrictSerializer(JsonPlusSerializer):
    """allow: classes beyond LangGraph's own that may be rebuilt, as classes or as (module, name)."""

    def __init__(self, allow: Iterable[type | tuple[str, str]] = ()) -> None:
        listed: list[Any] = list(allow)
        # None, not an empty list, is what LangGraph reads as "its own types only".
        super().__init__(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=listed or None)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        try:
            kind, data = super().dumps_typed(obj)
        except (ormsgpack.MsgpackEncodeError, TypeError, RecursionError) as error:
            raise OmiumError(
                "invalid_value", f"the graph's state holds what cannot be stored: {error}.", "Keep plain values in it."
            ) from error
        self._check(kind, data)
        return kind, data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        self._check(*data)
        return super().loads_typed(data)

    def _check(self, kind: str, data: bytes) -> None:
        if kind not in _KINDS:
            raise OmiumError("not_allowed", f"a checkpoint of the kind {str(kind)[:40]!r} is not read.")
        if kind == "msgpack":
            self._scan(data, 0)

    def _scan(self, data: bytes, depth: int) -> Any:
        """Read a document without building anything. Raises `not_allowed` for what it names, or `integrity`."""
        if depth > _DEEPEST:
            raise OmiumError("integrity", "a checkpoint is nested too deeply.")
        found: list[OmiumError] = []

        def extension(code: int, inner: bytes) -> Any:
            try:
                return self._named(code, inner, depth)
            except OmiumError as error:  # what is raised here, the reader would turn into an error of its own
                found.append(error)
                return None

        try:
            value = ormsgpack.unpackb(data, ext_hook=extension, option=ormsgpack.OPT_NON_STR_KEYS)
        except (ormsgpack.MsgpackDecodeError, ValueError, TypeError) as error:
            raise (found[0] if found else OmiumError("integrity", f"a checkpoint cannot be read: {error}.")) from error
        if found:
            raise found[0]
        return value

    def _named(self, code: int, inner: bytes, depth: int) -> Any:
        value = self._scan(inner, depth + 1)
        if code in (EXT_DELTA_SNAPSHOT, EXT_NUMPY_ARRAY):
            return None
        try:
            name = (value[0], value[1]) if code in _CALLED else (value[0], value[1], value[3])
        except (TypeError, LookupError) as error:
            raise OmiumError("integrity", "a checkpoint holds an object without a name.") from error
        if code in _CALLED:
            fine = name in SAFE_MSGPACK_TYPES or name in self._listed()
        else:
            fine = code == EXT_METHOD_SINGLE_ARG and name in SAFE_MSGPACK_METHODS
        if not fine:
            shown = ".".join(str(part)[:100] for part in name)
            raise OmiumError(
                "not_allowed",
                f"a checkpoint holds {shown}, which is not on the list of what may be rebuilt.",
                "If it is a class of your graph's state, name it: allow=[...] of the saver.",
                type=shown,
            )
        return None  # hashable, should it stand as a key; nothing of it is needed

    def _listed(self) -> set[tuple[str, ...]]:
        listed = self._allowed_msgpack_modules
        return listed if isinstance(listed, set) else set()
