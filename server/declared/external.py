"""`mcp_servers:` of `omium.yaml`: which external MCP servers there are. Nobody but the operator can name one.

mcp_servers:
  import: .mcp.json                        # take over what a client's file declares; or a list of files
  github:
    command: npx
    args: [-y, "@modelcontextprotocol/server-github@2025.4.8"]
    credentials:
    - {env: GITHUB_PERSONAL_ACCESS_TOKEN, from_env: GITHUB_TOKEN}
  search:
    url: https://search.example.com/mcp
    credentials:
    - {header: Authorization, prefix: "Bearer ", from_file: secrets/search}
    timeout: 20s
    prices: {query: 0.001, "*": 0}

In command and args `{python}` is Omium's own interpreter and `{project}/...` a file of the project.
`${VAR}` and `${VAR:-default}` stand for variables of the environment in command, args, cwd, env, url and headers. A
server that needs one which is not set is not used, and says why.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from omium.clients.external.spec import (
    Breaking,
    Credential,
    OutputLimits,
    Retries,
    Servers,
    ServerSpec,
    Transport,
)
from omium.clients.processes.environment import check_declared
from omium.orchestration.definition.document import VARIABLE, model_problems
from omium.orchestration.definition.problems import Problem
from omium.orchestration.definition.schema import Duration, FileModel, Prose
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.catalog import ServerEntry
from omium.server.declared.mcp_json import Imported, read_mcp_json
from omium.server.declared.packages import unpinned

_NAME: Final = re.compile(r"\A[A-Za-z0-9](?:[A-Za-z0-9-]|_(?!_)){0,39}\Z")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_LOOPBACK: Final = re.compile(r"\A(?:localhost|127(?:\.\d{1,3}){3}|::1)\Z")
_SECRET_NAME: Final = re.compile(r"(?i)token|secret|passw|key|credential|auth|bearer|cookie|\bpat\b")
_RESERVED_HEADERS: Final = frozenset({"host", "content-length", "content-type", "accept", "accept-encoding"})
_IMPORT: Final = "import"


def is_server_name(name: str) -> bool:
    """Whether a server may be called so: letters, digits, - and single _, at most 40. Models see `server__tool`."""
    return _NAME.match(name) is not None


def _server_name(name: str) -> str:
    if not is_server_name(name):
        raise ValueError(f"{name[:60]!r} is no server's name; expected at most 40 of A-Z a-z 0-9 - and single _")
    return name


def _header(name: str) -> str:
    if (
        not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name)
        or name.lower() in _RESERVED_HEADERS
        or name.lower()[:4] == "mcp-"
    ):
        raise ValueError(f"{name[:60]!r} cannot be set; expected a header that is not the protocol's own")
    return name


def _variables(names: Any) -> Any:
    try:
        check_declared(names)
    except OmiumError as error:
        raise ValueError(f"{error.message.rstrip('.')}; expected {error.hint or 'another name'}") from None
    return names


def _import_only(value: Any) -> Any:
    return {_IMPORT: [value] if isinstance(value, str) else value} if isinstance(value, str | list) else value


def _secrets() -> list[Literal["secrets", "email"]]:
    return ["secrets"]


Header = Annotated[str, AfterValidator(_header)]
Variable = Annotated[str, Field(pattern=VARIABLE)]
Text = Annotated[str, Field(max_length=8_192)]
ToolGlob = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?-]{1,128}$")]
Seconds = Annotated[Duration, Field(gt=0, le=86_400)]


class CredentialFile(FileModel):
    header: Header | None = None
    env: Variable | None = None
    from_env: Variable | None = None
    from_file: str | None = None
    prefix: Annotated[str, Field(max_length=100)] = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.header is None) == (self.env is None):
            raise ValueError("goes into two places, or none; expected either header or env")
        if (self.from_env is None) == (self.from_file is None):
            raise ValueError("comes from two places, or none; expected either from_env or from_file")
        if self.env is not None:
            _variables([self.env])
        return self


class RetriesFile(FileModel):
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    initial: Seconds = 0.5
    max: Seconds = 10.0


class BreakerFile(FileModel):
    failures: Annotated[int, Field(ge=1, le=1_000)] = 5
    reset: Seconds = 30.0


class OutputFile(FileModel):
    text: Annotated[int, Field(ge=100, le=1_000_000)] = 25_000
    structured: Annotated[int, Field(ge=100, le=4 * 1024 * 1024)] = 256 * 1024
    message: Annotated[int, Field(ge=1_000, le=8 * 1024 * 1024)] = 8 * 1024 * 1024


class ServerEntryFile(FileModel):
    """One server; or, under the name `import`, the files to take others from."""

    imported: Annotated[list[str] | None, Field(alias=_IMPORT, min_length=1, max_length=10)] = None
    command: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    args: Annotated[list[Text], Field(max_length=200)] = Field(default_factory=list)
    env: Annotated[dict[str, Text], AfterValidator(_variables)] = Field(default_factory=dict)
    pass_env: Annotated[list[str], AfterValidator(_variables)] = Field(default_factory=list)
    cwd: str | None = None
    url: Text | None = None
    headers: dict[Header, Text] = Field(default_factory=dict)
    transport: Literal["stdio", "http", "sse"] | None = None
    credentials: Annotated[list[CredentialFile], Field(max_length=20)] = Field(default_factory=list)
    description: Prose = ""
    enabled: bool = True
    era: Literal["auto", "legacy"] = "auto"
    pinning: Literal["first_use", "strict"] = "first_use"
    allow_unpinned: bool = False
    allow_plain_http: bool = False
    timeout: Seconds = 60.0
    connect_timeout: Seconds = 30.0
    refresh: Seconds = 300.0
    concurrent: Annotated[int, Field(ge=1, le=1_000)] = 16
    output: OutputFile = Field(default_factory=OutputFile)
    prices: dict[ToolGlob, Annotated[float, Field(ge=0, le=1_000_000)]] = Field(default_factory=dict)
    retries: RetriesFile = Field(default_factory=RetriesFile)
    breaker: BreakerFile = Field(default_factory=BreakerFile)
    redact: list[Literal["secrets", "email"]] = Field(default_factory=_secrets)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.imported is not None:
            if len(self.model_fields_set) > 1:
                raise ValueError("imports and declares; expected import alone")
            return self
        if (self.command is None) == (self.url is None):
            raise ValueError("has two ways to be reached, or none; expected either command or url")
        process = self.command is not None
        if self.transport is not None and (self.transport == "stdio") != process:
            raise ValueError(f"transport {self.transport} does not go with {'command' if process else 'url'}")
        alien = (
            {"url", "headers", "allow_plain_http"} if process else {"args", "env", "pass_env", "cwd", "allow_unpinned"}
        )
        given = sorted(alien & self.model_fields_set)
        if given:
            raise ValueError(f"{given[0]} means nothing to a server with {'a command' if process else 'a url'}")
        for one in self.credentials:
            if (one.env is not None) != process:
                raise ValueError("its credential cannot get there; expected env with command, header with url")
        return self


ServersFile = Annotated[
    dict[
        Annotated[str, AfterValidator(_server_name)],
        Annotated[
            ServerEntryFile, BeforeValidator(_import_only, json_schema_input_type=ServerEntryFile | str | list[str])
        ],
    ],
    Field(max_length=200),
]


def declared_servers(
    entries: Mapping[str, ServerEntryFile],
    directory: Path,
    into: Servers,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Problem]:
    """Put what the file declares into `into`; the problems of what can never work. What is declared
    here goes before what is imported."""
    env = os.environ if environ is None else environ
    for name, entry in entries.items():
        here = f"mcp_servers.{name}"
        if (entry.imported is not None) != (name == _IMPORT):
            expected = "import: a file" if name == _IMPORT else "command or url"
            yield Problem(here, "only the key import imports, and it does nothing else", expected)
        elif entry.imported is None:
            yield from _take(name, entry, directory, into, env, here)
    for index, file in enumerate((entries[_IMPORT].imported or ()) if _IMPORT in entries else ()):
        here = f"mcp_servers.{_IMPORT}[{index}]"
        try:
            found = read_mcp_json(directory / Path(file).expanduser())
        except OmiumError as error:
            yield Problem(here, error.message.rstrip("."), error.hint.rstrip(".") or "a client's .mcp.json")
            continue
        for one in found:
            if one.name not in into.entries:
                _import_one(one, directory, into, env, here)


def _import_one(one: Imported, directory: Path, into: Servers, env: Mapping[str, str], here: str) -> None:
    """A server of a client's file. One that cannot be used is skipped: it is not our file to refuse."""
    if one.problem or not is_server_name(one.name):
        reason = one.problem or "its name cannot be one here"
        into.entries[one.name] = ServerEntry(one.name, "stdio", reason=reason)
        return
    try:
        entry = ServerEntryFile.model_validate(one.entry)
    except ValidationError as error:
        reason = str(model_problems(error, ServerEntryFile)[0])
        into.entries[one.name] = ServerEntry(one.name, "stdio", reason=f"its entry does not fit: {reason}")
        return
    for problem in _take(one.name, entry, directory, into, env, here):
        _skip(into, one.name, entry, problem.message)


def _skip(into: Servers, name: str, entry: ServerEntryFile, reason: str) -> None:
    into.specs.pop(name, None)
    into.entries[name] = ServerEntry(name, _transport(entry), entry.description, entry.enabled, reason)


def _transport(entry: ServerEntryFile) -> Transport:
    return entry.transport or ("stdio" if entry.command is not None else "http")


def _take(
    name: str, entry: ServerEntryFile, directory: Path, into: Servers, env: Mapping[str, str], here: str
) -> Iterator[Problem]:
    if not entry.enabled:
        _skip(into, name, entry, "it is disabled")
        return
    missing: list[str] = []
    secrets: list[str] = []

    def filled(text: str, label: str = "") -> str:
        def value(match: re.Match[str]) -> str:
            found = env.get(match[1]) or match[2]
            if found is None:
                missing.append(match[1])
                return ""
            if len(found) >= 8 and (_SECRET_NAME.search(match[1]) or _SECRET_NAME.search(label)):
                secrets.append(found)  # what was put in so must not come out in a result
            return found

        return _VARIABLE.sub(value, text)

    spec = _spec(name, entry, directory, filled)
    for credential in entry.credentials:
        if credential.from_env is not None and not env.get(credential.from_env):
            missing.append(credential.from_env)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        _skip(into, name, entry, f"not set in the environment: {names}")
        return
    problem = _url_problem(spec, entry.allow_plain_http) if entry.url is not None else None
    if problem is not None:
        yield Problem(f"{here}.url", *problem)
        return
    package = unpinned(spec.command) if spec.command else None
    if package is not None:
        if not entry.allow_unpinned:
            _skip(into, name, entry, f"{package} names no version: whatever is published next would run. Pin it")
            return
        into.warnings.append(f"the MCP server {name} runs {package}, whichever version that is today")
    into.entries[name] = ServerEntry(name, spec.transport, entry.description)
    into.specs[name] = replace(spec, secrets=tuple(dict.fromkeys(secrets)))


def _placed(directory: Path) -> Callable[[str], str]:
    """`{python}` is Omium's interpreter, `{project}/...` a file of the project, as in commands."""

    def placed(text: str) -> str:
        if text == "{python}":
            return sys.executable
        return str(directory) + text.removeprefix("{project}") if text.startswith("{project}/") else text

    return placed


def _spec(name: str, entry: ServerEntryFile, directory: Path, filled: Callable[..., str]) -> ServerSpec:
    placed = _placed(directory)
    cwd = directory if entry.cwd is None else (directory / Path(filled(entry.cwd)).expanduser()).resolve()
    return ServerSpec(
        name=name,
        transport=_transport(entry),
        command=() if entry.command is None else tuple(placed(filled(one)) for one in (entry.command, *entry.args)),
        env={key: filled(value, key) for key, value in entry.env.items()},
        pass_env=tuple(entry.pass_env),
        cwd=cwd,
        url="" if entry.url is None else filled(entry.url),
        headers={key: filled(value, "auth") for key, value in entry.headers.items()},
        credentials=tuple(
            Credential(
                "header" if one.header is not None else "env",
                one.header or one.env or "",
                one.from_env,
                None if one.from_file is None else (directory / Path(one.from_file).expanduser()).resolve(),
                one.prefix,
            )
            for one in entry.credentials
        ),
        description=entry.description,
        era=entry.era,
        pinning=entry.pinning,
        connect_s=entry.connect_timeout,
        call_s=entry.timeout,
        output=OutputLimits(entry.output.text, entry.output.structured, entry.output.message),
        prices=dict(entry.prices),
        retries=Retries(entry.retries.attempts, entry.retries.initial, entry.retries.max),
        breaking=Breaking(entry.breaker.failures, entry.breaker.reset),
        redact=tuple(entry.redact),
        concurrent=entry.concurrent,
        refresh_s=entry.refresh,
    )


def _url_problem(spec: ServerSpec, plain: bool) -> tuple[str, str] | None:
    """Why a URL is none to be reached: (what is wrong, what is expected)."""
    try:
        parts = urlsplit(spec.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL", "https://..."
    if parts.scheme not in ("http", "https") or not host or any(ord(one) < 33 for one in spec.url):
        return "is no URL of a server", "https://..."
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password", "credentials under credentials"
    if parts.scheme == "http" and not _LOOPBACK.match(host) and not plain:
        return "would be reached without encryption", "https, or allow_plain_http: true"
    return None
