"""What the operator says of an external server: how it is reached, what it may use, what is held against it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.catalog import ServerEntry

Transport = Literal["stdio", "http", "sse"]
Pinning = Literal["first_use", "strict"]
Era = Literal["auto", "legacy"]

_CREDENTIAL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that reaches the server and nobody else: neither a model, nor a log, nor a result.

    into: a header of every request, or a variable of the process; name: of the header or variable. It comes from the
    environment variable `variable` or from `file`, behind `prefix` (`Bearer `).
    """

    into: Literal["header", "env"]
    name: str
    variable: str | None = None
    file: Path | None = None
    prefix: str = ""

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret, without the prefix. Raises `unauthenticated` when there is none, or none that can be sent."""
        if self.variable is not None:
            found = (os.environ if environ is None else environ).get(self.variable, "")
            where = f"the environment variable {self.variable}"
        else:
            assert self.file is not None
            where = f"the file {self.file}"
            try:
                with self.file.open("rb") as file:
                    found = file.read(_CREDENTIAL_BYTES).decode().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise OmiumError("unauthenticated", f"the credential in {where} cannot be read.", sent=False) from error
        if not found:
            raise OmiumError("unauthenticated", f"{where} holds no credential.", "Set it.", sent=False)
        if any(ord(one) < 32 or ord(one) == 127 for one in found):
            raise OmiumError("unauthenticated", f"the credential in {where} holds control characters.", sent=False)
        return found


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is made at most, and the pauses between, in seconds. Only a call that was not sent is made
    again, or one of a tool that policy trusts to be read-only or idempotent."""

    attempts: int = 3
    initial_s: float = 0.5
    max_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Breaking:
    """After `failures` of the transport in a row, calls are refused for `reset_s` seconds; then one is tried."""

    failures: int = 5
    reset_s: float = 30.0


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """text: characters of a result's text, beyond which its middle is left out. structured: bytes of structured content
    that are given as such. message: bytes of one message of the server; a larger one is not read."""

    text: int = 25_000
    structured: int = 256 * 1024
    message: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One declared server.

    command, env, pass_env, cwd: of a stdio server; the environment is an allow-list and what stands here. url, headers:
    of the others. Times are in seconds. prices: US dollars of one call by tool, `*` and other globs allowed; the first
    that fits counts. redact: what is taken out of results besides its credentials. concurrent: calls at a time.
    refresh_s: how long a list of tools is believed without having been told of a change.
    """

    name: str
    transport: Transport
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    pass_env: tuple[str, ...] = ()
    cwd: Path = Path()
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: tuple[Credential, ...] = ()
    description: str = ""
    era: Era = "auto"
    pinning: Pinning = "first_use"
    connect_s: float = 30.0
    call_s: float = 60.0
    output: OutputLimits = OutputLimits()
    prices: Mapping[str, float] = field(default_factory=dict)
    retries: Retries = Retries()
    breaking: Breaking = Breaking()
    redact: tuple[str, ...] = ("secrets",)
    concurrent: int = 16
    refresh_s: float = 300.0
    backoff_s: float = 0.5
    secrets: tuple[str, ...] = field(default=(), repr=False)  # besides its credentials: what must not come back either

    def price(self, tool: str) -> float | None:
        """US dollars of one call of a tool; None if nothing is said of it."""
        exact = self.prices.get(tool)
        if exact is not None:
            return exact
        return next((usd for glob, usd in self.prices.items() if fnmatchcase(tool, glob)), None)


class Servers:
    """What a project declares: all of its servers, and how those are reached that can be used. warnings: for whoever
    starts them."""

    def __init__(self) -> None:
        self.entries: dict[str, ServerEntry] = {}
        self.specs: dict[str, ServerSpec] = {}
        self.warnings: list[str] = []

    @property
    def skipped(self) -> dict[str, str]:
        """Those that are not used, with the reason."""
        return {name: one.reason for name, one in self.entries.items() if one.reason}
