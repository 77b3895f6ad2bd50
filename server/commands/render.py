"""Views in words: what a person reads on a terminal, and a program in a pipe where it asks for no JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omium.orchestration.service.evidence import evidence, own_part
from omium.orchestration.service.failing import FailureView
from omium.orchestration.service.recounting import RollbackView
from omium.orchestration.service.views import ApprovalView, EffectView, EventView, NodeView, PlanView, RunView
from omium.server.commands.answering import approve_line
from omium.server.commands.console import Console, age, duration, money, safe, short
from omium.server.commands.wire import as_json, json_text, rfc3339, value_as_json

_WITH_REASON = ("paused", "cancelled", "failed")  # of the others, the reason is that of the last resumption


def when(console: Console, at: int | None) -> str:
    """An age for a person, a time for a program."""
    if at is None:
        return ""
    return age(at) if console.terminal else rfc3339(at)


def identifier(console: Console, value: str | None) -> str:
    """A short id for a person, the whole for a program."""
    return short(value) if console.terminal else value or ""


def lasted(console: Console, start: int | None, end: int | None) -> str:
    """A duration for a person, whole milliseconds for a program; empty as long as it lasts."""
    return "" if start is None or end is None else span(console, (end - start) / 1000)


def span(console: Console, ms: float | None) -> str:
    """Milliseconds as a person reads them, `4.1s`; for a program `4117ms`."""
    if ms is None:
        return ""
    return duration(ms) if console.terminal else f"{max(ms, 0):.0f}ms"  # a clock may have been set back


def run_table(console: Console, runs: Sequence[RunView]) -> None:
    """A line for each; `below` is how many runs it has started."""
    console.table(
        ("run", "status", "workflow", "created", "took", "cost", "below", "title"),
        [
            (
                identifier(console, run.id),
                run.status,
                run.workflow,
                when(console, run.created_at),
                lasted(console, run.started_at, run.ended_at),
                money(run.cost_usd) if console.terminal else run.cost_usd,
                run.children or ("" if console.terminal else 0),
                f"{run.title} ({run.branch})" if run.branch and run.title else run.branch or run.title,
            )
            for run in runs
        ],
    )


def show_run(console: Console, run: RunView, files: Path | None = None) -> None:
    """A run with its nodes, its failure first, its questions, and what to do next. files: where its files lie here."""
    before = f" before {run.parent_before}" if run.parent_before else ""
    origin = f"{run.parent_run}@{run.parent_seq}{before}" if run.parent_run else None
    console.fields(
        [
            ("run", run.id),
            ("status", run.status),
            ("reason", run.reason if run.status in _WITH_REASON else None),
            ("error", problem(run.error)),
            ("workflow", run.workflow),
            ("title", run.title),
            ("branch", run.branch),
            ("hypothesis", run.hypothesis),
            ("branched from", origin),
            ("closed", run.closed),
            ("called by", f"{run.caller_run} / {run.caller_node}" if run.caller_run else None),
            ("runs below", run.children or None),
            ("workspace", run.workspace),
            ("files", files),
            ("created", when(console, run.created_at)),
            ("took", lasted(console, run.started_at, run.ended_at)),
            ("cost", money(run.cost_usd)),
            ("tokens", run.tokens or None),
            ("progress", _progress(run)),
            ("position", f"{run.id}@{run.seq}"),
            ("allowed", ", ".join(run.allowed)),
        ]
    )
    if run.nodes:
        console.text()
        node_table(console, run.nodes)
    for approval in run.approvals:
        console.text()
        show_approval(console, approval)


def _progress(run: RunView) -> str:
    """The share, and what a share hides: a run may complete although nodes of it failed or were skipped."""
    counts = ", ".join(f"{count} {status}" for status, count in run.counts.items())
    return f"{run.progress:.0%}" + (f" ({counts})" if len(run.counts) > 1 else "")


def node_table(console: Console, nodes: Sequence[NodeView]) -> None:
    console.table(
        ("node", "status", "kind", "took", "attempt", "detail"),
        [
            (
                node.id,
                node.status,
                node.kind,
                lasted(console, node.started_at, node.ended_at),
                node.attempt or "",
                problem(node.error) or node.reason or (f"reused from {node.reused_from}" if node.reused_from else ""),
            )
            for node in nodes
        ],
    )


def show_node(console: Console, node: NodeView) -> None:
    console.fields(
        [
            ("node", node.id),
            ("status", node.status),
            ("reason", node.reason),
            ("error", problem(node.error)),
            *_failure(node.error),
            ("kind", node.kind),
            ("use", node.use),
            ("needs", ", ".join(node.needs)),
            ("generation", node.generation),
            ("attempt", node.attempt),
            ("failures", node.failures or None),
            ("started", when(console, node.started_at)),
            ("took", lasted(console, node.started_at, node.ended_at)),
            ("due", when(console, node.due_at)),
            ("approval", node.approval),
            ("reused from", node.reused_from),
            ("usage", json.dumps(as_json(node.usage)) if node.usage else None),
            ("output", f"{node.output} ({node.output_size} bytes)" if node.output else None),
        ]
    )


def _failure(error: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """The rest of a node's failure, as far as it is stored."""
    told = error or {}
    trace = own_part(str(told.get("traceback") or "")).rstrip()
    return [
        ("hint", told.get("hint")),
        ("exit code", told.get("exit_code")),
        ("stderr", str(told.get("stderr") or "").rstrip()),
        ("traceback", trace),
    ]


def problem(error: Mapping[str, Any] | None) -> str | None:
    """A failure on one line: the node that is to blame, if it is another one; the category; what was said, and what
    shows where to look."""
    if not error:
        return None
    said = str(error.get("message") or error.get("code") or json.dumps(as_json(error)))
    shown = evidence(error)
    if shown and shown not in said:
        said = f"{said} ({shown})"
    return ": ".join(str(part) for part in (error.get("node"), error.get("category"), said) if part)


def failures_told(console: Console, failures: Sequence[FailureView]) -> None:
    """What failed, the newest last, each with what became of it or what may help."""
    for place, one in enumerate(failures):
        if place:
            console.text()
        said = {"category": one.category, "message": one.message}
        chance = None
        if one.chance is not None:
            chance = f"{one.chance:.0%} (estimate, from {one.tried} attempts)" if one.tried else "no experience yet"
        console.fields(
            [
                ("node", one.node),
                ("status", f"{one.status}, and what failed first" if one.first else one.status),
                ("error", problem(said)),
                ("evidence", one.evidence if one.evidence not in one.message else None),
                ("hint", one.hint),
                ("attempts", one.attempts),
                ("failed", when(console, one.failed_at)),
                ("at", one.seq),
                ("mended by", one.resolution),
                ("trying again", chance),
                *[("mended before", f"{like.how} ({like.run}@{like.seq}, {like.node})") for like in one.similar],
                ("last good", one.last_good),
            ]
        )


def rollback_table(console: Console, rollbacks: Sequence[RollbackView]) -> None:
    console.table(
        ("at", "age", "from", "to", "who", "outcome", "took", "reason"),
        [
            (
                one.seq,
                when(console, one.began_at),
                one.from_seq,
                f"{one.to} ({one.label})" if one.label else one.to,
                one.by if one.trigger == "manual" else f"{one.by} ({one.trigger})",
                one.outcome,
                span(console, one.ms),
                one.reason or "",
            )
            for one in rollbacks
        ],
    )


def show_value(console: Console, value: Any) -> None:
    """A stored value: text as it is, anything else as JSON. Only a terminal needs to be protected from a text."""
    if isinstance(value, str) and not console.json:
        console.text(safe(value, lines=True) if console.terminal else value)
    else:
        console.text(json_text(value_as_json(value)))


def show_approval(console: Console, approval: ApprovalView) -> None:
    console.fields(
        [
            ("approval", approval.id),
            ("status", approval.status),
            ("question", approval.question),
            ("options", ", ".join(approval.options)),
            ("needs", approval.min_assurance),
            ("run", approval.run_id),
            ("workflow", approval.workflow),
            ("node", approval.node),
            *_details(approval.details),
            ("consequence", approval.consequence),
            ("asked", when(console, approval.requested_at)),
            ("expires", when(console, approval.expires_at) if approval.status == "pending" else None),
            ("decision", approval.decision),
            ("decided by", approval.decided_by),
            ("assurance", approval.assurance),
            ("feedback", approval.feedback),
        ]
    )


def _details(details: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """What the question shows, line by line; anything else as JSON."""
    names = {"show": "shows"}
    return [
        (names.get(name, name), value if isinstance(value, str) else json_text(as_json(value), indent=None))
        for name, value in (details or {}).items()
    ]


def next_step(run: RunView) -> str:
    """What a person can do now, as a command; empty when nothing is to be done."""
    if run.approvals:
        first = run.approvals[0]
        return approve_line(first.id, first.options)
    if run.status in ("paused", "draft"):
        return f"omium resume {short(run.id)}"
    if run.status == "failed":
        error = run.error or {}
        if error.get("code") == "timeout" and "node" not in error:  # played in place it fails by the same deadline
            return f"omium branch {short(run.id)} --name again, which goes on from here with as much time again"
        node = error.get("node", "NODE")
        return f"omium show {short(run.id)}, then omium play-from {short(run.id)} {node}"
    return ""


def show_plan(console: Console, plan: PlanView) -> None:
    """What a history operation would do: everything that would surprise somebody comes before what it costs."""
    verb = {"rollback": "roll back", "branch": "branch", "play_from_node": "play from"}[plan.operation]
    console.text(f"{verb} {safe(plan.run_id)} at position {plan.at}, {'in place' if plan.in_place else 'as a new run'}")
    console.fields(
        [
            ("runs again", _listed(plan.reruns)),
            ("reused", _listed(plan.reused)),
            ("asked again", _listed(plan.asked_again)),
            ("files", files_listed(plan.files)),
            ("cost last time", money(plan.last_cost_usd)),
            ("tokens last time", plan.last_tokens or None),
            ("took last time", span(console, plan.last_ms) if plan.last_ms else None),
            ("saves", money(plan.saved_cost_usd)),
            ("plan", plan.plan_token),
            ("plan expires", age(plan.expires_at) if console.terminal else rfc3339(plan.expires_at)),
        ]
    )
    if plan.repeated_effects:
        console.text("These calls have happened, or may have, and would happen again:")
        console.table(
            ("node", "call", "kind", "outcome"), [(e.node, e.what, e.kind, _standing(e)) for e in plan.repeated_effects]
        )
    if plan.undone_effects:
        console.text("These calls have happened after that position and are undone:")
        console.table(
            ("node", "call", "kind", "outcome", "undone by"),
            [(e.node, e.what, e.kind, _standing(e), e.compensate) for e in plan.undone_effects],
        )
    if plan.not_undone_effects:
        console.text("These calls have happened after that position and stay as they are:")
        console.table(
            ("node", "call", "kind", "outcome"),
            [(e.node, e.what, e.kind, _standing(e)) for e in plan.not_undone_effects],
        )
    for note in plan.notes:
        console.text(safe(note))


def effect_table(console: Console, effects: Sequence[EffectView]) -> None:
    """Calls, and what became of undoing them."""
    console.table(
        ("node", "call", "kind", "outcome", "undone by", "undoing"),
        [(e.node, e.what, e.kind, _outcome(e), e.compensate or "nothing", e.compensated) for e in effects],
    )


def _outcome(effect: EffectView) -> str:
    return effect.outcome or "unknown"


def _standing(effect: EffectView) -> str:
    """Its outcome, and how far undoing it has come."""
    undone = {"done": "undone already", "failed": "undoing it failed", "unknown": "whether it was undone is unknown"}
    return ", ".join(one for one in (_outcome(effect), undone.get(effect.compensated or "")) if one)


def files_listed(files: Sequence[Mapping[str, Any]]) -> str:
    """Changed files. What a repository keeps in `.git` is only counted: its objects would crowd out everything else."""
    told = [f"{file.get('status', '')} {file.get('path', '')}".strip() for file in files]
    own = [line for line, file in zip(told, files, strict=True) if ".git" not in str(file.get("path", "")).split("/")]
    inner = len(told) - len(own)
    return ", ".join(one for one in (_listed(own), f"{inner} in .git" if inner else "") if one)


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def event_row(console: Console, event: EventView) -> tuple[object, ...]:
    """One event: position, time, type, node, actor, and what else it says."""
    rest = {name: value for name, value in as_json(event)["data"].items() if name not in ("node", "generation")}
    text = json.dumps(rest, ensure_ascii=False, separators=(",", ":")) if rest else ""
    at = rfc3339(event.at)
    return event.seq, at[11:23] if console.terminal else at, event.type, event.data.get("node") or "", event.actor, text
