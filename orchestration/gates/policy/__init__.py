"""Policy: what a run may do outside. Rules in a file, compiled to functions; asked before every call.

    policy = load_policy("policy.yaml")
    decision = policy.decide(Question("tool", "db", "query", {"sql": "select 1"}))

Everything here is pure and synchronous but `PolicySource`, which reads files.
"""

from omium.orchestration.gates.policy.load import load_policy, policy_of, profile_policy, read_policy
from omium.orchestration.gates.policy.model import ApprovalTerms, Decision, Effect, Question, Shadow, question_from
from omium.orchestration.gates.policy.policy import Policy
from omium.orchestration.gates.policy.source import PolicySource

__all__ = [
    "ApprovalTerms",
    "Decision",
    "Effect",
    "Policy",
    "PolicySource",
    "Question",
    "Shadow",
    "load_policy",
    "policy_of",
    "profile_policy",
    "question_from",
    "read_policy",
]
