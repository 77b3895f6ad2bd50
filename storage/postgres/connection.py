"""Sessions with the server: how they are set up, and how the writer's is made again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, Literal, TypeAlias

import asyncpg  # type: ignore[import-untyped]

from omium.orchestration.errors import OmiumError
from omium.storage.postgres.errors import FAILURES, is_lost, translated
from omium.storage.postgres.statements import LAYOUT, TABLES, Layout

Connection: TypeAlias = Any  # asyncpg.Connection; the package carries no types
Durability: TypeAlias = Literal["full", "normal"]

CONNECT_S = 10.0  # for one attempt
ANSWER_S = 60.0  # for one statement
PATIENCE_S = 3.0  # how long a write waits for a server that restarts
RESOLVE_S = 30.0  # how long a commit whose answer was lost waits to learn how it ended

# Every statement of the writer finds its rows by key; a plan that was made while the tables were empty must not stay
# with a scan of them. Generic plans, because planning such a statement anew takes longer than running it.
_WRITER = {
    "default_transaction_isolation": "'read committed'",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "lock_timeout": "'10s'",
    # A process that was stopped in the middle of a transaction must not keep its runs locked.
    "idle_in_transaction_session_timeout": "'30s'",
}


def dsn_of(url: str) -> str:
    """The URL as asyncpg takes it. Raises `invalid_argument` for another scheme."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise OmiumError("invalid_argument", f"{scheme!r} is not the scheme of a PostgreSQL URL.", "postgresql://...")
    return f"postgresql://{rest}"


async def connect(dsn: str, name: str, settings: dict[str, str] | None = None) -> Connection:
    """A session that `pg_stat_activity` shows as `name`. Raises what asyncpg raises."""
    db = await asyncpg.connect(
        dsn, timeout=CONNECT_S, command_timeout=ANSWER_S, server_settings={"application_name": name}
    )
    try:
        if settings:
            await db.execute("; ".join(f"SET {key} = {value}" for key, value in settings.items()))
    except BaseException:
        db.terminate()
        raise
    return db


class Link:
    """The session that writes. It is made when it is needed, and again after it was lost."""

    def __init__(self, dsn: str, durability: Durability) -> None:
        self._dsn = dsn
        self._durability = durability
        self._db: Connection | None = None
        self._name = ""
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Of the tables; known once there has been a session."""
        assert self._layout is not None
        return self._layout

    async def get(self, patience_s: float | None = None) -> Connection:
        """The session. Raises OmiumError when the server could not be reached for `patience_s` (PATIENCE_S) seconds."""
        if self._db is None or self._db.is_closed():
            patience = PATIENCE_S if patience_s is None else patience_s
            try:
                async with asyncio.timeout(patience + CONNECT_S):
                    self._db = await self._connected(patience)
            except TimeoutError as error:
                raise translated(error) from error
        return self._db

    async def _connected(self, patience_s: float) -> Connection:
        pause, waited = 0.05, 0.0
        while True:
            try:
                return await self._open()
            except FAILURES as error:
                if waited >= patience_s or not is_lost(error):
                    raise translated(error) from error
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 0.5)

    async def _open(self) -> Connection:
        previous, self._name = self._name, f"omium-writer-{secrets.token_hex(8)}"
        try:
            db = await connect(self._dsn, self._name, _WRITER)
        except BaseException:
            self._name = previous
            raise
        try:
            await self._make_durable(db)
            self._layout = Layout({row[0]: row[1] for row in await db.fetch(LAYOUT, TABLES)})
            if previous:
                # What the lost session was doing must have ended before anybody asks how it ended.
                await db.fetch(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1", previous
                )
        except BaseException:
            db.terminate()
            self._name = previous
            raise
        return db

    async def _make_durable(self, db: Connection) -> None:
        if self._durability == "normal":
            await db.execute("SET synchronous_commit = off")
        else:  # whatever else the operator chose, such as local or remote_apply, is durable
            await db.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )

    def lose(self) -> None:
        """Give the session up; the next `get` makes another."""
        if self._db is not None:
            self._db.terminate()
            self._db = None

    async def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(*FAILURES):
                await self._db.close(timeout=5)
            self._db = None


__all__ = ["PATIENCE_S", "RESOLVE_S", "Connection", "Durability", "Link", "connect", "dsn_of"]
