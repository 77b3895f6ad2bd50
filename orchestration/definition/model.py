"""The inside form of a workflow: frozen dataclasses that everything else in the core reads.

A definition is data and immutable once hashed. It says nothing about how it was written (YAML, JSON, Python): equal
definitions are equal objects and have one hash. Templates and JSON Schemas are plain JSON values that readers must not
change. All durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NodeKind = Literal["function", "agent", "tool", "cli", "approval", "workflow", "wait", "consensus", "group"]
WorkspaceMode = Literal["none", "read", "write"]
OnUnknown = Literal["rerun", "resume", "ask", "fail"]
OnPause = Literal["finish", "interrupt"]
OnItemFailure = Literal["fail", "continue"]
Assurance = Literal["none", "elicited", "separate_identity", "out_of_band", "signed"]
OnFailure = Literal["rollback", "ask", "abort", "fail"]
ApprovalMode = Literal["none", "after_planning", "before_each_step", "on_error", "manual", "custom"]

FAILURE_CATEGORIES = (
    "file_not_found", "api_error", "timeout", "import_error", "type_error", "value_error", "key_error",
    "attribute_error", "index_error", "permission_error", "connection_error", "memory_error", "rate_limited",
    "validation", "unknown",
)  # fmt: skip
"""What kinds of failure there are: what `retry.on` and `on_failure` may name."""

USES_REGISTERED: Mapping[NodeKind, str] = {
    "function": "function",
    "agent": "agent",
    "tool": "tool",
    "cli": "command",
    "workflow": "workflow",
}
"""Kinds that run something registered, with the registry in which `use` is looked up."""

MAX_NODES = 100_000
"""Nodes of one definition, and items of one fan-out."""

MAX_DEPTH = 64
"""Nesting of documents, templates and rendered values."""


@dataclass(frozen=True, slots=True)
class Need:
    """An edge from `node` to the node that has this need.

    when: a condition (CEL) over what is upstream: the edge counts only if it holds; a node of whose edges none counts
    is skipped. optional: the node runs also when `node` failed or was skipped.
    """

    node: str
    optional: bool = False
    when: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed attempt is repeated: attempt n waits `initial_s * factor**(n-1)`, at most `max_s`, plus or minus
    the share `jitter`. on: the failure categories that are repeated; None leaves it to the category's own rule."""

    max_attempts: int = 1
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.1
    on: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ForEach:
    """Dynamic fan-out: one instance `id[key]` for each item. The node's output is the list of theirs, in that order.

    items: a list or a template that gives one. key: an expression over `item` and `index` that names the instance, so
    that the instance follows its item and not its position; None uses the position (from 0). max_parallel: how many
    run at once. on_failure: `fail` fails the node with its first failed instance, `continue` gives null for it.
    """

    items: Any
    key: str | None = None
    max_parallel: int | None = None
    on_failure: OnItemFailure = "fail"


@dataclass(frozen=True, slots=True)
class Repeat:
    """A bounded loop: instances `id[0]`, `id[1]`, ... one after another, until the condition `until` holds over what
    the last one gave (`output`, `iteration`) or `max` instances have run. Each reads the one before as `previous`; the
    node's output is that of the last."""

    until: str
    max: int


@dataclass(frozen=True, slots=True)
class WaitSpec:
    """What a `wait` node waits for; exactly one is given.

    seconds: a number or a template that gives one. until: a template that gives an RFC 3339 time. signal: the name of
    a signal.
    """

    seconds: Any = None
    until: str | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalSpec:
    """A question to a human. prompt: a template for its text. show: a template for the value shown beside it."""

    prompt: str
    options: tuple[str, ...] = ("approve", "reject")
    expires_s: float = 86_400.0
    min_assurance: Assurance = "elicited"
    show: Any = None


@dataclass(frozen=True, slots=True)
class ConsensusSpec:
    """Several agents answer the same input. voters: registered agents; quorum: how many must agree; choice: an
    expression over a voter's `output` that gives what is compared (the whole output, unless given)."""

    voters: tuple[str, ...]
    quorum: int
    choice: str | None = None


@dataclass(frozen=True, slots=True)
class NodeDef:
    """A vertex of a workflow.

    use: the registered name of what it runs (`server/tool` for tools). input: a template (`with` in files). needs: its
    edges. when: it is skipped unless this holds. body: the nodes inside a `group` (`nodes` in files). expands: its
    output is a plan whose steps become nodes inside it. approval: the gate before the node, or, for kind `approval`,
    the node. compensate: a registered function that undoes it. budget: limits by name (usd, tokens, calls, seconds).
    requires and expects: conditions before (over its upstreams) and after (over `output`). resources: named limits that
    it counts against. output: template for a group's output; without it a group gives the outputs of its nodes by id.
    """

    id: str
    kind: NodeKind
    use: str | None = None
    input: Any = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    when: str | None = None
    for_each: ForEach | None = None
    repeat: Repeat | None = None
    body: tuple[NodeDef, ...] = ()
    expands: bool = False
    retry: Retry = Retry()
    timeout_s: float | None = None
    on_unknown: OnUnknown | None = None
    workspace: WorkspaceMode = "none"
    approval: ApprovalSpec | None = None
    wait: WaitSpec | None = None
    consensus: ConsensusSpec | None = None
    compensate: str | None = None
    budget: Mapping[str, int | float] | None = None
    requires: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()
    priority: int = 0
    resources: tuple[str, ...] = ()
    on_pause: OnPause = "finish"
    output: Any = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What is done when a node has failed for good, its retries used up; of several rules the first that fits counts.

    do: `rollback` takes the whole run back, files and compensations included, and goes on from there; `ask` asks a
    person; `abort` fails the run at once; `fail` fails the node, and nobody is asked. categories: the failure
    categories that it fits (None: all). nodes: the nodes that it fits, as addresses without indices, with wildcards
    (None: all). to: where a rollback goes: `previous` (the last valid checkpoint before the node began), `start`,
    `node:<id>` (after that node) or a label. max: how many rollbacks by this rule a run has before a person is asked.
    """

    do: OnFailure
    categories: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None
    to: str = "previous"
    max: int = 1


@dataclass(frozen=True, slots=True)
class WorkflowDef:
    """A whole workflow. inputs: the JSON Schema of what a run is given (None accepts any object). outputs: the template
    of what it gives (None: the outputs of its last nodes by id). approval_conditions: with mode `custom`, a node is
    gated when one of these holds over `node` (id, kind, use, workspace) and what is upstream of it. on_failure: what is
    done when a node has failed for good, beyond failing what depends on it."""

    name: str
    nodes: tuple[NodeDef, ...]
    description: str = ""
    inputs: dict[str, Any] | None = None
    outputs: Any = None
    deadline_s: float | None = None
    max_parallel: int | None = None
    approvals: ApprovalMode = "none"
    approval_conditions: tuple[str, ...] = ()
    on_failure: tuple[FailureRule, ...] = ()


def default_workspace(kind: NodeKind) -> WorkspaceMode:
    """What a node does with the workspace unless it says so: coding CLIs and agents write, others do not touch it."""
    return "write" if kind in ("cli", "agent") else "none"


def walk(nodes: tuple[NodeDef, ...], path: str = "nodes") -> Iterator[tuple[str, NodeDef]]:
    """Every node with its document path (`nodes[2].nodes[0]`), containers before their insides."""
    for index, node in enumerate(nodes):
        here = f"{path}[{index}]"
        yield here, node
        if node.body:
            yield from walk(node.body, f"{here}.nodes")
