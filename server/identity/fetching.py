"""Fetching a small JSON document from an address that an operator configured, or that a fetched document names, and
posting one there, without being made to reach what only this machine can reach.

The address is resolved once, everything it resolves to has to be public, and the connection goes to exactly what was
checked: a name that resolves to something else a moment later gains nothing. Redirects and proxies are not followed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import orjson

from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    import ssl

    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_LARGEST: Final = 256 * 1024  # bytes of a document
_WITHIN_S: Final = 10.0
_CLIENT_S: Final = 60.0  # of one step; whoever asks bounds the whole
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
    """allow_loopback: addresses of this machine too, and those over plain http; for development and tests.
    allow_private: whatever address an operator's own network gives, also over plain http. tls: a context with which
    certificates are checked, that of httpx unless given."""

    def __init__(
        self,
        *,
        allow_loopback: bool = False,
        allow_private: bool = False,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loopback = allow_loopback or allow_private
        self._private = allow_private
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

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], within_s: float = _WITHIN_S) -> int:
        """Send the content; the status of the answer, whose body is not read. Raises `forbidden` for an address that is
        none of ours to reach, `timeout`, and `unsupported` when nobody answers there."""
        host, port, scheme = self._checked(url)
        try:
            with anyio.fail_after(within_s):
                address = await self._address(host, port)
                async with self._asked("POST", url, host, address, scheme, headers, content) as answer:
                    return answer.status_code
        except TimeoutError:
            raise OmiumError("timeout", f"{host} did not answer within {within_s:g} s.") from None

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
        plain_is_fine = self._private or (self._loopback and _is_here(host, literal))
        if parts.scheme != "https" and not (parts.scheme == "http" and plain_is_fine):
            raise OmiumError("forbidden", f"{parts.scheme!r:.40} is not fetched from.", "Use https.")
        return host, port or (443 if parts.scheme == "https" else 80), parts.scheme

    def _admit(self, address: Address, host: str) -> None:
        for one in _meant(address):
            here = (self._private and _is_somewhere(one)) or (self._loopback and one.is_loopback)
            if not _is_public(one) and not here:
                raise OmiumError(
                    "forbidden",
                    f"{host} is at {address}, which is no public address.",
                    "Only public addresses are reached, unless the configuration says otherwise.",
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
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self._asked("GET", url, host, address, scheme, headers) as answer:
            if answer.status_code != 200:
                raise OmiumError("unsupported", f"{host} answered {answer.status_code}.", "200 is expected.")
            if "content-encoding" in answer.headers:
                raise OmiumError("unsupported", f"{host} answered in an encoding that was not asked for.")
            content = bytearray()
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > _LARGEST:
                    raise OmiumError("unsupported", f"{host} answered with more than {_LARGEST} bytes.")
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise OmiumError("unsupported", f"{host} answered with something that is no JSON.") from error
        if not isinstance(document, dict):
            raise OmiumError("unsupported", f"{host} answered with JSON that is no object.")
        return document

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        host: str,
        address: Address,
        scheme: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The answer of exactly this address, as far as its head. Raises `timeout` and `unsupported`."""
        import httpx

        target = httpx.URL(url)
        pinned = target.copy_with(host=str(address))
        headers = {**headers, "Host": target.netloc.decode("ascii"), "User-Agent": "omium"}
        # The certificate is checked for the name, though the connection goes to the address.
        extensions = {"sni_hostname": host} if scheme == "https" else {}
        verify = self._tls if self._tls is not None else True
        try:
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False, verify=verify, timeout=_CLIENT_S) as client,
                client.stream(method, pinned, headers=headers, content=content, extensions=extensions) as answer,
            ):
                yield answer
        except httpx.TimeoutException as error:
            raise OmiumError("timeout", f"{host} did not answer in time.") from error
        except httpx.HTTPError as error:
            raise OmiumError("unsupported", f"{host} cannot be reached: {type(error).__name__}.") from error


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


def _is_somewhere(address: Address) -> bool:
    """Whether an address is one host that somebody may well run a service on. Link-local ones are where clouds hand
    out credentials of a machine, so they are reached by nobody's leave."""
    return not (address.is_multicast or address.is_unspecified or address.is_link_local or address.is_reserved)


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    return address.is_global and not special
