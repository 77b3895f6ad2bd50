"""The document of an event as chats and pagers want it. What comes from runs mentions nobody and links nowhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Literal

_SECTION: Final = 2_900  # characters; Slack takes 3,000 of a section
_HEADER: Final = 140  # of 150
_SUMMARY: Final = 1_000  # of 1,024: PagerDuty's
_HAPPENED: Final = {
    "run.completed": "A run has completed",
    "run.failed": "A run has failed",
    "run.cancelled": "A run was cancelled",
    "approval.expired": "A question has expired",
    "approval.decided": "A question was decided",
    "budget.reached": "A budget is being used up",
}
_CLOSES: Final = ("approval.decided", "approval.expired", "run.completed", "run.cancelled")


def slack(document: Mapping[str, Any]) -> dict[str, Any]:
    """A message for an incoming webhook of Slack: blocks, and a text for where there are no blocks."""
    kind, data = document["type"], document["data"]
    if "event" not in data:
        return {"text": _escaped(_plain(data["text"])), "blocks": [_section(_escaped(_plain(data["text"])))]}
    run, told = data["run"], data["event"]["data"]
    name = _plain(run["title"] or run["workflow"])
    if kind == "approval.requested":
        return _decision(run, told, name)
    happened = _HAPPENED.get(kind, kind)
    blocks = [_header(f"{happened}: {name}"), _facts(run)]
    problem = _problem(told)
    if problem:
        blocks.insert(1, _section(_escaped(problem)))
    blocks.append(_context(f"omium show {run['id']}"))
    return {"text": _escaped(f"{happened}: {name}"), "blocks": blocks}


def _decision(run: Mapping[str, Any], told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A decision is needed: what is asked, what can be chosen, until when, and how to answer."""
    title = f"A decision is needed: {name}"
    options = ", ".join(_plain(str(one)) for one in told["options"])
    details = [
        ("Options", options),
        ("Expires", str(told["expires_at"])),
        ("At least", str(told["min_assurance"]).replace("_", " ")),
        ("Node", _plain(str(told.get("node") or "the plan"))),
    ]
    return {
        "text": _escaped(title),
        "blocks": [
            _header(title),
            _section(_escaped(_plain(told["question"], lines=True))),
            {"type": "section", "fields": [_field(label, text) for label, text in details]},
            _facts(run),
            _context(f"omium approve {told['approval']}"),
        ],
    }


def pagerduty(document: Mapping[str, Any], routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2. What opened an alert is closed by its decision, or by its completion."""
    kind, data = document["type"], document["data"]
    if "event" not in data:
        return _alert("trigger", routing_key, "omium-test", data["text"], "info", data["project"], document)
    run, told = data["run"], data["event"]["data"]
    key = told["approval"] if kind.startswith("approval.") else told.get("budget", run["id"])
    action: Literal["trigger", "resolve"] = "resolve" if kind in _CLOSES else "trigger"
    name = _plain(run["title"] or run["workflow"])
    if kind == "approval.requested":
        summary = f"A decision is needed: {name}: {_plain(told['question'])}"
    else:
        summary = f"{_HAPPENED.get(kind, kind)}: {name}" + (f": {_problem(told)}" if _problem(told) else "")
    severity = {"run.failed": "error", "approval.requested": "warning"}.get(kind, "info")
    return _alert(action, routing_key, key, summary, severity, run["project"], document)


def _alert(
    action: str, routing_key: str, key: str, summary: str, severity: str, project: str, document: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": key}
    if action == "trigger":
        found["payload"] = {
            "summary": summary[:_SUMMARY],
            "source": f"omium/{project}",
            "severity": severity,
            "timestamp": document["timestamp"],
            "custom_details": document["data"],
        }
    return found


def _problem(told: Mapping[str, Any]) -> str:
    if "percent" in told:
        return _plain(
            f"{told['percent']} % of {told['budget']}: {told['spent']:,.6g} of {told['limit']:,.6g} {told['unit']}"
        )
    error = told.get("error")
    return _plain(str(error.get("message", ""))) if isinstance(error, Mapping) else ""


def _plain(text: str, *, lines: bool = False) -> str:
    """Without characters that hide or turn around what is read."""
    kept = "".join(one if (lines and one == "\n") or unicodedata.category(one)[0] != "C" else " " for one in str(text))
    return kept if lines else " ".join(kept.split())


def _escaped(text: str) -> str:
    """Slack's three characters, so that a text cannot mention a channel or become a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": _cut(text, _HEADER), "emoji": False}}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, _SECTION), "verbatim": True}}


def _field(label: str, text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": _cut(f"*{label}*\n{_escaped(text)}", 1_900), "verbatim": True}


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    facts = [("Workflow", run["workflow"]), ("Run", run["id"]), ("Owner", run["owner"]), ("Status", run["status"])]
    return {"type": "section", "fields": [_field(label, _plain(str(text))) for label, text in facts]}


def _context(command: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": f"`{_escaped(_plain(command))}`"}]}
