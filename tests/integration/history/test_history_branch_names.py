"""Names of branches that were noted, and whose runs are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.definition import WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.history import branching
from omium.orchestration.ids import RunId, Seq, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Write
from tests.history_core import ME, by_hand, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

WORKFLOW = WorkflowDef("w", (node("a"), node("b", "a")))


async def refused(call: Any) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await call
    assert caught.value.code == "conflict", caught.value
    return caught.value


@pytest.mark.parametrize("later_s", [0, 3_600])
async def test_a_name_whose_branch_was_never_created_can_be_taken(tmp_path: Path, later_s: int) -> None:
    async with opened(tmp_path, WORKFLOW) as (core, _):
        hand = await by_hand(core, WORKFLOW)
        lost = RunId(new_id("run", core.clock.now_us() // 1000 - later_s * 1000))
        key = core.idempotency(ME, "branch", "cut", [hand.run_id, "3", "b", None, {}, True], {"run": lost})
        noted = Write(hand.run_id, [c.NoteBranch(lost, Seq(3), "b")], ME.principal, idempotency=key)
        await core.store.write(noted)
        made = await core.branch(ME, hand.run_id, 3, name="b", idempotency_key="new")
        assert made.run.status == "executing"
        assert (made.run.id == lost) is (later_s == 0), "whoever is creating it now must not create a second one"
        assert (await hand.state()).branches == {"b": made.run.id}
        assert (await core.branch(ME, hand.run_id, 3, name="b", idempotency_key="new")).run.id == made.run.id
        await refused(core.branch(ME, hand.run_id, 3, name="b"))
        if later_s:
            await refused(core.branch(ME, hand.run_id, 3, name="b", idempotency_key="cut"))
        assert [one.run.id for one in (await core.branch_tree(ME, hand.run_id)).children] == [made.run.id]


async def test_a_branch_that_two_are_creating_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, WORKFLOW) as (core, _):
        hand = await by_hand(core, WORKFLOW)
        real, taken = branching.create, []

        async def create(*args: Any) -> Any:
            if not taken:
                taken.append(None)
                taken.append(await core.branch(ME, hand.run_id, name="b", hypothesis="the other's"))
            return await real(*args)

        monkeypatch.setattr(branching, "create", create)
        error = await refused(core.branch(ME, hand.run_id, name="b"))
        assert error.data["run"] == taken[1].run.id
        children = (await core.branch_tree(ME, hand.run_id)).children
        assert [(one.run.id, one.run.hypothesis) for one in children] == [(taken[1].run.id, "the other's")]
