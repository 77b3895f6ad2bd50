"""Fetching a small JSON document from an address that an operator configured, or that a fetched document names, without
being made to reach what only this machine can reach.

The address is resolved once, everything it resolves to has to be public, and the connection goes to exactly what was
checked: a name that resolves to something else a moment later gains nothing. Redirects and proxies are not followed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import orjson

from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    import ssl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_LARGEST: Final = 256 * 1024  # bytes of a document
_WITHIN_S: Final = 10.0
_LONGEST: Final = 2_048  # characters of a URL
_NUMERIC: Final = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)\.?")  # a last label that makes a host an IPv4 address
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


async def resolve(host: str, port: int) -> Sequence[str]:
    """What a name resolves to, by the system's resolver."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class Fetch:
    """allow_loopback: addresses of this machine too, and those over plain http; for development and tests. tls: a
    context with which certificates are checked, that of httpx unless given."""

    def __init__(
        self, *, allow_loopback: bool = False, resolve: Resolve = resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        self._loopback = allow_loopback
        self._resolve = resolve
        self._tls = tls

    async def json(self, url: str) -> dict[str, Any]:
        """The object that the document is. Raises `forbidden` for an address that is none of ours to reach, `timeout`,
        and `unsupported` for anything but a JSON object of bounded size with the status 200."""
        host, port, scheme = self._checked(url)
        try:
            with anyio.fail_after(_WITHIN_S):
                return await self._get(url, host, await self._address(host, port), scheme)
        except TimeoutError:
            raise OmiumError("timeout", f"{host} did not answer within {_WITHIN_S:.0f} s.") from None

    def _checked(self, url: str) -> tuple[str, int, str]:
        """Host, port and scheme. Raises `forbidden`."""
        try:
            if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
                raise ValueError
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise OmiumError("forbidden", f"{url[:200]!r} is no address to fetch from.") from None
        if "@" in parts.netloc or parts.fragment:
            raise OmiumError("forbidden", "an address to fetch from has neither a user nor a fragment.")
        literal = _literal(host)
        if literal is None and not _HOST.fullmatch(host):
            raise OmiumError("forbidden", f"{host!r} is no host.")
        if literal is not None:
            self._admit(literal, host)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._loopback and _is_here(host, literal)):
            raise OmiumError("forbidden", f"{parts.scheme!r:.40} is not fetched from.", "Use https.")
        return host, port or (443 if parts.scheme == "https" else 80), parts.scheme

    def _admit(self, address: Address, host: str) -> None:
        for one in _meant(address):
            if not _is_public(one) and not (self._loopback and one.is_loopback):
                raise OmiumError(
                    "forbidden",
                    f"{host} is at {address}, which is no public address.",
                    "An issuer's keys are fetched from public addresses only.",
                    host=host,
                )

    async def _address(self, host: str, port: int) -> Address:
        literal = _literal(host)
        if literal is not None:
            return literal
        try:
            found = [ipaddress.ip_address(one.partition("%")[0]) for one in await self._resolve(host, port)]
        except (OSError, ValueError) as error:
            raise OmiumError("unsupported", f"the host {host} cannot be resolved.") from error
        if not found:
            raise OmiumError("unsupported", f"the host {host} has no address.")
        for address in found:  # all of them: one bad one among them is an attempt
            self._admit(address, host)
        return found[0]

    async def _get(self, url: str, host: str, address: Address, scheme: str) -> dict[str, Any]:
        import httpx

        target = httpx.URL(url)
        pinned = target.copy_with(host=str(address))
        headers = {
            "Host": target.netloc.decode("ascii"),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "omium",
        }
        # The certificate is checked for the name, though the connection goes to the address.
        extensions = {"sni_hostname": host} if scheme == "https" else {}
        verify = self._tls if self._tls is not None else True
        try:
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False, verify=verify, timeout=_WITHIN_S) as client,
                client.stream("GET", pinned, headers=headers, extensions=extensions) as answer,
            ):
                if answer.status_code != 200:
                    raise OmiumError("unsupported", f"{host} answered {answer.status_code}.", "200 is expected.")
                if "content-encoding" in answer.headers:
                    raise OmiumError("unsupported", f"{host} answered in an encoding that was not asked for.")
                content = bytearray()
                async for piece in answer.aiter_raw():
                    content += piece
                    if len(content) > _LARGEST:
                        raise OmiumError("unsupported", f"{host} answered with more than {_LARGEST} bytes.")
        except httpx.TimeoutException as error:
            raise OmiumError("timeout", f"{host} did not answer in time.") from error
        except httpx.HTTPError as error:
            raise OmiumError("unsupported", f"{host} cannot be reached: {type(error).__name__}.") from error
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise OmiumError("unsupported", f"{host} answered with something that is no JSON.") from error
        if not isinstance(document, dict):
            raise OmiumError("unsupported", f"{host} answered with JSON that is no object.")
        return document


def _literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name. Raises `forbidden` for numbers that some resolvers take
    for an address and that are not written as one, such as 2130706433, 0x7f.1 or 127.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if not host or ":" in host or "%" in host or _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise OmiumError("forbidden", f"{host!r:.80} is neither a name nor an address in its usual form.")
    return None


def _is_here(host: str, literal: Address | None) -> bool:
    return literal.is_loopback if literal is not None else host == "localhost"


def _meant(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that it may stand for."""
    meant: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            meant.append(address.sixtofour)
        if address.teredo is not None:
            meant += address.teredo
        if any(address in network for network in _NAT64) or int(address) >> 32 == 0:
            meant.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return meant


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not special
