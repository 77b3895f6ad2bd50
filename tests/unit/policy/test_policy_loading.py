"""Files of policies: what they may say, and how they say what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy import PolicySource, load_policy, policy_of, profile_policy, read_policy
from omium.orchestration.gates.policy.schema import API_VERSION, byte_count, rate
from tests.policy_help import ask, policy, rule

R = "rules:\n- id: r\n  effect: allow\n"
BAD = [
    ("rulez: []", 1, "rulez", "'rules'"),
    ("default: perhaps", 1, "default", "'allow'"),
    ("apiVersion: omium.dev/policy/v2", 1, "apiVersion", API_VERSION),
    ("default: deny\ndefault: allow", 2, "default", "keys that differ"),
    (f"{R}- id: r\n  effect: deny", None, "", "ids that differ"),
    (f"{R}  match: {{tol: x}}", 4, "rules[0].match.tol", "'tool'"),
    (f"{R}  match: {{action: tools}}", 4, "rules[0].match.action[0]", "'tool'"),
    (f"{R}  match: {{tool: ''}}", 4, "rules[0].match.tool[0]", "a name or a glob"),
    (f"{R}  match: {{tool: []}}", 4, "rules[0].match.tool", "1"),
    (f"{R}  match: {{tool: 'a***'}}", 4, "rules[0].match.tool[0]", "* or **"),
    (f"{R}  when: {{sql: {{eq: 1}}}}", 4, "rules[0].when.sql", "args.NAME"),
    (f"{R}  when: {{args.: {{eq: 1}}}}", 4, "rules[0].when.args.", ".name"),
    (f"{R}  when: {{args.a: {{}}}}", 4, "rules[0].when.args.a", "eq, in, re"),
    (f"{R}  when: {{args.a: {{equals: 1}}}}", 4, "rules[0].when.args.a.equals", ""),
    (f"{R}  when: {{args.a: {{re: null}}}}", 4, "rules[0].when.args.a", "a value"),
    (f"{R}  when: {{args.a: {{re: '(a)\\1'}}}}", 4, "rules[0].when.args.a.re[0]", "look-around"),
    (f"{R}  when: {{args.a: {{re: '(?=a)'}}}}", 4, "rules[0].when.args.a.re[0]", "look-around"),
    (f"{R}  when: {{args.a: {{path_under: /srv/../etc}}}}", 4, "rules[0].when.args.a.path_under[0]", "/srv/data"),
    (f"{R}  when: {{args.a: {{path_under: '~/x'}}}}", 4, "rules[0].when.args.a.path_under[0]", "/srv/data"),
    (f"{R}  when: {{args.a: {{host_in: 'http://a/'}}}}", 4, "rules[0].when.args.a.host_in[0]", "a network"),
    (f"{R}  when: {{args.a: {{host_in: '127.1'}}}}", 4, "rules[0].when.args.a.host_in[0]", "a network"),
    (f"{R}  when: {{args.a: {{size: {{}}}}}}", 4, "rules[0].when.args.a.size", "min, max or both"),
    (f"{R}  when: {{args.a: {{lt: '3'}}}}", 4, "rules[0].when.args.a.lt.int", "integer"),
    (f"{R}  when: {{args.a: {{lt: true}}}}", 4, "rules[0].when.args.a.lt.int", "integer"),
    (f"{R}  when: {{args.a: {{absent: true, eq: 1}}}}", 4, "rules[0].when.args.a", "alone"),
    (f"{R}  when: {{args.a: {{not: {{absent: true}}}}}}", 4, "rules[0].when.args.a", "the other one"),
    (f"{R}  when: {{hints.readOnlyHint: {{eq: true}}}}", 2, "rules[0]", "a condition on arguments"),
    (f"{R}  if: hints.readOnlyHint == true", 4, "rules[0].if", "CEL over args"),
    (f"{R}  if: arg.x == 1", 4, "rules[0].if", "CEL over args"),
    (f"{R}  if: 1 + 'a' == 2", 4, "rules[0].if", "CEL over args"),
    (f"{R}  if: size(args)", 4, "rules[0].if", "true or false"),
    (f"{R}  if: '{'(' * 200}true{')' * 200}'", 4, "rules[0].if", "CEL over args"),
    (f"{R}  during: {{from: '09:00', to: '09:00'}}", 4, "rules[0].during", "differ"),
    (f"{R}  during: {{from: 9}}", 4, "rules[0].during.from", "string"),
    (f"{R}  during: {{to: '24:01'}}", 4, "rules[0].during", "time of day"),
    (f"{R}  during: {{zone: Mars/Olympus}}", 4, "rules[0].during.zone", "Europe/Berlin"),
    (f"{R}  limits: {{rate: 60}}", 4, "rules[0].limits.rate", "60/m"),
    (f"{R}  limits: {{timeout: 0}}", 4, "rules[0].limits.timeout", "more than 0"),
    (f"{R}  limits: {{output_bytes: 1 MB}}", 4, "rules[0].limits.output_bytes", "256k"),
    (f"{R}  limits: {{run_budget_usd: -1}}", 4, "rules[0].limits.run_budget_usd", ""),
    (f"{R}  trusts: [readonly]", 4, "rules[0].trusts[0]", "read_only"),
    (f"{R}  approval: {{ttl: 1h}}", 2, "rules[0]", "effect: require_approval"),
    ("rules:\n- {id: r, effect: deny, limits: {timeout: 1}}", 2, "rules[0]", "no limits"),
    ("rules:\n- {id: r, effect: deny, redact: [secrets]}", 2, "rules[0]", "no redact"),
    ("rules:\n- {id: r, effect: deny, trusts: [read_only]}", 2, "rules[0]", "no trusts"),
    ("rules:\n- {id: 'a b', effect: deny}", 2, "rules[0].id", "letters"),
    ("profile: wild", 1, "profile", "'safe'"),
    ("rules:\n- {id: a, <<: {effect: allow}}", 2, "rules[0].<<", "the keys themselves"),
]


@pytest.mark.parametrize(("text", "line", "path", "expected"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_said_with_its_place(text: str, line: int | None, path: str, expected: str) -> None:
    with pytest.raises(OmiumError) as caught:
        read_policy(text, "p.yaml")
    assert caught.value.code == "invalid_definition"
    problems = caught.value.data["problems"]
    assert any(expected in one["expected"] or expected in one["message"] for one in problems), problems
    assert any(one["path"].startswith(path) for one in problems), problems
    assert all(one["file"] == "p.yaml" for one in problems)
    if line is not None:
        assert line in [one["line"] for one in problems]


def test_everything_is_said_at_once() -> None:
    with pytest.raises(OmiumError) as caught:
        read_policy("nope: 1\ndefault: x\nrules:\n- id: r\n", "p.yaml")
    assert len(caught.value.data["problems"]) == 3


def test_yaml_words_are_what_they_are() -> None:
    found = policy(rule("on", "allow", when={"args.flag": {"eq": "no"}}))
    assert found.decide(ask(arguments={"flag": "no"})).effect == "allow"
    text = "rules:\n- {id: on, effect: allow, when: {args.flag: {eq: no}}}"
    assert read_policy(text, "p").decide(ask(arguments={"flag": "no"})).effect == "allow"
    assert read_policy(text, "p").decide(ask(arguments={"flag": False})).effect == "deny"


def test_json_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"rules": [{"id": "r", "effect": "allow"}]}')
    (tmp_path / "p.yaml").write_text("rules:\n- {id: r, effect: allow}\n")
    assert load_policy(tmp_path / "p.json").digest == load_policy(tmp_path / "p.yaml").digest
    with pytest.raises(OmiumError) as caught:
        load_policy(tmp_path / "none.yaml")
    assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60/m", (60, 60.0)),
        ("5/s", (5, 1.0)),
        ("100/10m", (100, 600.0)),
        ("1/2h", (1, 7200.0)),
        ("9/7d", (9, 604_800.0)),
    ],
)
def test_rates(text: str, value: tuple[int, float]) -> None:
    assert rate(text) == rate(list(value)) == value


@pytest.mark.parametrize(
    "text", ["0/m", "m", "1/", "60/m\n", "-1/s", "1/w", "1/8d", [1, 1e6], 5, None, [0, 1], [1, 0], [True, 1]]
)
def test_what_is_no_rate(text: Any) -> None:
    with pytest.raises(ValueError, match="rate"):
        rate(text)


@pytest.mark.parametrize(("text", "value"), [("256k", 262_144), ("2M", 2_097_152), ("0", 0), (7, 7), ("1g", 2**30)])
def test_sizes(text: Any, value: int) -> None:
    assert byte_count(text) == value


@pytest.mark.parametrize("text", ["1 k", "1kb", "-2", -1, True, "1k\n", 1.5])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        byte_count(text)


def test_plain_data_is_checked_like_a_file() -> None:
    for value in ({"rules": [{"id": "r", "effect": "allow", "when": {"args.a": {"eq": float("nan")}}}]}, {"x": {1: 2}}):
        with pytest.raises(OmiumError, match="invalid_definition"):
            policy_of(value)
    deep: Any = 1
    for _ in range(200):
        deep = {"not": deep}
    with pytest.raises(OmiumError, match="nested deeper"):
        policy_of({"rules": [{"id": "r", "effect": "allow", "when": {"args.a": deep}}]})
    with pytest.raises(OmiumError, match="not_found"):
        profile_policy("wild")


CONDITIONS = st.one_of(
    st.builds(lambda value: {"eq": value}, st.none() | st.booleans() | st.integers() | st.text("ab", max_size=3)),
    st.builds(lambda values: {"in": values}, st.lists(st.integers() | st.text("ab"), min_size=1, max_size=3)),
    st.builds(
        lambda low, high: {"ge": low, "lt": high}, st.integers(), st.floats(allow_nan=False, allow_infinity=False)
    ),
    st.sampled_from(
        [{"re": "^a$"}, {"glob": ["a*", "b"]}, {"path_under": "/srv"}, {"size": {"max": "1k"}}, {"exists": True}]
    ),
)
RULES = st.builds(
    lambda number, effect, tool, when, extra: {
        "id": f"r{number}",
        "effect": effect,
        "match": {"tool": tool},
        "when": when,
        **({} if effect == "deny" else extra),
    },
    st.integers(0, 10**6),
    st.sampled_from(["allow", "deny", "require_approval"]),
    st.sampled_from(["a", ["a", "b*"], "**"]),
    st.dictionaries(st.sampled_from(["args.a", "args.b[*]", 'args["c.d"]']), CONDITIONS, max_size=2),
    st.sampled_from([{}, {"limits": {"rate": "5/m", "timeout": 3}}, {"redact": ["x"], "trusts": ["read_only"]}]),
)


@given(st.lists(RULES, max_size=5, unique_by=lambda one: one["id"]), st.sampled_from(["deny", "allow", None]))
def test_a_document_gives_the_very_same_policy_again(rules: list[dict[str, Any]], default: str | None) -> None:
    found = policy(*rules, **({"default": default} if default else {}))
    again = policy_of(found.document)
    assert (again.digest, again.document) == (found.digest, found.document)


# --- where a process gets policies from ---


class Clock:
    """Nanoseconds, long after every file was changed unless it is told otherwise."""

    def __init__(self) -> None:
        self.ns = 10**19

    def __call__(self) -> int:
        return self.ns


def written(path: Path, text: str, at: int) -> Path:
    path.write_text(text)
    os.utime(path, ns=(at, at))
    return path


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = written(tmp_path / "p.yaml", "default: deny", 10**18)
    source = PolicySource(path, now_ns=Clock())
    first = source.current()
    assert (first.default, source.current().digest) == ("deny", first.digest)
    written(path, "default: allow", 10**18 + 1)
    assert source.current().default == "allow"
    assert source.known(first.digest) is not None  # runs that began before keep theirs
    assert source.by_digest(first.document).default == "deny"


def test_a_change_that_does_not_show_in_the_time_of_a_young_file_is_seen(tmp_path: Path) -> None:
    clock = Clock()
    clock.ns = 10**18 + 10**9
    path = written(tmp_path / "p.yaml", "default: allow", 10**18)
    source = PolicySource(path, now_ns=clock)
    assert source.current().default == "allow"
    path.write_text("default: deny ")  # as long as before
    os.utime(path, ns=(10**18, 10**18))
    assert source.current().default == "deny"


@pytest.mark.parametrize("breaks", ["default: [", "defaults: deny", None])
def test_a_broken_edit_leaves_the_last_good_one_and_says_so(
    breaks: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "p.yaml", "default: allow", 10**18)
    source = PolicySource(path, now_ns=Clock())
    good = source.current().digest
    assert source.problems == ()
    if breaks is None:
        path.unlink()
    else:
        written(path, breaks, 10**18 + 1)
    assert source.current().digest == good
    assert source.current().digest == good
    assert len(source.problems) == 1
    assert sum("stays as it was" in one.message for one in caplog.records) == 1
    written(path, "default: deny", 10**18 + 2)
    assert source.current().default == "deny"
    assert source.problems == ()


def test_a_file_that_is_broken_from_the_beginning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OmiumError, match="not_found"):
        PolicySource(tmp_path / "none.yaml")
    with pytest.raises(OmiumError, match="invalid_definition"):
        PolicySource(written(tmp_path / "p.yaml", "x: 1", 1))


def test_without_anything_safe_holds() -> None:
    assert PolicySource().current().digest == profile_policy("safe").digest


def test_recorded_versions_are_compiled_once_and_shadowed_by_the_present_shadow(tmp_path: Path) -> None:
    shadow = written(tmp_path / "s.yaml", "default: deny", 10**18)
    source = PolicySource(policy(default="allow"), shadow, now_ns=Clock())
    recorded = policy(rule("old", "allow"))
    found = source.by_digest(recorded.document)
    assert found.rules[0] is source.by_digest(recorded.document).rules[0]
    told = found.decide(ask()).shadow
    assert told is not None and told.effect == "deny"
    written(shadow, "default: allow", 10**18 + 1)
    assert source.current().decide(ask()).shadow is None
    with pytest.raises(OmiumError, match="invalid_definition"):
        source.by_digest({"rules": "none"})
    assert source.known(policy(rule("never", "deny")).digest) is None
