"""Which rules apply, what they say together, and what happens when one cannot tell."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from typing import Any

import pytest

from omium.orchestration.gates.policy import ApprovalTerms, Policy, Question, policy_of, profile_policy, question_from
from omium.orchestration.gates.policy.model import limits_dict
from omium.orchestration.gates.policy.policy import digest_of
from omium.orchestration.ports_calls import Limits
from tests.policy_help import ask, decide, policy, rule

ALLOW, ASK, DENY = rule("a", "allow"), rule("q", "require_approval"), rule("d", "deny")


@pytest.mark.parametrize("rules", list(permutations([ALLOW, ASK, DENY])))
def test_deny_goes_before_asking_goes_before_allow_in_any_order(rules: tuple[dict[str, Any], ...]) -> None:
    assert decide(list(rules)).rule == "d"
    assert decide([one for one in rules if one is not DENY]).effect == "require_approval"
    assert decide([ALLOW]).effect == "allow"


def test_nothing_is_allowed_by_itself() -> None:
    found = decide([])
    assert (found.effect, found.rule) == ("deny", None)
    assert decide([rule("a", "allow", match={"server": "other"})]).effect == "deny"


def test_the_first_rule_of_the_effect_gives_its_name_and_description() -> None:
    found = decide([rule("a1", "allow"), rule("d1", "deny", description="No."), rule("d2", "deny")])
    assert (found.rule, found.reason) == ("d1", "No.")


def test_what_hides_behind_a_nul_is_not_overlooked_by_an_expression() -> None:
    hidden = {"sql": "select 1\0; drop table users"}
    only = rule("a", "allow", if_="args.sql == 'select 1'")
    assert decide([only]).effect == "allow" and decide([only], arguments=hidden).effect == "deny"
    dropping = rule("d", "deny", if_="args.sql.contains('drop')")
    assert decide([ALLOW, dropping]).effect == "allow"
    assert decide([ALLOW, dropping], arguments=hidden).rule == "d"


def test_the_example_of_the_documentation() -> None:
    write = rule(
        "sql-write",
        "require_approval",
        match={"server": "db", "tool": "query"},
        when={"args.sql": {"re": r"(?i)^\s*(update|delete|insert|drop)"}},
        approval={"min_assurance": "out_of_band", "ttl": "15m"},
    )
    read = rule(
        "db-read",
        "allow",
        match={"server": "db", "tool": "query"},
        limits={"rate": "60/m", "output_bytes": "256k", "timeout": "30s", "run_budget_usd": 5},
        redact=["secrets", "email"],
    )
    found = decide([write, read])
    assert (found.effect, found.rule) == ("allow", "db-read")
    assert found.limits == Limits(30.0, 256 * 1024, (60, 60.0), 5.0)
    assert (found.redact, found.rate_rule, found.approval) == (("secrets", "email"), "db-read", None)
    found = decide([write, read], arguments={"sql": "\n DROP table users"})
    assert (found.effect, found.rule) == ("require_approval", "sql-write")
    assert found.approval == ApprovalTerms("out_of_band", 900.0)
    assert found.limits.output_bytes == 256 * 1024


def test_limits_of_all_rules_that_apply_go_together() -> None:
    rules = [
        rule("a", "allow", limits={"timeout": 10, "rate": "100/m", "run_budget_usd": 2}, redact="email"),
        rule("b", "allow", limits={"timeout": 5, "rate": "1/s", "output_bytes": 10}, redact=["secrets", "email"]),
        rule("c", "allow", match={"tool": "other"}, limits={"timeout": 1}),
        rule("t", "allow", trusts=["idempotent"]),
    ]
    found = decide(rules)
    assert found.limits == Limits(5.0, 10, (1, 1.0), 2.0)
    assert (found.rate_rule, found.redact, found.trusts) == ("b", ("email", "secrets"), frozenset({"idempotent"}))


def test_limits_of_the_policy_hold_for_whatever_is_not_denied() -> None:
    base = {"limits": {"rate": "1/h", "timeout": 7}, "redact": ["secrets"], "default": "allow"}
    found = policy(rule("a", "allow", limits={"rate": "9/m", "timeout": 3}), **base).decide(ask())
    assert (found.limits, found.rate_rule, found.redact) == (Limits(3.0, None, (1, 3600.0)), None, ("secrets",))
    found = policy(**base).decide(ask())
    assert (found.effect, found.limits.timeout_s, found.redact) == ("allow", 7.0, ("secrets",))
    denied = policy(DENY, **base).decide(ask())
    assert (denied.limits, denied.redact) == (Limits(), ())


def test_of_two_terms_the_stricter_hold() -> None:
    rules = [
        rule("one", "require_approval", approval={"min_assurance": "separate_identity", "ttl": "2h"}),
        rule("two", "require_approval", approval={"min_assurance": "elicited", "ttl": "1h"}),
        rule("a", "allow"),
    ]
    assert decide(rules).approval == ApprovalTerms("separate_identity", 3600.0)
    assert decide([ASK]).approval == ApprovalTerms("elicited", 86_400.0)
    terms = {"default": "require_approval", "approval": {"min_assurance": "signed", "ttl": 60}}
    assert policy(**terms).decide(ask()).approval == ApprovalTerms("signed", 60.0)


@pytest.mark.parametrize("field", ["action", "server", "tool", "agent", "workflow", "node", "principal"])
def test_every_name_is_matched(field: str) -> None:
    keys = dict.fromkeys(("agent", "workflow", "node", "principal"), "x")
    keys |= {"server": "x", "tool": "x", "action": "tool"}
    wanted = {"action": "tool"} if field == "action" else {field: "x"}
    assert decide([rule("r", "allow", match=wanted)], **keys).effect == "allow"
    other = {**keys, field: "model" if field == "action" else "y"}
    assert decide([rule("r", "allow", match=wanted)], **other).effect == "deny"
    if field not in ("action", "tool"):
        assert decide([rule("r", "allow", match={field: "*"})], **{**keys, field: None}).effect == "deny"


def test_several_keys_of_a_match_hold_together_and_several_globs_as_alternatives() -> None:
    only = [rule("r", "allow", match={"server": ["db", "fs"], "tool": "query"})]
    assert decide(only).effect == decide(only, server="fs").effect == "allow"
    assert decide(only, tool="other").effect == decide(only, server="web").effect == "deny"


# --- what cannot be told --------------------------------------------------------------------------------------------

UNCLEAR = {"args.sql": {"re": "x"}}  # of a list: who knows what becomes of it


@pytest.mark.parametrize(("effect", "expected"), [("deny", "deny"), ("require_approval", "require_approval")])
def test_a_rule_that_withholds_applies_when_it_cannot_be_evaluated(effect: str, expected: str) -> None:
    found = decide([ALLOW, rule("r", effect, when=UNCLEAR)], arguments={"sql": ["x"]})
    assert (found.effect, found.rule) == (expected, "r")
    assert "cannot be evaluated" in found.reason
    assert found.warnings


def test_a_rule_that_allows_does_not() -> None:
    found = decide([rule("r", "allow", when=UNCLEAR, trusts=["read_only"])], arguments={"sql": ["x"]})
    assert (found.effect, found.rule, found.trusts) == ("deny", None, frozenset())


def test_a_condition_that_does_not_hold_settles_it() -> None:
    """Else one odd argument would make every rule of a tool apply."""
    both = {**UNCLEAR, "args.kind": {"eq": "b"}}
    assert decide([ALLOW, rule("r", "deny", when=both)], arguments={"sql": ["x"], "kind": "a"}).effect == "allow"
    assert decide([ALLOW, rule("r", "deny", when=both)], arguments={"sql": ["x"], "kind": "b"}).effect == "deny"


@pytest.mark.parametrize("condition", ["args.n > 3", "args.none == 1", "1 / args.zero == 1", "args.text", "args.n"])
def test_an_expression_that_fails_or_is_not_boolean_withholds_and_never_allows(condition: str) -> None:
    keys = {"arguments": {"n": "many", "zero": 0, "text": "true"}}
    assert decide([rule("r", "allow", if_=condition)], **keys).effect == "deny"
    assert decide([ALLOW, rule("r", "deny", if_=condition)], **keys).effect == "deny"


def test_expressions_see_the_whole_question() -> None:
    condition = (
        "args.n == 1 && action == 'tool' && server == 'db' && tool == 'query' && workflow == 'w' && node == 'n' && "
        "agent == 'a' && principal == 'user:p' && project == 'x' && timestamp(now).getFullYear() == 2026"
    )
    keys: dict[str, Any] = {"workflow": "w", "node": "n", "agent": "a", "principal": "user:p", "project": "x"}
    keys |= {"arguments": {"n": 1}, "at": datetime(2026, 3, 2, tzinfo=UTC)}
    assert decide([rule("r", "allow", if_=condition)], **keys).effect == "allow"
    for name in ("workflow", "node", "agent", "principal", "project", "at"):
        assert decide([rule("r", "allow", if_=condition)], **{**keys, name: None}).effect == "deny"


def test_a_policy_may_say_that_errors_do_not_count_and_then_says_so() -> None:
    found = policy(ALLOW, rule("r", "deny", when=UNCLEAR), on_error="allow").decide(ask(arguments={"sql": [1]}))
    assert (found.effect, found.rule) == ("allow", "a")
    assert found.warnings == ("the rule 'r' could not be evaluated: list searched",)
    only = policy(rule("r", "allow", when=UNCLEAR), on_error="allow").decide(ask(arguments={"sql": [1]}))
    assert only.effect == "deny"


@pytest.mark.parametrize(("profile", "effect"), [("safe", "deny"), ("research", "allow")])
def test_an_engine_that_breaks_denies_or_allows_with_a_warning(
    profile: str, effect: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Policy, question: Question) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Policy, "_decided", broken)
    with caplog.at_level(logging.ERROR):
        found = profile_policy(profile).decide(ask())
    assert (found.effect, bool(found.warnings)) == (effect, effect == "allow")
    assert "a bug" in caplog.text


def test_a_matcher_that_breaks_counts_against_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from omium.orchestration.gates.policy import matchers

    def breaking(operand: Any, withholds: bool) -> Any:
        def test(value: Any) -> bool:
            raise KeyError("a bug")

        return test

    monkeypatch.setitem(matchers.MATCHERS, "eq", breaking)
    when = {"args.sql": {"eq": "select 1"}}
    assert decide([rule("r", "allow", when=when)]).effect == "deny"
    assert decide([ALLOW, rule("r", "deny", when=when)]).effect == "deny"


# --- profiles, versions, shadow -------------------------------------------------------------------------------------


def test_what_the_profiles_say() -> None:
    safe, research = profile_policy(), profile_policy("research")
    assert safe.digest == profile_policy("safe").digest
    for action in ("tool", "permission", "network", "file"):
        found = safe.decide(ask(action=action))
        assert (found.effect, found.approval) == ("require_approval", ApprovalTerms("out_of_band"))
        assert found.redact == ("secrets",)
        assert research.decide(ask(action=action)).effect == "allow"
    for action in ("model", "command"):
        assert safe.decide(ask(action=action, server=None, tool="m")).effect == "allow"
    hinted = ask(hints={"readOnlyHint": True, "destructiveHint": False})
    assert safe.decide(hinted).effect == "require_approval"


def test_rules_stand_before_those_of_a_profile() -> None:
    found = policy(rule("mine", "deny", match={"action": "model"}), profile="safe")
    assert [one.id for one in found.rules] == ["mine", "safe-registered"]
    assert found.decide(ask(action="model")).effect == "deny"
    assert found.decide(ask()).effect == "require_approval"
    assert "profile" not in found.document  # the version stays the same when a later release changes the profile


def test_a_version_is_its_canonical_document() -> None:
    one = policy(rule("a", "allow", match={"tool": "x"}, limits={"timeout": "60s", "output_bytes": "1k"}))
    other = policy(rule("a", "allow", match={"tool": ["x"]}, limits={"timeout": "1m", "output_bytes": 1024}))
    assert one.digest == other.digest == digest_of(one.document)
    again = policy_of(one.document)
    assert (again.digest, again.document) == (one.digest, one.document)
    assert policy(rule("a", "allow", match={"tool": "y"})).digest != one.digest


def test_a_shadow_is_told_and_changes_nothing() -> None:
    strict = policy(DENY)
    tried = policy(ALLOW).shadowed_by(strict)
    found = tried.decide(ask())
    assert (found.effect, found.rule) == ("allow", "a")
    assert found.shadow is not None
    assert (found.shadow.effect, found.shadow.rule, found.shadow.policy) == ("deny", "d", strict.digest)
    same = policy(ALLOW).shadowed_by(policy(rule("b", "allow")))
    assert same.decide(ask()).shadow is None
    assert same.digest == policy(ALLOW).digest


def test_a_shadow_that_breaks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = policy(ALLOW)
    monkeypatch.setattr(shadow, "_decided", lambda question: 1 / 0)
    assert policy(ALLOW).shadowed_by(shadow).decide(ask()).effect == "allow"


# --- what agents are offered ----------------------------------------------------------------------------------------


def test_what_could_never_be_allowed() -> None:
    fs = {"server": "fs"}
    found = policy(
        rule("a", "allow", match={"server": "db", "tool": "read_*"}, when={"args.x": {"eq": 1}}),
        rule("q", "require_approval", match=fs),
        rule("d", "deny", match={"tool": "*delete*"}),
        rule("m", "allow", match={"action": "model", "server": "web"}),
        rule("e", "deny", match={"server": "fs", "tool": "write", "agent": "guest"}),
    )
    assert found.could_allow("db", "read_it")
    assert found.could_allow("fs", "anything")
    assert found.could_allow("fs", "write")  # for other agents
    assert not found.could_allow("db", "write")
    assert not found.could_allow("fs", "delete_it")
    assert not found.could_allow("FS", "Delete_It")
    assert not found.could_allow("web", "fetch")
    assert not found.could_allow("fs", "a\u200bb")
    assert policy(default="require_approval").could_allow("any", "thing")
    assert not policy(default="deny").could_allow("any", "thing")


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-03-02T09:00:00+00:00", True),  # a Monday
        ("2026-03-02T08:59:59+00:00", False),
        ("2026-03-02T17:00:00+00:00", False),
        ("2026-03-02T16:59:59+00:00", True),
        ("2026-03-07T12:00:00+00:00", False),  # a Saturday
        ("2026-03-02T09:30:00+05:00", False),
    ],
)
def test_a_window_of_the_day(at: str, inside: bool) -> None:
    window = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "09:00", "to": "17:00"}
    found = decide([rule("r", "allow", during=window)], at=datetime.fromisoformat(at))
    assert (found.effect == "allow") is inside


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    window = {"days": ["fri"], "from": "22:00", "to": "02:00"}
    saturday = datetime(2026, 3, 7, 1, tzinfo=UTC)
    assert decide([rule("r", "allow", during=window)], at=saturday).effect == "allow"
    assert decide([rule("r", "allow", during=window)], at=saturday - timedelta(days=1)).effect == "deny"


def test_a_window_has_a_zone() -> None:
    window = {"from": "09:00", "to": "10:00", "zone": "Europe/Berlin"}
    summer = datetime(2026, 7, 1, 7, 30, tzinfo=UTC)
    assert decide([rule("r", "allow", during=window)], at=summer).effect == "allow"
    assert (
        decide([rule("r", "allow", during=window)], at=summer.astimezone(timezone(timedelta(hours=-8)))).effect
        == "allow"
    )
    assert decide([rule("r", "allow", during=window)], at=summer + timedelta(hours=2)).effect == "deny"


def test_without_a_time_a_window_withholds_and_never_allows() -> None:
    window = {"from": "09:00", "to": "17:00"}
    assert decide([rule("r", "allow", during=window)], at=None).effect == "deny"
    assert decide([ALLOW, rule("r", "deny", during=window)], at=None).effect == "deny"


# --- questions and decisions as data --------------------------------------------------------------------------------


def test_questions_round_trip() -> None:
    question = ask(agent="a", hints={"x": 1}, at=datetime(2026, 3, 2, tzinfo=UTC), node="n[1]", project="p")
    assert question_from(question.as_dict()) == question
    assert question.digest() == ask(agent="a", hints={"x": 1}, node="n[1]", project="p").digest()
    assert question.digest() != ask(agent="b").digest()
    with pytest.raises(Exception, match="no question"):
        question_from({"tool": 3})


def test_a_decision_as_data_says_what_there_is() -> None:
    found = decide([rule("r", "allow", limits={"rate": "5/m"}, trusts=["read_only"])]).as_dict()
    assert found["limits"] == limits_dict(Limits(rate=(5, 60.0))) == {"rate": [5, 60.0]}
    assert (found["effect"], found["rule"], found["rate_rule"], found["trusts"]) == ("allow", "r", "r", ["read_only"])
    assert found["micros"] > 0
    assert "approval" not in found
