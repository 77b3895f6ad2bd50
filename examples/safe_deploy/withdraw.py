"""What takes a deployment back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LIVE = Path(__file__).with_name("live")


def withdraw(result: dict[str, Any], **effect: Any) -> dict[str, Any]:
    """Make the version live that was so before. `result` is what the deployment gave; `effect` has its node, call and
    input."""
    current = LIVE / "current"
    if result["before"] is None:
        current.unlink(missing_ok=True)
    else:
        current.write_text(result["before"], "utf-8")
    return {"withdrawn": result["version"], "live": result["before"]}
