"""OPA as a second opinion, against a server that answers as OPA does, and against OPA itself where it is installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.opa import Opa, _read, _Refused, _result, checked_path
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy import ApprovalTerms, Decision, Policy, Question, profile_policy
from omium.orchestration.gates.policy.model import EFFECTS, STRICTNESS
from omium.orchestration.ports_calls import Limits
from tests.policy_help import ask, policy, rule

REGO = """
package omium
import rego.v1

default allow := false
allow if input.tool == "query"

decision := {"effect": "deny", "reason": "not on my watch"} if input.tool == "drop"
decision := {"effect": "require_approval", "min_assurance": "separate_identity"} if input.tool == "query"
decision := {"allow": true} if input.tool == "read"

odd := ["allow"]
"""
OPEN = policy(rule("a", "allow", limits={"timeout": 5}, redact=["secrets"], trusts=["read_only"]))


async def decide_async(policy: Policy, question: Question, opa: Opa) -> Decision:
    """What holds after both were asked."""
    return await opa.tighten(question, policy.decide(question))


@dataclass
class Stub:
    """The part of OPA's REST API that is used: documents under /v1/data by path, `{}` where there is none, 400 for what
    is not JSON, provenance and a decision id when asked for."""

    rules: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    raw: tuple[int, bytes] | None = None  # answered instead of all that
    held: threading.Event | None = None  # until which nothing is answered
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        try:
            given = json.loads(body)
        except ValueError:
            return 400, b'{"code": "invalid_parameter", "message": "body contains malformed input document"}'
        self.requests.append((parts.path, given))
        if self.held is not None:
            self.held.wait(30)
        if self.raw is not None:
            return self.raw
        said: dict[str, Any] = {}
        known = self.rules.get(parts.path.removeprefix("/v1/data/"))
        value = None if known is None else known(given["input"])
        if value is not None:
            said["result"] = value
        said["decision_id"] = "4ca636c1-55e4-417a-b1d8-4aceb67960d1"
        if parse_qs(parts.query).get("provenance") == ["true"]:
            said["provenance"] = {"version": "1.9.0", "bundles": {"authz": {"revision": "rev-7"}}}
        return 200, json.dumps(said).encode()


@contextmanager
def served(stub: Stub) -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = stub.answer(self.path, self.rfile.read(int(self.headers["content-length"])))
            try:
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"{stub.url}/v1/data/omium/decision")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # who asked has left

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        if stub.held is not None:
            stub.held.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def stub() -> Iterator[Stub]:
    def decision(given: dict[str, Any]) -> Any:
        return {
            "drop": {"effect": "deny", "reason": "not on my watch"},
            "query": {"effect": "require_approval", "min_assurance": "separate_identity"},
            "read": {"allow": True},
        }.get(given["tool"])

    rules = {
        "omium/allow": lambda given: given["tool"] == "query",
        "omium/decision": decision,
        "omium/odd": lambda given: ["allow"],
    }
    with served(Stub(rules)) as made:
        yield made


def installed(path: Path) -> Iterator[str]:
    """A real OPA with the rules of REGO."""
    (path / "omium.rego").write_text(REGO)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["opa", "run", "--server", "--addr", f"127.0.0.1:{port}", "--disable-telemetry", str(path / "omium.rego")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(2_000):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture(params=["stub", *(["opa"] if shutil.which("opa") else [])])
def url(request: pytest.FixtureRequest, stub: Stub, tmp_path: Path) -> Iterator[str]:
    if request.param == "stub":
        yield stub.url
    else:
        yield from installed(tmp_path)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "tool", "effect"),
    [
        ("omium/allow", "query", "allow"),
        ("omium/allow", "other", "deny"),
        ("omium/decision", "read", "allow"),
        ("omium/decision", "query", "require_approval"),
        ("omium/decision", "drop", "deny"),
        ("omium/decision", "undefined here", "deny"),
        ("omium/nothing", "query", "deny"),
        ("omium/odd", "query", "deny"),
    ],
)
async def test_what_opa_says_is_heard(url: str, path: str, tool: str, effect: str) -> None:
    async with Opa(url, path, 20) as opa:
        found = await decide_async(OPEN, ask(tool=tool, at=datetime(2026, 3, 2, tzinfo=UTC)), opa)
    assert found.effect == effect
    assert found.rule == ("a" if effect == "allow" else f"opa:{path}")
    assert found.provenance["opa"]["path"] == path
    if effect == "allow":
        assert found.limits == Limits(timeout_s=5.0)
    if effect == "require_approval":
        assert found.approval == ApprovalTerms("separate_identity")
        assert (found.redact, found.trusts) == (("secrets",), frozenset({"read_only"}))
    if effect == "deny":
        assert (found.limits, found.redact, found.trusts, found.approval) == (Limits(), (), frozenset(), None)


@pytest.mark.anyio
async def test_the_revision_of_the_bundle_is_recorded(stub: Stub) -> None:
    async with Opa(stub.url, "data.omium.decision", 20) as opa:
        found = await decide_async(OPEN, ask(tool="read"), opa)
        denied = await decide_async(OPEN, ask(tool="drop"), opa)
    told = {"path": "omium/decision", "decision_id": "4ca636c1-55e4-417a-b1d8-4aceb67960d1", "version": "1.9.0"}
    assert found.provenance["opa"] == denied.provenance["opa"] == {**told, "revisions": {"authz": "rev-7"}}
    assert denied.reason == "not on my watch"


@pytest.mark.anyio
async def test_opa_is_told_what_is_asked_and_what_was_decided(stub: Stub) -> None:
    question = ask(
        tool="read", agent="a", arguments={"sql": "x", "at": datetime(2026, 3, 2, tzinfo=UTC), "big": 10**30}
    )
    async with Opa(stub.url, "omium/decision", 20) as opa:
        assert (await decide_async(OPEN, question, opa)).effect == "allow"
    ((path, body),) = stub.requests
    assert path == "/v1/data/omium/decision"
    told = body["input"]
    assert (told["action"], told["server"], told["tool"], told["agent"]) == ("tool", "db", "read", "a")
    assert told["arguments"]["sql"] == "x"
    assert told["decided"] == {"effect": "allow", "rule": "a"}


@pytest.mark.anyio
@pytest.mark.parametrize("chosen", [OPEN, profile_policy("research")], ids=["policy", "research"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{}"),
        (200, b'{"result": null}'),
        (200, b'{"result": "allow"}'),
        (200, b'{"result": 1}'),
        (200, b'{"result": [true]}'),
        (200, b'{"result": {}}'),
        (200, b'{"result": {"allow": "true"}}'),
        (200, b'{"result": {"allow": 1}}'),
        (200, b'{"result": {"effect": "permit"}}'),
        (200, b'{"result": {"effect": ["allow"]}}'),
        (200, b'{"result": {"allow": true, "min_assurance": "lots"}}'),
        (200, b'{"result": {"allow": true, "effect": "deny"}}'),
        (200, b'{"result": false, "result": true}'),
        (200, b'{"result": NaN}'),
        (200, b"true"),
        (200, b"[]"),
        (200, b""),
        (200, b"<html>"),
        (200, b"[" * 100_000),
        (200, b'{"result": true, "x": "' + b"a" * 300_000 + b'"}'),
        (201, b'{"result": true}'),
        (302, b""),
        (400, b'{"code": "invalid_parameter"}'),
        (404, b'{"result": true}'),
        (500, b'{"code": "internal_error", "result": true}'),
        (503, b""),
    ],
    ids=range(26),
)
async def test_what_is_no_leave_is_a_denial(stub: Stub, chosen: Any, status: int, body: bytes) -> None:
    stub.raw = (status, body)
    async with Opa(stub.url, "omium/decision", 20) as opa:
        found = await decide_async(chosen, ask(), opa)
    assert (found.effect, found.rule) == ("deny", "opa:omium/decision")


@pytest.mark.anyio
async def test_nobody_there_is_a_denial() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        async with Opa(f"http://127.0.0.1:{taken.getsockname()[1]}", "omium/decision", 20) as opa:
            found = await decide_async(profile_policy("research"), ask(), opa)
    assert found.effect == "deny"
    assert "could not be asked" in found.reason


@pytest.mark.anyio
async def test_an_answer_that_does_not_come_in_time_is_a_denial(stub: Stub) -> None:
    stub.held = threading.Event()
    with anyio.fail_after(20):
        async with Opa(stub.url, "omium/decision", 0.05) as opa:
            found = await decide_async(profile_policy("research"), ask(tool="read"), opa)
    assert found.effect == "deny"
    assert "did not answer within 0.05 s" in found.reason


@pytest.mark.anyio
async def test_what_cannot_be_told_is_a_denial(stub: Stub) -> None:
    async with Opa(stub.url, "omium/decision", 20) as opa:
        given = Decision("allow", "a", "", OPEN.digest)
        found = await opa.tighten(ask(tool="read", arguments={"x": "\ud800"}), given)
    assert found.effect == "deny"
    assert stub.requests == []


@pytest.mark.anyio
async def test_what_is_denied_is_not_asked_about_and_being_cancelled_is_no_denial(stub: Stub) -> None:
    async with Opa(stub.url, "omium/allow", 20) as opa:
        assert (await decide_async(policy(), ask(), opa)).rule is None
        assert stub.requests == []
        stub.held = threading.Event()
        with anyio.move_on_after(0.05) as scope:
            await decide_async(OPEN, ask(), opa)
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_terms_of_both_hold_together(stub: Stub) -> None:
    asking = policy(rule("q", "require_approval", approval={"min_assurance": "elicited", "ttl": 60}))
    async with Opa(stub.url, "omium/decision", 20) as opa:
        found = await decide_async(asking, ask(), opa)
        assert (found.rule, found.approval) == ("q", ApprovalTerms("separate_identity", 60.0))
        assert (await decide_async(asking, ask(tool="read"), opa)).approval == ApprovalTerms("elicited", 60.0)
    stub.raw = (200, b'{"result": {"effect": "require_approval"}}')
    async with Opa(stub.url, "omium/decision", 20) as opa:
        assert (await decide_async(OPEN, ask(), opa)).approval == ApprovalTerms("out_of_band")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*EFFECTS, "elicited", "signed"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["allow", "effect", "reason", "min_assurance"]), inner)
    ),
)


@given(JSON, st.sampled_from(EFFECTS), st.sampled_from([None, ApprovalTerms("signed", 1.0)]))
def test_no_answer_loosens(result: Any, effect: Any, terms: ApprovalTerms | None) -> None:
    before = Decision(effect, "a", "", OPEN.digest, approval=terms if effect == "require_approval" else None)
    opa = Opa("http://127.0.0.1:1", "a")
    body = json.dumps({"result": result}).encode()

    async def answered(question: Any, decision: Any) -> bytes:
        return body

    opa._ask = answered  # type: ignore[method-assign]
    after = anyio.run(opa.tighten, ask(), before)
    assert STRICTNESS[after.effect] >= STRICTNESS[before.effect]
    if before.approval is not None and after.effect == "require_approval":
        assert after.approval == before.approval.stricter(after.approval or ApprovalTerms())
    if after.effect == "allow":
        assert result is True or _result(result)[0] == "allow"


@pytest.mark.parametrize("body", [b"{}", b'{"result": 3}', b"nothing"])
def test_reading_refuses(body: bytes) -> None:
    with pytest.raises(_Refused):
        _read(body)


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://u:p@x", "x", "http://x?y", "http://x:99999", "http://x\n"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(OmiumError, match="invalid_argument"):
        Opa(url, "a/b")


@pytest.mark.parametrize("path", ["", "a b", "../x", "a//b", "a?b", "a/../b", "data.", "a\n"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(OmiumError, match="invalid_argument"):
        Opa("http://x", path)


def test_ways_to_write_a_path() -> None:
    for text in ("omium/decision", "/omium/decision", "v1/data/omium/decision", "data.omium.decision"):
        assert checked_path(text) == "omium/decision"
