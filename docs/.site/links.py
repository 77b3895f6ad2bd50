"""A hook of mkdocs: links to files of the repository outside `docs`, which a site does not have, become their paths."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]\[]*)\]\((?!https?://|#)([^()\s#]+)(?:#[^()\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with such links as text; what is in fenced code stays as it is."""
    folder = posixpath.dirname(page.file.src_uri)

    def plain(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return match[0]
        return f"`{path}`" if label.strip("`") in path else f"{label} (`{path}`)"

    parts = _FENCE.split(markdown)
    return "".join(part if index % 2 else _LINK.sub(plain, part) for index, part in enumerate(parts))
