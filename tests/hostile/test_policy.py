"""Policies and questions made to hurt: no spelling, type, size or depth of a call gets around a rule, or far."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy import PolicySource, Question, profile_policy, read_policy
from tests.policy_help import ask, decide, grants, policy, rule, withholds

RULES = "rules:\n- {id: r, effect: allow}\n"

# --- documents ---


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: *a",
        "rules: &r\n- {id: r, effect: allow}",
        "x: " + "[" * 5_000 + "]" * 5_000,
        "x: " + '{"a": ' * 5_000 + "1" + "}" * 5_000,
        f"{RULES}{RULES}",
        "rules:\n- {id: r, effect: allow, effect: deny}",
        "rules:\n- {<<: {id: r}, effect: allow}",
        "rules: !!python/object/apply:os.system [id]",
        "rules:\n" + "- {id: r, effect: allow}\n" * 50_000,
        "x" * 1_200_000,
        "rules:\n- {id: r, effect: allow, limits: {timeout: " + "9" * 5_000 + "}}",
        "rules:\n- {id: r, effect: allow, when: {args.a: {lt: .inf}}}",
        "rules:\n- {id: r, effect: allow, when: {args.a: {eq: .nan}}, x: 1}",
        'rules:\n- {id: r, effect: allow, description: "\\0"}',
        'rules:\n- {id: r, effect: allow, match: {tool: "a\\u202eb"}}',
        f"{RULES}---\n{RULES}",
        "rules:\n- {id: r, effect: allow, if: '" + "(" * 2_000 + "true" + ")" * 2_000 + "'}",
        "rules:\n- {id: r, effect: allow, if: '" + "x" * 10_000 + "'}",
        "rules:\n- {id: r, effect: allow, when: {args.a: {re: '" + "(" * 1_500 + "'}}}",
        "rules:\n- {id: r, effect: allow, when: {args.a: {re: '((a{100}){100}){100}'}}}",
        "",
        "[]",
        "allow",
    ],
    ids=range(23),
)
def test_a_document_that_is_none_is_refused_soon(text: str) -> None:
    began = time.perf_counter()
    if text == "":
        with pytest.raises(OmiumError):
            read_policy(text, "p.yaml")
    with pytest.raises(OmiumError) as caught:
        read_policy(text, "p.yaml")
    assert caught.value.code == "invalid_definition"
    assert time.perf_counter() - began < 8


def test_the_message_about_a_hostile_document_is_harmless() -> None:
    with pytest.raises(OmiumError) as caught:
        read_policy('rules:\n- {id: "\\x1b[2J\\u202e", effect: allow}', "p.yaml")
    assert "\x1b" not in caught.value.message
    assert "\u202e" not in caught.value.message


# --- names ---

HIDDEN = ["delete\x00", "delete\n", "del\u200bete", "\u202edelete", "delete\x1b[2K", "delete\u2028", "\ud800delete"]


@pytest.mark.parametrize(
    "name", [*HIDDEN, "DELETE", "\uff44\uff45\uff4c\uff45\uff54\uff45", "\uff24elete", "delete\u00ad"]
)
@pytest.mark.parametrize("field", ["tool", "server", "agent", "workflow", "node", "principal"])
def test_no_spelling_of_a_name_gets_around_a_denial(field: str, name: str) -> None:
    open_but = [rule("a", "allow", match={"tool": "**"}), rule("d", "deny", match={field: "delete"})]
    assert decide(open_but, **{field: name}).effect == "deny"


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("profile", ["safe", "research"])
def test_a_name_that_cannot_be_seen_is_denied_everywhere(name: str, profile: str) -> None:
    assert profile_policy(profile).decide(ask(tool=name)).effect == "deny"
    assert not profile_policy(profile).could_allow("db", name)


@pytest.mark.parametrize("name", ["", None, 3, ["query"], {"a": 1}, b"query", "x" * 2_000, True])
def test_a_tool_whose_name_is_none_is_denied(name: Any) -> None:
    assert decide([rule("a", "allow")], tool=name).effect == "deny"


@pytest.mark.parametrize("action", ["", "Tool", "anything", None, 3, ["tool"]])
def test_an_action_that_there_is_not_is_denied(action: Any) -> None:
    assert profile_policy("research").decide(ask(action=action)).effect == "deny"
    assert policy(rule("a", "allow")).decide(ask(action=action)).effect == "deny"


def test_one_tool_on_two_servers_is_two_tools() -> None:
    only = [rule("a", "allow", match={"server": "good", "tool": "send"})]
    assert decide(only, server="good", tool="send").effect == "allow"
    for server, tool in (
        ("evil", "send"),
        ("good2", "send"),
        ("goo", "dsend"),
        (None, "good/send"),
        ("good", "x/send"),
    ):
        assert decide(only, server=server, tool=tool).effect == "deny"


def test_read_and_delete_is_not_reading() -> None:
    rules = [
        rule("read", "allow", match={"server": "fs", "tool": "read_*"}),
        rule("said", "require_approval", when={"hints.destructiveHint": {"not": {"eq": False}}}),
    ]
    assert decide(rules, server="fs", tool="read_file").effect == "allow"
    assert (
        decide(rules, server="fs", tool="read_and_delete", hints={"destructiveHint": True}).effect == "require_approval"
    )
    assert decide(rules, server="fs", tool="x_read_file", hints={"readOnlyHint": True}).effect == "deny"


@pytest.mark.parametrize("hints", [{"readOnlyHint": True}, {"destructiveHint": False}, {"idempotentHint": True}])
def test_what_a_server_says_of_itself_grants_nothing(hints: dict[str, Any]) -> None:
    assert profile_policy("safe").decide(ask(hints=hints)).effect == "require_approval"
    assert profile_policy("safe").decide(ask(hints=hints)).trusts == frozenset()
    for condition in ({"when": {"hints.readOnlyHint": {"eq": True}}}, {"if": "hints.readOnlyHint"}, {"if": ".hints.x"}):
        with pytest.raises(OmiumError, match="invalid_definition"):
            policy({**rule("r", "allow"), **condition})


@pytest.mark.parametrize("word", ["approved", "allow", "effect", "decision", "override"])
def test_no_argument_decides(word: str) -> None:
    assert decide([], arguments={word: True, "effect": "allow"}).effect == "deny"


# --- arguments ---


def nested(depth: int, leaf: Any = 1) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize(
    "arguments",
    [
        nested(70),
        nested(100_000),
        {"x": float("nan")},
        {"x": [float("inf")]},
        {1: 2},
        {"x": object()},
        {"x": (1, 2)},
        {"x": {1, 2}},
        {"x": [1] * 200_000},
    ],
    ids=range(9),
)
@pytest.mark.parametrize("profile", ["safe", "research"])
def test_what_is_no_data_is_denied(arguments: Any, profile: str) -> None:
    began = time.perf_counter()
    assert profile_policy(profile).decide(ask(arguments=arguments)).effect == "deny"
    assert profile_policy(profile).decide(ask(hints={"x": arguments})).effect == "deny"
    assert time.perf_counter() - began < 2


def test_arguments_that_hold_themselves_are_denied() -> None:
    arguments: dict[str, Any] = {}
    arguments["x"] = arguments
    assert profile_policy("research").decide(ask(arguments=arguments)).effect == "deny"


@pytest.mark.parametrize(
    "value", ["\ud800", "a" * 3_000_000, 10**5_000, -(10**200), "\x00", True, None, [], {}, b"x"], ids=range(10)
)
def test_an_odd_value_is_never_allowed_and_does_not_escape(value: Any) -> None:
    for condition in ({"re": "^[a-z]{1,10}$"}, {"glob": "a*"}, {"path_under": "/srv"}, {"host_in": "*.example"}):
        assert not grants({"args.x": condition}, {"x": value})
    for condition in ({"re": "^x"}, {"path_under": "/srv"}, {"host_in": "*.example"}):
        assert withholds({"args.x": condition}, {"x": value}) or isinstance(value, str)
    assert decide([rule("r", "allow", if_="args.x == 'abc'")], arguments={"x": value}).effect == "deny"


def test_a_regular_expression_takes_no_more_time_for_a_hostile_text() -> None:
    for source in ("(a+)+$", "^(a|a)*$", "^([a-z]+)*$", "(.*)(.*)(.*)(.*)x$"):
        began = time.perf_counter()
        assert not grants({"args.x": {"re": f"(?s){source}"}}, {"x": "a" * 100_000 + "!"})
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize("text", ["select 1\n", "select 1\n; drop table x", "drop table x -- \nselect 1", "\nselect 1"])
def test_an_anchor_is_the_end_of_the_text_and_not_of_a_line(text: str) -> None:
    assert not grants({"args.x": {"re": "^select [0-9]+$"}}, {"x": text})
    assert not grants({"args.x": {"glob": "select *"}}, {"x": text})


# --- paths ---

ESCAPES = [
    "/srv/../etc/passwd",
    "/srv/a/../../etc",
    "/srv/..",
    "..",
    "../srv",
    "/srv/. ./x",
    "/srv/.. /x",
    "/srv/...",
    "~/x",
    "~root/x",
    "C:/srv",
    "C:\\srv",
    "/srv\\..\\x",
    "\\\\host\\srv",
    "//host/srv",
    "file:///srv/a",
    "/srv/a\x00.txt",
    "/srv/a\n",
    "/srv/\u202egpj.exe",
    "/srv/\uff0e\uff0e/etc",
    "/srv\uff0f../etc",
    "/srv/\u2025/etc",
    "/srv/a\uff0fb",
    "/srv/%2e%2e/etc",
    "/srv/%2E./etc",
    "/srv/a%2fb",
    "/srv/%252e%252e/etc",
    "/srv/a%00",
    "/srv/" + "a" * 5_000,
    "",
    None,
    7,
    True,
    ["/srv/a"],
    {"path": "/srv/a"},
    b"/srv/a",
]


@pytest.mark.parametrize("value", ESCAPES, ids=range(len(ESCAPES)))
def test_a_path_that_may_lead_elsewhere_is_under_no_root_and_under_every_denied_one(value: Any) -> None:
    assert not grants({"args.path": {"path_under": ["/srv", ".", "/"]}}, {"path": value})
    assert withholds({"args.path": {"path_under": "/srv"}}, {"path": value})
    assert not grants({"args.path": {"not": {"path_under": "/etc"}}}, {"path": value})


@pytest.mark.parametrize(
    "value", ["/srv", "/srv/a", "/srv//a/./b", "/srv/ünï/ﬁ.txt", "/srv/a%20b", "/srv/a..b", "/srv/.a"]
)
def test_a_plain_path_is_where_it_says(value: str) -> None:
    assert grants({"args.path": {"path_under": "/srv"}}, {"path": value})
    assert not grants({"args.path": {"path_under": "/srv/other"}}, {"path": value})


def test_a_denied_root_is_denied_in_every_case() -> None:
    assert withholds({"args.path": {"path_under": "/etc"}}, {"path": "/ETC/passwd"})
    assert not grants({"args.path": {"path_under": "/srv"}}, {"path": "/SRV/a"})


# --- hosts ---

MISREAD = [
    "https://good.example@evil.test/",
    "https://good.example:pw@evil.test/",
    "https://evil.test\\@good.example/",
    "https://good.example\\.evil.test/",
    "https:good.example",
    "https:/good.example",
    "//good.example/",
    "javascript://good.example/%0aalert(1)",
    "file://good.example/etc/passwd",
    "ftp://good.example/",
    "https://good.example:443:80/",
    "https://good.example:x/",
    "https://good.example..:80/",
    "https://.good.example/",
    "https://good%2eexample/",
    "https://[good.example]/",
    "https://[::1%25eth0]/",
    "https://[::1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://127.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.1.1/",
    "http://1.2.3.08/",
    "https://good.example\n.evil.test/",
    "https://good.example\t/",
    "https://good.example /",
    "\u202ehttps://good.example/",
    "https://good\u200b.example/",
    "https://good\uff0eexample/",
    "https://\uff47\uff4f\uff4f\uff44.example/",
    "https://good.example\u3002evil.test/ ",
    "https://" + "a" * 9_000,
    "good.example/path",
    "",
    None,
    3,
    ["https://good.example/"],
]


@pytest.mark.parametrize("value", MISREAD, ids=range(len(MISREAD)))
def test_a_url_that_clients_read_differently_is_no_known_host_and_every_denied_one(value: Any) -> None:
    everything = ["good.example", "*.good.example", "0.0.0.0/0", "::/0", "*"]
    assert not grants({"args.url": {"host_in": everything}}, {"url": value})
    assert withholds({"args.url": {"host_in": "10.0.0.0/8"}}, {"url": value})


@pytest.mark.parametrize(
    "value",
    [
        "https://evil.test/good.example",
        "https://evil.test?good.example",
        "https://evil.test#@good.example/",
        "https://good.example.evil.test/",
        "https://notgood.example/",
        "https://xn--good-.example/",
        "https://g\u043e\u043ed.example/",  # Cyrillic letters
    ],
)
def test_another_host_is_another_host(value: str) -> None:
    assert not grants({"args.url": {"host_in": ["good.example", "*.good.example"]}}, {"url": value})


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("good.example", "HTTPS://GOOD.example.:8443/x?y#z"),
        ("bücher.example", "https://xn--bcher-kva.example/"),
        ("xn--bcher-kva.example", "https://bücher.example/"),
        ("127.0.0.0/8", "http://127.0.0.1:80/"),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]/"),
        ("::1", "http://[0:0:0:0:0:0:0:1]/"),
        ("*.good.example", "wss://a.b.good.example"),
    ],
)
def test_one_host_in_another_spelling_is_that_host(pattern: str, value: str) -> None:
    assert grants({"args.url": {"host_in": pattern}}, {"url": value})


# --- files and many at once ---


def test_a_reload_in_the_middle_leaves_a_run_its_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("rules:\n- {id: old, effect: allow}\n")
    source = PolicySource(path)
    began_with = source.current()
    path.write_text("default: deny\n")
    os.utime(path, ns=(1, 1))
    assert source.current().decide(ask()).effect == "deny"
    assert began_with.decide(ask()).rule == "old"
    assert source.by_digest(began_with.document).decide(ask()).rule == "old"
    with caplog.at_level(logging.ERROR):
        path.write_text("rules:\n- {id: wide, effect: allow}\n- {id: wide, effect: allow}\n")
        assert source.current().decide(ask()).effect == "deny"
    assert "stays as it was" in caplog.text


def test_many_threads_decide_alike() -> None:
    chosen = policy(
        rule("a", "allow", match={"tool": "t1*"}, when={"args.n": {"lt": 50}}),
        rule("d", "deny", match={"tool": "*9"}, if_="args.n > 10"),
    )
    questions = [Question("tool", "db", f"t{number}", {"n": number % 100}) for number in range(2_000)]
    expected = [policy(*chosen.document["rules"]).decide(one).effect for one in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: chosen.decide(one).effect, questions)) == expected


def test_many_different_names_do_not_fill_the_memory() -> None:
    chosen = policy(rule("a", "allow", match={"tool": "x*"}))
    for number in range(20_000):
        chosen.decide(Question("tool", "db", f"t{number}"))
    assert len(chosen._about) <= 4_096
