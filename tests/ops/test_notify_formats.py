"""The document of an event as Slack and PagerDuty want it, held against what was reviewed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.ids import Principal, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.server.notify.documents import document_of, trial_document
from omium.server.notify.formats import pagerduty, slack

GOLDEN = Path(__file__).parent / "golden"
AT = 1_764_000_000_000_000
HOSTILE = "<!channel> *bold* & \u202eevil\x1b[31m"


class Row:
    id = RunId("run_01KAG2W1D6B7N4QH3V8ZJ5MXRC")
    project = "shop"
    workflow = "release"
    title = "Release 1.2"
    status = "waiting_approval"
    owner = "user:ada"


def event(kind: EventType, **data: Any) -> Event:
    return Event(Row.id, Seq(7), kind, AT, Principal("engine"), data, b"\0" * 32, b"\1" * 32)


QUESTION = event(
    EventType.APPROVAL_REQUESTED,
    approval="apr_01KAG2W1D6B7N4QH3V8ZJ5MXRD",
    node="publish",
    generation=0,
    scope="step",
    question="Publish 1.2 to everybody?",
    options=["approve", "reject", "modify"],
    expires_at=AT + 86_400_000_000,
    min_assurance="out_of_band",
)
FAILURE = event(EventType.RUN_FAILED, error={"type": "ValueError", "message": "it broke", "category": "unknown"})
BUDGET = event(
    EventType.BUDGET_REACHED, budget="daily:2026-11-24", unit="usd", percent=75, spent=15.250000001, limit=20.0
)
DECISION = event(
    EventType.APPROVAL_DECIDED, approval="apr_01KAG2W1D6B7N4QH3V8ZJ5MXRD", decision="approve", by="user:bo",
    assurance="out_of_band",
)  # fmt: skip


def document(of: Event) -> dict[str, Any]:
    return document_of(of, Row())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("slack_decision", slack(document(QUESTION))),
        ("slack_failure", slack(document(FAILURE))),
        ("pagerduty_decision", pagerduty(document(QUESTION), "R0UTING")),
        ("pagerduty_failure", pagerduty(document(FAILURE), "R0UTING")),
        ("pagerduty_decided", pagerduty(document(DECISION), "R0UTING")),
        ("slack_budget", slack(document(BUDGET))),
        ("pagerduty_budget", pagerduty(document(BUDGET), "R0UTING")),
        ("webhook_decision", document(QUESTION)),
    ],
)
def test_messages_are_what_was_reviewed(name: str, made: dict[str, Any]) -> None:
    path = GOLDEN / f"{name}.json"
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(made))


def test_a_decision_closes_the_alert_that_its_question_opened() -> None:
    opened, closed = pagerduty(document(QUESTION), "k"), pagerduty(document(DECISION), "k")
    assert opened["dedup_key"] == closed["dedup_key"]
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")


@pytest.mark.parametrize("kind", [EventType.APPROVAL_REQUESTED, EventType.RUN_FAILED])
def test_what_comes_from_runs_is_text_and_nothing_else(kind: EventType) -> None:
    data = dict(QUESTION.data) | {"question": HOSTILE} if kind is EventType.APPROVAL_REQUESTED else {}
    made = json.dumps(slack(document(event(kind, **(data or {"error": {"message": HOSTILE}})))), ensure_ascii=False)
    assert "<!channel>" not in made and "&lt;!channel&gt;" in made
    assert "\u202e" not in made and "\\u001b" not in made


def test_sizes_are_what_the_receivers_take() -> None:
    long = event(EventType.APPROVAL_REQUESTED, **(dict(QUESTION.data) | {"question": "x" * 10_000_000}))
    message = slack(document(long))
    for block in message["blocks"]:
        for text in [block.get("text"), *block.get("fields", ())]:
            assert text is None or len(text["text"]) <= (150 if block["type"] == "header" else 3_000)
    assert len(pagerduty(document(long), "k")["payload"]["summary"]) <= 1_024
    assert len(json.dumps(document(long))) < 20_000


def test_a_test_has_every_form() -> None:
    tried = trial_document("chat", "shop", AT)
    assert slack(tried)["text"]
    assert pagerduty(tried, "k")["payload"]["severity"] == "info"
