"""What Prometheus scrapes and probes ask, over HTTP, while runs go on."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from omium.clients.processes.counters import Counters
from omium.clients.processes.liveness import HostProcesses
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId, WorkerId
from omium.orchestration.ports import Store, WorkerRow
from omium.orchestration.ports_counts import Counted
from omium.server.commands.wire import rfc3339
from omium.server.health import health_of
from omium.server.http.access import identify
from omium.server.http.app import HttpSettings, build_app
from omium.server.http.operations import operations
from omium.server.identity.authority import AnyOf, OpenLoopback
from omium.server.identity.limits import RateLimits, RequestLimits
from omium.server.identity.tokens import Tokens, create_token
from omium.server.mcp import build_server
from omium.server.metrics import Begun
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import draft
from tests.conformance.store.databases import START_US, TestClock
from tests.interaction.studio import ADA, Studio, open_studio

pytestmark = pytest.mark.anyio

P = ProjectId("default")


@asynccontextmanager
async def scraped(path: Path, *, loopback: bool = True) -> AsyncIterator[tuple[Studio, httpx.AsyncClient]]:
    async with open_studio(path) as studio:
        clock = studio.core.clock
        tokens = Tokens(studio.store, P, clock)
        authority = AnyOf([tokens, OpenLoopback(ADA)]) if loopback else tokens
        watched = operations(studio.core, P, loopback=loopback, version="9.9")
        limits = RateLimits(RequestLimits(), clock.monotonic)
        settings = HttpSettings(loopback=loopback)
        app = build_app(
            studio.core, build_server(studio.core, identify), authority, limits, settings,
            more=watched.routes, public=watched.public,
        )  # fmt: skip
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            with watched.counting():
                yield studio, client


async def values(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample, as `name{label=value}`."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def finished(studio: Studio, workflow: str, **inputs: Any) -> str:
    view = await studio.core.run_workflow(ADA, workflow, inputs)
    with anyio.fail_after(30):
        return (await studio.core.wait(ADA, view.id, 25)).id


async def test_a_scrape_parses_and_counters_move_after_a_run(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (studio, client):
        before = await values(client)
        assert before["omium_runs_created_total"] == 0
        assert before["omium_info{version=9.9}"] == 1
        await finished(studio, "chain")
        await finished(studio, "failing")
        await finished(studio, "gated")
        after = await values(client)
    assert after["omium_runs_created_total"] == 3
    assert after["omium_runs_ended_total{status=completed}"] == 1
    assert after["omium_runs_ended_total{status=failed}"] == 1
    assert after["omium_runs{status=waiting_approval}"] == 1
    assert after["omium_runs{status=completed}"] == 1
    assert after["omium_runs{status=executing}"] == 0
    assert after["omium_run_duration_seconds_count{status=completed}"] == 1
    assert after["omium_node_duration_seconds_count"] >= 4
    assert after["omium_checkpoint_bytes_count"] == after["omium_checkpoints_total"] >= 4
    assert after["omium_node_attempts_total{outcome=failed}"] >= 1
    assert sum(value for name, value in after.items() if name.startswith("omium_errors_total")) >= 1
    assert after["omium_pending_approvals"] == 1
    assert after["omium_oldest_approval_seconds"] >= 0
    assert after["omium_approvals_total{outcome=requested}"] == 1
    assert after["omium_db_operations_total{operation=write}"] > 0
    assert after["omium_events_total{type=run.created}"] == 3
    assert after["omium_queued_runs"] == 0  # a question waits for a person, not for a worker
    assert after["omium_overdue_seconds"] == 0
    for name in ("active_tools", "tools_started_total", "stalled_tools_total"):
        assert after[f"omium_{name}"] >= 0


async def test_a_decision_and_a_rollback_are_measured(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (studio, client):
        run = await finished(studio, "gated")
        (question,) = await studio.core.list_approvals(ADA)
        await studio.core.decide(ADA, question.id, "approve", assurance="elicited")
        await studio.core.wait(ADA, run, 25)
        done = await finished(studio, "chain")
        await studio.core.rollback(ADA, done, "start")
        found = await values(client)
    assert found["omium_approvals_total{outcome=approve}"] == 1
    assert found["omium_approval_wait_seconds_count"] == 1
    assert found["omium_pending_approvals"] == 0
    assert found["omium_rollbacks_total"] == 1


async def test_elsewhere_than_on_loopback_metrics_need_a_credential(tmp_path: Path) -> None:
    async with scraped(tmp_path, loopback=False) as (studio, client):
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/readyz")).json() == {"status": "healthy"}
        assert (await client.get("/healthz")).status_code == 200
        made = await create_token(studio.store, ADA, studio.core.clock, "viewer", name="prometheus")
        answer = await client.get("/metrics", headers={"authorization": f"Bearer {made.secret}"})
        assert answer.status_code == 200 and "omium_runs{" in answer.text


async def test_names_of_runs_and_people_are_in_no_metric(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (studio, client):
        view = await studio.core.run_workflow(ADA, "chain", {"word": "canary"}, title="canary title")
        await studio.core.wait(ADA, view.id, 25)
        text = (await client.get("/metrics")).text
    for secret in ("canary", view.id, "ada"):
        assert secret not in text


async def test_readiness_tells_more_on_loopback(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (studio, client):
        await finished(studio, "gated")
        told = (await client.get("/readyz")).json()
    assert (told["status"], told["pending"], told["active"]) == ("healthy", 1, 0)
    assert told["checks"] == {"database": "ok", "writes": "ok", "workers": "ok"}


async def test_a_locked_database_is_degraded(tmp_path: Path) -> None:
    async with open_studio(tmp_path) as studio:
        store, now = studio.store, studio.core.clock.now_us()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = await health_of(store, P, HostProcesses(), now, within_s=0.2)
            other.execute("ROLLBACK")
        assert locked.status == "degraded"
        assert "0.2 s" in locked.checks["writes"]
        with anyio.fail_after(20):
            while (await health_of(store, P, HostProcesses(), now)).status != "healthy":
                await anyio.sleep(0.01)


async def test_writes_are_tried_with_a_page_which_a_full_disk_refuses_and_nothing_grows(tmp_path: Path) -> None:
    async with open_studio(tmp_path) as studio:
        store, now = studio.store, studio.core.clock.now_us()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            seen = [other.execute("PRAGMA data_version").fetchone()]
            for later in range(2):
                assert (await health_of(store, P, HostProcesses(), now + later)).status == "healthy"
                seen.append(other.execute("PRAGMA data_version").fetchone())
            assert len(set(seen)) == 3
            assert other.execute("SELECT count(*) FROM leases").fetchone() == (1,)


async def test_a_database_that_does_not_answer_is_unhealthy() -> None:
    class Gone:
        async def count(self, project: ProjectId) -> Counted:
            raise OmiumError("storage_unavailable", "the database is gone.")

    class Silent:
        async def count(self, project: ProjectId) -> Counted:
            await anyio.sleep_forever()

    for store, told in ((Gone(), "the database is gone."), (Silent(), "no answer within 0.01 s")):
        health = await health_of(cast("Store", store), P, HostProcesses(), 0, within_s=0.01)
        assert (health.status, health.checks["database"], health.active) == ("unhealthy", told, None)


async def test_a_worker_that_was_killed_degrades(tmp_path: Path) -> None:
    async with open_studio(tmp_path) as studio:
        host, boot, _, start = HostProcesses().this()
        await studio.store.register(WorkerRow(WorkerId("wrk_dead"), host, boot, 2**22 + 1, start, 0, ["default"]))
        health = await health_of(studio.store, P, HostProcesses(), studio.core.clock.now_us())
    assert (health.status, health.dead) == ("degraded", 1)


async def test_a_worker_that_has_gone_silent_degrades(tmp_path: Path) -> None:
    clock = TestClock()
    store = await SqliteStore.open(tmp_path / "omium.db", clock=clock)
    host, boot, pid, start = HostProcesses().this()
    await store.register(WorkerRow(WorkerId("wrk_hung"), host, boot, pid, start, 0, ["default"]))
    told = [await health_of(store, P, HostProcesses(), START_US + later) for later in (30_000_000, 30_000_001)]
    await store.close()
    assert [one.status for one in told] == ["healthy", "degraded"]
    assert f"wrk_hung (pid {pid}) has been silent since {rfc3339(START_US)}" in told[1].checks["workers"]


async def test_a_due_run_that_nobody_takes_degrades(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    run = await draft(store)
    await store.wake([run.id], 1_000_000)
    for now, expected in ((30_000_000, "healthy"), (62_000_000, "degraded")):
        assert (await health_of(store, P, HostProcesses(), now)).status == expected
    await store.close()


def test_only_so_many_beginnings_are_remembered() -> None:
    begun = Begun()
    for number in range(20_010):
        begun.note(str(number), number)
    assert begun.end("0", 5) is None
    assert begun.end("20009", 20_009 + 1_500_000) == (1.5, "")
    assert begun.end("20009", 5) is None


def test_the_supervisor_counts_what_is_shown() -> None:
    assert {"running", "starts", "ends", "stalled", "orphans"} <= set(Counters().snapshot())
