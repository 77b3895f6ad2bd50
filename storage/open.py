"""Which store a URL names."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import anyio

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock

if TYPE_CHECKING:
    from omium.orchestration.ports import Store


STORAGE_GROUP: Final = "omium.storage"
"""The group of the entry points; each is named as the scheme that it serves, `+driver` left out."""


class Backend(Protocol):
    """A kind of database that an installed package offers: a module or an object. What it opens is a whole
    `orchestration.ports.Store`, and passes its conformance suite."""

    async def open(
        self,
        url: str,
        *,
        clock: Clock | None,
        chain_key: bytes | None,
        durability: Literal["full", "normal"],
        files_root: Path | None,
    ) -> Store:
        """See `open_store`, whose arguments these are."""


def backend_of(scheme: str) -> Backend:
    """Who serves URLs of this scheme. Raises `invalid_argument` where nobody does, and `unsupported` for a package that
    cannot be used."""
    found = list(entry_points(group=STORAGE_GROUP, name=scheme))
    if len(found) != 1:
        there = sorted({point.name for point in entry_points(group=STORAGE_GROUP)})
        more = f" Packages offer: {', '.join(there)}." if there else ""
        raise OmiumError(
            "invalid_argument",
            f"{scheme!r} is not a database that Omium knows."
            if not found
            else f"{len(found)} packages offer databases of the scheme {scheme!r}.",
            f"Give a path, sqlite:///path or postgresql://host/name.{more}",
        )
    (point,) = found
    package = point.dist.name if point.dist is not None else point.module
    try:
        backend: Any = point.load()
    except (Exception, SystemExit) as error:  # the boundary between Omium and a package that it does not know
        raise OmiumError(
            "unsupported",
            f"the plugin {scheme!r} ({STORAGE_GROUP}) of {package} cannot be used: {type(error).__name__}: {error}",
            f"Repair {package}, or use another database.",
        ) from error
    if not callable(getattr(backend, "open", None)):
        raise OmiumError("unsupported", f"the plugin {scheme!r} ({STORAGE_GROUP}) of {package} has no open().")
    return cast(Backend, backend)


def check(url: str) -> None:
    """Raises what `open_store` raises for a database that nobody here can serve, whatever is there."""
    kind = url.partition("://")[0].partition("+")[0] if "://" in url else "sqlite"
    if kind not in ("sqlite", "postgresql", "postgres"):
        backend_of(kind)


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
    PostgreSQL without one, large blobs are rows like the others). A URL of another scheme goes to the `Backend` that an
    installed package offers for it. Raises `storage_unavailable`, `invalid_argument` for a scheme that nobody offers,
    `unsupported` for a package that cannot be used, and when the extra for PostgreSQL is not installed.
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
        backend = backend_of(kind)
        return await backend.open(url, clock=clock, chain_key=chain_key, durability=durability, files_root=files_root)
    from omium.storage.sqlite.store import SqliteStore

    path = rest.removeprefix("/") if mark else url
    if not path or path == ":memory:":
        raise OmiumError("invalid_argument", "a store needs a file: runs outlive the process.", "Give a path.")
    place = await anyio.Path(path).expanduser()
    return await SqliteStore.open(
        Path(place), clock=clock, chain_key=chain_key, durability=durability, files_root=files_root
    )
