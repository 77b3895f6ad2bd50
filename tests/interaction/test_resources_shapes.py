"""URIs, graphs and timelines, each by itself."""

from __future__ import annotations

import html
import os
import re

from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate

from omium.orchestration.ids import NodeId, Principal, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.service.timeline import Recorder, failing_path
from omium.orchestration.service.views import NodeView
from omium.tools import graph, uris
from omium.tools.uris import TEMPLATES, parse

RUN = RunId(f"run_{'0' * 26}")
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)
NODE = next(one.template for one in TEMPLATES if one.kind == "node")


# --- URIs -------------------------------------------------------------------------------------------------------------


@given(TEXTS)
def test_a_name_in_a_uri_comes_back_whether_we_or_a_client_wrote_it(name: str) -> None:
    for uri in (uris.node_uri(RUN, name), UriTemplate.parse(NODE).expand({"id": RUN, "node": name})):
        ref = parse(uri)
        assert ref is not None
        assert (ref.kind, ref.run_id, ref.name, ref.cursor) == ("node", RUN, name, None)
    ref = parse(uris.workflow_uri(name))
    assert ref is not None
    assert ref.name == name


@given(st.binary(min_size=1, max_size=40))
def test_any_file_name_can_stand_in_a_uri(name: bytes) -> None:
    ref = parse(uris.artifact_uri(RUN, os.fsdecode(name)))
    assert ref is not None
    assert os.fsencode(ref.name) == name


@given(st.text(max_size=60).map(lambda tail: f"omium://{tail}") | st.text(max_size=60))
def test_no_text_breaks_the_reading_of_uris(text: str) -> None:
    ref = parse(text)
    assert ref is None or ref.uri == text


@given(TEXTS)
def test_the_next_page_is_read_as_such(cursor: str) -> None:
    ref = parse(uris.run_uri(RUN, "graph"))
    assert ref is not None
    following = parse(uris.next_page(ref, cursor))
    assert following is not None
    assert (following.kind, following.cursor) == ("graph", cursor)


# --- graphs -----------------------------------------------------------------------------------------------------------


def node(name: str, status: str = "completed", *needs: str, use: str | None = None, **more: int) -> NodeView:
    return NodeView(
        NodeId(name), "function", status, 0, 1, 0, more.get("started", 1), more.get("ended", 2),
        needs=[NodeId(need) for need in needs], use=use,
    )  # fmt: skip


def label_of_mermaid(text: str) -> list[str]:
    (label,) = re.findall(r'\["([^"]*)"\]:::', text)
    return [html.unescape(re.sub(r"#(\d+);", r"&#\1;", one)) for one in label.split("<br/>")]


def label_of_dot(text: str) -> list[str]:
    (label,) = re.findall(r'label="((?:[^"\\]|\\.)*)"', text)
    found = [""]
    for piece in re.findall(r"\\.|[^\\]", label):
        if piece == "\\n":
            found.append("")
        else:
            found[-1] += piece[-1]
    return found


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60))
def test_no_label_ends_before_its_end(use: str) -> None:
    said = ["fan[3].x", f"function: {use} - completed"]
    drawn = graph.mermaid([node("fan[3].x", use=use)])
    assert label_of_mermaid(drawn) == said
    assert len(drawn.splitlines()) == 3
    drawn = graph.dot([node("fan[3].x", use=use)])
    assert label_of_dot(drawn) == said
    assert len(drawn.splitlines()) == 4


def test_what_could_move_or_hide_is_spelled_out() -> None:
    for drawn in (graph.mermaid([node("a", use="a\u202eb\x1b[2J")]), graph.dot([node("a", use="a\u202eb\x1b[2J")])):
        assert drawn.replace("\n", "").isprintable()


def test_names_of_nodes_in_drawings_never_change() -> None:
    assert graph.key_of("fan[3].test") == "n825b664c0947"
    before, after = graph.mermaid([node("a"), node("b", "pending", "a")]), graph.mermaid([node("b", "failed")])
    assert graph.key_of("b") in before
    assert graph.key_of("b") in after
    assert f"{graph.key_of('a')} --> {graph.key_of('b')}" in before


def test_edges_are_needs_and_containers() -> None:
    nodes = [node("a"), node("fan", "running", "a"), node("fan[0]"), node("fan[1]", "failed", "fan[0]")]
    found = {(one.source, one.target, one.inside) for one in graph.edges(nodes)}
    assert found == {("a", "fan", False), ("fan", "fan[0]", True), ("fan[0]", "fan[1]", False)}


def test_a_large_run_is_drawn_without_the_insides_of_its_containers() -> None:
    items = [node(f"fan[{i}]", "failed" if i < 3 else "completed") for i in range(graph.DRAWN)]
    for drawn in (graph.mermaid([node("fan", "running"), *items]), graph.dot([node("fan", "running"), *items])):
        assert "397 completed, 3 failed" in drawn
        assert len(drawn.splitlines()) < 10


# --- timelines --------------------------------------------------------------------------------------------------------


class Story:
    """Events, a second apart."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.at = 0

    def tell(self, kind: EventType, node: str | None = "n", **data: object) -> Story:
        self.at += 1_000_000
        known = {"generation": 0, "attempt": 1, **({"node": node} if node is not None else {}), **data}
        event = Event(RUN, Seq(self.at), kind, self.at, Principal("engine"), known, b"", b"")
        self.recorder.hear(event)
        return self

    def doings(self, status: str, generation: int = 0) -> list[tuple[str, int]]:
        view = NodeView(NodeId("n"), "function", status, generation, 1, 0, None, None)
        line = self.recorder.of(view, self.at + 5_000_000)
        assert sum(one.end - one.start for one in line.intervals) == line.duration_us
        return [(one.doing, (one.end - one.start) // 1_000_000) for one in line.intervals]


E = EventType


def test_a_node_that_is_retried_waits_in_between() -> None:
    story = Story().tell(E.NODE_STARTED).tell(E.NODE_ATTEMPT_FAILED).tell(E.NODE_RETRY_BACKOFF)
    story.tell(E.NODE_RETRY_STARTED).tell(E.NODE_COMPLETED)
    assert story.doings("completed") == [("running", 1), ("queued", 1), ("backoff", 1), ("running", 1)]


def test_a_gate_before_a_node_counts_as_approval() -> None:
    story = Story().tell(E.APPROVAL_REQUESTED, approval="apr").tell(E.APPROVAL_DECIDED, None, approval="apr")
    story.tell(E.NODE_STARTED).tell(E.NODE_FAILED)
    assert story.doings("failed") == [("approval", 1), ("queued", 1), ("running", 1)]


def test_what_goes_on_is_counted_until_now() -> None:
    assert Story().tell(E.NODE_STARTED).tell(E.NODE_WAITING).doings("running") == [("running", 1), ("waiting", 5)]
    paused = Story().tell(E.NODE_STARTED).tell(E.NODE_INTERRUPTED, reason="paused")
    assert paused.doings("paused") == [("running", 1), ("paused", 5)]


def test_what_was_reset_is_not_counted() -> None:
    story = Story().tell(E.NODE_STARTED).tell(E.NODE_COMPLETED)
    assert story.doings("pending", generation=1) == []
    assert story.tell(E.NODE_STARTED, generation=1).tell(E.NODE_COMPLETED, generation=1).doings(
        "completed", generation=1
    ) == [("running", 1)]


def test_the_end_of_a_run_ends_what_was_under_way() -> None:
    assert Story().tell(E.NODE_STARTED).tell(E.RUN_CANCELLED, None).doings("cancelled") == [("running", 1)]


def test_what_a_branch_did_not_do_itself_is_inherited() -> None:
    view = NodeView(NodeId("n"), "function", "completed", 0, 1, 0, 3, 7)
    (interval,) = Recorder().of(view, 100).intervals
    assert (interval.doing, interval.start, interval.end) == ("inherited", 3, 7)


def test_the_failing_path_leads_from_the_beginning_to_the_first_cause() -> None:
    nodes = [
        node("slow", ended=9),
        node("quick", ended=3),
        node("fan", "failed", "quick", "slow", ended=20),
        node("fan[0]", started=10, ended=11),
        node("fan[1]", "failed", started=10, ended=12),
        node("after", "skipped", "fan"),
    ]
    assert failing_path(nodes) == ["slow", "fan", "fan[1]"]
    assert failing_path(nodes[:2]) == []
