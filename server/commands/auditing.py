"""The audit trail for others: `audit`, `controls`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import DONE, FAILED, Invocation, command
from omium.server.commands.console import many, safe
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.orchestration.ids import RunId
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import Caller
    from omium.server.audit.records import Proof, Scope


@command(
    "omium audit last --format jsonl --output release.jsonl",
    "omium audit --all --format csv --output audit.csv",
    "omium audit last --format pdf --output release.pdf",
    "omium audit --check release.jsonl",
)
@click.argument("run", required=False)
@click.option("--all", "every", is_flag=True, help="Every run of the project, and what belongs to none.")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "pdf"]), default="jsonl", show_default=True,
              help="jsonl is complete and can be checked; csv is for spreadsheets, pdf for people.")  # fmt: skip
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path), help="A new file; standard output otherwise."
)
@click.option("--check", "checked", metavar="FILE", type=click.Path(path_type=Path), help="Verify an exported jsonl.")
async def audit(
    invocation: Invocation, run: str | None, every: bool, form: str, output: Path | None, checked: Path | None
) -> int:
    """Export what happened, with the proof that nothing of it was changed. Exits with 1 when the chain of a log does
    not hold; the export then says where."""
    if checked is not None:
        if run or every or output:
            raise click.UsageError("--check goes alone.")
        return _check(invocation, checked)
    if every == (run is not None):
        raise click.UsageError("Name a run, or say --all.")
    if output is None and form == "pdf":
        raise click.UsageError("A PDF needs --output FILE.")
    console = invocation.console
    async with opened(invocation) as (core, caller):
        scope = await _scope(core, caller, run)
        title = "Audit of all runs" if every else f"Audit of {scope.runs[0]}"
        proofs = await _export(core, scope, form, output, title)
    broken = [proof for proof in proofs if not proof.holds]
    if console.json and output is not None:
        console.view(
            {
                "file": str(output),
                "logs": len(proofs),
                "events": sum(proof.events for proof in proofs),
                "sound": not broken,
                "heads": {proof.log: proof.head for proof in proofs},
            }
        )
    elif output is not None:
        told = "every chain holds" if not broken else f"{many(len(broken), 'chain')} of them not whole"
        events = many(sum(proof.events for proof in proofs), "event")
        console.note(f"{output}: {events} of {many(len(proofs), 'log')}; {told}")
    for proof in broken:
        for problem in proof.problems[:5]:
            console.note(f"damaged: {safe(problem)}")
    return FAILED if broken else DONE


@command("omium controls", "omium controls --json")
async def controls(invocation: Invocation) -> int:
    """List the controls of this project, and what shows that they work. The chains of all its logs are checked; the
    rest is counted. Exits with 1 when a chain does not hold."""
    from omium.server.audit.controls import controls as listed
    from omium.server.audit.records import Proof, records
    from omium.storage.maintenance import Tables, evidence, keeper

    config = configuration(invocation)
    async with opened(invocation, lists=True) as (core, caller):
        keeping, scope = keeper(core.store), await _scope(core, caller, None)

        def broken(tables: Tables) -> int:
            every = records(tables, keeping.chain, scope)
            return sum(not one.holds for one in every if isinstance(one, Proof))

        count = await keeping.read(broken)
        found = listed(config, await evidence(keeping, caller.project), count, keyed=keeping.chain.keyed)
    console = invocation.console
    if console.json:
        console.view(found)
    else:
        rows = [(one.control, one.state, name, value) for one in found for name, value in one.evidence.items()]
        console.table(("control", "state", "evidence", ""), rows)
    return FAILED if count else DONE


async def _scope(core: Core, caller: Caller, run: str | None) -> Scope:
    """What this caller may export: a run that it sees, or all of the project that it sees."""
    from omium.orchestration.ids import RunId
    from omium.orchestration.ports import RunQuery
    from omium.server.audit.records import Scope

    if run is not None:
        return Scope([await core.find_run(caller, run)])
    runs: list[RunId] = []
    while True:
        page = await core.store.runs(
            RunQuery((caller.project,), owner=caller.only, before=RunId(runs[-1]) if runs else None, limit=500)
        )
        runs += [row.id for row in page]
        if len(page) < 500:
            break
    return Scope(runs[::-1], None if caller.only else caller.project)


async def _export(core: Core, scope: Scope, form: str, output: Path | None, title: str) -> list[Proof]:
    """Write the export; the proofs of its logs. A file is there as a whole, or not at all."""
    from datetime import UTC, datetime

    from omium.server.audit import writing
    from omium.server.audit.records import Proof, Record, records
    from omium.server.audit.report import pdf
    from omium.storage.maintenance import Tables, keeper

    keeping, proofs, unread = keeper(core.store), list[Proof](), list[OSError]()
    keyed = keeping.chain.keyed

    def work(tables: Tables) -> None:
        def noted() -> Iterator[Record | Proof]:
            for one in records(tables, keeping.chain, scope):
                if isinstance(one, Proof):
                    proofs.append(one)
                yield one

        if form == "pdf":
            made = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            pieces: Iterable[bytes] = [pdf(noted(), title, made, keyed)]
        else:
            pieces = writing.jsonl(noted(), keyed) if form == "jsonl" else writing.csv_rows(noted())
        if output is not None:
            _write_whole(output, pieces)
            return
        for piece in pieces:
            try:
                click.echo(piece, nl=False)
            except OSError as error:  # it is no fault of the database's that nobody reads on
                unread.append(error)
                return

    await keeping.read(work)
    if unread:
        raise unread[0]
    return proofs


def _write_whole(output: Path, pieces: Iterable[bytes]) -> None:
    import secrets

    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        if output.exists():
            raise FileExistsError
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with open(descriptor, "wb") as file:
                _copy(file, pieces)
            os.link(partial, output)  # unlike a rename, it never replaces what somebody made meanwhile
        finally:
            partial.unlink(missing_ok=True)
    except FileExistsError:
        raise OmiumError("conflict", f"{str(output)!r} exists.", "Name a file that does not.") from None
    except OSError as error:
        raise OmiumError("invalid_argument", f"cannot write {str(output)!r}: {error.strerror}.") from error


def _copy(file: BinaryIO, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())


def _check(invocation: Invocation, path: Path) -> int:
    from omium.orchestration.log.chain import Chain
    from omium.server.audit.checking import check

    chain = Chain(configuration(invocation, definitions=False).chain_key())
    try:
        with path.open("rb") as file:
            found = check(file, chain)
    except OSError as error:
        raise OmiumError("not_found", f"cannot read {str(path)!r}: {error.strerror}.") from error
    console = invocation.console
    if console.json:
        console.view(
            {
                "sound": not found.problems,
                "logs": found.logs,
                "events": found.events,
                "problems": list(found.problems),
                "heads": dict(found.heads),
            }
        )
    else:
        for problem in found.problems[:50]:
            console.text(safe(problem))
        console.text("sound" if not found.problems else many(len(found.problems), "problem"))
    return FAILED if found.problems else DONE
