"""The address of the view, and what a tool says of it."""

from __future__ import annotations

from typing import Any, Final

APP_URI: Final = "ui://omium/run"

# A host shows the view with the result of a tool that says this.
SHOWN: Final[dict[str, Any]] = {"ui": {"resourceUri": APP_URI}}
# A tool that says this is for the view: a host keeps it from its model.
FOR_THE_VIEW: Final[dict[str, Any]] = {"ui": {"resourceUri": APP_URI, "visibility": ["app"]}}
