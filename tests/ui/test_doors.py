"""Who gets in, with what, and what a page of somebody else can do: nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from omium.orchestration.ids import ApprovalId
from omium.server.dashboard.sessions import AT_MOST_S, IDLE_S, Sessions, cookie_name
from omium.server.dashboard.signing import wanted
from omium.server.identity.limits import RequestLimits
from omium.server.identity.tokens import list_tokens, revoke_token
from tests.ui.house import House, form_of, open_house, words

pytestmark = pytest.mark.anyio
PATIENCE_S = 90


async def test_without_a_credential_there_is_only_the_door(guarded: House) -> None:
    async with guarded.browser() as browser:
        answer = await browser.http.get("/runs/x?node=a", headers={"sec-fetch-site": "none"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/sign-in?next=%2Fruns%2Fx%3Fnode%3Da"
        assert "Token" in words(await browser.open("/"))
        machine = await browser.http.get("/api/v1/runs", headers={"accept": "application/json"})
        assert machine.status_code == 401
        assert (await browser.post("/runs/x/steer", {"action": "cancel"})).status_code == 401


async def test_a_token_becomes_a_session_that_no_script_can_read(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        token = await guarded.token("operator", "bo")
        async with guarded.browser() as browser:
            wrong = await browser.sign_in("omium_nothing")
            assert wrong.status_code == 403
            assert "no whole token" in words(wrong.text)
            answer = await browser.http.post(
                "/sign-in", data={"token": token, "next": "/approvals"}, headers={"origin": guarded.url}
            )
            assert (answer.status_code, answer.headers["location"]) == (303, "/approvals")
            cookie = answer.headers["set-cookie"]
            assert token not in cookie
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert "token:bo" in await browser.open("/")
            reads = await browser.http.get("/api/v1/runs", headers={"accept": "application/json"})
            assert reads.status_code == 200
            changes = await browser.http.post("/api/v1/runs", json={"workflow": "echo", "inputs": {"value": 1}})
            assert changes.status_code == 401  # a cookie changes nothing over REST


async def test_over_tls_the_cookie_stays_on_tls(guarded: House) -> None:
    token = await guarded.token("viewer", "bo")
    host = guarded.url.partition("//")[2]
    async with guarded.browser() as browser:
        answer = await browser.http.post("/sign-in", data={"token": token}, headers={"origin": f"https://{host}"})
        assert "Secure" in answer.headers["set-cookie"]


async def test_a_revoked_token_ends_its_sessions_at_once(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        token = await guarded.token("admin", "bo")
        async with guarded.browser() as browser:
            await browser.sign_in(token)
            assert "token:bo" in await browser.open("/")
            made = (await list_tokens(guarded.core.store, guarded.owner, guarded.core.clock))[0]
            await revoke_token(guarded.core.store, guarded.owner, guarded.core.clock, made.id)
            assert "Token" in words(await browser.open("/"))


async def test_signing_out_ends_the_session_on_both_sides(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("admin", "bo"))
            page = await browser.open("/")
            cookies = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
            await browser.send(page, "/sign-out")
            assert "Token" in words(await browser.open("/"))
            stolen = await browser.http.get("/", headers={"cookie": cookies})
            assert stolen.status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},  # another server of this machine
        {"origin": "", "sec_fetch_site": "cross-site"},
    ],
)
async def test_a_form_of_a_foreign_page_does_nothing(house: House, headers: dict[str, str]) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {})
        async with house.browser() as browser:
            fields = form_of(await browser.open(f"/runs/{run.id}"), f"/runs/{run.id}/steer")
            answer = await browser.post(f"/runs/{run.id}/steer", {**fields, "action": "cancel"}, **headers)
            assert answer.status_code == 403
            signing = await browser.post("/sign-in", {"token": "x"}, **headers)
            assert signing.status_code == 403
        assert (await house.core.get_run(house.owner, run.id)).status == "executing"


async def test_a_form_without_a_good_proof_does_nothing(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {})
        action = f"/runs/{run.id}/steer"
        async with house.browser() as mine, house.browser() as other:
            fields = {**form_of(await mine.open(f"/runs/{run.id}"), action), "action": "cancel"}
            theirs = {**form_of(await other.open(f"/runs/{run.id}"), action), "action": "cancel"}
            assert (await mine.post(action, {**fields, "proof": "0" * 64})).status_code == 403
            assert (await mine.post(action, {**fields, "proof": theirs["proof"]})).status_code == 403
            assert (await mine.post(action, {"action": "cancel"})).status_code == 403
            assert (await mine.post(action, {**fields, "key": ""})).status_code == 400
            assert (await mine.post(action, {**fields, "action": ["pause", "cancel"]})).status_code == 400
            mine.http.cookies.clear()
            assert (await mine.post(action, fields)).status_code == 403
            as_json = await other.http.post(action, json=theirs, headers={"origin": house.url})
            assert as_json.status_code == 400
        assert (await house.core.get_run(house.owner, run.id)).status == "executing"


async def test_a_proof_of_one_caller_is_none_of_another(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await guarded.core.run_workflow(guarded.owner, "slow", {})
        action = f"/runs/{run.id}/steer"
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("admin", "bo"))
            fields = {**form_of(await browser.open(f"/runs/{run.id}"), action), "action": "cancel"}
            await browser.sign_in(await guarded.token("admin", "cy"))
            assert (await browser.post(action, fields)).status_code == 403
        assert (await guarded.core.get_run(guarded.owner, run.id)).status == "executing"


async def test_a_viewer_sees_no_form_and_may_send_none(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, approval = await guarded.asking()
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("viewer", "eve"))
            page = await browser.open(f"/runs/{run_id}")
            assert "Your role is viewer" in words(page)
            assert "/decide" not in await browser.open(f"/approvals/{approval}")
            proof = form_of(page, "/sign-out")
            answer = await browser.post(f"/runs/{run_id}/steer", {**proof, "action": "cancel"})
            assert answer.status_code == 403
            assert "viewer" in words(answer.text)
        assert (await guarded.core.get_run(guarded.owner, run_id)).status == "waiting_approval"


async def test_an_operator_sees_only_what_is_theirs(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, approval = await guarded.asking()
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("operator", "bo"))
            assert "There is no run yet" in words(await browser.open("/"))
            for path in (f"/runs/{run_id}", f"/approvals/{approval}", f"/runs/{run_id}/output?node=write"):
                await browser.open(path, 404)
            for view in ("timeline", "events", "history", "branches", "calls", "files", "audit", "graph.json"):
                await browser.open(f"/runs/{run_id}/{view}", 404)


async def test_a_signed_in_decision_is_out_of_band(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await guarded.asking()
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("approver", "bo"))
            page = await browser.open(f"/approvals/{approval}")
            await browser.send(page, f"/approvals/{approval}/decide", decision="approve")
        view = await guarded.core.get_approval(guarded.owner, ApprovalId(approval))
        assert (view.decided_by, view.assurance) == ("token:bo", "out_of_band")


async def test_a_link_from_elsewhere_comes_again_with_its_cookie(guarded: House) -> None:
    """A strict cookie stays behind when another site links here: the page loads itself once more."""
    async with guarded.browser() as browser:
        answer = await browser.http.get("/approvals", headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
        again = await browser.http.get("/approvals", headers={"sec-fetch-site": "same-origin"})
        assert again.status_code == 303


async def test_wrong_tokens_can_be_tried_only_so_often(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_house(tmp_path, open_to=False, limits=RequestLimits(failures=12)) as house:
            async with house.browser() as browser:
                answers = [await browser.sign_in("omium_wrong") for _ in range(14)]
            assert "too many credentials" in words(answers[-1].text)


async def test_the_feed_of_changes_needs_a_credential_and_says_when_to_look(house: House, tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with house.browser() as browser, browser.http.stream("GET", "/changes") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            assert await anext(lines) == ": here"
            await house.core.run_workflow(house.owner, "echo", {"value": 1})
            while (line := await anext(lines)) != "data: changed":
                assert line == ""


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("/runs/x?node=a", "/runs/x?node=a"), ("//evil.example", "/"), ("https://evil.example", "/"), ("", "/"),
        ("/\\evil.example", "/"), ("javascript:alert(1)", "/"), ("/a\r\nset-cookie: x", "/"), ("/api/v1/runs", "/"),
    ],
)  # fmt: skip
def test_after_signing_in_one_stays_here(given: str, then: str) -> None:
    assert wanted(given) == then


class _Time:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_sessions_end_by_idleness_and_by_age() -> None:
    time = _Time()
    sessions = Sessions(time)
    cookie = sessions.begin("Bearer secret")
    assert sessions.authorization(cookie) == "Bearer secret"
    time.now += IDLE_S - 1
    assert sessions.authorization(cookie) == "Bearer secret"
    time.now += IDLE_S + 1
    assert sessions.authorization(cookie) is None
    cookie = sessions.begin("Bearer secret")
    began = time.now
    while time.now - began < AT_MOST_S:
        assert sessions.authorization(cookie) is not None
        time.now += IDLE_S - 1
    assert sessions.authorization(cookie) is None
    assert sessions.authorization("x" * 10_000) is None
    assert "secret" not in repr(sessions._known)


def test_a_proof_is_bound_to_process_browser_and_caller() -> None:
    one, other = Sessions(_Time()), Sessions(_Time())
    proof = one.proof("cookie", "user:ada")
    assert one.proves(proof, "cookie", "user:ada")
    assert not one.proves(proof, "another", "user:ada")
    assert not one.proves(proof, "cookie", "user:bo")
    assert not other.proves(proof, "cookie", "user:ada")
    assert not one.proves(proof, None, "user:ada")


def test_two_servers_of_a_machine_have_two_cookies() -> None:
    assert cookie_name("127.0.0.1:8765") != cookie_name("127.0.0.1:8770")
    assert cookie_name("omium.example") == "omium"
