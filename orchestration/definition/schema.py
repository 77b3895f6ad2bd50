"""The file form of a workflow: pydantic models, and the way from it to the inside form and back.

`to_workflow` and `to_document` are inverse: a definition has one canonical document, which is what is hashed, however
it was written. Durations in files are seconds or text such as `90s`, `15m`, `24h`, `2d`; conditions may be written with
or without `${{ }}` around them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from omium.orchestration.definition import names
from omium.orchestration.definition.model import (
    ApprovalMode,
    ApprovalSpec,
    Assurance,
    ConsensusSpec,
    FailureRule,
    ForEach,
    Need,
    NodeDef,
    NodeKind,
    OnFailure,
    OnItemFailure,
    OnPause,
    OnUnknown,
    Repeat,
    Retry,
    WaitSpec,
    WorkflowDef,
    WorkspaceMode,
    default_workspace,
)

_DURATION = re.compile(r"\A([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)\Z")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_MAX_SECONDS = 10 * 366 * 86_400.0
_WRAPPED = re.compile(r"\A\s*\$\{\{(.*)\}\}\s*\Z", re.DOTALL)


def duration_seconds(value: Any) -> float:
    """Seconds from a number of them or from text such as `90s`, `15m`, `24h`, `2d`, `250ms`; ValueError otherwise."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.match(value)):
        seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds is not None and seconds > _MAX_SECONDS:
        raise ValueError(f"{value!r:.60} is too long; expected at most {_MAX_SECONDS / 86_400:.0f}d (ten years)")
    if seconds is None or not seconds >= 0:
        raise ValueError(f"{value!r:.60} is not a duration; expected seconds, or text such as 90s, 15m, 24h or 2d")
    return seconds


def condition_text(value: Any) -> Any:
    """A condition without the `${{ }}` that people put around it; YAML's true and false are the expressions of that
    name. Anything but text is left for the type check."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        match = _WRAPPED.match(value)
        return match[1].strip() if match and "${{" not in match[1] else value.strip()
    return value


def _refusing(problem_of: Any) -> AfterValidator:
    """A validator that raises what `problem_of(text)` says, if it says something."""

    def check(text: str) -> str:
        problem = problem_of(text)
        if problem:
            raise ValueError(problem)
        return text

    return AfterValidator(check)


def _as_needs(value: Any) -> Any:
    found = value if isinstance(value, list) else [value]
    return [{"node": one} if isinstance(one, str) else one for one in found]


def _as_rules(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | bool) else value


def _short(key: str, model: Any, *kinds: type) -> BeforeValidator:
    """The short form of a mapping: a value of one of `kinds` stands for the mapping with that value under `key`."""

    def expand(value: Any) -> Any:
        return {key: value} if isinstance(value, kinds) and not isinstance(value, bool) else value

    return BeforeValidator(expand, json_schema_input_type=Union[(model, *kinds)])


def _wait_seconds(value: Any) -> Any:
    return value if isinstance(value, str) and "${{" in value else duration_seconds(value)


NodeIdText = Annotated[str, _refusing(names.id_problem)]
NameText = Annotated[str, _refusing(names.name_problem)]
Prose = Annotated[str, Field(max_length=65_536), _refusing(names.prose_problem)]
Label = Annotated[str, _refusing(names.label_problem)]
Duration = Annotated[float, BeforeValidator(duration_seconds, json_schema_input_type=float | str)]
Condition = Annotated[str, BeforeValidator(condition_text, json_schema_input_type=str | bool), Field(max_length=4096)]
Conditions = Annotated[list[Condition], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
Names = Annotated[list[NameText], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
Pattern = Annotated[str, Field(min_length=1, max_length=400)]
JsonObject = dict[str, Any]


class FileModel(BaseModel):
    """What all of these share: no key is ignored and no type is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NeedFile(FileModel):
    node: NodeIdText
    optional: bool = False
    when: Condition | None = None


class RetryFile(FileModel):
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    initial: Duration = 1.0
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    max: Duration = 60.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    on: Names | None = None


class ForEachFile(FileModel):
    items: Any
    key: Condition | None = None
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    on_failure: OnItemFailure = "fail"


class RepeatFile(FileModel):
    until: Condition
    max: Annotated[int, Field(ge=1, le=10_000)]


class WaitFile(FileModel):
    seconds: Annotated[Any, BeforeValidator(_wait_seconds, json_schema_input_type=float | str)] = Field(
        default=None, alias="for"
    )
    until: str | None = None
    signal: NameText | None = None

    @model_validator(mode="after")
    def _one(self) -> WaitFile:
        if sum(one is not None for one in (self.seconds, self.until, self.signal)) != 1:
            raise ValueError("says not exactly one thing to wait for; expected one of for, until, signal")
        return self


class ApprovalFile(FileModel):
    prompt: Prose
    options: Annotated[list[Label], Field(min_length=1, max_length=20)] = Field(
        default_factory=lambda: ["approve", "reject"]
    )
    expires: Duration = 86_400.0
    min_assurance: Assurance = "elicited"
    show: Any = None

    @model_validator(mode="after")
    def _distinct(self) -> ApprovalFile:
        if len(set(self.options)) != len(self.options):
            raise ValueError("has an option twice; expected options that differ")
        if self.expires <= 0:
            raise ValueError("expires at once; expected a duration above 0")
        return self


class ConsensusFile(FileModel):
    voters: Annotated[list[NameText], Field(min_length=1, max_length=100)]
    quorum: Annotated[int, Field(ge=1)]
    choice: Condition | None = None


class BudgetFile(FileModel):
    usd: Annotated[float, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    calls: Annotated[int, Field(ge=0)] | None = None
    seconds: Duration | None = None


class NodeFile(FileModel):
    id: NodeIdText
    kind: NodeKind
    use: NameText | None = None
    with_: Any = Field(default=None, alias="with")
    needs: Annotated[
        list[NeedFile], BeforeValidator(_as_needs, json_schema_input_type=str | NeedFile | list[str | NeedFile])
    ] = Field(default_factory=list)
    when: Condition | None = None
    for_each: Annotated[ForEachFile, _short("items", ForEachFile, str, list)] | None = None
    repeat: RepeatFile | None = None
    nodes: list[NodeFile] | None = None
    expands: bool = False
    retry: Annotated[RetryFile, _short("max_attempts", RetryFile, int)] | None = None
    timeout: Duration | None = None
    on_unknown: OnUnknown | None = None
    workspace: WorkspaceMode | None = None
    approval: Annotated[ApprovalFile, _short("prompt", ApprovalFile, str)] | None = None
    wait: Annotated[WaitFile, _short("for", WaitFile, int, float, str)] | None = None
    consensus: ConsensusFile | None = None
    compensate: NameText | None = None
    budget: BudgetFile | None = None
    requires: Conditions = Field(default_factory=list)
    expects: Conditions = Field(default_factory=list)
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    resources: Names = Field(default_factory=list)
    on_pause: OnPause = "finish"
    output: Any = None
    input_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    description: Prose = ""


class ApprovalsFile(FileModel):
    mode: ApprovalMode
    when: Conditions = Field(default_factory=list)

    @model_validator(mode="after")
    def _custom_has_conditions(self) -> ApprovalsFile:
        if (self.mode == "custom") != bool(self.when):
            raise ValueError("has conditions without the mode custom, or the reverse; expected mode: custom and when")
        return self


class FailureRuleFile(FileModel):
    do: OnFailure
    categories: Names | None = None
    nodes: (
        Annotated[list[Pattern], BeforeValidator(_as_list, json_schema_input_type=str | list[str]), Field(min_length=1)]
        | None
    ) = None
    to: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    max: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _only_rollbacks_go_somewhere(self) -> FailureRuleFile:
        if self.do != "rollback" and (self.to is not None or self.max is not None):
            raise ValueError(f"says where to or how often, and does not roll back but {self.do}; expected do: rollback")
        if self.categories is not None and not self.categories:
            raise ValueError("fits no category; expected at least one, or none of the key")
        return self


class WorkflowFile(FileModel):
    name: NameText
    description: Prose = ""
    inputs: JsonObject | None = None
    outputs: Any = None
    nodes: Annotated[list[NodeFile], Field(min_length=1)]
    deadline: Duration | None = None
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    approvals: Annotated[ApprovalsFile, _short("mode", ApprovalsFile, str)] | None = None
    on_failure: Annotated[
        list[FailureRuleFile],
        BeforeValidator(_as_rules, json_schema_input_type=FailureRuleFile | list[FailureRuleFile]),
        Field(max_length=100),
    ] = Field(default_factory=list)


def document_schema() -> dict[str, Any]:
    """The JSON Schema of workflow files, for editors and for the authors of definitions."""
    schema = WorkflowFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Omium workflow"}


# --- to the inside form ---


def to_workflow(file: WorkflowFile) -> WorkflowDef:
    """The inside form of a validated file."""
    return WorkflowDef(
        name=file.name,
        nodes=tuple(to_node(node) for node in file.nodes),
        description=file.description,
        inputs=file.inputs,
        outputs=file.outputs,
        deadline_s=file.deadline,
        max_parallel=file.max_parallel,
        approvals=file.approvals.mode if file.approvals else "none",
        approval_conditions=tuple(file.approvals.when) if file.approvals else (),
        on_failure=tuple(_to_rule(rule) for rule in file.on_failure),
    )


def to_node(file: NodeFile) -> NodeDef:
    """The inside form of one validated node, its insides included."""
    each, repeat, wait, consensus = file.for_each, file.repeat, file.wait, file.consensus
    return NodeDef(
        id=file.id,
        kind=file.kind,
        use=file.use,
        input={} if file.with_ is None else file.with_,
        needs=tuple(Need(need.node, need.optional, need.when) for need in file.needs),
        when=file.when,
        for_each=ForEach(each.items, each.key, each.max_parallel, each.on_failure) if each else None,
        repeat=Repeat(repeat.until, repeat.max) if repeat else None,
        body=tuple(to_node(node) for node in file.nodes or ()),
        expands=file.expands,
        retry=_to_retry(file.retry) if file.retry else Retry(),
        timeout_s=file.timeout,
        on_unknown=file.on_unknown,
        workspace=file.workspace or default_workspace(file.kind),
        approval=_to_approval(file.approval) if file.approval else None,
        wait=WaitSpec(wait.seconds, wait.until, wait.signal) if wait else None,
        consensus=ConsensusSpec(tuple(consensus.voters), consensus.quorum, consensus.choice) if consensus else None,
        compensate=file.compensate,
        budget=file.budget.model_dump(exclude_none=True) if file.budget else None,
        requires=tuple(file.requires),
        expects=tuple(file.expects),
        priority=file.priority,
        resources=tuple(file.resources),
        on_pause=file.on_pause,
        output=file.output,
        input_schema=file.input_schema,
        output_schema=file.output_schema,
        description=file.description,
    )


def _to_retry(file: RetryFile) -> Retry:
    on = None if file.on is None else tuple(file.on)
    return Retry(file.max_attempts, file.initial, float(file.factor), file.max, float(file.jitter), on)


def _to_rule(file: FailureRuleFile) -> FailureRule:
    categories = None if file.categories is None else tuple(file.categories)
    nodes = None if file.nodes is None else tuple(file.nodes)
    return FailureRule(file.do, categories, nodes, file.to or "previous", file.max or 1)


def _to_approval(file: ApprovalFile) -> ApprovalSpec:
    return ApprovalSpec(file.prompt, tuple(file.options), file.expires, file.min_assurance, file.show)


# --- and back ---

_NODE_KEYS = {"input": "with", "body": "nodes", "timeout_s": "timeout"}
_RETRY_KEYS = {"initial_s": "initial", "max_s": "max"}
_SPECIAL = frozenset({"id", "kind", "needs", "body", "workspace", "retry", "approval", "wait", "input"})


def to_document(workflow: WorkflowDef) -> dict[str, Any]:
    """The canonical document: file keys, durations in seconds, what has its default left out. `to_workflow` of it
    is the same workflow. Shares templates and schemas with it."""
    document: dict[str, Any] = {"name": workflow.name}
    if workflow.description:
        document["description"] = workflow.description
    for key, value in (("inputs", workflow.inputs), ("outputs", workflow.outputs), ("deadline", workflow.deadline_s)):
        if value is not None:
            document[key] = value
    if workflow.max_parallel is not None:
        document["max_parallel"] = workflow.max_parallel
    if workflow.approval_conditions:
        document["approvals"] = {"mode": workflow.approvals, "when": list(workflow.approval_conditions)}
    elif workflow.approvals != "none":
        document["approvals"] = workflow.approvals
    if workflow.on_failure:
        document["on_failure"] = [_changed(rule, {}) for rule in workflow.on_failure]
    document["nodes"] = [node_document(node) for node in workflow.nodes]
    return document


def node_document(node: NodeDef, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The canonical document of one node; `without` these attributes of it, and of the nodes inside it."""
    document: dict[str, Any] = {"id": node.id, "kind": node.kind}
    if node.input != {}:
        document["with"] = node.input
    if node.needs:
        document["needs"] = [_need_document(need) for need in node.needs]
    if node.body:
        document["nodes"] = [node_document(inner, without) for inner in node.body]
    if node.workspace != default_workspace(node.kind):
        document["workspace"] = node.workspace
    if "retry" not in without and node.retry != Retry():
        document["retry"] = _changed(node.retry, _RETRY_KEYS)
    if node.approval is not None:
        document["approval"] = _changed(node.approval, {"expires_s": "expires"})
    if node.wait is not None:
        document["wait"] = _changed(node.wait, {"seconds": "for"})
    for key, value in _changed(node, _NODE_KEYS, _SPECIAL | without).items():
        document[key] = value
    return document


def _need_document(need: Need) -> str | dict[str, Any]:
    return _changed(need, {}) if need.optional or need.when is not None else need.node


# Per class: (attribute, default) of every field; `dataclasses.fields` is slow for ten thousand nodes.
_FIELDS: dict[type, list[tuple[str, Any]]] = {
    cls: [(one.name, one.default) for one in fields(cls)]
    for cls in (NodeDef, Need, Retry, ForEach, Repeat, WaitSpec, ApprovalSpec, ConsensusSpec, FailureRule)
}


def _changed(value: Any, keys: Mapping[str, str], leave: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, under their keys in files."""
    document: dict[str, Any] = {}
    for name, default in _FIELDS[type(value)]:
        one = getattr(value, name)
        if one is default or name in leave:
            continue
        if default is not MISSING and one == default and type(one) is type(default):
            continue
        if type(one) in _FIELDS:
            one = _changed(one, {})
        elif isinstance(one, tuple):
            one = list(one)
        elif isinstance(one, Mapping):
            one = dict(one)
        document[keys.get(name, name)] = one
    return document
