"""Printing: harmless text, tables, JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.ids import NodeId, PlanToken, Principal, RunId, Seq
from omium.orchestration.service.views import CheckpointView, EffectView, EventView, PlanView
from omium.server.commands.console import Console, age, duration, many, money, safe, short
from omium.server.commands.render import files_listed, show_plan
from omium.server.commands.wire import as_json, json_text, rfc3339, value_as_json
from tests.cli.harness import HOSTILE


@given(st.text())
def test_safe_text_is_printable_and_stays_on_its_line(text: str) -> None:
    assert safe(text).isprintable()
    assert safe(text, lines=True).replace("\n", "").isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]).filter(str.isprintable)))
def test_ordinary_text_of_any_language_is_left_alone(text: str) -> None:
    assert safe(text) == text


def test_what_moves_the_cursor_or_turns_the_text_is_escaped() -> None:
    shown = safe(HOSTILE)
    assert "\x1b" not in shown and "\u202e" not in shown and "\x9b" not in shown and "\t" not in shown
    assert "\\x1b[31m" in shown and "\\u202e" in shown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_text_is_harmless_and_says_the_same(value: object) -> None:
    text = json_text(value)
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == value


def test_values_that_json_lacks_are_tagged() -> None:
    shown = value_as_json({"raw": b"\x00\xff", "price": Decimal("1.10"), "at": datetime(2026, 1, 2, tzinfo=UTC)})
    assert {key: value["$omium"] for key, value in shown.items()} == {
        "raw": "bytes",
        "price": "decimal",
        "at": "datetime",
    }


def test_times_are_rfc_3339_and_positions_stay_numbers() -> None:
    at = 1_795_219_200_000_001
    assert rfc3339(at) == datetime.fromtimestamp(at // 10**6, UTC).strftime("%Y-%m-%dT%H:%M:%S") + ".000001Z"
    event = EventView(Seq(3), "node.retry_backoff", at, Principal("engine"), {"due_at": at, "at": 4}, "00")
    shown = as_json(event)
    assert (shown["at"], shown["data"]) == (rfc3339(at), {"due_at": rfc3339(at), "at": 4})
    checkpoint = CheckpointView(RunId("run_x"), Seq(7), at, "node.completed", NodeId("draft"))
    assert as_json(checkpoint)["position"] == "run_x@7"
    assert as_json(checkpoint)["at"] == rfc3339(at)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, ""),
        (0, "0ms"),
        (39.4, "39ms"),
        (999.7, "1.0s"),
        (1_400, "1.4s"),
        (9_990, "10s"),
        (200_000, "3m 20s"),
        (7_500_000, "2h 5m"),
        (400_000_000, "4d 15h"),
    ],
)
def test_durations(ms: float | None, text: str) -> None:
    assert duration(ms) == text


def test_ages_and_money() -> None:
    now = 10**15
    assert [age(now - s * 10**6, now) for s in (0, 59, 61, 7200, 200_000)] == [
        "0s ago",
        "59s ago",
        "1m ago",
        "2h ago",
        "2d ago",
    ]
    assert age(now + 80 * 10**6, now) == "in 1m"
    assert age(now + 86_390 * 10**6, now) == "in 1d"
    assert (money(0), money(0.01234), money(1234.5)) == ("", "$0.0123", "$1,234.50")
    assert short("run_01M7XQ71ERPG539FD0VXJQECZ0") == "VXJQECZ0"


def table(capsys: pytest.CaptureFixture[str], *, terminal: bool, rows: list[tuple[object, ...]]) -> list[str]:
    console = Console()
    console.terminal = terminal
    console.colour = False
    console.table(("name", "status", "title"), rows)
    return capsys.readouterr().out.splitlines()


def test_in_a_pipe_a_table_is_tab_separated_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(capsys, terminal=False, rows=[("a", None, HOSTILE), ("b", "failed", "x" * 500)])
    assert [line.split("\t")[:2] for line in lines] == [["a", ""], ["b", "failed"]]
    assert [line.count("\t") for line in lines] == [2, 2]
    assert lines[1].endswith("x" * 500)


def test_on_a_terminal_a_table_is_aligned_and_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows: list[tuple[object, ...]] = [("工作流程", "completed", "x" * 500), ("b", "failed", "short")]
    lines = table(capsys, terminal=True, rows=rows)
    assert lines[0].split() == ["NAME", "STATUS", "TITLE"]
    assert lines[1].endswith("…")
    assert len(lines[1]) == 60 - 4  # four characters that take two columns each
    assert lines[2].index("failed") == lines[0].index("STATUS")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colours_are_for_terminals_that_want_them(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omium.server.commands.console import coloured

    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert coloured(Stream(True)) is wanted
    assert coloured(Stream(False)) is False


def test_one_is_one() -> None:
    assert [many(count, "log") for count in (0, 1, 2)] == ["0 logs", "1 log", "2 logs"]


def test_what_a_repository_keeps_for_itself_does_not_crowd_out_the_files() -> None:
    inner = [{"status": "removed", "path": f".git/objects/{number}"} for number in range(20)]
    own = [{"status": "modified", "path": "notes.md"}, {"status": "added", "path": ".gitignore"}]
    assert files_listed([*inner, *own]) == "modified notes.md, added .gitignore, 20 in .git"
    assert files_listed([{"status": "added", "path": "sub/.git/HEAD"}]) == "1 in .git"
    assert files_listed(own[:1]) == "modified notes.md" and files_listed([]) == ""


def test_a_plan_says_how_far_the_undoing_of_each_call_has_come(capsys: pytest.CaptureFixture[str]) -> None:
    def call(name: str, compensated: str | None) -> EffectView:
        return EffectView(NodeId("a"), name, name, "function", "done", "undo", compensated)

    effects = [call("mail", None), call("order", "done"), call("invoice", "unknown")]
    plan = PlanView(
        PlanToken("plan_1"), 0, "rollback", RunId("run_1"), Seq(1), [], [], [], [],
        effects[:2], effects[2:], [], 0.0, 0, 0,
    )  # fmt: skip
    show_plan(Console(), plan)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any("mail function done undo" in line for line in lines)
    assert any("order function done, undone already undo" in line for line in lines)
    assert any("invoice function done, whether it was undone is unknown" in line for line in lines)
