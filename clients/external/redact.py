"""Taking out of a result what must not go further: the server's own credentials, always; known forms of secrets and
addresses, where policy says so.

A credential is found as it stands, in base64, in hexadecimal and percent-encoded; with spaces, line ends or invisible
characters between its letters; and when it is split over several texts of one result. A server that is set on getting a
secret out can encode it in ways that nothing finds: this stops leaks, not an accomplice.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

HIDDEN: Final = "[redacted]"
_SHORTEST_SECRET: Final = 10  # `secret=` and what is hidden by it
_SHORTEST: Final = 6  # a shorter credential would be found in everything

_SECRETS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,20000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{30,255}\b",
        r"\bgithub_pat_[A-Za-z0-9_]{40,255}\b",
        r"\bglpat-[A-Za-z0-9_-]{20,}",
        r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
        r"\bsk-(?:ant-|proj-|live-|svcacct-)?[A-Za-z0-9_-]{20,}",
        r"\b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}",
        r"\bAIza[A-Za-z0-9_-]{35}\b",
        r"\bya29\.[A-Za-z0-9_-]{20,}",
        r"\bnpm_[A-Za-z0-9]{36}\b",
        r"\bpypi-[A-Za-z0-9_-]{50,}",
        r"\bhf_[A-Za-z0-9]{30,}\b",
        r"\bomium_[0-9A-Z]{26}_[A-Za-z0-9_-]{16,}",
        r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*",
        r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{16,}",
        r"(?<=://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)",
    )
)
_ASSIGNED: Final = re.compile(
    r"(?i)\b[\w.-]{0,40}(?:password|passwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token|private[_-]?key)[\w.-]{0,20}"
    r"[\"']?\s{0,3}[=:]\s{0,3}[\"']?(?P<value>[^\s\"',;}{]{6,200})"
)
_EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,5}(?![\w-])")
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_MOST_DECODED: Final = 65_536

Span = tuple[int, int]


def secret_in(text: str) -> int | None:
    """Where a text holds what has the form of a credential, such as a provider's key; None where it does not."""
    found = [match.start() for pattern in _SECRETS if (match := pattern.search(text)) is not None]
    return min(found, default=None)


class Redactor:
    """Made for one server: it knows that server's credentials. `kinds`: `secrets`, `email`."""

    def __init__(self, credentials: Iterable[str] = (), kinds: Collection[str] = ()) -> None:
        self._needles = forms_of([one for one in credentials if len(one) >= _SHORTEST])
        self._secrets = "secrets" in kinds
        self._email = "email" in kinds
        self._wider: dict[tuple[str, ...], Redactor] = {}  # by kinds

    def with_kinds(self, kinds: Collection[str]) -> Redactor:
        """The same credentials and further kinds."""
        wanted = tuple(kinds)
        made = self._wider.get(wanted)
        if made is None:
            made = self._wider[wanted] = Redactor()
            made._needles = self._needles
            made._secrets = self._secrets or "secrets" in kinds
            made._email = self._email or "email" in kinds
        return made

    def text(self, text: str) -> str:
        return self.texts([text])[0]

    def texts(self, texts: Sequence[str]) -> list[str]:
        """The texts of one result, in their order; what is split over them is found as well."""
        whole = "".join(texts)
        spans = self._found(whole)
        starts: list[int] = []
        at = 0
        for text in texts:
            starts.append(at)
            # Within one text too: what stands behind its end may hide the boundary that a pattern asks for.
            if len(texts) > 1:
                spans += [(begin + at, end + at) for begin, end in self._patterns(text)]
            at += len(text)
        if not spans:
            return list(texts)
        merged = _merged(spans)
        return [_cut(text, start, merged) for text, start in zip(texts, starts, strict=True)]

    def value(self, value: Any) -> Any:
        """A JSON value with every text redacted, keys included, and what stands under the name of a secret."""
        for keys in (True, False):  # what is split over values may have keys between
            texts = list(_texts(value, keys))
            if keys and not self._may_hold("".join(texts)):
                break
            redacted = self.texts(texts)
            if redacted != texts:
                value = _rebuilt(value, keys, iter(redacted).__next__)
        return _without_named(value) if self._secrets else value

    def shown(self, value: Any) -> Any:
        """The same for what a person reads to decide: each text by itself. A form that runs on over the next texts
        would take names of arguments, and values, that are none of the secret."""
        texts = list(_texts(value, True))
        redacted = [self.text(one) for one in texts]
        value = value if redacted == texts else _rebuilt(value, True, iter(redacted).__next__)
        return _without_named(value) if self._secrets else value

    def _may_hold(self, text: str) -> bool:
        """Whether there could be anything in so much text. What spans several values is in the text of all of them."""
        return self._email or len(text) >= (_SHORTEST if self._needles else _SHORTEST_SECRET)

    def _found(self, text: str) -> list[Span]:
        return [*self._credentials(text), *self._patterns(text)]

    def _credentials(self, text: str) -> list[Span]:
        if not self._needles or len(text) < _SHORTEST:
            return []
        spans = [span for needle in self._needles for span in _places(text, needle)]
        squeezed, positions = _squeezed(text)
        if len(squeezed) != len(text):
            for needle in self._needles:
                spans += [(positions[begin], positions[end - 1] + 1) for begin, end in _places(squeezed, needle)]
        return spans

    def _patterns(self, text: str) -> list[Span]:
        spans: list[Span] = []
        if self._secrets and len(text) >= _SHORTEST_SECRET:
            spans += _secret_spans(text)
            for match in _ENCODED.finditer(text):
                if any(_secret_spans(inner) for inner in _decoded(match[0])):
                    spans.append(match.span())
        if self._email:
            spans += [match.span() for match in _EMAIL.finditer(text)]
        return spans


def forms_of(credentials: Sequence[str]) -> tuple[str, ...]:
    """Every form in which a credential is looked for."""
    found: dict[str, None] = {}
    for one in credentials:
        raw = one.encode()
        found[one] = None
        found[quote(one, safe="")] = None
        for byte in ("%{:02X}", "%{:02x}"):  # also what needs no encoding
            found["".join(byte.format(letter) for letter in raw)] = None
        found[raw.hex()] = None
        found[raw.hex().upper()] = None
        for encoded in (base64.b64encode, base64.urlsafe_b64encode):
            for shift in range(3):  # where it begins within what was encoded
                text = encoded(b"\0" * shift + raw).decode().rstrip("=")
                # The first and last characters also depend on what is around it.
                core = text[(0, 2, 3)[shift] : len(text) - (0 if (len(raw) + shift) % 3 == 0 else 1)]
                if len(core) >= _SHORTEST:
                    found[core] = None
    return tuple(found)


def _places(text: str, needle: str) -> list[Span]:
    spans, at = [], text.find(needle)
    while at >= 0:
        spans.append((at, at + len(needle)))
        at = text.find(needle, at + 1)
    return spans


def _squeezed(text: str) -> tuple[str, list[int]]:
    """The text without spaces and invisible characters, and where each of its characters stood."""
    kept = [(index, one) for index, one in enumerate(text) if not one.isspace() and unicodedata.category(one)[0] != "C"]
    return "".join(one for _, one in kept), [index for index, _ in kept]


def _secret_spans(text: str) -> list[Span]:
    spans = [match.span() for pattern in _SECRETS for match in pattern.finditer(text)]
    spans += [match.span("value") for match in _ASSIGNED.finditer(text)]
    return spans


def _decoded(text: str) -> Iterable[str]:
    if len(text) > _MOST_DECODED:
        text = text[:_MOST_DECODED]
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    for start in range(4):
        part = plain[start:]
        part = part[: len(part) - len(part) % 4] if len(part) % 4 == 1 else part
        try:
            yield base64.b64decode(part + "=" * (-len(part) % 4)).decode("utf-8", "ignore")
        except (binascii.Error, ValueError):
            continue


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _cut(text: str, start: int, spans: Sequence[Span]) -> str:
    """A text that begins at `start` of the whole, with what the spans cover replaced."""
    parts, at = [], 0
    for begin, end in spans:
        first, last = max(begin - start, 0), min(end - start, len(text))
        if first < last:
            parts += [text[at:first], HIDDEN]
            at = last
    return "".join([*parts, text[at:]])


def _without_named(value: Any) -> Any:
    """A JSON value without what stands under keys such as `password`, as it would go in a text."""
    if isinstance(value, list):
        return [_without_named(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        named = _ASSIGNED.match(f"{key}={item}") if isinstance(item, str) else None
        hidden = named is not None and named.start("value") == len(key) + 1
        kept[key] = HIDDEN if hidden and item != HIDDEN else _without_named(item)
    return kept


def _texts(value: Any, keys: bool) -> Iterator[str]:
    """The texts in a JSON value, in their order; with `keys` also those of its objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if keys:
                yield key
            yield from _texts(item, keys)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, keys)


def _rebuilt(value: Any, keys: bool, take: Callable[[], str]) -> Any:
    """The value with the texts that `_texts` gives replaced by what `take` gives."""
    if isinstance(value, str):
        return take()
    if isinstance(value, dict):
        return {take() if keys else key: _rebuilt(item, keys, take) for key, item in value.items()}
    if isinstance(value, list):
        return [_rebuilt(item, keys, take) for item in value]
    return value
