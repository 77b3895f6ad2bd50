"""Servers behind a URL: Streamable HTTP in both eras, SSE, and those that attack."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.external.spec import Credential, OutputLimits
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Store
from omium.orchestration.ports_calls import READ_ONLY, Allowed, Limits
from tests.external.help import http, served, world

pytestmark = pytest.mark.anyio

TOKEN = "a-very-secret-bearer"
CREDENTIAL = Credential("header", "Authorization", variable="OUR_KEY", prefix="Bearer ")


@pytest.mark.parametrize(
    ("transport", "path", "era"),
    [("http", "mcp", "auto"), ("http", "mcp", "legacy"), ("sse", "sse", "auto")],
)
async def test_calls_go_through_every_transport(store: Store, transport: Any, path: str, era: Any) -> None:
    with served("good", "streamable-http" if transport == "http" else "sse") as (port, _):
        spec = http("web", port, path, transport=transport, era=era, credentials=(CREDENTIAL,))
        async with world(store, spec, environ={"OUR_KEY": TOKEN}) as w:
            with anyio.fail_after(30):
                assert await w.call("web/add", a=1, b=2) == {"sum": 3}
                told = await w.call("web/meta")
                protocol = (await w.tools.session("web")).protocol
    # Our credential is there, and comes back to nobody.
    assert told["headers"]["authorization"] == "Bearer [redacted]"
    assert (protocol >= "2026") == (transport == "http" and era == "auto")


def _seen(written: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.read_text().splitlines()]


async def _failure(store: Store, mode: str, **options: Any) -> OmiumError:
    with served("http_hostile") as (port, written):
        given = {"output": OutputLimits(message=1_000_000), **options}
        spec = http("web", port, mode, credentials=(CREDENTIAL,), **given)
        async with world(store, spec, environ={"OUR_KEY": TOKEN}) as w:
            w.gate.terms = Allowed(None, Limits(timeout_s=15))
            with anyio.fail_after(20), pytest.raises(OmiumError) as error:
                await w.call("web/query")
        calls = [one for one in _seen(written) if one["method"] == "tools/call"]
        error.value.data["seen"] = calls  # type: ignore[index]  # for the test alone
        return error.value


@pytest.mark.parametrize("mode", ["large", "endless", "endless-event", "bomb"])
async def test_an_answer_without_bounds_is_not_read(store: Store, mode: str) -> None:
    error = await _failure(store, mode)
    assert error.code == "tool_failed" and error.data["sent"]
    assert len(error.data["seen"]) == 1


async def test_a_redirect_to_another_place_is_not_followed(store: Store) -> None:
    error = await _failure(store, "redirect")
    assert error.code == "tool_failed"
    assert [one["path"] for one in error.data["seen"]] == ["/redirect"]


async def test_a_refused_credential_was_not_a_call_and_is_told_without_it(store: Store) -> None:
    error = await _failure(store, "unauthorized")
    assert error.data["sent"] is False and "HTTP 401" in error.message and TOKEN not in str(error)


@pytest.mark.parametrize("mode", ["gateway", "cut"])
async def test_a_broken_answer_may_have_been_a_call(store: Store, mode: str) -> None:
    error = await _failure(store, mode)
    assert error.data["sent"] and len(error.data["seen"]) == 1


async def test_it_is_made_again_where_policy_trusts_the_tool(store: Store) -> None:
    with served("http_hostile") as (port, written):
        async with world(store, http("web", port, "gateway")) as w:
            w.gate.terms = Allowed(None, trusts=frozenset({READ_ONLY}))
            with pytest.raises(OmiumError):
                await w.call("web/query")
        calls = [one for one in _seen(written) if one["method"] == "tools/call"]
    assert len(calls) == 3


async def test_a_session_that_the_server_forgot_is_made_anew(store: Store) -> None:
    with served("http_hostile") as (port, written):
        async with world(store, http("web", port, "forgets")) as w:
            assert await w.call("web/query") == "fine"
        sessions = [one["headers"].get("mcp-session-id") for one in _seen(written) if one["method"] == "tools/call"]
    assert sessions == ["s1", "s2"]


async def test_no_server_at_all_is_a_call_that_was_not_sent(store: Store) -> None:
    with served("http_hostile") as (port, _):
        pass
    async with world(store, http("web", port, "plain")) as w:
        with anyio.fail_after(20), pytest.raises(OmiumError) as error:
            await w.call("web/query")
    assert error.value.data["sent"] is False and "cannot connect" in error.value.message


async def test_a_server_that_went_away_and_came_back_is_reached_again(store: Store) -> None:
    with contextlib.ExitStack() as first:
        port, _ = first.enter_context(served("good", "streamable-http"))
        async with world(store, http("web", port)) as w:
            assert await w.call("web/add", a=1, b=2) == {"sum": 3}
            first.close()
            with pytest.raises(OmiumError) as gone:
                await w.call("web/add", "gone", a=1, b=2)
            assert gone.value.data["sent"] is False
            with served("good", "streamable-http", port=port):
                assert await w.call("web/add", "again", a=1, b=2) == {"sum": 3}


async def test_only_what_was_declared_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No netrc, no proxy, no cookie, and nothing of whoever called us."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password canary")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with served("http_hostile") as (port, written):
        async with world(store, http("web", port, "plain", headers={"X-Team": "a"})) as w:
            assert await w.call("web/query") == "fine"
        sent = [one["headers"] for one in _seen(written) if one["method"] == "tools/call"]
    assert sent[0]["x-team"] == "a"
    assert not {"authorization", "cookie", "proxy-authorization"} & set(sent[0])


async def test_calls_that_are_under_way_do_not_share_a_failure(store: Store) -> None:
    with served("good", "streamable-http") as (port, _):
        async with world(store, http("web", port)) as w:
            await w.call("web/add", a=1, b=1)
            answers: list[Any] = []

            async def slow() -> None:
                answers.append(await w.call("web/slow", "s", seconds=0.5))

            async with anyio.create_task_group() as group:
                group.start_soon(slow)
                with pytest.raises(OmiumError):
                    await w.call("web/fail", "f", text="no")
    assert answers == ["done"]
