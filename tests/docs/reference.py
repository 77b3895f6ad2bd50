"""What the tables of docs/workflows.md must say: the keys of each file model, with type and default.

A table stands behind `<!-- keys: Model -->`. Meaning and example are written by hand; type and default come from here,
and `python -m tests.docs.generate` fills them in.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from omium.orchestration.definition import schema
from omium.orchestration.definition.document import read_document
from omium.orchestration.gates.policy import schema as policies
from omium.orchestration.service.views import Role
from omium.server import project_file
from omium.server.declared import budgets as declared_budgets
from omium.server.declared import coding as declared_coding
from omium.server.declared import external as declared_external
from omium.server.declared import notify as declared_notify
from omium.server.declared import policy as declared_policy
from omium.server.declared import supervision as declared_supervision
from omium.server.declared import telemetry as declared_telemetry
from omium.server.identity import settings

MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(project_file.ProjectFile, project_file.FunctionFile, project_file.CommandFile, project_file.WorkspaceFile),
        *(project_file.UpkeepFile, project_file.RetentionFile),
        *(project_file.LimitsFile, schema.WorkflowFile, schema.NodeFile, schema.NeedFile, schema.ForEachFile),
        *(schema.RepeatFile, schema.ApprovalFile, schema.ApprovalsFile, schema.WaitFile, schema.RetryFile),
        *(schema.ConsensusFile, schema.BudgetFile, schema.FailureRuleFile),
        *(settings.ServerFile, settings.AuthFile, settings.JwtFile, settings.RequestsFile),
        *(declared_notify.EndpointFile, declared_telemetry.TelemetryFile),
    )
}
POLICY_MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(declared_policy.PolicyKeyFile, declared_policy.OpaFile, policies.PolicyFile, policies.RuleFile),
        *(policies.MatchFile, policies.ConditionFile, policies.SizeFile, policies.DuringFile),
        *(policies.CallLimitsFile, policies.TermsFile),
    )
}
"""Those of docs/policy.md."""

_SECTIONS = {
    "OpaFile": "open-policy-agent",
    "RuleFile": "rules",
    "MatchFile": "names",
    "ConditionFile": "arguments",
    "SizeFile": "arguments",
    "DuringFile": "times",
    "CallLimitsFile": "limits-and-approvals",
    "TermsFile": "limits-and-approvals",
    "AgentFile": "agents",
    "FunctionFile": "functions",
    "CommandFile": "commands",
    "WorkspaceFile": "workspaces",
    "LimitsFile": "limits",
    "RequestsFile": "callers",
    "ServerFile": "callers",
    "AuthFile": "callers",
    "JwtFile": "callers",
    "EndpointFile": "notifications-and-traces",
    "TelemetryFile": "notifications-and-traces",
    "UpkeepFile": "upkeep-and-retention",
    "RetentionFile": "upkeep-and-retention",
    "NodeFile": "nodes",
    "NeedFile": "edges",
    "ForEachFile": "fan-out",
    "RepeatFile": "loops",
    "ApprovalFile": "approvals",
    "ApprovalsFile": "approvals",
    "WaitFile": "waits",
    "RetryFile": "failures-and-retries",
    "FailureRuleFile": "when-a-node-has-failed-for-good",
    "ConsensusFile": "consensus-and-budgets",
    "BudgetFile": "consensus-and-budgets",
}
_WORDS: list[tuple[Any, str]] = [
    (schema.Duration, "duration"),
    (declared_supervision.Limit, "duration"),
    (schema.Condition, "condition"),
    (schema.Conditions, "condition, or list of them"),
    (schema.Names, "name, or list of them"),
    (schema.NameText, "name"),
    (schema.NodeIdText, "id"),
    (schema.Prose, "text"),
    (schema.Label, "text"),
    (schema.JsonObject, "JSON Schema"),
    (project_file.Size, "size"),
    (project_file.Count, "whole number from 1"),
    (project_file.Constants, "map of texts"),
    (project_file.VariableNames, "list of names"),
    (Role, "role"),
    (declared_policy.PolicyKey, "[policy](policy.md)"),
    (declared_supervision.SupervisionFile, "[supervision](supervision.md)"),
    (dict[schema.NameText, declared_coding.CodingFile], "map of [CLIs](coding.md)"),
    (declared_budgets.BudgetFile, "[mapping](approvals.md#budgets)"),
    (declared_external.ServersFile, "map of [servers](external.md)"),
    (policies.Scalar, "text, number, boolean or null"),
    (list[policies.Scalar], "list of texts, numbers, booleans or nulls"),
    (policies.Globs, "glob, or list of them"),
    (policies.Roots, "path, or list of them"),
    (policies.HostPatterns, "host, or list of them"),
    (policies.Regexes, "expression, or list of them"),
    (policies.RedactKinds, "kind, or list of them"),
    (policies.ByteCount, "size"),
    (policies.Rate, "rate"),
    (policies.Text, "text"),
    (policies.RuleId, "id"),
    (policies.TimeOfDay, "time"),
    (policies.Zone, "time zone"),
    (policies.PositiveDuration, "duration"),
    (declared_policy.ShadowKey, "profile or path"),
    (Literal["omium.dev/policy/v1"], "`omium.dev/policy/v1`"),
    (settings.Algorithm, "algorithm"),
    (Any, "any value"),
    (str, "text"),
    (bool, "`true` or `false`"),
    (int, "whole number"),
    (float, "number"),
]
_TABLE = re.compile(r"<!-- keys: (\w+) -->\n\| key .*\n\|[-|]+\|\n((?:\|.*\n)+)")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, its cells without the bars."""

    key: str
    type: str
    default: str
    meaning: str
    example: str

    def __str__(self) -> str:
        return f"| {self.key} | {self.type} | {self.default} | {self.meaning} | {self.example} |"


def tables(page: str) -> Iterator[tuple[str, list[Row]]]:
    """(model, rows) of each table of keys on a page."""
    for match in _TABLE.finditer(page):
        yield match[1], [_row(line) for line in match[2].splitlines()]


def _row(line: str) -> Row:
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    assert len(cells) == 5, line
    return Row(*cells)


def filled(page: str) -> str:
    """The page with the types and defaults of its tables as they are."""

    def fill(match: re.Match[str]) -> str:
        found = keys({**MODELS, **POLICY_MODELS}[match[1]])
        lines = []
        for row in map(_row, match[2].splitlines()):
            said = found.get(row.key.strip("`"))
            lines.append(str(row if said is None else Row(row.key, *said, row.meaning, row.example)))
        head = match[0][: match.start(2) - match.start()]
        return head + "".join(f"{line}\n" for line in lines)

    return _TABLE.sub(fill, page)


def keys(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Key -> (type, default), in words."""
    hints = hints_of(model)
    return {
        field.alias or name: (type_text(hints[name]), _default_text(hints[name], field))
        for name, field in model.model_fields.items()
    }


def hints_of(model: type[BaseModel]) -> dict[str, Any]:
    """The annotations of a model's fields, with their constraints."""
    return typing.get_type_hints(model, include_extras=True)


def type_text(hint: Any) -> str:
    for known, word in _WORDS:
        if hint == known:
            return word
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " \\| ".join(f"`{one}`" for one in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(one) for one in arguments if one is not type(None))
    if origin is Annotated:
        return type_text(arguments[0]) + _bounds(arguments[1:])
    if origin is list:
        return f"list of {_plural(type_text(arguments[0]))}"
    if origin is dict:
        return f"map of {_plural(type_text(arguments[1]))}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        section = _SECTIONS[hint.__name__]
        return f"[mapping](#{section})"
    raise AssertionError(f"no words for {hint!r}")


def _plural(word: str) -> str:
    if word.startswith("[mapping]"):
        return word.replace("[mapping]", "[mappings]")
    return word.replace("number", "numbers") if "number" in word else f"{word}s"


def _bounds(constraints: tuple[Any, ...]) -> str:
    low = high = None
    for one in constraints:
        for part in one.metadata if isinstance(one, FieldInfo) else (one,):
            low, high = getattr(part, "ge", low), getattr(part, "le", high)
    if low is None and high is None:
        return ""
    return f" from {low}" if high is None else f", {low} to {high}"


def _default_text(hint: Any, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "" or value == [] or value == {} or isinstance(value, BaseModel):
        return "none"
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if schema.Duration in kinds or declared_supervision.Limit in kinds:
        return f"`{_duration(value)}`"
    if project_file.Size in kinds:
        return f"`{value // 2**20}MiB`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _duration(seconds: float) -> str:
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("m", 60), ("s", 1)) if not seconds % size)
    return f"{seconds / size:g}{unit}"


def example_of(row: Row) -> dict[str, Any]:
    """The mapping in an example's cell, `key: value` as in a file."""
    found: dict[str, Any] = read_document(row.example.strip("`").replace("\\|", "|"), row.key).value
    return found
