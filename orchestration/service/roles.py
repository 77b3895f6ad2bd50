"""Who may do what: one table of roles and verbs, and what a decision of somebody is worth.

A viewer reads. An operator starts, steers, branches, rolls back and labels, and decides what a form at the client may
decide. An approver reads and decides. An admin does everything. Every verb of the core checks it first, so no surface
has to; a verb that is not in the table, or a role that there is not, is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, get_args

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.views import Assurance, Caller, Role

ROLES: Final[tuple[Role, ...]] = get_args(Role)

READERS: Final[frozenset[Role]] = frozenset(ROLES)
OPERATORS: Final[frozenset[Role]] = frozenset({"operator", "admin"})
DECIDERS: Final[frozenset[Role]] = frozenset({"operator", "approver", "admin"})
ADMINS: Final[frozenset[Role]] = frozenset({"admin"})

_READ: Final = (
    "list_workflows", "get_workflow", "simulate",
    "get_run", "run_at", "list_runs", "find_run", "row", "wait", "events", "follow", "node_output", "run_output",
    "artifact",
    "list_approvals", "decisions", "budgets", "get_approval", "own_assurance",
    "list_checkpoints", "branch_tree", "compare", "replay", "timeline", "artifacts", "file", "audit",
    "node_detail", "resumable", "retry_stats", "rollbacks", "failures", "effects", "files_at", "file_at",
    "list_agents", "get_agent",
    "list_external_servers", "list_external_tools",
    "recall", "get_epic", "report",
)  # fmt: skip
_OPERATE: Final = (
    "run_workflow", "pause", "resume", "cancel", "signal",
    "checkpoint", "rollback", "branch", "close_branch", "play_from_node",
    "remember", "forget", "start_epic", "rollback_phase",
    # These issue the token that the operation takes.
    "preview_rollback", "preview_branch", "preview_play_from", "preview_rollback_phase",
)  # fmt: skip
_ADMINISTER: Final = ("create_token", "list_tokens", "revoke_token", "erase", "raise_budget")

MAY: Final[Mapping[str, frozenset[Role]]] = {
    **dict.fromkeys(_READ, READERS),
    **dict.fromkeys(_OPERATE, OPERATORS),
    "decide": DECIDERS,
    **dict.fromkeys(_ADMINISTER, ADMINS),
}
ASSURANCES: Final[tuple[Assurance, ...]] = get_args(Assurance)  # the weakest first


class RoleRefused(OmiumError):
    """`forbidden`, for the role of `caller`. data: role, verb, and the roles that are needed."""

    def __init__(self, caller: Caller, message: str, hint: str, **data: Any) -> None:
        super().__init__("forbidden", message, hint, role=caller.role, **data)
        self.caller = caller


def allows(role: str, verb: str) -> bool:
    """Whether the role may use the verb; False for either being unknown."""
    return role in MAY.get(verb, ())


def check(caller: Caller, verb: str) -> None:
    """Raises `forbidden`, with role, verb and the roles that may, unless the caller may use this verb."""
    if allows(caller.role, verb):
        return
    needed = [role for role in ROLES if allows(role, verb)]
    raise RoleRefused(
        caller,
        f"{caller.principal} has the role {caller.role}, which may not use {verb}.",
        f"It takes the role {' or '.join(needed)}." if needed else "",
        verb=verb,
        needed=needed,
    )


def own_assurance(caller: Caller, requesters: Collection[str]) -> Assurance:
    """What a decision is worth for being this caller's, whatever a form says: `separate_identity` for an approver with
    a credential of their own who is none of the requesters, else `none`."""
    separate = caller.authenticated and caller.role in ("approver", "admin") and caller.principal not in requesters
    return "separate_identity" if separate else "none"


def stronger(one: Assurance, other: Assurance) -> Assurance:
    """The one that satisfies more gates."""
    return max(one, other, key=ASSURANCES.index)


def check_decision(caller: Caller, minimum: str) -> None:
    """Raises `forbidden` when the caller's role decides nothing at a gate with this minimum."""
    check(caller, "decide")
    if caller.role == "operator" and ASSURANCES.index(minimum) > ASSURANCES.index("elicited"):
        raise RoleRefused(
            caller,
            f"{caller.principal} has the role operator, which may not decide where a gate asks for {minimum}.",
            "It takes the role approver or admin.",
            verb="decide",
            needed=["approver", "admin"],
            required=minimum,
        )


def way_to_decide(approval_id: str, minimum: str) -> str:
    """The command with which a human decides: at a gate that wants more than a form, with a credential of theirs."""
    return f"omium approve {approval_id}{' --credential' if minimum in ('separate_identity', 'out_of_band') else ''}"
