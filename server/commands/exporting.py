"""A run as files that anything can read: `export`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.ids import Digest, RunId
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import Caller, RunView

FORMAT: Final = "omium-run/1"
_PAGE: Final = 500


@command("omium export last --output release", "omium export 7Q2XKD3M --at node:draft --output draft")
@click.argument("run")
@click.option("--output", metavar="DIRECTORY", type=click.Path(path_type=Path), required=True, help="A new directory.")
@click.option("--at", metavar="POSITION", help="As of a position: a number, a label, node:ID or start; now, otherwise.")
async def export(invocation: Invocation, run: str, output: Path, at: str | None) -> None:
    """Write a run's state, values and log as JSON files. It is a copy for others: nothing here ever reads it back."""
    missing: Counter[str] = Counter()
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        with _new_directory(output) as directory:
            async for name, content in _files(core, caller, run_id, at, missing):
                directory.add(name, content)
    erased, damaged = missing["not_found"], missing["integrity"]
    if invocation.console.json:
        told = {"run": run_id, "directory": str(output), "files": directory.files}
        invocation.console.view({**told, "erased": erased, "damaged": damaged})
        return
    invocation.console.note(f"{output}: {directory.files} files of {run_id}")
    if erased:
        invocation.console.note(f"values that are not in them, because they were erased: {erased}")
    if damaged:
        invocation.console.note(f"values that are not in them, because they are damaged: {damaged} (see: omium verify)")


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.files = 0

    def add(self, name: str, content: str) -> None:
        """Write a file, or more of it. Only their owner reads them: they hold what runs were given."""
        place = self._path / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.files += not place.exists()
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
            file.write(content)


@contextmanager
def _new_directory(output: Path) -> Iterator[_Directory]:
    """A directory that is there as a whole once the block has ended, or not at all. Raises `conflict` when there is
    something of this name, `invalid_argument` when it cannot be written."""
    if output.exists():
        raise OmiumError("conflict", f"{str(output)!r} exists.", "Name a directory that does not.")
    partial = output.absolute().with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        yield _Directory(partial)
        partial.rename(output)
    except OSError as error:
        raise OmiumError("invalid_argument", f"cannot write {str(output)!r}: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


async def _files(
    core: Core, caller: Caller, run_id: RunId, at: str | None, missing: Counter[str]
) -> AsyncIterator[tuple[str, str]]:
    """What is written, file by file; a log in several parts. Names are numbers: ids may be longer than a file's name,
    and stand inside. `missing` is told how many values there are no more, and why."""
    from omium.server.commands.wire import as_json, json_text

    row = await core.row(caller, run_id)
    view, state = await core.run_at(caller, run_id, row.seq if at is None else at)
    shown = {**as_json(view), "format": FORMAT, "position": f"{run_id}@{state.seq}", "nodes": len(view.nodes)}
    yield "run.json", json_text(shown)
    for name, digest in (("definition", state.definition), ("inputs", state.inputs), ("output", state.output)):
        if digest is not None:
            yield f"{name}.json", json_text(await _value(core, digest, missing))
    async for name, content in _nodes(core, view, missing):
        yield name, json_text(content)
    saved = {one.name: one for one in (await core.artifacts(caller, run_id)).values} if at is None else {}
    for number, artifact in enumerate(saved.values(), 1):
        yield (
            f"artifacts/{number:05}.json",
            json_text({**as_json(artifact), **await _value(core, artifact.digest, missing)}),
        )
    before: int | None = None
    found: list[Any] = []
    while True:
        page = await core.list_checkpoints(caller, run_id, before=before, limit=_PAGE)
        found += [as_json(one) for one in page.checkpoints if one.seq <= state.seq]
        before = page.next
        if before is None:
            break
    yield "checkpoints.json", json_text(found)
    after = 0
    while events := await core.events(caller, run_id, after=after, limit=min(_PAGE, state.seq - after)):
        yield "events.jsonl", "".join(f"{json_text(as_json(one), indent=None)}\n" for one in events)
        after = events[-1].seq
        if after >= state.seq:
            break


async def _nodes(core: Core, view: RunView, missing: Counter[str]) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    from omium.server.commands.wire import as_json

    for number, node in enumerate(view.nodes, 1):
        content = await _value(core, node.output, missing) if node.output is not None else {}
        yield f"nodes/{number:05}.json", {**as_json(node), **content}


async def _value(core: Core, digest: Digest, missing: Counter[str]) -> dict[str, Any]:
    """`{"value"}`, or `{"missing"}` with why there is none any more: erased, or damaged."""
    from omium.server.commands.wire import value_as_json

    try:
        return {"value": value_as_json(await core.store.value(digest))}
    except OmiumError as error:
        if error.code not in ("not_found", "integrity"):
            raise
        missing[error.code] += 1
        return {"missing": error.code}
