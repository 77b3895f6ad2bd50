"""What a decision of policy takes: no run, no log, only rules and a question.

Three policies: twenty rules for four servers, as one would write them; twenty about one and the same tool, each with an
expression (CEL); and a thousand of which names have to pick out the few that matter. That one is asked with names that
it was not asked about before, since remembered ones spare the picking.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from omium.orchestration.gates.policy import Policy, Question, policy_of
from tests.bench.figures import Figure, percentile
from tests.bench.ours.work import Work

_BATCH = 20
_PATHS = {"args.path": {"path_under": ["/srv/project"]}}
_WRITES = {"args.sql": {"re": r"(?i)^\s*(insert|update|delete|drop|alter)\b"}}
_HOSTS = {"args.url": {"host_in": ["*.example.com", "10.0.0.0/8"]}}


def twenty() -> Policy:
    """Four servers, as one would write it down."""
    rules: list[dict[str, Any]] = [
        {"id": "db-write", "effect": "require_approval", "match": {"server": "db"}, "when": _WRITES},
        {
            "id": "db-read",
            "effect": "allow",
            "match": {"server": "db", "tool": ["query", "explain"]},
            "redact": "secrets",
        },
        {
            "id": "db-long",
            "effect": "deny",
            "match": {"server": "db"},
            "when": {"args.sql": {"size": {"min": 100_000}}},
        },
        {"id": "db-rows", "effect": "deny", "match": {"server": "db"}, "when": {"args.limit": {"gt": 1000}}},
        {"id": "db-guest", "effect": "deny", "match": {"server": "db", "agent": "guest-*"}},
        {"id": "db-rate", "effect": "allow", "match": {"server": "db", "tool": "*"}, "limits": {"rate": "60/m"}},
        {"id": "destroy", "effect": "deny", "match": {"tool": ["*delete*", "*destroy*"]}},
        {"id": "hinted", "effect": "require_approval", "when": {"hints.destructiveHint": {"eq": True}}},
    ]
    for server, when in (("fs", _PATHS), ("web", _HOSTS), ("git", {"args.branch": {"glob": "agent/*"}})):
        rules += [
            {"id": f"{server}-read", "effect": "allow", "match": {"server": server, "tool": "read_*"}, "when": when},
            {"id": f"{server}-write", "effect": "require_approval", "match": {"server": server, "tool": "write_*"}},
            {"id": f"{server}-admin", "effect": "deny", "match": {"server": server, "tool": "admin_*"}},
            {
                "id": f"{server}-big",
                "effect": "deny",
                "match": {"server": server},
                "when": {"args": {"size": {"min": 50}}},
            },
        ]
    assert len(rules) == 20
    return policy_of({"rules": rules})


def with_cel() -> Policy:
    """Twenty rules about the same tool, each with an expression."""
    effects = ("allow", "deny", "require_approval")
    return policy_of(
        {
            "rules": [
                {
                    "id": f"r{number}",
                    "effect": effects[number % 3],
                    "match": {"server": "db", "tool": "query"},
                    "if": f"has(args.sql) && args.sql.startsWith('drop {number}') && args.limit < {number}",
                }
                for number in range(20)
            ]
        }
    )


def thousand() -> Policy:
    """A hundred servers with nine tools each, and a hundred rules about all of them."""
    own = [
        {
            "id": f"s{server}-t{tool}",
            "effect": "allow",
            "match": {"server": f"server{server}", "tool": f"tool{tool}"},
            "when": {"args.path": {"path_under": f"/srv/{server}"}},
        }
        for server in range(100)
        for tool in range(9)
    ]
    shared = [
        {"id": f"no{number}", "effect": "deny", "match": {"tool": f"*forbidden{number}*"}} for number in range(100)
    ]
    return policy_of({"rules": [*own, *shared]})


def _questions() -> list[Question]:
    asked = {"workflow": "report", "node": "n[3]", "agent": "writer", "principal": "user:ada", "project": "p"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("db", "query", {"sql": "select name, total from orders where total > 10 order by total", "limit": 50}),
        ("db", "query", {"sql": "update orders set total = 0", "limit": 1}),
        ("fs", "read_file", {"path": "/srv/project/src/main.py"}),
        ("web", "read_page", {"url": "https://docs.example.com/page?x=1"}),
        ("git", "write_branch", {"branch": "agent/fix"}),
    ]
    return [Question("tool", server, tool, arguments, **asked) for server, tool, arguments in calls]


def _micros(policy: Policy, questions: Sequence[Question], times: int) -> list[float]:
    """Microseconds of a decision, each the mean over a batch: a clock's own grain is near what is measured."""
    found = []
    for number in range(times):
        question = questions[number % len(questions)]
        began = time.perf_counter_ns()
        for _ in range(_BATCH):
            policy.decide(question)
        found.append((time.perf_counter_ns() - began) / 1000 / _BATCH)
    return found


def _first_micros(policy: Policy, times: int) -> list[float]:
    """Of questions with names that the policy was never asked about before."""
    found = []
    for number in range(times):
        server = number % 100
        question = Question(
            "tool", f"server{server}", f"tool{number % 9}", {"path": f"/srv/{server}/a"}, node=f"fan[{number}]"
        )
        began = time.perf_counter_ns()
        decision = policy.decide(question)
        found.append((time.perf_counter_ns() - began) / 1000)
        assert decision.effect == "allow"
    return found


async def policies(work: Work) -> list[Figure]:
    """`times` decisions of each policy; medians, and the 95th percentile for the thousand."""
    questions = _questions()
    chosen, expressions, many = twenty(), with_cel(), thousand()
    for one in (chosen, expressions):
        _micros(one, questions, len(questions))
    _first_micros(many, 50)
    return [
        Figure("policy_us", round(statistics.median(_micros(chosen, questions, work.times)), 2), "us"),
        Figure("policy_cel_us", round(statistics.median(_micros(expressions, questions[:1], work.times)), 2), "us"),
        Figure("policy_1000_p95_us", round(percentile(_first_micros(many, work.times * 5), 95) or 0.0, 2), "us"),
    ]
