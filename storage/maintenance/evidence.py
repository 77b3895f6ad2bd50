"""What a database can show of how a project is controlled: counts, and nothing of what runs hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omium.orchestration.ids import ProjectId
from omium.storage.maintenance.tables import Keeper, Tables


@dataclass(frozen=True, slots=True)
class Evidence:
    """runs, events: of the project. decided: questions by the assurance of their decision; by_others: those that
    somebody else than the run's owner has decided; expired, open: questions. decisions: of policy, by effect. tokens:
    by `active`, `expired`, `revoked`. pins: of external tools, by status. noted: events of the project's log, by type.
    reached: how often a budget told that it is being used up."""

    runs: int
    events: int
    decided: Mapping[str, int] = field(default_factory=dict)
    by_others: int = 0
    expired: int = 0
    open: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    pins: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    reached: int = 0


async def evidence(keeper: Keeper, project: ProjectId) -> Evidence:
    """Raises `storage_unavailable`."""
    now = keeper.clock.now_us()
    return await keeper.read(lambda tables: _evidence(tables, project, now))


def _evidence(tables: Tables, project: ProjectId, now: int) -> Evidence:
    def asked(statement: str) -> dict[str, ProjectId | int]:
        return {"project": project, **({"now": now} if ":now" in statement else {})}

    def one(statement: str) -> int:
        row = tables.first(statement, **asked(statement))
        return int(row[0] or 0) if row is not None else 0

    def by(statement: str) -> dict[str, int]:
        return {str(name): int(count) for name, count in tables.all(statement, **asked(statement))}

    of_runs = "FROM approvals a JOIN runs r ON r.id = a.run_id WHERE r.project = :project"
    statuses = by(f"SELECT a.status, count(*) {of_runs} GROUP BY a.status ORDER BY a.status")
    decided = f"{of_runs} AND a.status = 'decided'"
    return Evidence(
        runs=one("SELECT count(*) FROM runs WHERE project = :project"),
        events=one("SELECT sum(seq) FROM runs WHERE project = :project"),
        decided=by(f"SELECT a.assurance, count(*) {decided} GROUP BY a.assurance ORDER BY a.assurance"),
        by_others=one(f"SELECT count(*) {decided} AND a.decided_by <> r.owner"),
        expired=statuses.get("expired", 0),
        open=statuses.get("pending", 0),
        decisions=by(
            "SELECT d.effect, count(*) FROM decisions d JOIN runs r ON r.id = d.run_id WHERE r.project = :project"
            " GROUP BY d.effect ORDER BY d.effect"
        ),
        tokens=by(
            "SELECT state, count(*) FROM (SELECT CASE WHEN revoked_at IS NOT NULL THEN 'revoked'"
            " WHEN expires_at IS NOT NULL AND expires_at <= :now THEN 'expired' ELSE 'active' END AS state"
            " FROM tokens WHERE project = :project) t GROUP BY state ORDER BY state"
        ),
        pins=by("SELECT status, count(*) FROM pins WHERE project = :project GROUP BY status ORDER BY status"),
        noted=by("SELECT type, count(*) FROM project_events WHERE project = :project GROUP BY type ORDER BY type"),
        reached=one(
            "SELECT count(*) FROM events e JOIN runs r ON r.id = e.run_id"
            " WHERE r.project = :project AND e.type = 'budget.reached'"
        ),
    )


__all__ = ["Evidence", "evidence"]
