"""Workflows written in Python: the same model, by the same checks, as from a file.

    wf = workflow("release", inputs={"type": "object", "properties": {"repo": {"type": "string"}}})
    history = wf.function("history", use="collect", with_={"repo": wf.inputs.repo})
    draft = wf.agent("draft", use="writer", with_={"task": f"Notes for {history.output.commits}"}, needs=history)
    wf.approval("gate", prompt="Publish?", show=draft.output, needs=draft)
    definition = wf.build()

What a node, `wf.inputs` or `Ref("item")` gives when a field is selected is a reference: inside a template, alone or in
an f-string, it stands for `${{ nodes.history.output.commits }}`. The other keywords of a node are the keys of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypedDict, Unpack

from omium.orchestration.definition.model import (
    ApprovalMode,
    Assurance,
    NodeKind,
    OnPause,
    OnUnknown,
    WorkflowDef,
    WorkspaceMode,
)

Duration = float | str
"""Seconds, or text such as `90s`, `15m`, `24h`, `2d`."""

_MAX_VALUES = 5_000_000


class Ref:
    """A selection: `Ref("nodes").a.output.title[0]`. As text it is the expression in a template, so f-strings work."""

    __slots__ = ("_source",)

    def __init__(self, source: str) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("__"):  # copying, pickling and the like ask for these; no field is meant
            raise AttributeError(name)
        return Ref(f"{self._source}.{name}")

    def __getitem__(self, step: str | int) -> Ref:
        import json

        return Ref(f"{self._source}[{json.dumps(step, ensure_ascii=False)}]")

    def __iter__(self) -> NoReturn:
        raise TypeError("a reference has no items before the run; use for_each")

    def __str__(self) -> str:
        return f"${{{{ {self._source} }}}}"

    def __repr__(self) -> str:
        return f"Ref({self._source!r})"


class Node:
    """A node that has been added: for `needs`, and for what it gives."""

    __slots__ = ("id",)

    def __init__(self, node_id: str) -> None:
        self.id = node_id

    def _reference(self) -> Ref:
        return Ref("nodes")[self.id] if "-" in self.id else Ref(f"nodes.{self.id}")

    @property
    def output(self) -> Ref:
        """Its output, for templates and conditions of nodes downstream."""
        return self._reference().output

    @property
    def state(self) -> Ref:
        """The name of its state, for conditions behind optional edges."""
        return self._reference().state

    @property
    def error(self) -> Ref:
        """Null, or what it failed with."""
        return self._reference().error

    def after(self, *, when: str | Ref | None = None, optional: bool = False) -> dict[str, Any]:
        """An edge from it that is conditional or optional, for `needs`."""
        edge: dict[str, Any] = {"node": self.id, "optional": optional}
        return edge if when is None else {**edge, "when": when}


Needs = Node | str | Mapping[str, Any] | Sequence[Node | str | Mapping[str, Any]]
Condition = str | bool | Ref


class NodeOptions(TypedDict, total=False):
    """What any node may have: the keys of the file form."""

    needs: Needs
    when: Condition
    for_each: Any
    repeat: Mapping[str, Any]
    expands: bool
    retry: int | Mapping[str, Any]
    timeout: Duration
    on_unknown: OnUnknown
    workspace: WorkspaceMode
    compensate: str
    budget: Mapping[str, int | float | str]
    requires: Condition | Sequence[Condition]
    expects: Condition | Sequence[Condition]
    priority: int
    resources: str | Sequence[str]
    on_pause: OnPause
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    description: str


class Nodes:
    """Where nodes are added: a workflow, or a group in it."""

    def __init__(self) -> None:
        self._nodes: list[dict[str, Any]] = []

    def function(
        self, id: str, *, use: str, with_: Any = None, approval: Any = None, **options: Unpack[NodeOptions]
    ) -> Node:
        """A registered Python function."""
        return self._add("function", id, {"use": use, "with": with_, "approval": approval, **options})

    def agent(
        self, id: str, *, use: str, with_: Any = None, approval: Any = None, **options: Unpack[NodeOptions]
    ) -> Node:
        """A registered agent."""
        return self._add("agent", id, {"use": use, "with": with_, "approval": approval, **options})

    def tool(
        self, id: str, *, use: str, with_: Any = None, approval: Any = None, **options: Unpack[NodeOptions]
    ) -> Node:
        """A tool of an external MCP server, `server/tool`."""
        return self._add("tool", id, {"use": use, "with": with_, "approval": approval, **options})

    def cli(
        self, id: str, *, use: str, with_: Any = None, approval: Any = None, **options: Unpack[NodeOptions]
    ) -> Node:
        """A registered command in the workspace."""
        return self._add("cli", id, {"use": use, "with": with_, "approval": approval, **options})

    def workflow(
        self, id: str, *, use: str, with_: Any = None, approval: Any = None, **options: Unpack[NodeOptions]
    ) -> Node:
        """A registered workflow as a sub-run."""
        return self._add("workflow", id, {"use": use, "with": with_, "approval": approval, **options})

    def approval(
        self,
        id: str,
        *,
        prompt: Any,
        options: Sequence[str] | None = None,
        expires: Duration | None = None,
        min_assurance: Assurance | None = None,
        show: Any = None,
        **more: Unpack[NodeOptions],
    ) -> Node:
        """A question to a human."""
        question = {"prompt": prompt, "options": options, "expires": expires, "min_assurance": min_assurance}
        approval = {**question, "show": show}
        given = {key: value for key, value in approval.items() if value is not None}
        return self._add("approval", id, {"approval": given, **more})

    def wait(
        self,
        id: str,
        *,
        seconds: Any = None,
        until: Any = None,
        signal: str | None = None,
        **options: Unpack[NodeOptions],
    ) -> Node:
        """A wait for a duration, a time or a signal: exactly one of them."""
        wait = {"for": seconds, "until": until, "signal": signal}
        return self._add("wait", id, {"wait": {key: one for key, one in wait.items() if one is not None}, **options})

    def consensus(
        self,
        id: str,
        *,
        voters: Sequence[str],
        quorum: int,
        choice: Condition | None = None,
        with_: Any = None,
        **options: Unpack[NodeOptions],
    ) -> Node:
        """Several agents asked the same."""
        vote: dict[str, Any] = {"voters": list(voters), "quorum": quorum}
        if choice is not None:
            vote["choice"] = choice
        return self._add("consensus", id, {"consensus": vote, "with": with_, **options})

    def group(self, id: str, *, output: Any = None, approval: Any = None, **options: Unpack[NodeOptions]) -> Group:
        """A group; nodes are added to what this gives."""
        group = Group(id)
        self._add("group", id, {"output": output, "approval": approval, **options})
        self._nodes[-1]["nodes"] = group._nodes
        return group

    def _add(self, kind: NodeKind, node_id: str, keys: Mapping[str, Any]) -> Node:
        document: dict[str, Any] = {"id": node_id, "kind": kind}
        for key, value in keys.items():
            if value is not None:
                document[key] = _needs(value) if key == "needs" else _plain(value)
        self._nodes.append(document)
        return Node(node_id)


class Group(Nodes, Node):
    """A group of nodes that is a node itself."""

    __slots__ = ()

    def __init__(self, node_id: str) -> None:
        Nodes.__init__(self)
        Node.__init__(self, node_id)


class Workflow(Nodes):
    """A workflow being built; see `workflow`."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__()
        self._document = document

    @property
    def inputs(self) -> Ref:
        """The inputs of a run, for templates and conditions."""
        return Ref("inputs")

    def build(self, outputs: Any = None) -> WorkflowDef:
        """The definition; `outputs` is the template of what a run gives. OmiumError("invalid_definition") lists every
        problem, as for a file."""
        from omium.orchestration.definition.document import Document, plain_problems
        from omium.orchestration.definition.load import workflow_of

        document = {**self._document, "nodes": self._nodes}
        if outputs is not None:
            document["outputs"] = _plain(outputs)
        name = str(self._document.get("name"))[:80]
        built = Document(document, f"workflow {name!r}", None)
        problems = plain_problems(document, max_values=_MAX_VALUES)
        if problems:
            raise built.error(problems)
        return workflow_of(built)


def workflow(
    name: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    description: str = "",
    deadline: Duration | None = None,
    max_parallel: int | None = None,
    approvals: ApprovalMode | Mapping[str, Any] | None = None,
    on_failure: Sequence[Mapping[str, Any]] | None = None,
) -> Workflow:
    """Begin a workflow. inputs: the JSON Schema of what a run is given; approvals: a mode, or {mode: custom, when};
    on_failure: what is done when a node has failed for good, rules as in files."""
    keys = {
        "name": name,
        "inputs": inputs,
        "description": description or None,
        "deadline": deadline,
        "max_parallel": max_parallel,
        "approvals": approvals,
        "on_failure": on_failure,
    }
    return Workflow({key: _plain(value) for key, value in keys.items() if value is not None})


def _plain(value: Any) -> Any:
    """A template with references as text and tuples and mappings as lists and dicts; anything else as it is, for the
    checks to judge."""
    if isinstance(value, Ref):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _needs(value: Needs) -> list[Any]:
    found: Iterable[Any] = [value] if isinstance(value, Node | str | Mapping) else value
    return [one.id if isinstance(one, Node) else _plain(one) for one in found]
