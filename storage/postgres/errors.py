"""PostgreSQL's errors in the product's words."""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]

from omium.orchestration.errors import OmiumError

# By SQLSTATE, the longest match first: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SAYINGS = (
    ("53100", "has no room: the disk is full", "Free some space on its server; what was acknowledged is safe."),
    ("53300", "takes no more connections", "Raise max_connections, or run fewer processes."),
    ("55P03", "kept a row locked for too long", "Look for a stuck session in pg_stat_activity, or try again."),
    ("57014", "did not answer in time", "Look for what slows it, or try again."),
    ("57P03", "does not accept connections yet", "Try again in a moment."),
    ("25006", "is read-only", "Point OMIUM_DATABASE at the primary server."),
    ("3D000", "does not exist", "Create it: createdb, with the name from OMIUM_DATABASE."),
    ("42501", "refuses this role", "Give the role of OMIUM_DATABASE the rights on its schema."),
    ("42P01", "lacks a table", "Run `omium doctor`."),
    ("28", "refuses this user or password", "Check the user and the password in OMIUM_DATABASE."),
    ("53", "is out of resources", "Look at its log."),
    ("57P", "is shutting down", "Try again once it is back."),
    ("58", "reports an error of its disk", "Look at its log."),
    ("XX001", "is damaged", "Run `omium verify`, then restore the last backup."),
    ("XX002", "has a damaged index", "Run REINDEX DATABASE, then `omium verify`."),
    ("08", "is unreachable", "Check that its server runs and that OMIUM_DATABASE names it."),
)

# What asyncpg raises for the server, for the session and for itself, and what the network raises.
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
RETRY = frozenset({"40001", "40P01", "23505"})  # serialization failure, deadlock, somebody inserted the row first
_GONE = ("08", "57P")  # the session has ended with the error
_OUTDATED = "42804"  # a table has another row type than when the session began: a migration, so begin another one
_UNSTORABLE = frozenset({"22021", "22P05"})  # a character that the database's text cannot hold


def is_lost(error: BaseException) -> bool:
    """Whether the session ended, so that it is not known how the statement that was under way ended."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "08").startswith(_GONE) or error.sqlstate == _OUTDATED
    return isinstance(error, FAILURES) and not isinstance(error, ValueError)


def translated(error: BaseException) -> BaseException:
    """An OmiumError for what the database or the network reports; anything else as it is."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state in _UNSTORABLE:
            return OmiumError("invalid_value", f"a text cannot be stored: {error}.", "Remove its NUL characters.")
        if state.startswith("22"):
            # What asyncpg cannot encode it quotes, and with it the rows of others.
            reason = str(error).rpartition("(")[2].rstrip(")")
            return OmiumError("invalid_value", f"a value cannot be stored: {reason}.", "Integers have 64 bits.")
        if state.startswith("23"):
            return OmiumError("conflict", f"somebody else wrote the same row first: {error}.")
        if state.startswith("40"):
            return OmiumError("conflict", f"somebody else changed it at the same time: {error}.", "Try again.")
        for sign, problem, hint in _SAYINGS:
            if state.startswith(sign):
                return _unavailable(problem, hint, error)
        return _unavailable(f"failed: {error}", "Look at its log.", error)
    if isinstance(error, TimeoutError):
        return _unavailable("did not answer in time", "Check the network and the load of its server.", error)
    if isinstance(error, FAILURES):
        return _unavailable("is unreachable", "Check that its server runs and that OMIUM_DATABASE names it.", error)
    return error


def _unavailable(problem: str, hint: str, error: BaseException) -> OmiumError:
    cause = f"{type(error).__name__}: {error}"
    return OmiumError("storage_unavailable", f"the PostgreSQL database {problem}.", hint, cause=cause)
