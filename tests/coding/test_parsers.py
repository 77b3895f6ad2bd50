"""Transcripts of the three CLIs to events, and whatever else may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.coding import claude, codex, gemini, protocol
from omium.clients.coding.codex import CodexStream
from omium.clients.coding.events import (
    Asked,
    Begun,
    Event,
    Malformed,
    Result,
    Retried,
    Returned,
    Said,
    Tokens,
    Unknown,
    Used,
)
from omium.clients.coding.gemini import GeminiStream
from omium.clients.coding.sessions import Kept, Waiting, is_session, task_of
from omium.clients.coding.spec import CodingSpec
from omium.clients.coding.usage import cost_usd
from omium.clients.workspaces.configs import check_config, copy_configs
from omium.orchestration.errors import OmiumError

GOLDEN = Path(__file__).parent / "golden"
SESSION = "be42c7c8-07a9-4ca9-a873-ab58985a1cfc"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    (
        "type",
        "subtype",
        "message",
        "content",
        "request",
        "request_id",
        "item",
        "usage",
        "result",
        "errors",
        "role",
        "id",
        "error",
        "stats",
        "input",
        "tool_name",
        "callback_id",
        "modelUsage",
        "tools",
        "is_error",
        "text",
        "delta",
    )
)
TYPES = ("assistant", "user", "system", "result", "control_request", "item.completed", "item.started")
TYPES += ("turn.completed", "turn.failed", "thread.started", "init", "message", "tool_use", "tool_result", "error")


def events(parse: Any, name: str) -> list[Event]:
    return [event for line in (GOLDEN / name).read_text().splitlines() for event in parse(line)]


def test_claude() -> None:
    asked = {"command": "ls"}
    assert events(protocol.events_of, "claude.jsonl") == [
        Unknown("control_response"),
        Begun(SESSION, "claude-opus-5-5", ("Bash", "Read"), "/w"),
        Retried(500, "server_error", 0.601),
        Said("I look.", "msg_1", Tokens(10, 1, 7, 5)),
        Used("toolu_1", "Bash", asked),
        Asked("r-1", "hook", "Bash", asked, "toolu_1"),
        Asked("r-2", "permission", "Bash", asked, "toolu_1"),
        Asked("r-3", "other", what="mcp_message"),
        Returned("toolu_1", "a.txt", False),
        Malformed("not json at all"),
        Malformed('["an array"]'),
        Unknown("rate_limit_event"),
        Result("", "There is a.txt.", SESSION, 2, Tokens(20, 31, 14, 5), "claude-opus-5-5"),
    ]


def test_codex() -> None:
    thread = "0199a213-81c0-7800-8aa1-bbab2a035a53"
    said = "There is a.txt, and b.txt is new."
    assert events(CodexStream().events_of, "codex.jsonl") == [
        Begun(thread),
        Unknown("turn.started"),
        Unknown("item.reasoning"),
        Used("item_1", "shell", {"command": "bash -lc ls"}),
        Returned("item_1", "a.txt\n", False),
        Returned("item_2", "", False),
        Unknown("item.updated"),
        Said(said, "item_4"),
        Unknown("something.new"),
        Result("", said, thread, 1, Tokens(315, 122, 24448)),
    ]


def test_codex_fails() -> None:
    (failed,) = CodexStream().events_of('{"type":"turn.failed","error":{"message":"stream disconnected"}}')
    assert isinstance(failed, Result) and (failed.reason, failed.errors) == ("failed", ("stream disconnected",))


def test_what_gemini_may_write_has_to_be_trusted() -> None:
    for sandbox in ("workspace-write", "full"):
        with pytest.raises(OmiumError, match="told to trust"):
            CodingSpec("g", "gemini", sandbox=sandbox)  # type: ignore[arg-type]
        CodingSpec("g", "gemini", sandbox=sandbox, env={"GEMINI_CLI_TRUST_WORKSPACE": "true"})  # type: ignore[arg-type]


def test_codex_tells_the_sum_of_a_thread_that_goes_on() -> None:
    def turn(stream: CodexStream, tokens: int) -> Tokens:
        counts = {"input_tokens": tokens, "cached_input_tokens": 1, "output_tokens": 2}
        (result,) = stream.events_of(json.dumps({"type": "turn.completed", "usage": counts}))
        assert isinstance(result, Result)
        return result.tokens

    first = CodexStream()
    assert turn(first, 100) == Tokens(99, 2, 1)
    again = CodexStream(first.used)
    assert turn(again, 250) == Tokens(150, 0, 0)
    assert turn(CodexStream(again.used), 30) == Tokens(29, 2, 1)  # of that turn alone


def test_gemini() -> None:
    session = "0d6f2b6e-3a51-4a5a-8f7e-5d2d0a2b1c3d"
    assert events(GeminiStream().events_of, "gemini.jsonl") == [
        Begun(session, "gemini-2.5-pro"),
        Said("I look.", fragment=True),
        Used("run-1", "run_shell_command", {"command": "ls"}),
        Returned("run-1", "a.txt", False),
        Returned("run-2", "no such file", True),
        Retried(None, "Loop detected"),
        Said("There is ", fragment=True),
        Said("a.txt.", fragment=True),
        Result("", "There is a.txt.", session, 1, Tokens(1000, 300, 200), "gemini-2.5-pro"),
    ]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"subtype": "error_max_turns", "is_error": True}, "max_turns"),
        ({"subtype": "error_max_turns", "is_error": False}, "max_turns"),
        ({"subtype": "success", "is_error": True, "api_error_status": 500}, "api_error"),
        ({"subtype": "success", "is_error": True}, "failed"),
        ({"subtype": "success"}, "failed"),
        ({"subtype": "success", "is_error": "false"}, "failed"),
        ({"subtype": "error_during_execution", "is_error": True}, "during_execution"),
        ({"is_error": True, "errors": ["No conversation found with session ID: x"]}, "session_lost"),
        ({"subtype": "success", "is_error": False}, ""),
    ],
)
def test_only_a_result_that_says_so_is_a_success(result: dict[str, Any], reason: str) -> None:
    (event,) = protocol.events_of(json.dumps({"type": "result", **result}))
    assert isinstance(event, Result) and event.reason == reason and event.ok == (reason == "")


def test_a_request_that_was_cut_still_gets_an_answer() -> None:
    line = '{"type":"control_request","request_id":"r-9","request":{"subtype":"can_use_tool","input":{"content":"xxx'
    (asked,) = protocol.events_of(line + " [... line cut: 9000000 bytes in all]")
    assert asked == Asked("r-9", "other", what="a request of too many bytes")
    assert json.loads(protocol.refuse(Asked("r-9", "other"), "no"))["response"]["subtype"] == "error"


@given(st.dictionaries(KEYS, ANYTHING | st.dictionaries(KEYS, ANYTHING), max_size=6), st.sampled_from(TYPES))
def test_no_line_breaks_a_parser(message: dict[str, Any], kind: str) -> None:
    line = json.dumps({**message, "type": kind})
    for parse in (protocol.events_of, CodexStream().events_of, GeminiStream().events_of):
        for event in parse(line):
            assert not (isinstance(event, Result) and event.ok and parse == protocol.events_of)


@given(st.text())
def test_noise_is_no_event(line: str) -> None:
    for parse in (protocol.events_of, CodexStream().events_of, GeminiStream().events_of):
        assert all(isinstance(event, (Malformed, Unknown)) for event in parse(line))


# --- argument vectors ---------------------------------------------------------------------------------------------


def test_claudes_arguments_hold_no_prompt_and_skip_no_permission() -> None:
    spec = CodingSpec("c", "claude", model="sonnet", mcp=Path("/m.json"), system_prompt=Path("/s.md"))
    argv = claude.argv(spec, SESSION, "fork", "0199a213-81c0-7800-8aa1-bbab2a035a53")
    assert argv == [
        *("claude", "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
        *("--permission-prompt-tool", "stdio", "--setting-sources", "", "--strict-mcp-config"),
        *("--disable-slash-commands", "--tools", "Bash,Edit,Glob,Grep,NotebookEdit,Read,Write"),
        *("--session-id", SESSION, "--resume", "0199a213-81c0-7800-8aa1-bbab2a035a53", "--fork-session"),
        *("--model", "sonnet", "--max-turns", "100", "--mcp-config", "/m.json", "--append-system-prompt-file", "/s.md"),
    ]
    assert not any("dangerously" in one for one in claude.argv(CodingSpec("c", "claude"), SESSION, "new"))


def test_the_others_get_their_prompt_on_standard_input() -> None:
    first = codex.argv(CodingSpec("c", "codex", model="gpt-5-codex"), SESSION)
    assert first[:6] == ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write"]
    assert first[-5:] == ["--model", "gpt-5-codex", "resume", SESSION, "-"]
    second = gemini.argv(CodingSpec("g", "gemini", sandbox="read-only"), None)
    assert second == ["gemini", "--output-format", "stream-json", "--approval-mode", "plan"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "--dangerously-skip-permissions"},
        {"model": "a b"},
        {"program": "-rf"},
        {"program": "./claude"},
        {"tools": ("--x",)},
        {"tools": ("Bash,Edit",)},
        {"env": {"LD_PRELOAD": "/x.so"}},
        {"pass_env": ("NODE_OPTIONS",)},
        {"api_key_env": "OMIUM_X"},
    ],
)
def test_a_specification_that_would_become_a_flag_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OmiumError) as caught:
        CodingSpec("c", "claude", **wrong)
    assert caught.value.code == "invalid_definition"


def test_what_a_kind_does_not_have_is_refused() -> None:
    with pytest.raises(OmiumError, match="mcp, system_prompt"):
        CodingSpec("c", "codex", mcp=Path("/x"), system_prompt=Path("/y"))


# --- inputs and state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        {},
        {"prompt": ""},
        {"prompt": 7},
        {"prompt": "a\0b"},
        {"prompt": "\x1b[2J"},
        {"prompt": "x" * 1_000_001},
        {"prompt": "x", "model": "other"},
        {"prompt": "x", "session": SESSION},
        {"prompt": "x", "session": {"id": "--resume", "agent": "c", "cwd": "/"}},
        {"prompt": "x", "session": {"id": "../" + SESSION, "agent": "c", "cwd": "/"}},
        {"prompt": "x", "session": {"id": SESSION + "\n", "agent": "c", "cwd": "/"}},
    ],
)
def test_an_input_that_is_none_is_refused(inputs: Any) -> None:
    with pytest.raises(OmiumError) as caught:
        task_of(inputs)
    assert caught.value.code == "invalid_argument"


@given(st.text())
def test_only_an_id_can_stand_behind_resume(given_text: str) -> None:
    assert not is_session(given_text) or (len(given_text) == 36 and not given_text.startswith("-"))


def test_what_is_kept_comes_back() -> None:
    kept = Kept("claude", "c", "/w", SESSION, "proc_1", waiting=Waiting("toolu_1", "Bash(x)", left_open=True))
    kept.was_answered(kept.key_of("Bash", {"command": "ls"}))
    assert Kept.of(kept.as_value()) == kept
    assert kept.key_of("Bash", {"command": "ls"}).endswith(":2")
    with pytest.raises(OmiumError) as caught:
        Kept.of({**kept.as_value(), "format": 99})
    assert caught.value.code == "unsupported"


def test_a_known_model_has_a_price_and_an_unknown_one_has_none() -> None:
    assert cost_usd("claude", "claude-sonnet-4-5", Tokens(1_000_000, 100_000)) == pytest.approx(4.5)
    cheaper = cost_usd("claude", "claude-sonnet-4-5", Tokens(0, 100_000, cache_read=1_000_000))
    assert cheaper == pytest.approx(1.8)
    assert cost_usd("claude", "no-such-model", Tokens(1, 1)) is None
    assert cost_usd("codex", None, Tokens(1, 1)) is None


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "a/.ENV", "id_rsa", "x.pem", "secrets.yaml", ".netrc", "../x", "/etc/passwd", ".git/config"],
)
def test_no_credential_and_no_path_outside_is_copied(name: str) -> None:
    with pytest.raises(OmiumError) as caught:
        check_config(name)
    assert caught.value.code == "invalid_argument"


def test_a_copied_file_replaces_nothing_and_follows_no_link(tmp_path: Path) -> None:
    workspace, source, outside = tmp_path / "w", tmp_path / "s", tmp_path / "outside"
    workspace.mkdir()
    outside.mkdir()
    source.write_text("ours")
    (workspace / "there").write_text("theirs")
    (workspace / "link").symlink_to(outside)
    copy_configs([("there", source), ("deep/new", source)], workspace)
    assert (workspace / "there").read_text() == "theirs"
    assert (workspace / "deep" / "new").read_text() == "ours"
    with pytest.raises(OmiumError) as caught:
        copy_configs([("link/x", source)], workspace)
    assert caught.value.code == "workspace" and list(outside.iterdir()) == []
