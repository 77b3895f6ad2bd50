"""What every clerk can do."""

from __future__ import annotations


async def fares(origin: str) -> list[str]:
    """Fares from a city, cheapest first."""
    return [f"bus from {origin}, 45", f"night train from {origin}, 89"]
