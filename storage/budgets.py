"""Budgets and leases on both databases: counters that several processes share.

A hold is one statement, or one transaction, that takes a part of every counter or of none. Both halves of it are
written so that a counter which is at its limit refuses whatever costs something; one without a limit only counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.ports_gates import Amounts, BudgetRow, Counter

if TYPE_CHECKING:
    import sqlite3

    from omium.storage.maintenance.tables import Tables

UNITS: Final = ("usd", "tokens", "calls")
_COLUMNS: Final = tuple(f"{of}_{unit}" for of in ("spent", "held", "extra") for unit in UNITS)

# --- SQLite ---------------------------------------------------------------------------------------------------------

_ENSURE = (
    f"INSERT INTO budgets (project, name, {', '.join(_COLUMNS)}, updated_at)"  # noqa: S608 - names of ours
    f" VALUES (?, ?, {', '.join('0' * len(_COLUMNS))}, ?) ON CONFLICT DO NOTHING"
)
# The counter of a rate is of its minute, hour or day: it is of no use after that, and there are as many as there are
# minutes. Gone with the first one of a new window.
RATE: Final = "rate:"
FORGOTTEN_AFTER_US: Final = 8 * 86_400 * 1_000_000
_FORGET = (
    "DELETE FROM budgets WHERE project = ? AND name >= 'rate:' AND name < 'rate;' AND updated_at < ?"
    " AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.project = budgets.project AND h.name = budgets.name)"
)
_READ = f"SELECT {', '.join(_COLUMNS)} FROM budgets WHERE project = ? AND name = ?"  # noqa: S608
_TAKE = (
    "UPDATE budgets SET held_usd = held_usd + ?, held_tokens = held_tokens + ?, held_calls = held_calls + ?,"
    " updated_at = ? WHERE project = ? AND name = ?"
)
_NOTE = "INSERT INTO holds (id, name, project, worker, usd, tokens, calls) VALUES (?, ?, ?, ?, ?, ?, ?)"
_SETTLE = (
    "UPDATE budgets SET held_usd = max(0, held_usd - ?), held_tokens = max(0, held_tokens - ?),"
    " held_calls = max(0, held_calls - ?), spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ?,"
    " spent_calls = spent_calls + ?, updated_at = ? WHERE project = ? AND name = ?"
)


def hold(
    db: sqlite3.Connection,
    identity: str,
    project: str,
    worker: str,
    counters: Sequence[Counter],
    amounts: Amounts,
    now: int,
) -> list[str]:
    """See `Store.hold`; within a write transaction."""
    over: list[str] = []
    for counter in counters:
        if db.execute(_ENSURE, (project, counter.name, now)).rowcount and counter.name.startswith(RATE):
            db.execute(_FORGET, (project, now - FORGOTTEN_AFTER_US))
        row = db.execute(_READ, (project, counter.name)).fetchone()
        if _is_over(counter, row, amounts):
            over.append(counter.name)
    if over:
        return over
    taken = (amounts.usd, amounts.tokens, amounts.calls)
    for counter in counters:
        db.execute(_TAKE, (*taken, now, project, counter.name))
        db.execute(_NOTE, (identity, counter.name, project, worker, *taken))
    return []


def _is_over(counter: Counter, row: Sequence[float], amounts: Amounts) -> bool:
    spent, held, extra = row[0:3], row[3:6], row[6:9]
    for place, unit in enumerate(UNITS):
        limit = getattr(counter, unit)
        if limit is None:
            continue
        used, most = spent[place] + held[place], limit + extra[place]
        if used >= most or used + getattr(amounts, unit) > most:
            return True
    return False


def settle(db: sqlite3.Connection, identity: str, amounts: Amounts, now: int) -> None:
    rows = db.execute("SELECT project, name, usd, tokens, calls FROM holds WHERE id = ?", (identity,)).fetchall()
    for project, name, *held in rows:
        db.execute(_SETTLE, (*held, amounts.usd, amounts.tokens, amounts.calls, now, project, name))
    db.execute("DELETE FROM holds WHERE id = ?", (identity,))


def settle_all_of(db: sqlite3.Connection, worker: str, now: int) -> None:
    """What a worker that is gone held counts as spent: nobody knows whether its calls were made."""
    for project, name, *held in db.execute(
        "SELECT project, name, usd, tokens, calls FROM holds WHERE worker = ?", (worker,)
    ).fetchall():
        db.execute(_SETTLE, (*held, *held, now, project, name))
    db.execute("DELETE FROM holds WHERE worker = ?", (worker,))


def lease(db: sqlite3.Connection, name: str, worker: str, holder: str, now: int) -> str | None:
    got = db.execute(
        "INSERT INTO leases (name, worker, holder, at) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " worker = excluded.worker, holder = excluded.holder, at = excluded.at"
        " WHERE leases.holder = excluded.holder OR leases.worker NOT IN (SELECT id FROM workers)",
        (name, worker, holder, now),
    ).rowcount
    if got:
        return None
    row = db.execute("SELECT holder FROM leases WHERE name = ?", (name,)).fetchone()
    return str(row[0])


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

PG_ENSURE: Final = (
    f"INSERT INTO budgets (project, name, {', '.join(_COLUMNS)}, updated_at)"  # noqa: S608 - names of ours
    f" SELECT $1, w.name, {', '.join('0' * len(_COLUMNS))}, $3 FROM unnest($2::text[]) AS w (name)"
    " ORDER BY w.name ON CONFLICT DO NOTHING RETURNING name"
)
PG_FORGET: Final = _FORGET.replace("= ?", "= $1").replace("< ?", "< $2")


def _pg_over(unit: str, amount: str) -> str:
    used, most = f"l.spent_{unit} + l.held_{unit}", f"a.{unit} + l.extra_{unit}"
    return f"(a.{unit} IS NOT NULL AND ({used} >= {most} OR {used} + {amount} > {most}))"


# The rows are locked before they are judged, in the order of their names; what is changed is the locked version.
PG_HOLD: Final = (
    "WITH asked AS (SELECT * FROM unnest($3::text[], $4::float8[], $5::float8[], $6::float8[])"  # noqa: S608
    " AS a (name, usd, tokens, calls)),"
    " locked AS MATERIALIZED (SELECT b.* FROM budgets b JOIN asked a ON a.name = b.name WHERE b.project = $1"
    " ORDER BY b.name FOR UPDATE OF b),"
    " beyond AS MATERIALIZED (SELECT l.name FROM locked l JOIN asked a ON a.name = l.name WHERE"
    f" {' OR '.join(_pg_over(u, f'${n}::float8') for n, u in enumerate(UNITS, 7))}),"
    " taken AS (UPDATE budgets b SET held_usd = b.held_usd + $7, held_tokens = b.held_tokens + $8,"
    " held_calls = b.held_calls + $9, updated_at = $11 FROM locked l WHERE b.project = $1 AND b.name = l.name"
    " AND NOT EXISTS (SELECT 1 FROM beyond)),"
    " noted AS (INSERT INTO holds (id, name, project, worker, usd, tokens, calls)"
    " SELECT $2, l.name, $1, $10, $7, $8, $9 FROM locked l WHERE NOT EXISTS (SELECT 1 FROM beyond))"
    " SELECT name FROM beyond ORDER BY name"
)
PG_SETTLE: Final = (
    "WITH gone AS (DELETE FROM holds WHERE id = $1 RETURNING *),"
    " due AS MATERIALIZED (SELECT g.* FROM gone g JOIN budgets b ON b.project = g.project AND b.name = g.name"
    " ORDER BY b.name FOR UPDATE OF b)"
    " UPDATE budgets b SET held_usd = greatest(0, b.held_usd - d.usd),"
    " held_tokens = greatest(0, b.held_tokens - d.tokens),"
    " held_calls = greatest(0, b.held_calls - d.calls), spent_usd = b.spent_usd + $2,"
    " spent_tokens = b.spent_tokens + $3, spent_calls = b.spent_calls + $4, updated_at = $5"
    " FROM due d WHERE b.project = d.project AND b.name = d.name"
)
PG_SETTLE_ALL_OF: Final = (
    "WITH gone AS (DELETE FROM holds WHERE worker = $1 RETURNING *),"
    " due AS (SELECT project, name, sum(usd) AS usd, sum(tokens) AS tokens, sum(calls) AS calls FROM gone"
    " GROUP BY project, name),"
    " locked AS MATERIALIZED (SELECT d.* FROM due d JOIN budgets b ON b.project = d.project AND b.name = d.name"
    " ORDER BY b.name FOR UPDATE OF b)"
    " UPDATE budgets b SET held_usd = greatest(0, b.held_usd - l.usd),"
    " held_tokens = greatest(0, b.held_tokens - l.tokens),"
    " held_calls = greatest(0, b.held_calls - l.calls), spent_usd = b.spent_usd + l.usd,"
    " spent_tokens = b.spent_tokens + l.tokens, spent_calls = b.spent_calls + l.calls, updated_at = $2"
    " FROM locked l WHERE b.project = l.project AND b.name = l.name"
)
PG_LEASE: Final = (
    "INSERT INTO leases (name, worker, holder, at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET"
    " worker = excluded.worker, holder = excluded.holder, at = excluded.at"
    " WHERE leases.holder = excluded.holder OR leases.worker NOT IN (SELECT id FROM workers) RETURNING name"
)
PG_HOLDER: Final = "SELECT holder FROM leases WHERE name = $1"
PG_UNLEASE: Final = "DELETE FROM leases WHERE name = $1 AND worker = $2 AND holder = $3"

# --- both -----------------------------------------------------------------------------------------------------------


def budget_row(row: Sequence[Any]) -> BudgetRow:
    """A row of `BUDGETS`."""
    project, name, *numbers, updated_at = row
    spent, held, extra = (Amounts(*(float(n) for n in numbers[at : at + 3])) for at in (0, 3, 6))
    return BudgetRow(ProjectId(project), name, spent, held, extra, int(updated_at))


BUDGETS: Final = ("project", "name", *_COLUMNS, "updated_at")


def allow_more(tables: Tables, project: ProjectId, name: str, extra: Amounts, now: int) -> None:
    """Within a transaction of maintenance."""
    zeros = ", ".join("0" * 6)
    tables.run(
        f"INSERT INTO budgets (project, name, {', '.join(_COLUMNS)}, updated_at)"  # noqa: S608 - names of ours
        f" VALUES (:project, :name, {zeros}, :usd, :tokens, :calls, :now) ON CONFLICT (project, name) DO UPDATE SET"
        " extra_usd = budgets.extra_usd + :usd, extra_tokens = budgets.extra_tokens + :tokens,"
        " extra_calls = budgets.extra_calls + :calls, updated_at = :now",
        project=project,
        name=name,
        usd=extra.usd,
        tokens=extra.tokens,
        calls=extra.calls,
        now=now,
    )


def forget_counters(tables: Tables, project: ProjectId, run_id: RunId) -> None:
    """Those that count for this run alone: of a node's own budget, and of a rule's for a run."""
    tables.run(
        "DELETE FROM budgets WHERE project = :project AND (name LIKE :node OR name LIKE :rule)",
        project=project,
        node=f"node:{run_id}/%",
        rule=f"policy:%/{run_id}",
    )


def told(name: str, extra: Amounts) -> dict[str, Any]:
    return {"budget": name, "usd": extra.usd, "tokens": extra.tokens, "calls": extra.calls}


__all__ = ["BUDGETS", "allow_more", "budget_row", "forget_counters", "hold", "lease", "settle", "settle_all_of", "told"]
