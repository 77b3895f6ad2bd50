"""A part of a workflow: the phases that are asked for, with all that they need, and which phases a text asks for.

A phase is a node of the top level. What is left out comes after the phases that are asked for, or beside them, and
never before: nobody gets past a gate by leaving it out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from omium.orchestration.definition.check import check_workflow
from omium.orchestration.definition.expressions import references
from omium.orchestration.definition.failing import rules_left
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.errors import OmiumError

# What people call the phases that workflows commonly have, beside their ids. Each is held against whole words.
_CALLED: Final[Mapping[str, Sequence[str]]] = {
    "architect": ("architecture", "design", "designing", "plan", "planning"),
    "plan": ("planning",),
    "implement": ("code", "coding", "implementation", "implementing"),
    "test": ("testing", "tests"),
    "review": ("reviewing", "reviews"),
    "merge": ("merging", "pr", "pull request"),
    "pr": ("pull request",),
    "release": ("releasing",),
}
_CLAUSE: Final = r"(?:\A|[.;:!?(\n]|,(?:\s+(?:and|but|then))?)\s*(?:please\s+)?"  # where a clause begins
_UP_TO: Final = r"up\s+to(?:\s+and\s+including)?|no\s+further\s+than|not\s+beyond"
_ARTICLE: Final = r"(?:the\s+)?"
_END: Final = r"(?=\s*(?:\Z|[.,;:!?)\n]))"
_OBJECT: Final = r"(?=\s+(?:a|an|and|for|how|it|that|the|this|what|whether)\b|\s*(?:\Z|[.,;:!?)\n]))"


def up_to(definition: WorkflowDef, phases: Collection[str]) -> WorkflowDef:
    """The workflow with these phases and all that they need, directly or not, and with nothing else. Its outputs are
    those of its last phases where they would be of one that is left out.

    Raises `invalid_argument` for a phase that it does not have, with the nearest names, and for none at all."""
    nodes = {node.id: node for node in definition.nodes}
    for phase in phases:
        if phase not in nodes:
            near = difflib.get_close_matches(phase, list(nodes), n=3)
            raise OmiumError(
                "invalid_argument",
                f"the workflow {definition.name!r} has no phase {phase[:100]!r}.",
                f"Did you mean {', '.join(near)}?" if near else f"Phases: {', '.join(nodes)}.",
                phases=list(nodes),
            )
    if not phases:
        raise OmiumError("invalid_argument", "no phase is asked for.", f"Phases: {', '.join(nodes)}.")
    wanted: set[str] = set()
    open_ = list(phases)
    while open_:
        phase = open_.pop()
        if phase not in wanted:
            wanted.add(phase)
            open_ += [need.node for need in nodes[phase].needs]
    if len(wanted) == len(nodes):
        return definition
    kept = tuple(node for node in definition.nodes if node.id in wanted)
    outputs = _outputs(definition.outputs, nodes, wanted)
    part = replace(definition, nodes=kept, outputs=outputs, on_failure=rules_left(definition.on_failure, kept))
    check_workflow(part)
    return part


def _outputs(outputs: Any, nodes: Collection[str], wanted: Collection[str]) -> Any:
    """None, which is those of the last nodes, if it reads one that is left out, or may do so."""
    read = references(outputs)
    return None if "nodes" in read or any(f"nodes.{one}" in read for one in nodes if one not in wanted) else outputs


def asked_for(text: str, phases: Sequence[str]) -> tuple[str, ...] | None:
    """Which of these phases a text asks for; None if it says nothing of the kind, which is for all of them.

    Only a clause that is about how far to go counts: `Only plan ...`, `Plan only.`, `Then stop after the tests.`, `Go
    up to review`, `(no further than implement)`. In it a phase is named by whole words, its id or what it is commonly
    called, in any case. So `Improve the approval prompt` asks for no `pr`, and `Only test users may log in` for all
    phases. In doubt it is None: whoever is surer names the phases."""
    called = {name: phase for phase in phases for name in _CALLED.get(phase.lower(), ())}
    called |= {name: phase for phase in phases for name in (phase.lower(), re.sub("[_-]", " ", phase.lower()))}
    if not called:
        return None
    named = "|".join(re.escape(one).replace(r"\ ", r"\s+") for one in sorted(called, key=len, reverse=True))
    several = rf"{_ARTICLE}\b(?P<named>(?:{named})\b(?:(?:\s*,\s*|\s+and\s+){_ARTICLE}(?:{named})\b)*)"
    forms = (
        rf"{_CLAUSE}only\s+{several}{_OBJECT}",
        rf"{_CLAUSE}{several}[\s-]+only{_END}",
        rf"(?:{_CLAUSE}|\b(?:then|but)\s+)stop\s+after\s+{several}{_END}",
        rf"(?:{_CLAUSE}|\bgo\s+(?:only\s+)?)(?:{_UP_TO})\s+{several}{_END}",
    )
    for form in forms:
        found = re.search(form, text, re.IGNORECASE)
        if found is not None:
            words = re.findall(rf"\b(?:{named})\b", found["named"], re.IGNORECASE)
            meant = {called[" ".join(word.lower().split())] for word in words}
            return tuple(phase for phase in phases if phase in meant)
    return None
