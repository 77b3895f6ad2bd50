"""What somebody tries who is not who they say, or wants what is somebody else's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult

from omium.clients.processes.environment import child_environment
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from omium.server.identity.authority import AnyOf, Audited, OpenLoopback
from omium.server.identity.fetching import Fetch
from omium.server.identity.issuers import IssuerSettings, JwtIssuer, PublishedKeys
from omium.server.identity.tokens import Tokens, create_token, revoke_token
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor, failure_of, open_studio
from tests.unit.identity.jwt_help import Clock, Known, published, rsa_key, signed
from tests.unit.identity.test_identity_fetching import http, serving

pytestmark = pytest.mark.anyio

BOB = Caller(Principal("token:bob"), role="admin", sees="own", authenticated=True)


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path) as opened:
        yield opened


async def asking(studio: Studio) -> tuple[str, str]:
    """A run of Ada's that waits, and its approval."""
    async with studio.client() as ada:
        with anyio.fail_after(30):
            return await ada.asking()


def calls(run: str, approval: str) -> list[tuple[str, dict[str, Any]]]:
    """Every way to name a run or an approval to a tool."""
    return [
        ("get_run", {"run_id": run}),
        ("get_run", {"run_id": run, "wait_seconds": 1, "detail": True}),
        ("get_run", {"run_id": run[-10:]}),
        ("get_run", {"run_id": "last"}),
        ("get_run", {"run_id": run, "node": "draft"}),
        ("list_runs", {"parent": run}),
        ("control_run", {"run_id": run, "action": "cancel"}),
        ("control_run", {"run_id": run, "action": "pause"}),
        ("control_run", {"run_id": run, "action": "resume"}),
        ("checkpoint", {"run_id": run, "label": "mine"}),
        ("list_checkpoints", {"run_id": run}),
        ("rollback", {"run_id": run, "to": "start"}),
        ("rollback", {"run_id": run, "to": "start", "preview": True}),
        ("branch", {"run_id": run, "name": "mine"}),
        ("play_from_node", {"run_id": run, "node": "draft"}),
        ("compare_runs", {"a": run, "b": run}),
        ("list_approvals", {"run_id": run}),
        ("approve", {"approval_id": approval, "decision": "approve"}),
        ("approve", {"approval_id": approval, "decision": "reject"}),
    ]


async def found_nothing(visitor: Visitor, run: str, approval: str) -> None:
    for name, arguments in calls(run, approval):
        result = await visitor.client.call_tool(name, arguments)
        assert isinstance(result, CallToolResult)
        assert result.is_error, (name, arguments)
        assert failure_of(result)["code"] == "not_found", (name, arguments)


@pytest.mark.parametrize("mode", MODES)
async def test_the_ids_of_another_client_are_unknown(studio: Studio, mode: Mode) -> None:
    run, approval = await asking(studio)
    async with studio.client(mode, caller=BOB) as bob:
        await found_nothing(bob, run, approval)
        assert (await bob.ok("list_runs"))["runs"] == []
        assert (await bob.ok("list_approvals", pending=False))["approvals"] == []
    assert (await studio.core.get_run(ADA, (await studio.core.find_run(ADA, run)))).status == "waiting_approval"


async def test_a_session_is_no_identity(studio: Studio) -> None:
    """A session that somebody else began, with all that it has asked for: each request is its own caller's."""
    run, approval = await asking(studio)
    now = [ADA]
    async with Client(build_server(studio.core, lambda _: now[0]), mode="legacy") as client:
        visitor = Visitor(client)
        assert (await visitor.ok("get_run", run_id=run))["status"] == "waiting_approval"
        now[0] = BOB
        await found_nothing(visitor, run, approval)
        now[0] = ADA
        assert (await visitor.ok("get_run", run_id=run))["status"] == "waiting_approval"


@pytest.mark.parametrize("mode", MODES)
async def test_two_clients_with_one_request_id_each_get_their_own_answer(studio: Studio, mode: Mode) -> None:
    """Both number their requests from the beginning."""
    server = build_server(studio.core, ADA)
    runs = [(await studio.core.run_workflow(ADA, "echo", {"value": n}, title=f"run {n}")).id for n in range(2)]
    answers: dict[int, list[Any]] = {0: [], 1: []}

    async def ask(number: int) -> None:
        async with Client(server, mode=mode) as client:
            for _ in range(20):
                answers[number].append(await Visitor(client).ok("get_run", run_id=runs[number]))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 0)
            tasks.start_soon(ask, 1)
    for number in (0, 1):
        assert {one["run_id"] for one in answers[number]} == {runs[number]}
        assert len(answers[number]) == 20


# --- the credential ends at the door ----------------------------------------------------------------------------------


async def test_a_bearer_is_in_nothing_that_we_hand_on_store_or_log(
    studio: Studio, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    core = studio.core
    made = await create_token(core.store, ADA, core.clock, "operator", name="ci")
    jwt = signed(rsa_key()).removeprefix("Bearer ")
    issuer = JwtIssuer(IssuerSettings("https://login.example.com/", "omium"), ADA.project, Known([]), Clock())
    doors = Audited(AnyOf([Tokens(core.store, ADA.project, core.clock), issuer]), core.store, ADA.project, core.clock)
    caller = await doors.caller_of(f"Bearer {made.secret}")
    with pytest.raises(OmiumError) as unknown:
        await doors.caller_of(f"Bearer {jwt}")
    with anyio.fail_after(30):
        run = await core.run_workflow(caller, "greet", {"name": "Ada"})
        assert (await core.wait(caller, run.id, 30)).status == "completed"
    await revoke_token(core.store, ADA, core.clock, made.token.id)
    with pytest.raises(OmiumError) as revoked:
        await doors.caller_of(f"Bearer {made.secret}")

    secrets = [made.secret, made.secret.split("_", 2)[2], jwt, jwt.split(".")[2]]
    said = [str(asdict(caller)), repr(caller), *(repr(e.value.as_dict()) + str(e.value) for e in (unknown, revoked))]
    await studio.core.store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in secrets:
        assert secret not in "".join(said)
        assert secret not in caplog.text
        assert secret.encode() not in kept


def test_no_child_inherits_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMIUM_TOKEN", "AUTHORIZATION", "HTTP_AUTHORIZATION", "OMIUM_JWT_ISSUER"):
        monkeypatch.setenv(name, "canary-of-a-credential")
    assert "canary-of-a-credential" not in str(child_environment({}, {}, "mark"))


async def test_what_fetches_keys_carries_nothing_of_the_request() -> None:
    page = str({"keys": [published(rsa_key(), "one")]}).replace("'", '"').encode()
    clock = Clock()
    async with serving(http(page)) as site:
        settings = IssuerSettings("https://login.example.com/", "omium", f"http://127.0.0.1:{site.port}/keys")
        keys = PublishedKeys(settings, Fetch(allow_loopback=True), clock)
        header = signed(rsa_key())
        assert (await JwtIssuer(settings, ADA.project, keys, clock).caller_of(header)).role == "operator"
    (request,) = site.requests
    assert b"uthorization" not in request
    assert header.split(".")[2].encode() not in request
    assert b"ookie" not in request


async def test_a_redirect_of_the_keys_is_not_followed() -> None:
    async with serving(http(b'{"keys": []}')) as inside:
        moved = http(b"", "302 Found", f"Location: http://127.0.0.1:{inside.port}/latest/meta-data")
        async with serving(moved) as site:
            settings = IssuerSettings("https://login.example.com/", "omium", f"http://127.0.0.1:{site.port}/")
            keys = PublishedKeys(settings, Fetch(allow_loopback=True), Clock())
            assert await keys.candidates("one") == ()
    assert len(site.requests) == 1
    assert inside.requests == []


async def test_a_credential_that_is_not_good_opens_nothing_that_is_open_without_one(studio: Studio) -> None:
    tokens = Tokens(studio.core.store, ADA.project, studio.core.clock)
    doors = AnyOf([tokens, OpenLoopback(ADA)])
    for header in ("", "Bearer", "Bearer x", "Basic YWRhOng=", f"Bearer omium_{'0' * 26}_{'x' * 43}", "x" * 100_000):
        with pytest.raises(OmiumError) as refused:
            await doors.caller_of(header)
        assert refused.value.code == "unauthenticated"
