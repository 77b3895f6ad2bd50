"""What is wrong with an installation, and which command mends it. Nothing is changed by looking."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from omium.server.config import Config

Status = Literal["ok", "warning", "failed"]

_ROOM_NEEDED: Final = 100 * 1024 * 1024
_ROOM_WANTED: Final = 1024 * 1024 * 1024
_PROGRAMS: Final = {
    "claude": "Claude Code: runs coding sessions, and can use this server",
    "codex": "Codex: the same",
    "gemini": "Gemini CLI: the same",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. fix: the command that mends it, where there is something to mend."""

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at: a project (None: the nearest one), the environment, and the home of the user."""

    start: Path | None
    environ: Mapping[str, str]
    home: Path


async def examine(patient: Patient) -> list[Finding]:
    """Every finding, in the order in which they depend on each other. Raises nothing that is anticipated."""
    found = [*_installation()]
    config, project = _project(patient)
    found += project
    if config is not None:
        found += [one async for one in _database(config)]
        found += [*_places(config), *_secrets(config), *_needs(patient, config)]
        found += [one async for one in _life(config)]
    found += [*_clients(patient, config)]
    return found


# --- the installation -------------------------------------------------------------------------------------------------


def _installation() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", f"{python} at {sys.executable}")
    try:
        yield Finding("omium", "ok", version("omium-mcp"))
    except PackageNotFoundError:
        yield Finding("omium", "warning", "it is on the path, but not installed", "pip install omium-mcp")
    where = shutil.which("git")
    if where is None:
        yield Finding("git", "failed", "not found: nodes that work on files cannot run", "apt-get install git")
    else:
        yield Finding("git", "ok", where)
    for program, what in _PROGRAMS.items():
        if (at := shutil.which(program)) is not None:
            yield Finding(program, "ok", f"{at} ({what})")


# --- the project ------------------------------------------------------------------------------------------------------


def _project(patient: Patient) -> tuple[Config | None, list[Finding]]:
    """The configuration, as far as it can be told, and what is wrong with it."""
    from omium.server.config import load_config

    broken: list[OmiumError] = []
    try:
        config = load_config(patient.start, patient.environ, broken=broken.append)
    except OmiumError as error:
        return None, [_told("project", error, "omium init --directory my-project")]
    if broken:
        return config, [_told("project", broken[0], f"$EDITOR {config.start}")]
    if config.start is None or not config.start.is_file():
        return config, [
            Finding("project", "warning", "there is no omium.yaml here or above", "omium init --directory my-project")
        ]
    names = len(config.project.workflows)
    workflows = f"{names} workflow{'' if names == 1 else 's'}"
    return config, [Finding("project", "ok", f"{config.project.id}: {workflows}, {config.start}")]


# --- the database -----------------------------------------------------------------------------------------------------


async def _database(config: Config) -> AsyncIterator[Finding]:
    from omium.storage.inspecting import inspect

    try:
        found = await inspect(config.database)
    except OmiumError as error:
        yield _told("database", error, "omium restore BACKUP --database NEW" if _is_damaged(error) else error.hint)
        return
    except OSError as error:
        yield Finding("database", "failed", f"it cannot be reached: {error}", "omium config")
        return
    shown = found.path or "PostgreSQL"
    if found.state == "older":
        detail = f"{shown} has schema {found.version}; this version needs {found.known}"
        yield Finding("schema", "failed", detail, "omium upkeep")
    elif found.state == "newer":
        detail = f"{shown} has schema {found.version}; this version knows {found.known} and older"
        yield Finding("schema", "failed", detail, "pip install --upgrade omium-mcp")
    elif found.state == "unknown":
        scheme = config.database.partition("://")[0]
        yield Finding("database", "ok", f"{scheme}, of an installed package; it is looked at when it is used")
    elif found.state in ("absent", "empty"):
        yield Finding("database", "ok", f"{shown} will be made when it is first needed")
    else:
        yield Finding("database", "ok", f"{shown}, schema {found.version}")
    if found.path is not None and found.path.exists():
        mode = stat.S_IMODE(found.path.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            detail = f"{found.path} can be read by others (mode {mode:04o})"
            yield Finding("permissions", "failed", detail, f"chmod 600 {found.path}")
        elif not os.access(found.path, os.W_OK):
            yield Finding("permissions", "failed", f"{found.path} cannot be written", f"chmod u+w {found.path}")


def _is_damaged(error: OmiumError) -> bool:
    return "damaged" in error.message or "is not an Omium" in error.message


# --- places, secrets --------------------------------------------------------------------------------------------------


def _places(config: Config) -> Iterator[Finding]:
    home = config.home
    if home.exists():
        mode = stat.S_IMODE(home.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding("home", "warning", f"{home} is open to others (mode {mode:04o})", f"chmod 700 {home}")
        elif not os.access(home, os.W_OK):
            yield Finding("home", "failed", f"{home} cannot be written", f"chmod u+w {home}")
        else:
            yield Finding("home", "ok", str(home))
    below = [config.home] if "://" in config.database else [Path(config.database).parent, config.home]
    for place in dict.fromkeys(_existing(one) for one in below):
        free = shutil.disk_usage(place).free
        status: Status = "failed" if free < _ROOM_NEEDED else "warning" if free < _ROOM_WANTED else "ok"
        fix = "" if status == "ok" else "omium retain --older-than 90d --preview"
        yield Finding("disk", status, f"{free // (1024 * 1024):,} MiB free at {place}", fix)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


def _secrets(config: Config) -> Iterator[Finding]:
    try:
        if config.chain_key() is not None:
            yield Finding("chain key", "ok", f"{config.chain_key_file}")
    except OmiumError as error:
        yield _told("chain key", error, f"chmod 600 {config.chain_key_file}")
    for endpoint in config.notify:
        try:
            endpoint.address()
            if endpoint.key is not None:
                _ = endpoint.key.read()
            yield Finding(f"notify {endpoint.name}", "ok", f"{endpoint.kind}, {len(endpoint.types)} types of event")
        except OmiumError as error:
            fix = f"omium notify test {endpoint.name}"
            yield Finding(f"notify {endpoint.name}", "warning", error.message, fix)


def _needs(patient: Patient, config: Config) -> Iterator[Finding]:
    """What the project declares and this machine lacks; a project file that cannot be loaded declares nothing."""
    from omium.server.needs import needs

    for one in needs(config.project, patient.environ):
        # Without a program or its code nodes fail; a variable may be set where runs are executed, a plugin is left out.
        status: Status = "ok" if not one.problem else "failed" if one.kind in ("program", "code") else "warning"
        yield Finding(one.name, status, one.problem or one.detail, one.fix)


# --- what goes on -----------------------------------------------------------------------------------------------------


async def _life(config: Config) -> AsyncIterator[Finding]:
    """Only of a database that is there and current: looking must not migrate."""
    from omium.clients.processes.liveness import HostProcesses
    from omium.server.health import health_of
    from omium.storage.inspecting import inspect
    from omium.storage.open import open_store

    try:
        if (await inspect(config.database)).state != "current":
            return
        key = config.chain_key()
        store = await open_store(config.database, chain_key=key, durability=config.durability)
    except (OmiumError, OSError):
        return  # was told above
    try:
        health = await health_of(store, config.project.id, HostProcesses(), _now_us())
        dead = await store.notices(config.project.id, status="dead", limit=1000)
    finally:
        await store.close()
    if health.dead:
        yield Finding("workers", "failed", f"{health.dead} of them died and left runs behind", "omium runs")
    elif health.checks.get("workers", "ok") != "ok":
        yield Finding("workers", "failed", health.checks["workers"], "omium worker")
    else:
        waiting = f"{health.queued} runs wait: for one, for a decision or for a time"
        yield Finding("workers", "ok", f"{health.workers} at work, {waiting}")
    if health.checks.get("writes", "ok") != "ok":
        yield Finding("writes", "failed", health.checks["writes"], health.hints.get("writes", ""))
    if health.pending:
        yield Finding("approvals", "warning", f"{health.pending} questions wait for a decision", "omium approvals")
    if dead:
        yield Finding("notices", "failed", f"{len(dead)} could not be delivered", "omium notify list --status dead")


def _now_us() -> int:
    from omium.orchestration.ports import SystemClock

    return SystemClock().now_us()


# --- clients ----------------------------------------------------------------------------------------------------------


def _clients(patient: Patient, config: Config | None) -> Iterator[Finding]:
    from omium.server.install.clients import Home
    from omium.server.install.installing import listed

    directory = config.project.directory if config is not None else (patient.start or Path.cwd())
    found = listed(Home(patient.home, patient.environ), directory, "omium")
    for one in found:
        here = f"--scope {one.scope}" if one.scope != "user" else ""
        again = " ".join(f"omium mcp install {one.client} {here}".split())
        if one.state == "unreadable":
            yield Finding(f"client {one.client}", "failed", one.problem, f"$EDITOR {one.file}")
        elif one.state == "other":
            detail = f"{one.file} starts something that is not there, or is not Omium: {' '.join(one.command)}"
            yield Finding(f"client {one.client}", "failed", detail, again)
        elif one.state == "installed":
            yield Finding(f"client {one.client}", "ok", one.file)
    if not any(one.state in ("installed", "other") for one in found):
        yield Finding("clients", "warning", "no MCP client knows this server", "omium mcp install claude-code")


def _told(name: str, error: OmiumError, fix: str) -> Finding:
    return Finding(name, "failed", error.message, fix)
