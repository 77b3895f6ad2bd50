"""Texts of a server before anybody reads them: made harmless for display, and searched for what tries to steer a model.

The search is advisory. It knows the forms that published attacks have taken; that it finds nothing proves nothing, so
nothing is allowed because of it. What it finds stands beside the pin for the person who approves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_LAYOUT: Final = frozenset("\n\t")
_ANSI: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]"
)
_EXCERPT: Final = 120
_MAX_FINDINGS: Final = 50
_SCANNED: Final = 100_000  # characters of one text
_DEPTH: Final = 64

_WANTED: Final = r"(?:api[ _-]?keys?|private keys?|passwords?|credentials?|access tokens?|conversation|chat history)"
_GIVING: Final = r"(?:pass|send|include|provide|read|put|parameter|argument)"
# Forms of published attacks: tool poisoning, rug pulls, shadowing, exfiltration by parameter or by image.
_PATTERNS: Final[Mapping[str, re.Pattern[str]]] = {
    kind: re.compile("|".join(forms), re.IGNORECASE)
    for kind, forms in {
        "overrides instructions": (
            r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:previous|prior|above|earlier|all|other|system|safety)\b"
            r".{0,40}\b(?:instruction|rule|prompt|message|polic|guideline)",
        ),
        "hides from the user": (
            r"\b(?:do\s?n[o']t|never|without)\b.{0,30}\b(?:tell|mention|inform|show|reveal|notify|telling|mentioning"
            r"|informing|asking)\b.{0,40}\b(?:user|human|anyone|them|operator)",
        ),
        "poses as the system": (
            r"<\s*/?\s*(?:important|system|instructions?|secret|assistant|admin)\s*>",
            r"\[(?:system|inst)\]",
            r"\bsystem prompt\b",
            r"<\|im_(?:start|end)\|>",
        ),
        "directs other tools": (
            r"\b(?:before|after|instead of|when(?:ever)? you)\b.{0,30}\b(?:us(?:e|ing)|call(?:ing)?|invok(?:e|ing))\b"
            r".{0,60}\b(?:tool|function|server)\b",
            r"\b(?:must|always)\b.{0,20}\b(?:first )?(?:call|use|invoke) (?:this|the)\b",
        ),
        "asks for secrets": (
            r"(?:~|/home/[\w.-]+|/root|\$HOME)/\.(?:ssh|aws|config|gnupg|netrc|npmrc|env|kube|docker)",
            r"\bid_(?:rsa|ed25519)\b",
            rf"\b{_WANTED}\b.{{0,60}}\b{_GIVING}\b",
            rf"\b{_GIVING}\b.{{0,60}}\b{_WANTED}\b",
        ),
        "sends elsewhere": (
            r"\b(?:send|post|upload|forward|exfiltrate|append|bcc|cc)\b.{0,60}"
            r"(?:https?://|\b[\w.+-]+@[\w-]+\.\w{2,})",
            r"!\[[^\]]{0,80}\]\(https?://",
        ),
        "carries encoded text": (r"[A-Za-z0-9+/]{200,}={0,2}",),
    }.items()
}


@dataclass(frozen=True, slots=True)
class Finding:
    """where: the place in the definition (`inputSchema.properties.path.description`); excerpt: made harmless."""

    where: str
    kind: str
    excerpt: str

    def as_dict(self) -> dict[str, str]:
        return {"where": self.where, "kind": self.kind, "excerpt": self.excerpt}


def harmless(text: str, limit: int | None = None) -> str:
    """The text without what steers a terminal, reorders what is read or hides in it; at most `limit` characters."""
    if not text.isprintable():
        text = _ANSI.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        text = "".join(one for one in text if one in _LAYOUT or not _invisible(one))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def harmless_value(value: Any, depth: int = 0) -> Any:
    """The same for every text of a JSON value, keys included; what is nested too deep is left out."""
    if isinstance(value, str):
        return harmless(value)
    if depth >= _DEPTH:
        return None
    if isinstance(value, Mapping):
        return {harmless(str(key)): harmless_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [harmless_value(item, depth + 1) for item in value]
    return value


def _invisible(one: str) -> bool:
    category = unicodedata.category(one)
    # Variation selectors and the Hangul fillers print nothing and can carry a text of their own.
    return category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or one in "\u034f\u115f\u1160\u3164\uffa0" or _selects(one)


def _selects(one: str) -> bool:
    return "\ufe00" <= one <= "\ufe0e" or "\U000e0100" <= one <= "\U000e01ef"


def scan_text(text: str, where: str) -> list[Finding]:
    """What in a text looks as if it were meant to steer whoever reads it."""
    text = text[:_SCANNED]
    found = []
    hidden = sorted({f"U+{ord(one):04X}" for one in text if one not in _LAYOUT and one != "\r" and _invisible(one)})
    if hidden:
        found.append(Finding(where, "hidden characters", ", ".join(hidden[:10])))
    # As a reader takes it: compatibility forms folded, nothing hidden between letters, on one line.
    shown = " ".join(unicodedata.normalize("NFKC", harmless(text)).split())
    for kind, pattern in _PATTERNS.items():
        match = pattern.search(shown)
        if match is not None:
            start = max(0, match.start() - 20)
            found.append(Finding(where, kind, shown[start : start + _EXCERPT]))
    return found


def scan_value(value: Any, where: str) -> list[Finding]:
    """The same for every text in a JSON value, names of properties and members of enums included."""
    found: list[Finding] = []
    for place, text in _texts(value, where, 0):
        found += scan_text(text, place)
        if len(found) >= _MAX_FINDINGS:
            break
    return found[:_MAX_FINDINGS]


def _texts(value: Any, where: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif depth < _DEPTH and isinstance(value, Mapping):
        for key, item in value.items():
            place = f"{where}.{harmless(str(key), 60)}"
            yield place, str(key)
            yield from _texts(item, place, depth + 1)
    elif depth < _DEPTH and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]", depth + 1)
