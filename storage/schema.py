"""The tables, once, for both databases.

`events` is the truth. `runs`, `approvals`, `effects`, `labels` and `links`, and who has brought a blob, are
projections: written in the same transaction, never read to decide what a log says, and rebuilt from it at will. The
rest are plain tables. Times are microseconds since the epoch; JSON columns hold bytes of UTF-8 JSON.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import DDL, BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, event

metadata = MetaData()


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=null)


def _int(name: str, *, key: bool = False, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=key, nullable=null, autoincrement=False)


def _bytes(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


# SQLite keeps these clustered by their key: the labels of a run lie together.
_CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False}
# PostgreSQL leaves room for new versions of these rows beside the old ones: an update then touches no index.
_UPDATED: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}}

events = Table(  # not clustered: a commit of many runs adds to the end of one tree, and not to a page of each run
    "events",
    metadata,
    _text("run_id", key=True),
    _int("seq", key=True),
    _text("type"),
    _int("at"),
    _text("actor"),
    _bytes("data"),
    _bytes("prev_hash"),
    _bytes("hash"),
)

runs = Table(
    "runs",
    metadata,
    _text("id", key=True),
    _text("project"),
    _text("workflow"),
    _text("title"),
    _text("definition"),
    _text("inputs"),
    _text("status"),
    _text("reason", null=True),
    _int("priority"),
    _int("generation"),
    _int("created_at"),
    _int("updated_at"),
    _int("started_at", null=True),
    _int("ended_at", null=True),
    _int("seq"),
    _bytes("head"),
    _text("output", null=True),
    _bytes("error", null=True),
    _text("parent_run", null=True),
    _int("parent_seq", null=True),
    _text("caller_run", null=True),
    _text("caller_node", null=True),
    _text("branch", null=True),
    _text("hypothesis", null=True),
    _text("closed", null=True),
    _text("session", null=True),
    _int("completed_nodes"),
    Column("cost_usd", Float(53), nullable=False),
    _int("tokens"),
    _text("owner"),
    **_CLUSTERED,
    **_UPDATED,
)
Index("runs_by_owner", runs.c.project, runs.c.owner, runs.c.id)
Index("runs_by_status", runs.c.project, runs.c.status, runs.c.id)
Index("runs_by_project", runs.c.project, runs.c.id)
Index("runs_by_workflow", runs.c.project, runs.c.workflow, runs.c.id)
Index("runs_by_parent", runs.c.parent_run, sqlite_where=runs.c.parent_run.is_not(None),
      postgresql_where=runs.c.parent_run.is_not(None))  # fmt: skip
Index("runs_by_caller", runs.c.caller_run, sqlite_where=runs.c.caller_run.is_not(None),
      postgresql_where=runs.c.caller_run.is_not(None))  # fmt: skip
Index("runs_by_session", runs.c.session, sqlite_where=runs.c.session.is_not(None),
      postgresql_where=runs.c.session.is_not(None))  # fmt: skip

approvals = Table(
    "approvals",
    metadata,
    _text("id", key=True),
    _text("run_id"),
    _text("node", null=True),
    _int("generation"),
    _text("scope"),
    _text("status"),
    _text("question"),
    _bytes("options"),
    _text("min_assurance"),
    _int("requested_at"),
    _int("expires_at"),
    _text("decision", null=True),
    _text("decided_by", null=True),
    _text("assurance", null=True),
    _text("feedback", null=True),
    _int("decided_at", null=True),
    Column("consumed", Integer, nullable=False),
    _text("binding", null=True),
    _bytes("details", null=True),
    _text("arguments", null=True),
    **_CLUSTERED,
)
Index("approvals_by_run", approvals.c.run_id)
Index("approvals_pending", approvals.c.requested_at, sqlite_where=approvals.c.status == "pending",
      postgresql_where=approvals.c.status == "pending")  # fmt: skip

effects = Table(
    "effects",
    metadata,
    _text("id", key=True),
    _text("run_id"),
    _text("node"),
    _int("generation"),
    _int("attempt"),
    _text("call"),
    _text("kind"),
    _text("on_unknown"),
    _text("outcome", null=True),
    _text("result", null=True),
    _bytes("error", null=True),
    _text("compensate", null=True),
    _bytes("detail", null=True),
    _text("approval", null=True),
    **_CLUSTERED,
)
Index("effects_by_run", effects.c.run_id)

labels = Table(
    "labels",
    metadata,
    _text("run_id", key=True),
    _int("seq", key=True),
    _text("label"),
    _int("at"),
    _text("note", null=True),
    _text("tree", null=True),
    _int("created_at"),
    _text("actor"),
    **_CLUSTERED,
)

decisions = Table(  # of policy
    "decisions",
    metadata,
    _text("run_id", key=True),
    _int("seq", key=True),
    _text("node"),
    _text("call"),
    _text("action"),
    _text("server", null=True),
    _text("tool"),
    _text("agent", null=True),
    _text("effect"),
    _text("rule", null=True),
    _text("reason", null=True),
    _text("input"),
    _text("version"),
    Column("micros", Float(53), nullable=True),
    _text("shadow", null=True),
    _int("at"),
    **_CLUSTERED,
)
Index("decisions_by_time", decisions.c.at)

links = (
    Table(  # which blobs a run's log names, but for those that it has brought. By digest, as the sweep asks for them.
        "links",
        metadata,
        _text("digest", key=True),
        _text("run_id", key=True),
        **_CLUSTERED,
    )
)

blobs = Table(  # not clustered: their digests lie anywhere, and a tree with such rows in its inner nodes is deep
    "blobs",
    metadata,
    _text("digest", key=True),
    _int("size"),
    _text("encoding"),  # raw, zstd, patch, file; "bad" once quarantined
    _text("base", null=True),
    _int("depth"),  # length of the chain of patches below
    _int("touched_at"),
    _text("brought_by", null=True),  # a run whose log names it and has no link for that
    _bytes("data"),
)
Index("blobs_by_base", blobs.c.base, sqlite_where=blobs.c.base.is_not(None),
      postgresql_where=blobs.c.base.is_not(None))  # fmt: skip

claims = Table(
    "claims",
    metadata,
    _text("run_id", key=True),
    _text("project"),
    _int("priority"),
    _text("worker", null=True),
    _int("fence"),
    _int("wake_at", null=True),
)
Index("claims_due", claims.c.project, claims.c.wake_at,
      sqlite_where=claims.c.worker.is_(None), postgresql_where=claims.c.worker.is_(None))  # fmt: skip
Index("claims_by_worker", claims.c.worker, sqlite_where=claims.c.worker.is_not(None),
      postgresql_where=claims.c.worker.is_not(None))  # fmt: skip

workers = Table(
    "workers",
    metadata,
    _text("id", key=True),
    _text("host"),
    _text("boot"),
    _int("pid"),
    Column("start_time", Float(53), nullable=False),
    _int("beat"),
    _bytes("serving"),
)

keys = Table(  # idempotency
    "keys",
    metadata,
    _text("scope", key=True),
    _text("key", key=True),
    _text("arguments"),
    _bytes("result"),
    _int("created_at"),
    **_CLUSTERED,
)

plans = Table(
    "plans",
    metadata,
    _text("token", key=True),
    _text("caller"),
    _text("run_id"),
    _text("operation"),
    _text("binding"),
    _int("expires_at"),
    _bytes("document"),
)

tasks = Table(  # of the protocol
    "tasks",
    metadata,
    _text("id", key=True),
    _text("project"),
    _text("principal"),
    _text("run_id"),
    _int("created_at"),
    _int("expires_at", null=True),
    _int("version"),
    _bytes("document"),
)

tokens = Table(
    "tokens",
    metadata,
    _text("id", key=True),
    _text("digest"),
    _text("project"),
    _text("principal"),
    _text("role"),
    _text("sees"),
    _text("note"),
    _int("created_at"),
    _int("expires_at", null=True),
    _int("revoked_at", null=True),
)
Index("tokens_by_digest", tokens.c.digest, unique=True)

memories = Table(  # of principals; `words` is what is searched
    "memories",
    metadata,
    _text("project", key=True),
    _text("owner", key=True),
    _text("scope", key=True),
    _text("key", key=True),
    _text("kind"),
    _text("text"),
    _text("tags"),
    _text("outcome", null=True),
    _int("at"),
    _text("words"),
)

pins = Table(  # of the tools of external servers
    "pins",
    metadata,
    _text("project", key=True),
    _text("server", key=True),
    _text("tool", key=True),
    _text("digest"),
    _bytes("document"),
    _text("status"),
    _text("approved_by", null=True),
    _int("at"),
    **_CLUSTERED,
)

erasures = Table(  # that were begun and have not come to their end
    "erasures",
    metadata,
    _text("run_id", key=True),
    _int("begun_at"),
    _text("reason"),
    _text("actor"),
)

endpoints = Table(  # who is told of what happens, and since when
    "endpoints",
    metadata,
    _text("project", key=True),
    _text("endpoint", key=True),
    _int("since"),
)

announced = Table(  # how far into the log of a run was looked for an endpoint
    "announced",
    metadata,
    _text("run_id", key=True),
    _text("endpoint", key=True),
    _int("seq"),
    **_CLUSTERED,
)

notices = Table(  # the outbox: what an endpoint is to be told
    "notices",
    metadata,
    _text("id", key=True),
    _text("project"),
    _text("endpoint"),
    _text("run_id"),
    _int("seq"),
    _text("type"),
    _text("status"),
    _int("attempts"),
    _int("due_at"),
    _int("created_at"),
    _int("ended_at", null=True),
    _text("problem", null=True),
)
Index("notices_once", notices.c.run_id, notices.c.seq, notices.c.endpoint, unique=True)
Index("notices_due", notices.c.project, notices.c.endpoint, notices.c.due_at,
      sqlite_where=notices.c.status == "waiting", postgresql_where=notices.c.status == "waiting")  # fmt: skip

leases = Table(  # what one attempt may use at a time; a lease of a worker that is gone is free
    "leases",
    metadata,
    _text("name", key=True),
    _text("worker"),
    _text("holder"),
    _int("at"),
)

budgets = Table(  # what was spent, and is held for calls under way, of everything that is counted
    "budgets",
    metadata,
    _text("project", key=True),
    _text("name", key=True),
    *(
        Column(f"{of}_{unit}", Float(53), nullable=False)
        for of in ("spent", "held", "extra")
        for unit in ("usd", "tokens", "calls")
    ),
    _int("updated_at"),
)

holds = Table(  # of budgets, one row for each counter that a call holds a part of
    "holds",
    metadata,
    _text("id", key=True),
    _text("name", key=True),
    _text("project"),
    _text("worker"),
    *(Column(unit, Float(53), nullable=False) for unit in ("usd", "tokens", "calls")),
)
Index("holds_by_worker", holds.c.worker)

snapshots = Table(
    "snapshots",
    metadata,
    _text("run_id", key=True),
    _int("seq", key=True),
    _bytes("document"),
)

project_events = Table(  # the chained log of what belongs to no run
    "project_events",
    metadata,
    _text("project", key=True),
    _int("seq", key=True),
    _text("type"),
    _int("at"),
    _text("actor"),
    _bytes("data"),
    _bytes("prev_hash"),
    _bytes("hash"),
    **_CLUSTERED,
)

graph_checkpoints = Table(  # of graphs of another framework, which keeps its state here
    "graph_checkpoints",
    metadata,
    _text("project", key=True),
    _text("thread", key=True),
    _text("ns", key=True),
    _text("id", key=True),
    _text("parent", null=True),
    _text("run", null=True),
    _text("kind"),
    _bytes("document"),
    _text("metadata_kind"),
    _bytes("about"),
    _int("at"),
    **_CLUSTERED,
)
Index("graph_checkpoints_by_run", graph_checkpoints.c.project, graph_checkpoints.c.run,
      sqlite_where=graph_checkpoints.c.run.is_not(None),
      postgresql_where=graph_checkpoints.c.run.is_not(None))  # fmt: skip

graph_writes = Table(  # what tasks wrote after a checkpoint, before the next
    "graph_writes",
    metadata,
    _text("project", key=True),
    _text("thread", key=True),
    _text("ns", key=True),
    _text("checkpoint", key=True),
    _text("task", key=True),
    _int("idx", key=True),
    _text("path"),
    _text("channel"),
    _text("kind"),
    _bytes("value"),
    **_CLUSTERED,
)

upkeep = Table(  # when each chore was last begun, and what came of it
    "upkeep",
    metadata,
    _text("name", key=True),
    _int("started_at"),
    _int("ended_at", null=True),
    _bytes("outcome", null=True),
)

dropped_runs = Table(  # what stays of a run that retention dropped: where its log ended
    "dropped_runs",
    metadata,
    _text("run_id", key=True),
    _text("project"),
    _int("seq"),
    _bytes("head"),
    _int("at"),
)


# --- history is append-only -----------------------------------------------------------------------------------------
#
# Triggers, so that no mistake in our own statements and no slip of a hand in a database shell rewrites history. Events
# go only as whole runs, and only once `dropped_runs` says so: that row is written first, in the same transaction.
# Inserts fire none of them.

_REFUSAL = "history is append-only"
_KEPT = "SELECT 1 FROM dropped_runs d WHERE d.run_id = OLD.run_id"


def _sqlite_guard(table: Table, operation: str, unless: str | None = None) -> DDL:
    when = f" WHEN NOT EXISTS ({unless})" if unless else ""
    return DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER {table.name}_no_{operation.lower()} BEFORE {operation} ON {table.name}{when}"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    ).execute_if(dialect="sqlite")


def _postgres_guard(table: Table, operation: str, unless: str | None = None) -> DDL:
    each = "STATEMENT" if operation == "TRUNCATE" else "ROW"
    function = "history_of_dropped_runs" if unless else "history_is_append_only"
    return DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER {table.name}_no_{operation.lower()} BEFORE {operation} ON {table.name}"
        f" FOR EACH {each} EXECUTE FUNCTION {function}()"
    ).execute_if(dialect="postgresql")


def _postgres_function(name: str, body: str) -> DDL:
    return DDL(  # type: ignore[no-untyped-call]
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    ).execute_if(dialect="postgresql")


_RAISE = f"RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation';"

for _ddl in (
    _postgres_function("history_is_append_only", _RAISE),
    _postgres_function("history_of_dropped_runs", f"IF NOT EXISTS ({_KEPT}) THEN {_RAISE} END IF; RETURN OLD;"),
    *(
        guard(table, operation, unless)
        for table, deletable in ((events, _KEPT), (project_events, None))
        for guard, operation, unless in (
            (_sqlite_guard, "UPDATE", None),
            (_sqlite_guard, "DELETE", deletable),
            (_postgres_guard, "UPDATE", None),
            (_postgres_guard, "DELETE", deletable),
            (_postgres_guard, "TRUNCATE", None),
        )
    ),
):
    event.listen(metadata, "after_create", _ddl)
