"""Hosts in arguments: of URLs, or on their own.

Patterns: `example.com` is that host; `*.example.com` every host below it, and not itself; an address; a network such as
`10.0.0.0/8`; `*` any host. Names are compared as a client would send them: without case, one trailing dot dropped,
international names in their ASCII form (IDNA 2008). Nothing is looked up, so a name that leads to an address is not
that address.

Of what clients read in different ways nothing can be told: a URL with a user (`https://good@evil/`), a backslash, a
space or a character that cannot be seen, an encoded character in the host, an address that is not written out
(`2130706433`, `0x7f.1`, `127.1`, `010.0.0.1`), a port that is no number, and any other scheme than http(s) and ws(s).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from omium.orchestration.gates.policy.fields import Unclear
from omium.orchestration.gates.policy.names import seen

MAX_URL: Final = 8192
SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})
_LABEL: Final = re.compile(r"\A[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"\A(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT: Final = re.compile(r"\A[0-9]{1,5}\Z")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Host = str | Address


def host_pattern_problem(text: str) -> str:
    """What is wrong with a pattern of hosts; empty if nothing is."""
    try:
        _pattern(text)
    except (Unclear, ValueError) as error:
        return f"{text!r:.80} is no host: {error}; expected a name, *.name, an address or a network"
    return ""


def host_in(patterns: Sequence[str]) -> Any:
    """A condition: the value is a URL, or a host with or without a port, whose host is one of these."""
    parsed = [_pattern(one) for one in patterns]
    names = frozenset(one for kind, one in parsed if kind == "name")
    suffixes = tuple(str(one) for kind, one in parsed if kind == "below")
    networks = tuple(one for kind, one in parsed if kind == "network")
    anything = any(kind == "any" for kind, _ in parsed)

    def holds(value: Any) -> bool:
        host = host_of(value)
        if anything:
            return True
        if isinstance(host, str):
            return host in names or (bool(suffixes) and host.endswith(suffixes))
        return any(host in network for network in networks)

    return holds


def host_of(value: Any) -> Host:
    """The host of a URL, or of `host`, `host:port`. Raises Unclear."""
    if type(value) is not str:
        raise Unclear(f"a host of type {'null' if value is None else type(value).__name__}")
    if not value or len(value) > MAX_URL:
        raise Unclear("no host" if not value else f"a URL of more than {MAX_URL} characters")
    if "\\" in value or " " in value or not seen(value):
        raise Unclear("a URL with a backslash, a space or characters that cannot be seen")
    scheme, separator, rest = value.partition("://")
    if separator:
        if scheme.lower() not in SCHEMES:
            raise Unclear(f"a URL with the scheme {scheme[:20]!r}")
    else:
        rest = value
        if any(mark in rest for mark in "/?#"):
            raise Unclear("neither a URL nor a host")
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    return _host(_without_port(rest[:end]))


def _without_port(authority: str) -> str:
    if "@" in authority:
        raise Unclear("a URL with a user in it")
    if authority.startswith("["):
        host, bracket, port = authority.partition("]")
        if not bracket or (port and (port[0] != ":" or not _PORT.match(port[1:]))):
            raise Unclear("an address in brackets that do not end")
        return f"{host}]"
    host, colon, port = authority.partition(":")
    if colon and not _PORT.match(port):
        raise Unclear("a port that is no number")
    return host


def _host(text: str) -> Host:
    if text.startswith("["):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise Unclear("an address in brackets that is none") from None
        if address.scope_id is not None:
            raise Unclear("an address with a zone")
        return address.ipv4_mapped or address
    name = _ascii(text).lower()
    if name.endswith("."):
        name = name[:-1]
    labels = name.split(".")
    if not name or len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise Unclear("a host that is no name")
    if _NUMBER.match(labels[-1]):
        # As browsers have it (https://url.spec.whatwg.org/#ends-in-a-number-checker): this is an address, or nothing.
        try:
            return ipaddress.IPv4Address(name)
        except ValueError:
            raise Unclear("an address that is not written out") from None
    return name


def _ascii(text: str) -> str:
    """A name in its ASCII form. Raises Unclear for one that is none, or that looks like another."""
    if text.isascii():
        return text
    if not unicodedata.is_normalized("NFKC", text):
        raise Unclear("a host with characters that stand for others")
    import idna

    try:
        return idna.encode(text).decode()
    except (idna.IDNAError, UnicodeError):
        raise Unclear("a host whose characters no name may have") from None


def _pattern(text: str) -> tuple[str, Any]:
    """(`any`, `name`, `below` or `network`, what it is)."""
    if text == "*":
        return "any", None
    if text.startswith("*."):
        below = _host(text[2:])
        if not isinstance(below, str):
            raise ValueError("no names are below an address")
        return "below", f".{below}"
    if "/" in text or (":" in text and not text.startswith("[")):
        return "network", ipaddress.ip_network(text)
    host = _host(text)
    return ("name", host) if isinstance(host, str) else ("network", ipaddress.ip_network(host))
