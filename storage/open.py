"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import anyio

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock

if TYPE_CHECKING:
    from omium.orchestration.ports import Store


async def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    chain_key: bytes | None = None,
    durability: Literal["full", "normal"] = "full",
    files_root: Path | None = None,
) -> Store:
    """Open the database that `url` names: a path or `sqlite:///path` (with `~` for the home directory), or
    `postgresql://user:password@host:port/name`.

    `chain_key` makes the hash chain an HMAC. `durability`: "full" forces every commit to the disk, "normal" may lose
    the last ones in a power cut. `files_root`: the directory of large blobs (beside an SQLite file unless given; in
    PostgreSQL without one, large blobs are rows like the others). Raises `storage_unavailable`, `invalid_argument` for
    another scheme, `unsupported` when the extra for PostgreSQL is not installed.
    """
    scheme, mark, rest = url.partition("://")
    kind = scheme.partition("+")[0] if mark else "sqlite"
    if kind in ("postgresql", "postgres"):
        try:
            from omium.storage.postgres.store import PostgresStore
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise OmiumError(
                "unsupported",
                "this installation has no driver for PostgreSQL.",
                "Run: pip install 'omium-mcp[postgres]'; in a copy of the source: pip install -e '.[postgres]'",
            ) from error
        return await PostgresStore.open(
            url, clock=clock, chain_key=chain_key, durability=durability, files_root=files_root
        )
    if kind != "sqlite":
        raise OmiumError(
            "invalid_argument",
            f"{scheme!r} is not a database that Omium knows.",
            "Give a path, sqlite:///path or postgresql://host/name.",
        )
    from omium.storage.sqlite.store import SqliteStore

    path = rest.removeprefix("/") if mark else url
    if not path or path == ":memory:":
        raise OmiumError("invalid_argument", "a store needs a file: runs outlive the process.", "Give a path.")
    place = await anyio.Path(path).expanduser()
    return await SqliteStore.open(
        Path(place), clock=clock, chain_key=chain_key, durability=durability, files_root=files_root
    )
