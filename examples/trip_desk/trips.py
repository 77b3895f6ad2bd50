"""What the clerk can do: look fares up, and book one. Every booking is written down: one sees how many there were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

BOOKINGS = Path(__file__).with_name("bookings.txt")

_FARES = [("night train", 89), ("morning flight", 140), ("bus", 45)]


async def fares(
    origin: Annotated[str, Field(description="City to leave from")],
    destination: Annotated[str, Field(description="City to go to")],
) -> list[dict[str, Any]]:
    """Fares from one city to another, cheapest first."""
    found = [{"fare": name, "euro": euro, "from": origin, "to": destination} for name, euro in _FARES]
    return sorted(found, key=lambda one: one["euro"])


async def book(fare: str, euro: int) -> dict[str, Any]:
    """Book one fare; costs money."""
    with BOOKINGS.open("a", encoding="utf-8") as file:
        file.write(f"{fare} {euro}\n")
    return {"booked": fare, "euro": euro, "number": len(BOOKINGS.read_text(encoding="utf-8").splitlines())}
