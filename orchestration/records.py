"""Records that are made many times a node, such as commands, events and the rows that they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots that nobody changes. That is for the type checker to hold, and not for the object: with
    `frozen=True` every field is set by a call, so one of eight fields takes 0.6 us to make instead of 0.12, and a node
    makes about a dozen."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
