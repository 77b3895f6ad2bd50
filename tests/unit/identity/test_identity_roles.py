"""The table of roles, and what a decision of somebody is worth."""

from __future__ import annotations

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal
from omium.orchestration.service import roles
from omium.orchestration.service.views import Caller, Role
from tests.unit.identity.verbs import public_coroutines

# What the engine and the verbs themselves use.
WITHOUT_CALLER = {"approval_view", "create_child", "finish_undoing", "structure", "take_back", "view_of"}


def test_every_verb_of_the_core_is_in_the_table() -> None:
    found = public_coroutines()
    verbs = {name for name, asked in found.items() if asked}
    assert len(verbs) > 25
    assert {name for name, asked in found.items() if not asked} == WITHOUT_CALLER
    assert verbs == set(roles.MAY) - {"create_token", "list_tokens", "revoke_token", "erase"}


def test_what_the_roles_may() -> None:
    may = {role: {verb for verb in roles.MAY if roles.allows(role, verb)} for role in roles.ROLES}
    assert may["viewer"] < may["operator"] < may["admin"] == set(roles.MAY)
    assert may["viewer"] < may["approver"] < may["admin"]
    assert may["approver"] - may["viewer"] == {"decide"}
    assert may["admin"] - may["operator"] == {"create_token", "list_tokens", "revoke_token", "erase", "raise_budget"}
    assert may["operator"] >= {"run_workflow", "cancel", "rollback", "branch", "checkpoint", "decide"}


@pytest.mark.parametrize(("role", "verb"), [("root", "get_run"), ("", "get_run"), ("Admin", "erase"), ("admin", "x")])
def test_an_unknown_role_or_verb_is_refused(role: str, verb: str) -> None:
    caller = Caller(Principal("user:eve"), role=role)  # type: ignore[arg-type]
    with pytest.raises(OmiumError) as refused:
        roles.check(caller, verb)
    assert refused.value.code == "forbidden"


def test_a_refusal_says_role_verb_and_what_is_needed() -> None:
    with pytest.raises(OmiumError) as refused:
        roles.check(Caller(Principal("token:vic"), role="viewer"), "rollback")
    assert refused.value.code == "forbidden"
    assert refused.value.data == {"role": "viewer", "verb": "rollback", "needed": ["operator", "admin"]}
    assert "viewer" in refused.value.message
    assert "rollback" in refused.value.message


@pytest.mark.parametrize("minimum", roles.ASSURANCES)
@pytest.mark.parametrize("role", roles.ROLES)
def test_who_may_decide_at_which_gate(role: Role, minimum: str) -> None:
    caller = Caller(Principal("token:one"), role=role)
    weak = minimum in ("none", "elicited")
    if role in ("approver", "admin") or (role == "operator" and weak):
        roles.check_decision(caller, minimum)
        return
    with pytest.raises(OmiumError) as refused:
        roles.check_decision(caller, minimum)
    assert refused.value.code == "forbidden"
    assert refused.value.data["role"] == role


@pytest.mark.parametrize("role", roles.ROLES)
@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize("requesters", [{Principal("token:one")}, {Principal("token:two")}, set()])
def test_a_separate_identity_is_another_approver_with_a_credential(
    role: Role, authenticated: bool, requesters: set[Principal]
) -> None:
    caller = Caller(Principal("token:one"), role=role, authenticated=authenticated)
    separate = role in ("approver", "admin") and authenticated and Principal("token:one") not in requesters
    assert roles.own_assurance(caller, requesters) == ("separate_identity" if separate else "none")
