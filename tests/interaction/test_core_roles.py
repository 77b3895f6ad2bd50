"""Every verb of the core, asked by everybody: by each role, by a role that there is not, and by somebody to whom the
run does not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, NodeId, PlanToken, Principal, RunId
from omium.orchestration.service import roles
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, Role
from omium.storage.maintenance import Tables, keeper
from tests.interaction.studio import ADA, Studio
from tests.unit.identity.verbs import public_coroutines

pytestmark = pytest.mark.anyio

NOWHERE = RunId("run_" + "0" * 26)
NO_APPROVAL = ApprovalId("apr_" + "0" * 26)


@dataclass(frozen=True, slots=True)
class Named:
    """What a call names: a run, its approval, its branch."""

    run: RunId
    approval: ApprovalId
    branch: RunId


async def first(events: Any) -> Any:
    async for event in events:
        return event
    raise AssertionError("there was nothing")


Ask = Callable[[Core, Caller, Named], Any]

# Verbs that name something of somebody's.
NAMING: dict[str, Ask] = {
    "row": lambda core, who, of: core.row(who, of.run),
    "get_run": lambda core, who, of: core.get_run(who, of.run, detail=True),
    "run_at": lambda core, who, of: core.run_at(who, of.run, "start"),
    "find_run": lambda core, who, of: core.find_run(who, of.run),
    "wait": lambda core, who, of: core.wait(who, of.run, 0),
    "events": lambda core, who, of: core.events(who, of.run),
    "follow": lambda core, who, of: first(core.follow(who, of.run)),
    "node_output": lambda core, who, of: core.node_output(who, of.run, "draft"),
    "run_output": lambda core, who, of: core.run_output(who, of.run),
    "artifact": lambda core, who, of: core.artifact(who, of.run, "report"),
    "timeline": lambda core, who, of: core.timeline(who, of.run),
    "artifacts": lambda core, who, of: core.artifacts(who, of.run),
    "file": lambda core, who, of: core.file(who, of.run, "README.md"),
    "audit": lambda core, who, of: core.audit(who, of.run),
    "resumable": lambda core, who, of: core.resumable(who, of.run),
    "retry_stats": lambda core, who, of: core.retry_stats(who, of.run),
    "rollbacks": lambda core, who, of: core.rollbacks(who, of.run),
    "failures": lambda core, who, of: core.failures(who, of.run),
    "list_approvals": lambda core, who, of: core.list_approvals(who, run_id=of.run),
    "decisions": lambda core, who, of: core.decisions(who, run_id=of.run),
    "get_approval": lambda core, who, of: core.get_approval(who, of.approval),
    "own_assurance": lambda core, who, of: core.own_assurance(who, of.approval),
    "list_checkpoints": lambda core, who, of: core.list_checkpoints(who, of.run),
    "branch_tree": lambda core, who, of: core.branch_tree(who, of.run),
    "node_detail": lambda core, who, of: core.node_detail(who, of.run, "draft"),
    "effects": lambda core, who, of: core.effects(who, of.run),
    "files_at": lambda core, who, of: core.files_at(who, of.run, "start"),
    "file_at": lambda core, who, of: core.file_at(who, of.run, "start", "README.md"),
    "get_epic": lambda core, who, of: core.get_epic(who, of.run),
    "compare": lambda core, who, of: core.compare(who, of.run, of.branch),
    "replay": lambda core, who, of: core.replay(who, of.run),
    "pause": lambda core, who, of: core.pause(who, of.run),
    "resume": lambda core, who, of: core.resume(who, of.run),
    "signal": lambda core, who, of: core.signal(who, of.run, "go"),
    "checkpoint": lambda core, who, of: core.checkpoint(who, of.run, "here"),
    "preview_rollback": lambda core, who, of: core.preview_rollback(who, of.run, "start"),
    "rollback": lambda core, who, of: core.rollback(who, of.run, "start"),
    "preview_rollback_phase": lambda core, who, of: core.preview_rollback_phase(who, of.run, "draft"),
    "rollback_phase": lambda core, who, of: core.rollback_phase(who, of.run, "draft"),
    "preview_branch": lambda core, who, of: core.preview_branch(who, of.run),
    "branch": lambda core, who, of: core.branch(who, of.run, name="other"),
    "close_branch": lambda core, who, of: core.close_branch(who, of.branch, "abandoned"),
    "preview_play_from": lambda core, who, of: core.preview_play_from(who, of.run, "draft"),
    "play_from_node": lambda core, who, of: core.play_from_node(who, of.run, "draft"),
    "decide": lambda core, who, of: core.decide(who, of.approval, "approve", assurance="elicited"),
    "cancel": lambda core, who, of: core.cancel(who, of.run),
}
# Verbs that name nothing but what is registered.
OTHERS: dict[str, Ask] = {
    "list_workflows": lambda core, who, of: core.list_workflows(who),
    "get_workflow": lambda core, who, of: core.get_workflow(who, "gated"),
    "simulate": lambda core, who, of: core.simulate(who, "gated"),
    "list_agents": lambda core, who, of: core.list_agents(who),
    "get_agent": lambda core, who, of: core.get_agent(who, "writer"),
    "remember": lambda core, who, of: core.remember(who, "style", "short sentences"),
    "recall": lambda core, who, of: core.recall(who, "short"),
    "forget": lambda core, who, of: core.forget(who, "project"),
    "start_epic": lambda core, who, of: core.start_epic(who, "a goal", workflow="gated"),
    "list_external_servers": lambda core, who, of: core.list_external_servers(who),
    "list_external_tools": lambda core, who, of: core.list_external_tools(who),
    "list_runs": lambda core, who, of: core.list_runs(who),
    "budgets": lambda core, who, of: core.budgets(who),
    "report": lambda core, who, of: core.report(who, since=0),
    "raise_budget": lambda core, who, of: core.raise_budget(who, "all", usd=1),
    "run_workflow": lambda core, who, of: core.run_workflow(who, "gated", start=False),
}
VERBS = {**NAMING, **OTHERS}


async def waiting(studio: Studio, owner: Caller = ADA) -> Named:
    """A run of the owner's that waits for a decision, with a label and a branch."""
    with anyio.fail_after(30):
        run = await studio.core.run_workflow(owner, "gated", title="secret plans")
        view = await studio.core.wait(owner, run.id, 30, detail=True)
        assert view.status == "waiting_approval"
        await studio.core.checkpoint(owner, run.id, "label")
        branch = await studio.core.branch(owner, run.id, name="first", start=False)
        return Named(run.id, view.approvals[0].id, branch.run.id)


async def rows(studio: Studio) -> dict[str, int]:
    """How much there is of everything that a verb may write. Claims are left out, which the engine lets go of later."""
    of_runs = ("events", "runs", "approvals", "labels", "effects", "blobs", "plans")
    tables = (*of_runs, "keys", "tasks", "tokens", "memories")

    def count(db: Tables) -> dict[str, int]:
        return {name: db.all(f"SELECT count(*) FROM {name}")[0][0] for name in tables}

    return await keeper(studio.store).read(count)


async def refused(call: Any, code: str) -> OmiumError:
    with anyio.fail_after(20), pytest.raises(OmiumError) as error:
        await call
    assert error.value.code == code, error.value
    return error.value


def test_every_verb_is_asked_here() -> None:
    assert set(VERBS) == {name for name, asked in public_coroutines().items() if asked}


@pytest.mark.parametrize("role", [*roles.ROLES, "nobody"])
async def test_each_role_may_what_the_table_says_and_nothing_else(studio: Studio, role: str) -> None:
    caller = Caller(Principal("token:other"), role=role, authenticated=True)  # type: ignore[arg-type]
    of = await waiting(studio)
    for verb, ask in VERBS.items():
        before = await rows(studio)
        if roles.allows(role, verb):
            try:
                with anyio.fail_after(20):
                    await ask(studio.core, caller, of)
            except OmiumError as error:
                assert error.code != "forbidden", (verb, error)
            if verb == "decide":  # the run goes on, and writes: what is counted next must not move
                with anyio.fail_after(20):
                    await studio.core.wait(ADA, of.run, 20)
            continue
        error = await refused(ask(studio.core, caller, of), "forbidden")
        assert error.data["role"] == role
        assert error.data["verb"] == verb
        assert error.data["needed"] == [one for one in roles.ROLES if roles.allows(one, verb)]
        assert await rows(studio) == before, verb


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_no_verb_knows_a_role_that_there_is_not(studio: Studio, verb: str) -> None:
    nobody = Caller(Principal("user:ada"), role="Admin")  # type: ignore[arg-type]
    before = await rows(studio)
    error = await refused(VERBS[verb](studio.core, nobody, Named(NOWHERE, NO_APPROVAL, NOWHERE)), "forbidden")
    assert error.data["verb"] == verb
    assert await rows(studio) == before


# --- what is somebody else's ------------------------------------------------------------------------------------------

BOB = Caller(Principal("token:bob"), role="admin", sees="own", authenticated=True)


@pytest.mark.parametrize("stranger", [BOB, replace(ADA, project="elsewhere")], ids=["principal", "project"])
async def test_what_is_somebody_elses_is_as_if_it_were_not(studio: Studio, stranger: Caller) -> None:
    """Through every verb that names something, in the very words for what there is not."""
    of, none = await waiting(studio), Named(NOWHERE, NO_APPROVAL, NOWHERE)
    for verb, ask in NAMING.items():
        before = await rows(studio)
        error = await refused(ask(studio.core, stranger, of), "not_found")
        unknown = await refused(ask(studio.core, stranger, none), "not_found")
        said = str(error).replace(of.run, NOWHERE).replace(of.branch, NOWHERE).replace(of.approval, NO_APPROVAL)
        assert said == str(unknown), verb
        assert set(error.data) == set(unknown.data), verb
        assert await rows(studio) == before, verb
    view = await studio.core.get_run(ADA, of.run)
    assert view.status == "waiting_approval"


async def test_each_half_of_a_comparison_has_to_be_visible(studio: Studio) -> None:
    of = await waiting(studio)
    mine = await studio.core.run_workflow(BOB, "gated", start=False)
    for pair in ((mine.id, of.run), (of.run, mine.id), (mine.id, f"{of.run}@1")):
        await refused(studio.core.compare(BOB, *pair), "not_found")


async def test_lists_searches_and_trees_leave_out_what_is_somebody_elses(studio: Studio) -> None:
    core, of = studio.core, await waiting(studio)
    assert (await core.list_runs(BOB)).runs == []
    assert (await core.list_runs(BOB, text="secret")).runs == []
    assert (await core.list_runs(BOB, parent=of.run)).runs == []
    assert await core.list_approvals(BOB) == []
    assert await core.list_approvals(BOB, pending=False) == []
    for text in ("last", of.run[-8:], of.run[:20], of.run[4:]):
        await refused(core.find_run(BOB, text), "not_found")
    mine = await core.run_workflow(BOB, "gated", start=False)
    assert [run.id for run in (await core.list_runs(BOB)).runs] == [mine.id]
    assert await core.find_run(BOB, "last") == mine.id
    tree = await core.branch_tree(BOB, mine.id)
    assert (tree.run.id, tree.children) == (mine.id, [])


async def test_a_branch_that_one_may_see_does_not_show_what_it_came_from(studio: Studio) -> None:
    of = await waiting(studio)
    wide = replace(BOB, sees="project")
    mine = (await studio.core.branch(wide, of.run, name="bobs", start=False)).run.id
    tree = await studio.core.branch_tree(BOB, mine)
    assert (tree.run.id, tree.children) == (mine, [])
    assert {run.id for run in (await studio.core.list_runs(BOB)).runs} == {mine}
    await refused(studio.core.get_run(BOB, of.run), "not_found")


async def test_the_name_of_a_session_opens_nothing(studio: Studio) -> None:
    run = await studio.core.run_workflow(replace(ADA, session="morning"), "gated", start=False)
    same = replace(BOB, session="morning")
    assert (await studio.core.list_runs(same, session="morning")).runs == []
    await refused(studio.core.get_run(same, run.id), "not_found")
    await refused(studio.core.cancel(same, run.id), "not_found")


async def test_an_idempotency_key_is_its_callers_own(studio: Studio) -> None:
    core, key = studio.core, "the same key"
    adas = await core.run_workflow(ADA, "gated", start=False, idempotency_key=key)
    bobs = await core.run_workflow(BOB, "gated", start=False, idempotency_key=key)
    assert adas.id != bobs.id
    assert (await core.run_workflow(ADA, "gated", start=False, idempotency_key=key)).id == adas.id
    assert (await core.run_workflow(BOB, "gated", start=False, idempotency_key=key)).id == bobs.id
    other = await core.run_workflow(BOB, "echo", {"value": 1}, start=False, idempotency_key="another")
    assert (await core.run_workflow(ADA, "gated", start=False, idempotency_key="another")).id != other.id


@pytest.mark.parametrize("sees", ["own", "project"])
async def test_the_token_of_a_plan_is_its_callers_own(studio: Studio, sees: Any) -> None:
    of = await waiting(studio)
    plan = await studio.core.preview_rollback(ADA, of.run, "start")
    other = replace(BOB, sees=sees)
    code = "not_found" if sees == "own" else "plan_expired"
    await refused(studio.core.rollback(other, of.run, "start", plan_token=plan.plan_token), code)
    mine = await studio.core.run_workflow(other, "gated", start=False)
    stolen = await refused(studio.core.branch(other, mine.id, name="x", plan_token=plan.plan_token), "plan_expired")
    invented = PlanToken(plan.plan_token[:-4] + "0000")
    unknown = await refused(studio.core.branch(other, mine.id, name="x", plan_token=invented), "plan_expired")
    assert str(stolen) == str(unknown).replace(invented, plan.plan_token)
    done = await studio.core.rollback(ADA, of.run, "start", plan_token=plan.plan_token)
    assert done.operation == "rollback"


async def test_what_is_simulated_takes_nothing_from_others_runs(studio: Studio) -> None:
    with anyio.fail_after(30):
        run = await studio.core.run_workflow(ADA, "chain")
        assert (await studio.core.wait(ADA, run.id, 30)).status == "completed"
    mine, theirs = await studio.core.simulate(ADA, "chain"), await studio.core.simulate(BOB, "chain")
    assert mine.estimate_ms is not None and theirs.estimate_ms is None
    assert (list(mine.longest_way), list(theirs.longest_way)) == (["a", "b", "c"], [])


async def test_another_nodes_output_is_not_found_in_the_words_for_ones_own(studio: Studio) -> None:
    of = await waiting(studio)
    await refused(studio.core.node_output(BOB, of.run, NodeId("draft")), "not_found")
    assert await studio.core.node_output(ADA, of.run, NodeId("draft")) == "the draft"


# --- decisions --------------------------------------------------------------------------------------------------------


def one(name: str, role: Role, **more: Any) -> Caller:
    return Caller(Principal(f"token:{name}"), role=role, authenticated=True, **more)


STRICT = """
name: strict
nodes:
- {id: ask, kind: approval, approval: {prompt: "Delete it?", min_assurance: separate_identity}}
"""


@pytest.fixture
async def strict(studio: Studio) -> Studio:
    from omium.orchestration.definition import load_workflow

    workflows = {**studio.core.catalog.workflows, "strict": load_workflow(STRICT)}
    studio.core.catalog = replace(studio.core.catalog, workflows=workflows)
    return studio


async def asked(studio: Studio, owner: Caller) -> ApprovalId:
    with anyio.fail_after(30):
        run = await studio.core.run_workflow(owner, "strict")
        view = await studio.core.wait(owner, run.id, 30, detail=True)
    return view.approvals[0].id


async def test_an_approver_who_is_somebody_else_is_a_separate_identity(strict: Studio) -> None:
    approval = await asked(strict, one("ci", "operator"))
    assert await strict.core.own_assurance(one("ada", "approver"), approval) == "separate_identity"
    decided = await strict.core.decide(one("ada", "approver"), approval, "approve", assurance="none")
    assert (decided.decision, decided.assurance, decided.decided_by) == ("approve", "separate_identity", "token:ada")


@pytest.mark.parametrize(
    "who",
    [
        one("ci", "operator"),
        one("other", "operator", sees="project"),
        one("ci", "approver"),
        one("ci", "admin"),
        Caller(Principal("user:root"), role="admin"),
        Caller(Principal("user:ada"), role="approver"),
        one("vic", "viewer"),
    ],
    ids=["requester", "operator", "requester-as-approver", "requester-as-admin", "local", "unproven", "viewer"],
)
async def test_nobody_else_is(strict: Studio, who: Caller) -> None:
    """Who asked for the run, in whatever role; operators; and whoever has shown no credential."""
    approval = await asked(strict, one("ci", "operator"))
    for assurance in ("none", "elicited"):
        before = await rows(strict)
        await refused(strict.core.decide(who, approval, "approve", assurance=assurance), "forbidden")  # type: ignore[arg-type]
        assert await rows(strict) == before
    assert (await strict.core.get_approval(ADA, approval)).status == "pending"


async def test_who_asked_for_the_run_that_was_branched_from_is_no_separate_identity(strict: Studio) -> None:
    adas = await strict.core.run_workflow(one("ada", "admin"), "strict", start=False)
    branch = await strict.core.branch(one("ci", "operator", sees="project"), adas.id, name="b")
    with anyio.fail_after(30):
        view = await strict.core.wait(ADA, branch.run.id, 30, detail=True)
    approval = view.approvals[0].id
    await refused(strict.core.decide(one("ada", "admin"), approval, "approve", assurance="none"), "forbidden")
    decided = await strict.core.decide(one("eve", "approver"), approval, "approve", assurance="none")
    assert decided.assurance == "separate_identity"


async def test_a_decision_in_a_form_is_worth_more_by_an_approver(studio: Studio) -> None:
    of = await waiting(studio, one("ci", "operator"))
    decided = await studio.core.decide(one("ada", "approver"), of.approval, "approve", assurance="elicited")
    assert decided.assurance == "separate_identity"


async def test_an_operator_decides_what_a_form_may_decide(studio: Studio) -> None:
    of = await waiting(studio, one("ci", "operator"))
    await refused(studio.core.decide(one("ci", "operator"), of.approval, "approve", assurance="none"), "forbidden")
    decided = await studio.core.decide(one("ci", "operator"), of.approval, "approve", assurance="elicited")
    assert decided.assurance == "elicited"
