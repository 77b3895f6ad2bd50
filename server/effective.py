"""What holds in a process that is started now, and who says so: the file, a variable, or nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from pydantic import BaseModel

from omium.server.config import Config
from omium.server.declared.supervision import SupervisionFile, explained, variable_of
from omium.server.identity.limits import RequestLimits

FILE: Final = "omium.yaml"
DEFAULT: Final = "default"

_VARIABLES: Final = {
    "home": "OMIUM_HOME",
    "database": "OMIUM_DATABASE",
    "durability": "OMIUM_DURABILITY",
    "chain_key_file": "OMIUM_CHAIN_KEY_FILE",
    "detach": "OMIUM_DETACH",
    "server.auth.open_loopback": "OMIUM_OPEN_LOOPBACK",
    "server.auth.jwt": "OMIUM_JWT_ISSUER",
    **{f"limits.{name}": f"OMIUM_{name.upper()}" for name in ("slots", "runs", "processes", "run_time", "memory")},
    **{f"limits.requests.{name}": f"OMIUM_{name.upper()}" for name in ("reads", "changes", "starts", "concurrent")},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """key: as in `omium.yaml`, where it can be said there; value: what holds, None for no limit, nothing, nobody.
    source: `omium.yaml`, the name of a variable, `default`, or a process that holds something else."""

    key: str
    value: Any
    source: str


def settings_of(config: Config, file: BaseModel | None, environ: Mapping[str, str]) -> list[Setting]:
    """Every setting that has one value. file: what `omium.yaml` says, if there is one. Addresses are shown without
    their passwords."""
    from omium.server.commands.upkeep import without_password

    database = config.database if "://" not in config.database else without_password(config.database)
    found = [
        ("project", str(config.project.id)),
        ("home", str(config.home)),
        ("database", database),
        ("durability", config.durability),
        ("chain_key_file", None if config.chain_key_file is None else str(config.chain_key_file)),
        ("detach", config.detach),
        *_limits(config),
        ("server.auth.open_loopback", config.auth.open_loopback),
        ("server.auth.jwt", [issuer.issuer for issuer, _ in config.auth.issuers] or None),
        ("upkeep.enabled", config.upkeep.enabled),
        ("upkeep.every", config.upkeep.every_s),
        ("retention.after", None if config.retention is None else config.retention.after_s),
        ("retention.forget", None if config.retention is None else config.retention.forget),
        ("notify", [endpoint.name for endpoint in config.notify] or None),
        ("telemetry.otlp", None if config.telemetry is None else config.telemetry.otlp),
    ]
    settings = [Setting(key, value, _source(key, file, environ)) for key, value in found]
    supervision = list(_supervision(config, file, environ))
    return [*settings, *supervision, *_otherwise_held(config, supervision)]


def _otherwise_held(config: Config, said: list[Setting]) -> Iterator[Setting]:
    """What processes that run hold otherwise, because they have not been told to read the file anew."""
    from omium.server.held import held_of

    now = {one.key: one.value for one in said}
    for held in held_of(config):
        for one in _supervision(replace(config, supervision=held.supervision), None, {}):
            if one.key in now and one.value != now[one.key]:
                yield Setting(one.key, one.value, f"process {held.pid}, until it gets SIGHUP")


def _limits(config: Config) -> Iterator[tuple[str, Any]]:
    for one in fields(config.limits):
        value = getattr(config.limits, one.name)
        if isinstance(value, RequestLimits):
            yield from ((f"limits.{one.name}.{name.name}", getattr(value, name.name)) for name in fields(value))
        elif isinstance(value, Mapping):
            yield from ((f"limits.{one.name}.{name}", most) for name, most in sorted(value.items()))
        else:
            yield f"limits.{one.name.removesuffix('_s').removesuffix('_bytes')}", value


def _supervision(config: Config, file: BaseModel | None, environ: Mapping[str, str]) -> Iterator[Setting]:
    """What holds for all commands, and for each of them."""
    if config.supervision is None and not config.project.commands:
        return
    said = config.supervision or SupervisionFile()
    for name, section in said:
        if isinstance(section, BaseModel):
            for key, value in section:
                path = f"supervision.{name}.{key}"
                yield Setting(path, value, _source(path, file, environ))
        elif name != "commands":
            yield Setting(f"supervision.{name}", section, _source(f"supervision.{name}", file, environ))
    for name, spec in sorted(config.project.commands.items()):
        for key, value, place in explained(said, spec, config.project.stated.get(name)):
            source = _source(place, file, environ)
            yield Setting(f"commands.{name}.{key}", value, f"{source} ({place})" if source == FILE else source)


def _source(key: str, file: BaseModel | None, environ: Mapping[str, str]) -> str:
    variable = _variable(key)
    if variable is not None and environ.get(variable, "").strip():
        return variable
    return FILE if file is not None and _is_said(file, key) else DEFAULT


def _variable(key: str) -> str | None:
    if key.startswith("supervision.") and not key.startswith("supervision.commands."):
        return variable_of(key)
    return _VARIABLES.get(key)


def _is_said(file: BaseModel, key: str) -> bool:
    """Whether the file has a value at this path. Names of commands and limits may hold dots, so the longest first."""
    here: Any = file
    parts = key.split(".")
    while parts:
        for count in range(len(parts), 0, -1):
            name = ".".join(parts[:count])
            if isinstance(here, BaseModel) and name in here.model_fields_set:
                here = getattr(here, name)
            elif isinstance(here, Mapping) and name in here:
                here = here[name]
            else:
                continue
            parts = parts[count:]
            break
        else:
            return False
    return True
