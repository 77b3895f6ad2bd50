"""Values that must leave this process nowhere but to the model's provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

REMOVED: Final = "[secret]"
_SHORTEST: Final = 6  # a shorter value would blank out ordinary words, and protects nothing


class Secrets:
    """The values that were handed out, taken out again of whatever is written down."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._values: set[str] = set()

    def get(self, name: str) -> str | None:
        value = self._environment.get(name)
        if value and len(value) >= _SHORTEST:
            self._values.add(value)
        return value or None

    def scrub(self, text: str) -> str:
        """The text without any value that was handed out."""
        for value in self._values:
            if value in text:
                text = text.replace(value, REMOVED)
        return text

    def scrub_value(self, value: Any) -> Any:
        """The same for JSON values, keys included."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, dict):
            return {self.scrub(key): self.scrub_value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.scrub_value(item) for item in value]
        return value
