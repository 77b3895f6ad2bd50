"""Tasks of the protocol and bearer tokens: small tables of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, RunId
from omium.orchestration.ports import Store, TaskRow, TokenRow
from omium.storage.maintenance import keeper, verify
from omium.storage.maintenance.logs import project_rows

pytestmark = pytest.mark.anyio

TASK = TaskRow("task_a", ProjectId("p"), Principal("token:a"), RunId("run_1"), 5, None, 0, {"asked": []})
P = ProjectId("p")
ROOT = Principal("user:root")
TOKEN = TokenRow("tok_a", "d1", ProjectId("p"), Principal("token:a"), "operator", "own", "ci", 5, None, None)


async def test_a_task_is_found_by_its_id_only(store: Store) -> None:
    await store.put_task(TASK)
    assert await store.task("task_a") == TASK
    assert await store.task("task_b") is None


async def test_a_task_is_created_once(store: Store) -> None:
    await store.put_task(TASK)
    with pytest.raises(OmiumError) as refused:
        await store.put_task(replace(TASK, run_id=RunId("run_2")))
    assert refused.value.code == "conflict"
    assert await store.task("task_a") == TASK


async def test_a_task_changes_by_compare_and_set(store: Store) -> None:
    await store.put_task(TASK)
    assert await store.change_task("task_a", 0, {"asked": ["k"]})
    assert not await store.change_task("task_a", 0, {"asked": []})
    assert not await store.change_task("task_b", 0, {})
    assert await store.task("task_a") == replace(TASK, version=1, document={"asked": ["k"]})


async def test_tasks_that_expired_a_day_ago_go(store: Store) -> None:
    await store.put_task(replace(TASK, expires_at=1))
    await store.put_task(replace(TASK, id="task_b"))
    assert await store.task("task_a") is None
    assert await store.task("task_b") is not None


async def test_a_token_is_found_by_the_digest_of_its_secret(store: Store) -> None:
    await store.put_token(TOKEN, ROOT)
    assert await store.token("d1") == TOKEN
    assert await store.token("tok_a") is None


@pytest.mark.parametrize("other", [replace(TOKEN, digest="d2"), replace(TOKEN, id="tok_b")])
async def test_no_two_tokens_share_an_id_or_a_secret(store: Store, other: TokenRow) -> None:
    await store.put_token(TOKEN, ROOT)
    with pytest.raises(OmiumError) as refused:
        await store.put_token(other, ROOT)
    assert refused.value.code == "conflict"
    assert await store.tokens(ProjectId("p")) == [TOKEN]


async def test_tokens_are_listed_by_project(store: Store) -> None:
    other = replace(TOKEN, id="tok_b", digest="d2", project=ProjectId("q"))
    later = replace(TOKEN, id="tok_c", digest="d3", created_at=6)
    for one in (later, other, TOKEN):
        await store.put_token(one, ROOT)
    assert await store.tokens(ProjectId("p")) == [TOKEN, later]


async def test_a_token_is_revoked_once_and_stays_known(store: Store) -> None:
    await store.put_token(TOKEN, ROOT)
    assert await store.revoke_token(P, "tok_a", 9, ROOT)
    assert not await store.revoke_token(P, "tok_a", 10, ROOT)
    assert not await store.revoke_token(P, "tok_b", 9, ROOT)
    assert await store.token("d1") == replace(TOKEN, revoked_at=9)


async def test_every_change_of_a_token_is_in_the_log_of_its_project_without_the_secret(store: Store) -> None:
    await store.put_token(TOKEN, ROOT)
    with pytest.raises(OmiumError):
        await store.put_token(TOKEN, ROOT)
    assert not await store.revoke_token(ProjectId("q"), "tok_a", 8, ROOT)
    assert await store.revoke_token(P, "tok_a", 9, ROOT)
    assert not await store.revoke_token(P, "tok_a", 10, ROOT)
    logged = await _logged(store)
    assert [(kind, actor, data["token"]) for kind, actor, data in logged] == [
        ("token.created", "user:root", "tok_a"),
        ("token.revoked", "user:root", "tok_a"),
    ]
    assert "d1" not in str(logged)


async def test_what_belongs_to_no_run_is_recorded_in_its_project(store: Store) -> None:
    assert await store.record(P, "access.denied", ROOT, {"reason": "unknown"}) == 1
    assert await store.record(P, "access.denied", ROOT, {"reason": "expired"}) == 2
    assert [data for _, _, data in await _logged(store)] == [{"reason": "unknown"}, {"reason": "expired"}]


async def _logged(store: Store) -> list[tuple[str, str, dict[str, Any]]]:
    rows = await keeper(store).read(lambda tables: list(project_rows(tables, "p")))
    assert list(await verify(keeper(store))) == []
    return [(row[2], row[4], orjson.loads(row[5])) for row in rows]
