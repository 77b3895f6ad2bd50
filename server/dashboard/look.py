"""How pages are made: templates that escape everything, harmless text, and headers that let nothing foreign in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from omium.server.dashboard import show

_HERE: Final = Path(__file__).parent
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types omium"
)
"""Only files of this server, nothing inline, no frame around it; a string becomes elements in one place."""

HEADERS: Final = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with less, browsers say `Origin: null` of forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "vary": "Cookie",
}


class Look:
    """Templates and static files, read once. now: microseconds since the epoch."""

    def __init__(self, now_us: Callable[[], int] | None = None) -> None:
        self.now_us = now_us or (lambda: time.time_ns() // 1000)
        self.static = {
            path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir()) if path.suffix in _TYPES
        }
        self.version = hashlib.sha256(b"\0".join(self.static.values())).hexdigest()[:12]

    @cached_property
    def _templates(self) -> Environment:
        made = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        made.filters |= show.FILTERS
        made.globals |= {**show.GLOBALS, "static": self.url, "now_us": self.now_us}
        return made

    def url(self, name: str) -> str:
        """Where a static file is; another version of it is elsewhere, so that browsers may keep it."""
        return f"/static/{self.version}/{name}"

    @property
    def paths(self) -> list[str]:
        """Of all static files, which anybody may get."""
        return [self.url(name) for name in self.static]

    def file(self, name: str) -> Response | None:
        """A static file, if there is one of this name."""
        content = self.static.get(name)
        if content is None:
            return None
        headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
        return Response(content, headers=headers, media_type=_TYPES[Path(name).suffix])

    def page(
        self, template: str, data: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """A page. data: what the template names; `me` is who looks, None where that is not known."""
        text = self._templates.get_template(template).render(
            {"me": None, "theme": "", "sections": (), "waiting": None, **data}
        )
        return HTMLResponse(text, status, {**HEADERS, **(headers or {})})
