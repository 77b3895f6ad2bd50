"""Decisions: asked of the human where that is possible, left open where it is not, and never the agent's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import ElicitResult

from omium.orchestration.ids import ApprovalId, Principal
from omium.orchestration.service.views import Caller
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio

pytestmark = pytest.mark.anyio


def answering(action: str, **content: Any) -> tuple[Callable[[Any], ElicitResult], list[Any]]:
    """A human who always answers so, and the forms that were shown."""
    shown: list[Any] = []

    def human(form: Any) -> ElicitResult:
        shown.append(form)
        return ElicitResult(action=action, content=content if action == "accept" else None)  # type: ignore[arg-type]

    return human, shown


@pytest.mark.parametrize("mode", MODES)
async def test_accepting_the_form_is_a_decision(studio: Studio, mode: Mode) -> None:
    human, shown = answering("accept", decision="approve", feedback="well done")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            run_id, approval_id = await visitor.asking()
            decided = await visitor.ok("approve", approval_id=approval_id, decision="approve")
            assert decided["decided"] is True
            assert decided["approval"]["decision"] == "approve"
            assert decided["approval"]["assurance"] == "elicited"
            assert decided["approval"]["feedback"] == "well done"
            ended = await visitor.ok("get_run", run_id=run_id, wait_seconds=45, detail=True)
    assert ended["status"] == "completed"
    assert ended["output"]["value"] == "published"
    assert len(shown) == 1
    assert "Publish it?" in shown[0].message
    assert "the draft" in shown[0].message
    assert "proposes: approve" in shown[0].message
    assert shown[0].requested_schema["properties"]["decision"]["enum"] == ["approve", "reject"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_humans_choice_counts_not_the_agents(studio: Studio, mode: Mode) -> None:
    human, _ = answering("accept", decision="reject")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            run_id, approval_id = await visitor.asking()
            decided = await visitor.ok("approve", approval_id=approval_id, decision="approve")
            assert decided["approval"]["decision"] == "reject"
            ended = await visitor.ok("get_run", run_id=run_id, wait_seconds=45)
    assert ended["status"] == "failed"


@pytest.mark.parametrize("mode", MODES)
async def test_declining_the_form_rejects(studio: Studio, mode: Mode) -> None:
    human, _ = answering("decline")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking()
            decided = await visitor.ok("approve", approval_id=approval_id, decision="approve", feedback="agent's words")
    assert decided["decided"] is True
    assert decided["approval"]["decision"] == "reject"
    assert decided["approval"]["assurance"] == "elicited"
    assert "feedback" not in decided["approval"]


@pytest.mark.parametrize("mode", MODES)
async def test_declining_leaves_it_open_where_there_is_no_refusal(studio: Studio, mode: Mode) -> None:
    human, _ = answering("decline")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking("gated-without-refusal")
            open_still = await visitor.ok("approve", approval_id=approval_id, decision="left")
    assert open_still["decided"] is False
    assert open_still["approval"]["status"] == "pending"


@pytest.mark.parametrize("mode", MODES)
async def test_closing_the_form_leaves_it_open(studio: Studio, mode: Mode) -> None:
    human, _ = answering("cancel")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking()
            before = await studio.changes()
            open_still = await visitor.ok("approve", approval_id=approval_id, decision="approve")
            assert await studio.changes() == before
    assert open_still["decided"] is False
    assert open_still["approval"]["status"] == "pending"
    assert f"omium approve {approval_id}" in open_still["next"]


@pytest.mark.parametrize("mode", MODES)
async def test_without_forms_nothing_is_decided(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run_id, approval_id = await visitor.asking()
            before = await studio.changes()
            open_still = await visitor.ok("approve", approval_id=approval_id, decision="approve")
            assert await studio.changes() == before
            assert open_still["decided"] is False
            assert f"omium approve {approval_id}" in open_still["next"]
            assert (await visitor.ok("get_run", run_id=run_id))["status"] == "waiting_approval"


@pytest.mark.parametrize("mode", MODES)
async def test_a_gate_that_wants_more_is_not_asked_here(studio: Studio, mode: Mode) -> None:
    human, shown = answering("accept", decision="approve")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking("gated-strongly")
            open_still = await visitor.ok("approve", approval_id=approval_id, decision="approve")
    assert open_still["decided"] is False
    assert open_still["approval"]["min_assurance"] == "out_of_band"
    assert shown == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_gate_that_wants_nothing_takes_the_agents_word_as_such(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking("gated-loosely")
            decided = await visitor.ok("approve", approval_id=approval_id, decision="approve")
    assert decided["decided"] is True
    assert decided["approval"]["assurance"] == "none"


@pytest.mark.parametrize("mode", MODES)
async def test_a_viewer_decides_nothing(studio: Studio, mode: Mode) -> None:
    human, _ = answering("accept", decision="approve")
    viewer = Caller(Principal("user:vic"), role="viewer")
    async with studio.client(mode) as ada:
        with anyio.fail_after(20):
            _, approval_id = await ada.asking()
    async with studio.client(mode, human=human, caller=viewer) as vic:
        with anyio.fail_after(20):
            before = await studio.changes()
            refused = await vic.error("approve", approval_id=approval_id, decision="approve")
            assert await studio.changes() == before + 1  # the project's log says who was refused
            assert (await studio.core.get_approval(ADA, ApprovalId(approval_id))).status == "pending"
    assert refused["code"] == "forbidden"


@pytest.mark.parametrize("mode", MODES)
async def test_an_option_that_is_not_offered_does_not_bother_the_human(studio: Studio, mode: Mode) -> None:
    human, shown = answering("accept", decision="approve")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking()
            refused = await visitor.error("approve", approval_id=approval_id, decision="yes please")
    assert refused["code"] == "invalid_argument"
    assert refused["data"]["allowed"] == ["approve", "reject"]
    assert shown == []


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_outside_the_form_decides_nothing(studio: Studio, mode: Mode) -> None:
    human, _ = answering("accept", decision="launch")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking()
            before = await studio.changes()
            refused = await visitor.error("approve", approval_id=approval_id, decision="approve")
            assert await studio.changes() == before
    assert refused["code"] == "invalid_argument"


@pytest.mark.parametrize("mode", MODES)
async def test_the_second_decision_comes_too_late(studio: Studio, mode: Mode) -> None:
    human, shown = answering("accept", decision="approve")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            run_id, approval_id = await visitor.asking()
            arguments = {"approval_id": approval_id, "decision": "approve", "idempotency_key": "once"}
            first = await visitor.ok("approve", **arguments)
            await visitor.ok("get_run", run_id=run_id, wait_seconds=45)
            before = await studio.changes()
            again = await visitor.ok("approve", **arguments)
            refused = await visitor.error("approve", approval_id=approval_id, decision="reject")
            assert await studio.changes() == before
    assert again["approval"] == first["approval"]
    assert refused["code"] == "already_decided"
    assert refused["data"]["decision"] == "approve"
    assert len(shown) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("content", [{"decision": "burn it"}, {"decision": 3}, {}, None], ids=repr)
async def test_an_answer_that_does_not_fit_the_form_decides_nothing(
    studio: Studio, mode: Mode, content: dict[str, Any] | None
) -> None:
    def human(_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content=content)

    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval_id = await visitor.asking()
            refused = await visitor.error("approve", approval_id=approval_id, decision="approve")
            assert refused["code"] == "invalid_argument"
            assert "does not fit the form" in refused["message"]
            assert refused["next"] == "the same call of approve puts the question again"
            assert "omium." not in str(refused)
            assert len((await visitor.ok("list_approvals"))["approvals"]) == 1


async def test_an_answer_counts_only_for_the_question_that_was_shown(studio: Studio) -> None:
    """On today's protocol the client carries the answer back, so it could carry it to another question."""
    async with studio.client() as ada:
        _, first = await ada.asking()
        _, second = await ada.asking()
    human, _ = answering("accept", decision="approve")
    async with studio.client(human=human) as visitor:
        session = visitor.client.session
        asked: Any = await session.call_tool(
            "approve", {"approval_id": first, "decision": "approve"}, allow_input_required=True
        )
        [key] = asked.input_requests
        answers = {key: ElicitResult(action="accept", content={"decision": "approve"})}
        with pytest.raises(MCPError):
            await session.call_tool(
                "approve",
                {"approval_id": second, "decision": "approve"},
                input_responses=answers,
                request_state=asked.request_state,
                allow_input_required=True,
            )
        # Without the state it is an answer to nothing, and the question is put again.
        unasked: Any = await session.call_tool(
            "approve",
            {"approval_id": second, "decision": "approve"},
            input_responses=answers,
            allow_input_required=True,
        )
        assert unasked.result_type == "input_required"
        assert len((await visitor.ok("list_approvals"))["approvals"]) == 2


@pytest.mark.parametrize(("second", "taken"), [(b"1" * 32, True), (b"2" * 32, False)], ids=["same key", "another"])
async def test_a_form_outlives_its_server_by_the_key(studio: Studio, second: bytes, taken: bool) -> None:
    async with studio.client() as ada:
        run_id, approval_id = await ada.asking()
    human, _ = answering("accept", decision="approve")

    async def shown(_: Any, params: Any) -> ElicitResult:
        return human(params)

    asking = {"approval_id": approval_id, "decision": "approve"}
    first = build_server(studio.core, ADA, form_key=b"1" * 32)
    async with Client(first, elicitation_callback=shown) as client:
        asked: Any = await client.session.call_tool("approve", asking, allow_input_required=True)
    [key] = asked.input_requests
    again = build_server(studio.core, ADA, form_key=second)
    async with Client(again, elicitation_callback=shown) as client:
        answer = client.session.call_tool(
            "approve",
            asking,
            input_responses={key: ElicitResult(action="accept", content={"decision": "approve"})},
            request_state=asked.request_state,
            allow_input_required=True,
        )
        if taken:
            decided: Any = await answer
            assert decided.structured_content["approval"]["assurance"] == "elicited"
        else:
            with pytest.raises(MCPError, match="requestState"):
                await answer
    async with studio.client() as ada:
        assert bool((await ada.ok("list_approvals", run_id=run_id))["approvals"]) is not taken


@pytest.mark.parametrize("mode", MODES)
async def test_the_list_shows_what_is_needed_to_decide(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            assert (await visitor.ok("list_approvals"))["approvals"] == []
            run_id, approval_id = await visitor.asking()
            await visitor.asking("gated-strongly")
            everything = (await visitor.ok("list_approvals"))["approvals"]
            assert len(everything) == 2
            [one] = (await visitor.ok("list_approvals", run_id=run_id, detail=True))["approvals"]
            rest = (await visitor.ok("list_approvals", after=approval_id))["approvals"]
    assert one["approval_id"] == approval_id
    assert one["question"] == "Publish it?"
    assert one["options"] == ["approve", "reject"]
    assert one["details"]["value"] == {"show": "the draft"}
    assert one["expires_at"].endswith("Z")
    assert [other["approval_id"] for other in rest] == [everything[1]["approval_id"]]
