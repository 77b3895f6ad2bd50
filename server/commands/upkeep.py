"""Looking after the database: `verify`, `backup`, `restore`, `sweep`, `erase`, `retain`, `upkeep`."""

from __future__ import annotations

import shlex
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import CONFLICT, DONE, FAILED, Invocation, Number, command
from omium.server.commands.opening import configuration, existing, opened

if TYPE_CHECKING:
    from omium.orchestration.ids import RunId
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import Caller
    from omium.server.commands.console import Console
    from omium.storage.maintenance import Backup, Retained

_HOUR_S = 3600.0
FILES: Final = "workspaces.bundle"  # of a backup: the captured files of its runs, as git bundles them


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
    if any(one.kind == "blob" for one in found):
        console.note(
            "what is quarantined stays so: restore a backup (omium restore), or go back to a position before it"
            " (omium checkpoints RUN, omium rollback). The same content, stored once more by a run, heals it."
        )
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
    """Copy the database and the captured files of its runs, while others work. DIRECTORY is made; the copy is
    verified before it gets its name."""
    from omium.server.app import workspaces_of
    from omium.storage.maintenance import SqliteKeeper, keeper
    from omium.storage.maintenance import backup as copy

    async with opened(invocation) as (core, _):
        keeping = keeper(core.store)
        if not isinstance(keeping, SqliteKeeper):
            dump = dump_command(configuration(invocation, definitions=False).database, directory)
            raise OmiumError("unsupported", "PostgreSQL databases are backed up by their own program.", f"Run: {dump}")
        workspaces, with_files = workspaces_of(configuration(invocation, definitions=False)), 0

        async def files(partial: Path, runs: Sequence[RunId]) -> None:
            nonlocal with_files
            if workspaces is not None:
                with_files = await workspaces.export(runs, partial / FILES)

        made = await copy(keeping, directory, files)
    if workspaces is None:
        invocation.console.note("without the files of runs: git is not installed.")
    return _told(invocation, made, with_files)


def dump_command(url: str, target: Path) -> str:
    """How the PostgreSQL database is copied to the file `target`.dump. Its password is left out: pg_dump asks for that,
    or takes it from PGPASSWORD or ~/.pgpass."""
    to = f"--file={shlex.quote(str(target))}.dump"
    return f"pg_dump --format=custom --no-owner {to} {shlex.quote(_for_programs(url))}"


def _for_programs(url: str) -> str:
    """The address of a PostgreSQL database as its own programs take it, without the password."""
    return f"postgresql://{without_password(url).partition('://')[2]}"


def without_password(url: str) -> str:
    """The address of a database, as it may be shown."""
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if not name.endswith("password")])
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{mark}{host}", parts.path, query, ""))


@command("omium restore backups/monday --database restored/omium.db")
@click.argument("directory", type=click.Path(path_type=Path, resolve_path=True))
async def restore(invocation: Invocation, directory: Path) -> int:
    """Put a backup in the place of a database that is gone. That is the project's, or what --database says.

    The captured files of its runs are put beside those that OMIUM_HOME has. Let the restored database and the old one
    not both execute the same runs."""
    import anyio

    from omium.orchestration.log.chain import Chain
    from omium.server.app import workspaces_of
    from omium.storage.maintenance import DISOWN
    from omium.storage.maintenance import restore as put_back

    config = configuration(invocation, definitions=False)
    if "://" in config.database:
        address = shlex.quote(_for_programs(config.database))
        put = f"pg_restore --exit-on-error --no-owner --dbname={address} {shlex.quote(str(directory))}.dump"
        nobody = f"psql --set=ON_ERROR_STOP=1 --dbname={address} --command={shlex.quote('; '.join(DISOWN))}"
        raise OmiumError(
            "unsupported",
            "PostgreSQL databases are restored by their own program.",
            f"Into an empty one: {put} && {nobody}\n"
            "The second makes the copy nobody's: whoever works on it would otherwise end the workers of the original.",
        )
    with_files = 0

    async def files(source: Path, _: Sequence[RunId]) -> None:
        nonlocal with_files
        if not await anyio.Path(source / FILES).exists():
            return
        workspaces = workspaces_of(config)
        if workspaces is None:
            raise OmiumError("unsupported", "the backup has files of runs, and git is not installed.", "Install git.")
        with_files = await workspaces.take_in(source / FILES)

    restored = await put_back(directory, Path(config.database), Chain(config.chain_key()), beside=files)
    return _told(invocation, restored, with_files)


def _told(invocation: Invocation, made: Backup, with_files: int) -> int:
    console = invocation.console
    if console.json:
        console.view(
            {
                "path": str(made.path),
                "runs": made.runs,
                "with_files": with_files,
                "files": made.files,
                "size": made.size,
                "damages": made.damages,
            }
        )
    else:
        console.fields(
            [
                ("path", made.path),
                ("runs", made.runs),
                ("runs with files", with_files),
                ("large contents", made.files),
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
    type=Number(min=1),
    default=24.0,
    show_default=True,
    help="Leave what was stored within so many hours: a write under way may be about to refer to it.",
)
async def sweep(invocation: Invocation, keep_hours: float) -> None:
    """Remove content that nothing refers to. Also what interrupted work left lying about;
    erasures that were begun more than an hour ago are finished."""
    from functools import partial

    from omium.server.app import workspaces_of
    from omium.server.upkeep import remove_files
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance import sweep as clean

    config = configuration(invocation, definitions=False)
    beside = partial(remove_files, config.home, workspaces_of(config))
    async with opened(invocation) as (core, _):
        gone = await clean(keeper(core.store), time.time_ns() // 1000, keep_hours * _HOUR_S, beside)
    if invocation.console.json:
        invocation.console.view(gone)
    else:
        invocation.console.fields(
            [
                ("contents", gone.blobs),
                ("orphaned files", gone.orphans),
                ("temporary files", gone.temporaries),
                ("erasures finished", gone.erasures),
            ]
        )


_FORGET: Final = click.option(
    "--forget",
    type=click.Choice(["contents", "runs"]),
    default="contents",
    show_default=True,
    help="Their inputs and outputs, while the logs stay; or everything.",
)


@command("omium erase last --preview", "omium erase --session demo --forget runs --yes")
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--session", metavar="NAME", help="All runs with this label.")
@click.option("--owner", metavar="PRINCIPAL", help="All runs of this caller, such as user:ada.")
@_FORGET
@click.option("--reason", metavar="TEXT", default="asked for", show_default=True, help="Stands in the logs that stay.")
@click.option("--preview", is_flag=True, help="Show what would go and what would stay, and change nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
async def erase(
    invocation: Invocation,
    runs: tuple[str, ...],
    session: str | None,
    owner: str | None,
    forget: str,
    reason: str,
    preview: bool,
    yes: bool,
) -> int:
    """Erase what runs were given and gave, with their files. Their logs stay and still verify, unless --forget runs.

    What they have called goes with them, however young it is. It cannot be undone. Exits with 5 when one has to stay:
    what has not ended, what a branch took over, and with --forget runs what a branch came from."""
    from functools import partial

    from omium.orchestration.service import roles
    from omium.server.app import workspaces_of
    from omium.server.upkeep import remove_files
    from omium.storage.maintenance import forget as let_go
    from omium.storage.maintenance import keeper

    if not runs and not (session or owner):
        raise OmiumError("invalid_argument", "nothing is named: RUN, --session or --owner.")
    if len(reason) > 400 or not reason.isprintable():
        raise OmiumError("invalid_argument", "the reason is one line of at most 400 characters.")
    console = invocation.console
    config = configuration(invocation, definitions=False)
    async with opened(invocation) as (core, caller):
        roles.check(caller, "erase")
        named = [await core.find_run(caller, run) for run in runs]
        if session or owner:
            named += [one async for one in _runs_of(core, caller, session, owner)]
        what: Literal["runs", "blobs"] = "runs" if forget == "runs" else "blobs"
        beside = partial(remove_files, config.home, workspaces_of(config))
        apply = partial(let_go, keeper(core.store), named, what, reason=reason, actor=caller.principal, beside=beside)
        found = await apply(preview=True)
        gone = [*found.dropped, *found.erased]
        if not preview and gone:
            if not yes and not (console.interactive and click.confirm(f"Erase {len(gone)} runs?", err=True)):
                raise OmiumError("not_allowed", f"{len(gone)} runs would be erased.", "Look at --preview; then --yes.")
            found = await apply()
            gone = [*found.dropped, *found.erased]
    _told_of(console, found, preview)
    for origin in found.origins:
        console.note(f"what a branch took over stays with the run that it came from; erase that too: {origin}")
    if not gone and not found.kept:
        console.note("there are no such runs.")
    elif gone and not preview:
        if found.shared:
            console.note(f"{found.shared} contents stay: other runs were given or gave the same. Erase those too.")
        if found.pending:
            console.note(f"{found.pending} files of contents were stored just now: upkeep removes them in an hour.")
        if not found.rewritten:
            console.note("copies may stay in gaps of the database's pages until it is rewritten: VACUUM it once.")
        for copy in copies_before_upgrades(config.database):
            console.note(f"a copy from before an upgrade may still hold it, until you delete that: {copy}")
    return CONFLICT if found.kept else DONE


async def _runs_of(core: Core, caller: Caller, session: str | None, owner: str | None) -> AsyncIterator[RunId]:
    """The ids of runs with this label and of this caller, in pages."""
    from dataclasses import replace

    from omium.orchestration.ports import RunQuery

    query = RunQuery(projects=(caller.project,), session=session, owner=owner, limit=500)
    while page := await core.store.runs(query):
        for row in page:
            yield row.id
        query = replace(query, before=page[-1].id)


def copies_before_upgrades(database: str) -> list[Path]:
    """What a migration has put beside an SQLite file, for whoever wants to go back."""
    path = Path(database)
    return [] if "://" in database else sorted(path.parent.glob(f"{path.name}.before-*.bak"))


def _told_of(console: Console, found: Retained, preview: bool) -> None:
    if console.json:
        told = {"dropped": found.dropped, "erased": found.erased, "kept": found.kept, "shared": found.shared}
        console.view({"preview": preview, **told, "origins": found.origins})
        return
    for what, runs in (("dropped", found.dropped), ("erased", found.erased)):
        if runs:
            console.table(("", "run"), [(f"would be {what}" if preview else what, run) for run in runs])
    if found.kept:
        console.table(("", "run", "why"), [("kept", run, why) for run, why in found.kept.items()])


@command("omium retain --older-than 90d --preview", "omium retain --older-than 90d --forget runs --yes")
@click.option(
    "--older-than", metavar="DURATION", help="Since nothing has happened to them, such as 90d.", required=True
)
@_FORGET
@click.option("--preview", is_flag=True, help="Show what would go and what would stay, and change nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
async def retain(invocation: Invocation, older_than: str, forget: str, preview: bool, yes: bool) -> None:
    """Forget runs that ended long ago, or their contents. What has a label, a branch that stays, or a caller that
    stays, stays. It cannot be undone. `retention` in omium.yaml has it done by itself."""
    from omium.orchestration.definition.schema import duration_seconds
    from omium.server.app import open_omium, workspaces_of
    from omium.server.config import Retention
    from omium.server.upkeep import forget as apply
    from omium.server.upkeep import policy_of
    from omium.storage.maintenance import keeper

    try:
        seconds = duration_seconds(float(older_than) if older_than.isdecimal() else older_than)
    except ValueError as error:
        raise OmiumError("invalid_argument", f"--older-than: {error}.") from None
    console = invocation.console
    config = configuration(invocation, definitions=False)
    existing(invocation, config)
    policy = policy_of(config, Retention(seconds, "runs" if forget == "runs" else "contents"))
    async with open_omium(config, engine=False) as core:
        keeping, workspaces = keeper(core.store), workspaces_of(config)
        found = await apply(keeping, policy, workspaces, config.home, preview=True)
        gone = [*found.dropped, *found.erased]
        if not preview and gone:
            if not yes and not (console.interactive and click.confirm(f"Forget {len(gone)} runs?", err=True)):
                raise OmiumError(
                    "not_allowed", f"{len(gone)} runs would be forgotten.", "Look at --preview; then --yes."
                )
            found = await apply(keeping, policy, workspaces, config.home)
    _told_of(console, found, preview)
    if not gone and not found.kept:
        console.note("nothing is that old.")


@command("omium upkeep", "omium upkeep --now")
@click.option("--now", is_flag=True, help="Do everything now, whether it is due or not.")
async def upkeep(invocation: Invocation, now: bool) -> None:
    """Show when the database was last looked after, and what came of it. Processes that execute runs do it, once a day
    unless `upkeep` in omium.yaml says otherwise."""
    from omium.server.app import open_omium, workspaces_of
    from omium.server.commands.render import when
    from omium.server.upkeep import chores
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance.upkeep import last_times, run_due

    console = invocation.console
    config = configuration(invocation, definitions=now)
    existing(invocation, config)
    async with open_omium(config, engine=False) as core:
        keeping = keeper(core.store)
        if now:
            await run_due(keeping, chores(config, core.store, workspaces_of(config)), now=True)
        found = await last_times(keeping)
    if console.json:
        console.view(found)
        return
    rows = []
    for one in found:
        told = "not yet" if one.outcome is None else ", ".join(f"{name} {value}" for name, value in one.outcome.items())
        rows.append((one.name, when(console, one.started_at), "under way" if one.ended_at is None else told))
    console.table(("chore", "last", "outcome"), rows)
    if not rows:
        console.note("never. It is looked after by processes that execute runs; do it now: omium upkeep --now")
