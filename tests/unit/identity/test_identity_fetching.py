"""Fetching keys: from public addresses only, from exactly the address that was checked, in bounded size and time."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.server.identity import fetching
from omium.server.identity.fetching import Fetch
from tests.unit.identity.jwt_help import ec_key

pytestmark = pytest.mark.anyio


def resolving(*addresses: str) -> Callable[[str, int], Any]:
    """A resolver by which every name is at these addresses."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def unreachable(host: str, port: int) -> Sequence[str]:
    raise AssertionError(f"{host} was looked up")


@dataclass
class Site:
    """A server on loopback that gives every request the same answer."""

    answer: bytes
    port: int = 0
    requests: list[bytes] = field(default_factory=list)


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site(answer)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            site.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(site.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


async def refused(fetch: Fetch, url: str, code: str = "forbidden") -> OmiumError:
    with anyio.fail_after(20), pytest.raises(OmiumError) as error:
        await fetch.json(url)
    assert error.value.code == code, error.value
    return error.value


# --- addresses --------------------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1",
    "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2002:a9fe:a9fe::",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_addresses_that_are_not_public(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    await refused(Fetch(resolve=unreachable), f"https://{host}/keys")
    await refused(Fetch(resolve=resolving(address)), "https://keys.example.com/keys")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "1.1.1.1.",
        "keys.example.com.1", "keys.0x1", "[::1%25lo]", "[fe80::1%25eth0]", "", "a..b/", "exa mple.com", "a%2eb",
        "127。0。0。1", "ⓛocalhost", "-x.com-",
    ],
)  # fmt: skip
async def test_hosts_in_a_form_that_somebody_may_take_for_an_address(host: str) -> None:
    await refused(Fetch(resolve=unreachable), f"https://{host}/keys")


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example.com/", "ftp://keys.example.com/", "file:///etc/passwd", "//keys.example.com/", "keys", "",
        "https://ada:secret@keys.example.com/", "https://keys.example.com@127.0.0.1/", "https://keys.example.com/#x",
        "https://keys.example.com:99999/", "https://keys.example.com:x/", "https://keys.example.com\\@127.0.0.1/",
        "https://keys.example.com/\r\nHost: x", f"https://keys.example.com/{'a' * 3_000}", "gopher://x/_", "http://[::1/",
    ],
)  # fmt: skip
async def test_addresses_of_another_form(url: str) -> None:
    await refused(Fetch(resolve=unreachable), url)


async def test_one_bad_address_among_good_ones_is_an_attempt() -> None:
    await refused(Fetch(resolve=resolving("93.184.215.14", "127.0.0.1")), "https://keys.example.com/")


async def test_loopback_has_to_be_allowed_and_nothing_else_is_with_it() -> None:
    open_here = Fetch(allow_loopback=True, resolve=resolving("169.254.169.254"))
    for url in ("http://keys.example.com/", "https://keys.example.com/", "http://169.254.169.254/", "http://10.0.0.1/"):
        await refused(open_here, url)
    async with serving(http(b'{"keys": []}')) as site:
        await refused(Fetch(), f"http://127.0.0.1:{site.port}/")
        await refused(Fetch(resolve=resolving("127.0.0.1")), f"https://localhost:{site.port}/")
        assert site.requests == []
        found = await Fetch(allow_loopback=True).json(f"http://127.0.0.1:{site.port}/keys?a=b")
        assert found == {"keys": []}
    assert site.requests[0].startswith(b"GET /keys?a=b HTTP/1.1\r\n")


async def test_a_name_that_cannot_be_resolved() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror("no such name")

    await refused(Fetch(resolve=nowhere), "https://keys.example.com/", "unsupported")
    await refused(Fetch(resolve=resolving()), "https://keys.example.com/", "unsupported")


# --- the connection ---------------------------------------------------------------------------------------------------


def certificate(path: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server that has this name, and of a client that trusts it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(ec_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ec_key(), hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = path / f"{name}.pem"
    file.write_bytes(ec_key().private_bytes(*form) + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client


async def test_a_name_that_changes_its_address_is_reached_where_it_was_checked(tmp_path: Path) -> None:
    """The second answer of the resolver would be an address that was never looked at."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    server, client = certificate(tmp_path, "keys.example.test")
    async with serving(http(b'{"ok": 1}'), server) as site:
        fetch = Fetch(allow_loopback=True, resolve=rebinding, tls=client)
        assert await fetch.json(f"https://keys.example.test:{site.port}/") == {"ok": 1}
        assert len(answers) == 1
        await refused(fetch, f"https://keys.example.test:{site.port}/")
    assert f"Host: keys.example.test:{site.port}\r\n".encode() in site.requests[0]
    assert b"uthorization" not in site.requests[0]


async def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "keys.example.test")
    async with serving(http(b"{}"), server) as site:
        other = Fetch(allow_loopback=True, resolve=resolving("127.0.0.1"), tls=client)
        await refused(other, f"https://another.example.test:{site.port}/", "unsupported")
        untrusted = Fetch(allow_loopback=True, resolve=resolving("127.0.0.1"))
        await refused(untrusted, f"https://keys.example.test:{site.port}/", "unsupported")


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(http(b'{"from": "proxy"}')) as proxy, serving(http(b'{"from": "site"}')) as site:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        found = await Fetch(allow_loopback=True).json(f"http://127.0.0.1:{site.port}/")
    assert found == {"from": "site"}
    assert proxy.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        http(b"", "302 Found", "Location: http://169.254.169.254/latest/meta-data"),
        http(b'{"a": 1}', "301 Moved", "Location: /other"),
        http(b'{"a": 1}', "201 Created"),
        http(b'{"a": 1}', "404 Not Found"),
        http(b"[1]"),
        http(b"no json"),
        http(b'{"a": NaN}'),
        http(b"[" * 100_000),
        http(b""),
        http(b'{"a": "' + b"x" * 300_000 + b'"}'),
        http(b"\x1f\x8b\x08", "200 OK", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-x\r\n",
        b"",
    ],
    ids=range(14),
)
async def test_answers_that_are_no_keys(answer: bytes) -> None:
    async with serving(answer) as site:
        await refused(Fetch(allow_loopback=True), f"http://127.0.0.1:{site.port}/", "unsupported")
        assert len(site.requests) == 1


async def test_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_WITHIN_S", 0.05)
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        port = listening.getsockname()[1]
        await refused(Fetch(allow_loopback=True), f"http://127.0.0.1:{port}/", "timeout")
    finally:
        listening.close()


@given(st.ip_addresses())
async def test_no_address_that_is_not_public_is_ever_admitted(address: Any) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    meant = getattr(address, "ipv4_mapped", None) or address
    if meant.is_global and not meant.is_multicast and not meant.is_reserved:
        return
    with pytest.raises(OmiumError):
        Fetch()._checked(f"https://{host}/")
