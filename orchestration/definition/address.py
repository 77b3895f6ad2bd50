"""Instance addresses: how one vertex of a run is named once fan-outs, loops, groups and plans have expanded.

An address is a path of node ids, each with an index where the node was expanded: `draft`, `fan[3]`, `fan[alice]`,
`fix[2].test`, `grp.b`. `fan` contains `fan[3]`, `fix[2]` contains `fix[2].test`. An index is the position or iteration
(from 0) or the text of an item's key.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId

ID_PATTERN = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
_ID = re.compile(rf"\A{ID_PATTERN}\Z")
_KEY_CHARACTERS = r"A-Za-z0-9_.@/+:=~,%-"
_SEGMENT = re.compile(rf"({ID_PATTERN})(?:\[([{_KEY_CHARACTERS}]{{1,128}})\])?")
_INDEX = re.compile(rf"\A[{_KEY_CHARACTERS}]{{1,128}}\Z")
_INDICES = re.compile(r"\[[^\]]*\]")
_KEY_SAFE = "_.@/+:=~,-"
_KEY_MAX = 128
_ADDRESS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One step of an address. index is text, also where it is a number: `number` gives that."""

    id: str
    index: str | None = None

    @property
    def number(self) -> int | None:
        return None if self.index is None else index_number(self.index)

    def __str__(self) -> str:
        return self.id if self.index is None else f"{self.id}[{self.index}]"


def is_node_id(text: str) -> bool:
    """Whether `text` may name a node: a letter or underscore, then up to 63 letters, digits, `_` or `-`, all ASCII."""
    return _ID.match(text) is not None


def parse_instance(text: str) -> tuple[Segment, ...]:
    """The segments of an address; OmiumError("invalid_argument") if it is none."""
    segments: list[Segment] = []
    at = 0
    if len(text) <= _ADDRESS_MAX:
        while match := _SEGMENT.match(text, at):
            segments.append(Segment(match[1], match[2]))
            at = match.end()
            if at == len(text):
                return tuple(segments)
            if text[at] != ".":
                break
            at += 1
    raise OmiumError(
        "invalid_argument", f"{text[:100]!r} is not a node instance.", "Write it like draft, fan[3] or fix[2].test."
    )


def index_number(text: str) -> int | None:
    """The position or iteration that an index is; None if it is a key that is no number."""
    return int(text) if text.isascii() and text.isdigit() else None


def is_index(text: str) -> bool:
    """Whether `text` may stand between the brackets of an address."""
    return _INDEX.match(text) is not None


def child(container: str | None, node_id: str) -> NodeId:
    """The address of a node inside a container (None: the workflow itself)."""
    return NodeId(node_id if container is None else f"{container}.{node_id}")


def indexed(instance: str, key: int | str) -> NodeId:
    """The address of one expansion: an iteration, a position, or an item's key as `key_text` gives it."""
    return NodeId(f"{instance}[{key}]")


@lru_cache(maxsize=65_536)  # asked again and again of the same nodes
def container_of(instance: str) -> NodeId | None:
    """What it is directly inside of: `fix[2].test` -> `fix[2]` -> `fix` -> None (the workflow)."""
    # Ids have neither dots nor brackets and keys no brackets, so the last bracket or dot is the separator.
    if instance.endswith("]"):
        return NodeId(instance[: instance.rindex("[")])
    dot = instance.rfind(".")
    return None if dot < 0 else NodeId(instance[:dot])


def vertex_of(instance: str) -> str:
    """The node that it is an expansion of, wherever that stands: `fix[2].test` -> `fix.test`."""
    return _INDICES.sub("", instance)


def containers_of(instance: str) -> list[NodeId]:
    """Everything that it is inside of, the innermost first."""
    found: list[NodeId] = []
    at = container_of(instance)
    while at is not None:
        found.append(at)
        at = container_of(at)
    return found


def key_text(value: Any) -> str:
    """The index for an item's key: strings and integers as they read, anything else as sorted JSON; what an address
    cannot hold is percent-encoded as UTF-8, and longer than 128 characters is cut and ends in a digest, so that
    different keys stay different."""
    if isinstance(value, str):
        plain = value
    elif type(value) is int:
        plain = str(value)  # of any size
    else:
        try:
            plain = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        except TypeError as error:
            raise OmiumError("invalid_value", f"A fan-out key must be a JSON value: {error}.") from error
    try:
        text = quote(plain, safe=_KEY_SAFE)
    except UnicodeEncodeError as error:
        raise OmiumError("invalid_value", "A fan-out key has a lone surrogate.") from error
    if not text:
        return "%00"
    if len(text) <= _KEY_MAX:
        return text
    return f"{text[: _KEY_MAX - 33]}~{hashlib.sha256(plain.encode()).hexdigest()[:32]}"
