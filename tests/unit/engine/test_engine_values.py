"""Values at hand, and those that are too large to be kept."""

from __future__ import annotations

from typing import Any

import pytest

from omium.orchestration.engine.values import ValueCache
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest

pytestmark = pytest.mark.anyio

LARGE, SMALL = Digest("large"), Digest("small")


class Nothing:
    """A store that has none of them yet."""

    async def value(self, digest: Digest) -> Any:
        raise OmiumError("not_found", f"blob {digest} is not stored; it may have been erased.")


async def test_what_is_on_its_way_to_the_store_is_at_hand_whatever_its_size() -> None:
    values = ValueCache(Nothing(), max_bytes=100)  # type: ignore[arg-type]
    assert values.put(SMALL, "s", 25) is True
    assert values.put(LARGE, "l", 26) is False
    with pytest.raises(OmiumError):
        await values.load(LARGE)
    held = values.hold(LARGE, "l")
    again = values.hold(LARGE, "l")
    assert again is held
    assert (await values.load(LARGE), await values.load(SMALL)) == ("l", "s")
    del held
    assert await values.load(LARGE) == "l"  # another write holds it
    del again
    with pytest.raises(OmiumError):
        await values.load(LARGE)
