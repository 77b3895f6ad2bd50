"""What a process of Omium is started with: the project, the database, the limits.

From `omium.yaml` in the current directory or the nearest one above it, and from the environment, which goes first. With
neither there is an empty project called `default`.

| variable | meaning |
|---|---|
| OMIUM_PROJECT | the `omium.yaml` to use, or its directory |
| OMIUM_HOME | Omium's own directory (`~/.omium`) |
| OMIUM_DATABASE | a path or URL (`omium.db` in the home) |
| OMIUM_DURABILITY | `full` or `normal` |
| OMIUM_CHAIN_KEY_FILE | a file with the secret that makes the hash chain an HMAC |
| OMIUM_SLOTS, OMIUM_RUNS, OMIUM_PROCESSES | nodes at once, runs owned at once, worker processes of functions |
| OMIUM_RUN_TIME | how long any run may take, such as 1h |
| OMIUM_MEMORY | what commands with a memory limit may be given together, such as 2GB |
| OMIUM_READS, OMIUM_CHANGES, OMIUM_STARTS | requests of one caller a minute: reads, changes, starts of runs |
| OMIUM_CONCURRENT | calls of one caller under way at once |
| OMIUM_OPEN_LOOPBACK | whether a bind to loopback asks for no credential (`true`) |
| OMIUM_JWT_ISSUER, _AUDIENCE, _JWKS, _NAME, _ROLE_CLAIM | an issuer whose JWTs are trusted, besides those of the file |
| OMIUM_SUPERVISION_<SECTION>_<KEY> | a key of `supervision:`, such as OMIUM_SUPERVISION_TIMEOUTS_HARD |
| OMIUM_DETACH | whether runs go on in the background when a server leaves (`true`) or are parked (`false`) |
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from omium.orchestration.errors import OmiumError
from omium.server.identity.issuers import AuthSettings
from omium.server.identity.limits import RequestLimits
from omium.server.project import Project

if TYPE_CHECKING:
    from omium.server.declared.supervision import SupervisionFile
    from omium.server.notify.endpoints import Endpoint
    from omium.server.telemetry.settings import Telemetry

T = TypeVar("T")
Durability = Literal["full", "normal"]

FILE_NAME: Final = "omium.yaml"
_FILE_PROBLEMS: Final = ("invalid_definition", "not_registered")
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """slots: nodes that run at once in this process; runs: runs that it owns at once; processes: calls of functions in
    worker processes at once; resources: named limits, also `function:NAME` and `cli:NAME`; requests: of a caller;
    run_time_s: no run takes longer; memory_bytes: what commands that state a memory limit may be given together."""

    slots: int = 4_096
    runs: int = 2_000
    processes: int = 8
    resources: Mapping[str, int] = field(default_factory=dict)
    requests: RequestLimits = field(default_factory=RequestLimits)
    run_time_s: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Whether processes that execute runs also look after the database, and how often each chore comes round."""

    enabled: bool = True
    every_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Runs that ended `after_s` seconds ago lose their `contents`, or go altogether (`runs`)."""

    after_s: float
    forget: Literal["contents", "runs"] = "contents"


@dataclass(frozen=True, slots=True)
class Config:
    """database: an absolute path or a URL. start: the file or directory from which another process can load the same
    project; None when it only exists in this process, whose runs can then not go on in another one."""

    project: Project
    database: str
    home: Path
    durability: Durability = "full"
    chain_key_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    detach: bool = True
    start: Path | None = None
    upkeep: Upkeep = field(default_factory=Upkeep)
    retention: Retention | None = None  # None: nothing is forgotten
    broken: bool = False  # the project file cannot be loaded: nothing of it is registered, and nothing can be executed
    auth: AuthSettings = field(default_factory=AuthSettings)
    notify: tuple[Endpoint, ...] = ()
    telemetry: Telemetry | None = None
    supervision: SupervisionFile | None = None  # None: as a file says that says nothing of it

    def chain_key(self) -> bytes | None:
        """The secret of the hash chain; None without one. Raises `invalid_argument` for a file that cannot be it."""
        if self.chain_key_file is None:
            return None
        try:
            mode = self.chain_key_file.stat().st_mode
            key = self.chain_key_file.read_bytes().strip()
        except OSError as error:
            raise _bad_key(self.chain_key_file, error.strerror or str(error)) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise _bad_key(self.chain_key_file, "others than its owner have access to it")
        if len(key) < _KEY_BYTES:
            raise _bad_key(self.chain_key_file, f"it holds {len(key)} bytes; at least {_KEY_BYTES} are needed")
        return key

    def environment(self) -> dict[str, str | None]:
        """The variables with which another process gets this very configuration; None is to be unset."""
        return {
            "OMIUM_PROJECT": None if self.start is None else str(self.start),
            "OMIUM_HOME": str(self.home),
            "OMIUM_DATABASE": self.database,
            "OMIUM_DURABILITY": self.durability,
            "OMIUM_CHAIN_KEY_FILE": None if self.chain_key_file is None else str(self.chain_key_file),
            "OMIUM_SLOTS": str(self.limits.slots),
            "OMIUM_RUNS": str(self.limits.runs),
            "OMIUM_PROCESSES": str(self.limits.processes),
            "OMIUM_MEMORY": None if self.limits.memory_bytes is None else str(self.limits.memory_bytes),
            "OMIUM_RUN_TIME": None if self.limits.run_time_s is None else str(self.limits.run_time_s),
            "OMIUM_DETACH": "true" if self.detach else "false",
        }


def home_of(env: Mapping[str, str]) -> Path:
    """Omium's own directory, as the environment says."""
    return (_get(env, "OMIUM_HOME", Path, "a path") or Path("~/.omium")).expanduser().absolute()


def load_config(
    start: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    broken: Callable[[OmiumError], None] | None = None,
) -> Config:
    """The configuration of a process. start: an `omium.yaml` or its directory; unless given, OMIUM_PROJECT, or else the
    current directory and those above it are looked at. environ: os.environ unless given. broken: called with what is
    wrong with a project file of which only the name and the database can be told; the configuration then has nothing
    registered, which is enough to look at runs and to steer them.

    Raises what `load_project` raises; `invalid_argument` naming the variable for one that has no valid value;
    `forbidden` for a file in a directory above that belongs to somebody else.
    """
    env = os.environ if environ is None else environ
    where = start if start is not None else _get(env, "OMIUM_PROJECT", Path, "a path")
    begin = (where or Path.cwd()).expanduser().resolve()
    file = begin if begin.is_file() else _find(begin, explicit=where is not None)
    home = home_of(env)
    if file is None:
        project = Project("default", directory=begin)
        project.use_entry_points()
        return _config(env, project, home, begin, {}, {}, AuthSettings())
    from omium.server.project_file import load_project

    try:
        loaded = load_project(file)
    except OmiumError as error:
        from omium.server.salvage import settings_of

        settings = settings_of(file) if broken is not None and error.code in _FILE_PROBLEMS else None
        if broken is None or settings is None:
            raise
        broken(error)
        project = Project(settings["project"], directory=file.parent)
        return replace(_config(env, project, home, file, settings, {}, AuthSettings()), broken=True)
    said = loaded.file.model_dump(include={"database", "durability", "chain_key_file"}, exclude_none=True)
    limits = loaded.file.limits.model_dump(exclude_none=True)
    config = _config(env, loaded.project, home, file, said, limits, loaded.file.server.auth.settings())
    upkeep, retention = loaded.file.upkeep, loaded.file.retention
    kept = None if retention is None else Retention(retention.after, retention.forget)
    config = replace(config, upkeep=Upkeep(upkeep.enabled, upkeep.every), retention=kept)
    said_of_it = loaded.file.commands or loaded.file.coding or "supervision" in loaded.file.model_fields_set
    if said_of_it or any(name.startswith("OMIUM_SUPERVISION_") for name in env):
        from omium.server.declared.supervision import with_environment

        config = replace(config, supervision=with_environment(loaded.file.supervision, env))
    if loaded.file.notify:
        from omium.server.declared.notify import endpoints_of

        config = replace(config, notify=endpoints_of(loaded.file.notify, loaded.project.directory))
    if loaded.file.telemetry is not None:
        config = replace(config, telemetry=loaded.file.telemetry.settings())
    return config


def _config(
    env: Mapping[str, str],
    project: Project,
    home: Path,
    start: Path,
    said: Mapping[str, Any],
    limits: Mapping[str, Any],
    auth: AuthSettings,
) -> Config:
    database = _get(env, "OMIUM_DATABASE", str, "a path or URL")
    key = _get(env, "OMIUM_CHAIN_KEY_FILE", Path, "a path")
    if key is None and "chain_key_file" in said:
        key = project.directory / Path(said["chain_key_file"]).expanduser()
    if database is not None:
        url = resolve_database(database, Path.cwd())
    else:
        url = resolve_database(said.get("database", str(home / "omium.db")), project.directory)
    plain = Limits()
    return Config(
        project=project,
        database=url,
        home=home,
        durability=_get(env, "OMIUM_DURABILITY", _durability, "full or normal") or said.get("durability", "full"),
        chain_key_file=None if key is None else key.expanduser().absolute(),
        limits=Limits(
            slots=_get(env, "OMIUM_SLOTS", _count, _COUNT) or limits.get("slots", plain.slots),
            runs=_get(env, "OMIUM_RUNS", _count, _COUNT) or limits.get("runs", plain.runs),
            processes=_get(env, "OMIUM_PROCESSES", _count, _COUNT) or limits.get("processes", plain.processes),
            resources=limits.get("resources", {}),
            requests=_requests(env, limits.get("requests", {})),
            memory_bytes=_get(env, "OMIUM_MEMORY", _size, _SIZE) or limits.get("memory"),
            run_time_s=_get(env, "OMIUM_RUN_TIME", _duration, _DURATION) or limits.get("run_time"),
        ),
        detach=_get(env, "OMIUM_DETACH", _yes_or_no, "true or false") is not False,
        start=start,
        auth=_auth(env, auth),
    )


def _requests(env: Mapping[str, str], said: Mapping[str, int]) -> RequestLimits:
    names = ("reads", "changes", "starts", "concurrent")
    told = {name: count for name in names if (count := _get(env, f"OMIUM_{name.upper()}", _count, _COUNT)) is not None}
    return RequestLimits(**{**said, **told})


def _auth(env: Mapping[str, str], said: AuthSettings) -> AuthSettings:
    opened = _get(env, "OMIUM_OPEN_LOOPBACK", _yes_or_no, "true or false")
    issuers = list(said.issuers)
    if any(name.startswith("OMIUM_JWT_") for name in env):
        from omium.server.identity.settings import jwt_of_environment

        told = jwt_of_environment(env)
        issuers += [told] if told is not None else []
    return AuthSettings(said.open_loopback if opened is None else opened, tuple(issuers))


def resolve_database(text: str, base: Path) -> str:
    """An absolute path for SQLite (`path`, `sqlite:///path`), relative ones from `base`; other URLs as they are."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme.partition("+")[0] != "sqlite":
        return text
    path = Path(rest.removeprefix("/") if mark else text).expanduser()
    return str((base / path).absolute())


def is_without_project() -> bool:
    """Whether `load_config` without a start finds no `omium.yaml` from here."""
    return _get(os.environ, "OMIUM_PROJECT", Path, "a path") is None and _find(Path.cwd(), explicit=False) is None


def _find(begin: Path, *, explicit: bool) -> Path | None:
    """The nearest `omium.yaml`, upwards. One above belongs to this user or to root: it decides what is executed."""
    if not begin.is_dir():
        raise OmiumError("not_found", f"there is no project file or directory {str(begin)!r}.")
    for directory in (begin,) if explicit else (begin, *begin.parents):
        file = directory / FILE_NAME
        if file.is_file():
            if directory != begin and file.stat().st_uid not in (os.getuid(), 0):
                raise OmiumError(
                    "forbidden",
                    f"{file} belongs to another user, and would decide what is executed here.",
                    f"Start in {directory}, or set OMIUM_PROJECT={file}, if you trust it.",
                )
            return file
    return None


# --- variables ----------------------------------------------------------------------------------------------------

_COUNT: Final = "a whole number of at least 1"
_SIZE: Final = "a size above 0, such as 2GB or 500MB"
_DURATION: Final = "a duration above 0, such as 3600, 90s or 1h"


def _get(env: Mapping[str, str], name: str, parse: Callable[[str], T], expected: str) -> T | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        return parse(text)
    except ValueError:
        raise OmiumError(
            "invalid_argument", f"the environment variable {name} is {text!r}.", f"It takes {expected}.", variable=name
        ) from None


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise ValueError
    return number


def _size(text: str) -> int:
    from omium.server.project_file import size_bytes

    found = size_bytes(int(text) if text.isdecimal() else text)
    if not found:
        raise ValueError
    return found


def _duration(text: str) -> float:
    from omium.orchestration.definition.schema import duration_seconds

    seconds = duration_seconds(float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text)
    if not seconds:
        raise ValueError
    return seconds


def _yes_or_no(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError
    return known[text.lower()]


def _durability(text: str) -> Durability:
    if text == "full":
        return "full"
    if text == "normal":
        return "normal"
    raise ValueError


def _bad_key(path: Path, problem: str) -> OmiumError:
    return OmiumError("invalid_argument", f"{path} cannot be the key of the hash chain: {problem}.")
