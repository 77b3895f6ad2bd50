"""Looking after the database: `verify`, `backup`, `restore`, `sweep`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import DONE, FAILED, Invocation, command
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.storage.maintenance import Backup

_HOUR_S = 3600.0


@command("omium verify", "omium verify --export heads.json", "omium verify last --anchor heads.json")
@click.argument("run", required=False)
@click.option(
    "--anchor",
    metavar="FILE",
    help="Compare with heads that were exported earlier: only so a truncated log shows for certain.",
)
@click.option(
    "--export",
    metavar="FILE",
    help="Write the heads of all logs to this new file, if nothing is wrong. Keep it elsewhere.",
)
async def verify(invocation: Invocation, run: str | None, anchor: str | None, export: str | None) -> int:
    """Check the logs, tables and contents of the database. With RUN only of this one. Exits with 1 when something is
    wrong.

    Damaged content is quarantined: it is never used again, and the runs that need it are named."""
    import anyio
    import orjson

    from omium.storage.maintenance import export_heads, keeper
    from omium.storage.maintenance import verify as check

    console = invocation.console
    heads = _read_anchor(Path(anchor)) if anchor else None
    target = Path(export) if export else None
    if target is not None and await anyio.Path(target).exists():
        raise _exists(target)
    async with opened(invocation) as (core, caller):
        run_ids = [await core.find_run(caller, run)] if run else None
        keeping = keeper(core.store)
        found = await check(keeping, run_ids, heads)
        if target is not None and not found:
            _write_new(target, orjson.dumps(await export_heads(keeping), option=orjson.OPT_INDENT_2))
    if console.json:
        console.view({"sound": not found, "damages": found, "exported": export if export and not found else None})
    elif found:
        console.table(("kind", "subject", "problem"), [(one.kind, one.subject, one.problem) for one in found])
    else:
        console.text("sound")
    if found and export:
        console.note(f"nothing was written to {export}: heads of a damaged database prove nothing.")
    return FAILED if found else DONE


def _write_new(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise OmiumError("invalid_argument", f"cannot write {str(path)!r}: {error.strerror}.") from error


def _exists(path: Path) -> OmiumError:
    return OmiumError("conflict", f"{str(path)!r} exists.", "Name a file that does not: an older anchor proves more.")


def _read_anchor(path: Path) -> dict[str, Any]:
    import orjson

    try:
        heads = orjson.loads(path.read_bytes())
    except OSError as error:
        raise OmiumError("not_found", f"cannot read {str(path)!r}: {error.strerror}.") from error
    except orjson.JSONDecodeError as error:
        raise OmiumError("invalid_argument", f"{str(path)!r} holds no exported heads: {error}.") from error
    if not isinstance(heads, dict):
        raise OmiumError("invalid_argument", f"{str(path)!r} holds no exported heads.")
    return heads


@command("omium backup backups/monday")
@click.argument("directory", type=click.Path(path_type=Path, resolve_path=True))
async def backup(invocation: Invocation, directory: Path) -> int:
    """Copy the database while others work with it. DIRECTORY is made; the copy is verified before it gets its name."""
    from omium.storage.maintenance import SqliteKeeper, keeper
    from omium.storage.maintenance import backup as copy

    async with opened(invocation) as (core, _):
        keeping = keeper(core.store)
        if not isinstance(keeping, SqliteKeeper):
            raise OmiumError("unsupported", "this backs up SQLite databases only.", "For PostgreSQL use pg_dump.")
        made = await copy(keeping, directory)
    return _told(invocation, made)


@command("omium restore backups/monday --database restored/omium.db")
@click.argument("directory", type=click.Path(path_type=Path, resolve_path=True))
async def restore(invocation: Invocation, directory: Path) -> int:
    """Put a backup in the place of a database that is gone. That is the project's, or what --database says."""
    from omium.orchestration.log.chain import Chain
    from omium.storage.maintenance import restore as put_back

    config = configuration(invocation)
    if "://" in config.database:
        raise OmiumError("unsupported", "this restores SQLite databases only.", "For PostgreSQL use pg_restore.")
    restored = await put_back(directory, Path(config.database), Chain(config.chain_key()))
    return _told(invocation, restored)


def _told(invocation: Invocation, made: Backup) -> int:
    console = invocation.console
    if console.json:
        console.view(
            {"path": str(made.path), "runs": made.runs, "files": made.files, "size": made.size, "damages": made.damages}
        )
    else:
        console.fields(
            [
                ("path", made.path),
                ("runs", made.runs),
                ("files", made.files),
                ("bytes", made.size),
                ("damages", len(made.damages)),
            ]
        )
    for damage in made.damages[:10]:
        console.note(f"damaged before: {damage.subject}: {damage.problem}")
    return FAILED if made.damages else DONE


@command("omium sweep")
@click.option(
    "--keep-hours",
    type=click.FloatRange(min=1),
    default=24.0,
    show_default=True,
    help="Leave what was stored within so many hours: a write under way may be about to refer to it.",
)
async def sweep(invocation: Invocation, keep_hours: float) -> None:
    """Remove content that nothing refers to. Also what interrupted work left lying about."""
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance import sweep as clean

    async with opened(invocation) as (core, _):
        gone = await clean(keeper(core.store), time.time_ns() // 1000, keep_hours * _HOUR_S)
    if invocation.console.json:
        invocation.console.view(gone)
    else:
        invocation.console.fields(
            [("contents", gone.blobs), ("orphaned files", gone.orphans), ("temporary files", gone.temporaries)]
        )
