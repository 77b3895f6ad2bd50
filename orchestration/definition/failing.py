"""The rules of a workflow about nodes that have failed for good: which one fits, and what no valid rule has. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from omium.orchestration.definition.model import FAILURE_CATEGORIES, FailureRule, NodeDef, WorkflowDef
from omium.orchestration.definition.names import place_problem
from omium.orchestration.definition.problems import Problem

_INDEX = re.compile(r"\[[^\]]*\]")
_WILD = re.compile(r"[*?\[]")
_PLACES = "previous, start, node:<id>, or the label of a checkpoint"


def rule_for(rules: Sequence[FailureRule], node_id: str, category: str) -> int | None:
    """The position of the first rule that fits a failure of this category; None when none does."""
    for index, rule in enumerate(rules):
        if rule.categories is not None and category not in rule.categories:
            continue
        if rule.nodes is None or fits(rule.nodes, node_id):
            return index
    return None


def fits(patterns: Sequence[str], node_id: str) -> bool:
    """Whether one of the patterns is for this node: `fix[2].test` is meant by `fix.test`, `fix.*` and `*`."""
    name = plain(node_id)
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def plain(node_id: str) -> str:
    """The address of a node in the definition: without the indices of its expansions."""
    return _INDEX.sub("", node_id)


def no_category(category: str, path: str) -> Problem:
    near = difflib.get_close_matches(category, FAILURE_CATEGORIES, n=3)
    expected = " or ".join(near) if near else f"one of {', '.join(FAILURE_CATEGORIES)}"
    return Problem(path, f"{category!r} is no category of failures", expected)


def failure_problems(workflow: WorkflowDef) -> list[Problem]:
    """What is wrong with the rules of a workflow: categories, nodes and places that there are not, and rules that
    never come to it."""
    if not workflow.on_failure:
        return []
    addresses = list(_addresses(workflow.nodes))
    plans = [address for address, node in addresses if node.expands]
    names = [address for address, _ in addresses]
    problems: list[Problem] = []
    for index, rule in enumerate(workflow.on_failure):
        here = f"on_failure[{index}]"
        for place, category in enumerate(rule.categories or ()):
            if category not in FAILURE_CATEGORIES:
                problems.append(no_category(category, f"{here}.categories[{place}]"))
        for place, pattern in enumerate(rule.nodes or ()):
            problems += _pattern(pattern, names, plans, f"{here}.nodes[{place}]")
        if rule.do == "rollback":
            problems += _place(rule.to, names, plans, f"{here}.to")
        if any(_covers(earlier, rule) for earlier in workflow.on_failure[:index]):
            problems.append(Problem(here, "never counts: a rule before it fits all that it fits", "the narrower first"))
    return problems


def rules_left(rules: Iterable[FailureRule], nodes: tuple[NodeDef, ...]) -> tuple[FailureRule, ...]:
    """Of a workflow's rules those that can come to it with these of its nodes alone. Where the place that a rule goes
    back to is left out, the rule is, and the next one that fits counts."""
    addresses = list(_addresses(nodes))
    plans, names = [address for address, node in addresses if node.expands], [address for address, _ in addresses]
    left: list[FailureRule] = []
    for rule in rules:
        if rule.do == "rollback" and any(_place(rule.to, names, plans, "")):
            continue
        if rule.nodes is not None:
            fitting = tuple(one for one in rule.nodes if not any(_pattern(one, names, plans, "")))
            if not fitting:
                continue
            rule = replace(rule, nodes=fitting)
        if not any(_covers(earlier, rule) for earlier in left):
            left.append(rule)
    return tuple(left)


def _covers(earlier: FailureRule, later: FailureRule) -> bool:
    every = earlier.categories is None or (
        later.categories is not None and set(later.categories) <= set(earlier.categories)
    )
    return every and (earlier.nodes is None or earlier.nodes == later.nodes)


def _addresses(nodes: tuple[NodeDef, ...], above: str = "") -> Iterator[tuple[str, NodeDef]]:
    for node in nodes:
        yield above + node.id, node
        yield from _addresses(node.body, f"{above}{node.id}.")


def _pattern(pattern: str, names: list[str], plans: list[str], path: str) -> Iterator[Problem]:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    if plans and (_WILD.search(pattern) or any(pattern.startswith(f"{plan}.") for plan in plans)):
        return  # it may be for steps of a plan, which are not known yet
    yield Problem(path, f"{pattern[:80]!r} is no node", _near(pattern, names))


def _place(to: str, names: list[str], plans: list[str], path: str) -> Iterator[Problem]:
    if to in ("previous", "start"):
        return
    if to.startswith("node:"):
        name = plain(to[5:])
        if name not in names and not any(name.startswith(f"{plan}.") for plan in plans):
            yield Problem(path, f"{to[:80]!r} is after no node", _near(name, names))
        return
    problem = place_problem(to)
    if problem:
        yield Problem(path, f"is no place that a run can be taken back to by a rule: {problem}", _PLACES)


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names[:2000], n=1)
    return near[0] if near else "the id of a node (group.node inside a group)"
