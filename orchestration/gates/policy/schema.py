"""The file form of a policy: what its keys may hold. Nothing is ignored, and nothing is coerced.

A canonical document is what `PolicyFile` reads, with every default filled in and every spelling made one; its hash is
the policy's version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from omium.orchestration.definition import names as file_names
from omium.orchestration.definition.model import Assurance
from omium.orchestration.definition.schema import Condition, Duration
from omium.orchestration.gates.policy.fields import field_problem
from omium.orchestration.gates.policy.hosts import host_pattern_problem
from omium.orchestration.gates.policy.model import DAY_S, Effect, OnError, Question
from omium.orchestration.gates.policy.names import glob_problem
from omium.orchestration.gates.policy.paths import root_problem
from omium.orchestration.gates.policy.regexes import regex_problem
from omium.orchestration.ports_calls import Action

API_VERSION: Final = "omium.dev/policy/v1"
ID: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
MAX_RULES: Final = 10_000
MAX_LIST: Final = 1_000
_RATE: Final = re.compile(r"\A([1-9][0-9]{0,8})/([1-9][0-9]{0,5})?(s|m|h|d)\Z")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_RATE_MAX_S: Final = 7 * DAY_S  # the store forgets the counter of a window a day later
_BYTES: Final = re.compile(r"\A([0-9]{1,12})(k|m|g)?\Z", re.IGNORECASE)
_POWER: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_TIME: Final = re.compile(r"\A([01][0-9]|2[0-3]):([0-5][0-9])\Z")

Profile = Literal["research", "safe"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Kind = Literal["text", "number", "boolean", "list", "object", "null"]


def rate(value: Any) -> Any:
    """(calls, seconds) from text such as `60/m` or `5/10s`, or from such a pair; ValueError otherwise."""
    if isinstance(value, list | tuple) and len(value) == 2:
        calls, seconds = value
        if type(calls) is int and calls > 0 and type(seconds) in (int, float) and 0 < seconds <= _RATE_MAX_S:
            return (calls, float(seconds))
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r:.60} is not a rate; expected calls in a time, such as 60/m, 5/s or 100/10m")
    seconds = int(match[2] or 1) * _SECONDS[match[3]]
    if seconds > _RATE_MAX_S:
        raise ValueError(f"the rate {value!r:.60} counts over more than 7d; use a budget with a period for that")
    return (int(match[1]), seconds)


def byte_count(value: Any) -> int:
    """Bytes from a number of them or from text such as `256k` or `2M` (units of 1024); ValueError otherwise."""
    if type(value) is int and value >= 0:
        return value
    match = _BYTES.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r:.60} is not a size; expected bytes, or text such as 256k or 2M")
    return int(match[1]) * _POWER[(match[2] or "").lower()]


def problem_text(error: ValueError) -> str:
    """The first thing that a validation found, in a line."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    first = details(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _refusing(problem_of: Callable[[str], str]) -> AfterValidator:
    def check(text: str) -> str:
        problem = problem_of(text)
        if problem:
            raise ValueError(problem)
        return text

    return AfterValidator(check)


def _id_problem(text: str) -> str:
    return "" if ID.match(text) else f"{text!r:.60} is no id; expected letters, digits, dots, dashes and underscores"


def _time_problem(text: str) -> str:
    return "" if _TIME.match(text) else f"{text!r:.60} is no time of day; expected text such as '09:00' (in quotes)"


def _zone_problem(text: str) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return f"{text!r:.60} is no time zone here; expected UTC, or a name such as Europe/Berlin"
    return ""


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("is no time at all; expected more than 0")
    return seconds


def _scalar(value: Any) -> Any:
    if value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(f"is {type(value).__name__}; expected text, a number, true, false or null")
    return value


_LISTED = (
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=MAX_LIST),
)
Glob = Annotated[str, _refusing(glob_problem)]
Root = Annotated[str, _refusing(root_problem)]
HostPattern = Annotated[str, _refusing(host_pattern_problem)]
Regex = Annotated[str, _refusing(regex_problem)]
FieldPath = Annotated[str, _refusing(field_problem)]
TimeOfDay = Annotated[str, _refusing(_time_problem)]
Zone = Annotated[str, _refusing(_zone_problem)]
RuleId = Annotated[str, _refusing(_id_problem)]
Text = Annotated[str, Field(max_length=2_000), _refusing(file_names.prose_problem)]
Scalar = Annotated[Any, BeforeValidator(_scalar, json_schema_input_type=str | float | bool | None)]
Number = int | float
ByteCount = Annotated[int, BeforeValidator(byte_count, json_schema_input_type=int | str)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Rate = Annotated[tuple[int, float], BeforeValidator(rate, json_schema_input_type=str)]
Usd = Annotated[float, Field(ge=0, le=1e9)]
Globs = Annotated[list[Glob], *_LISTED]
Roots = Annotated[list[Root], *_LISTED]
HostPatterns = Annotated[list[HostPattern], *_LISTED]
Regexes = Annotated[list[Regex], *_LISTED]
RedactKinds = Annotated[list[Annotated[str, _refusing(_id_problem)]], *_LISTED]


class PolicyModel(BaseModel):
    """What all of these share: no key is ignored and no type is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MatchFile(PolicyModel):
    action: list[Action] | None = None
    server: Globs | None = None
    tool: Globs | None = None
    agent: Globs | None = None
    workflow: Globs | None = None
    node: Globs | None = None
    principal: Globs | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if isinstance(value, dict) and "action" in value:
            return {**value, "action": _as_list(value["action"])}
        return value


class SizeFile(PolicyModel):
    min: ByteCount | None = None
    max: ByteCount | None = None

    @model_validator(mode="after")
    def _bounded(self) -> SizeFile:
        if self.min is None and self.max is None:
            raise ValueError("says nothing; expected min, max or both")
        return self


class ConditionFile(PolicyModel):
    """What must hold of one argument; several of these must hold together."""

    eq: Scalar = None
    one_of: Annotated[list[Scalar], Field(min_length=1, max_length=MAX_LIST)] | None = Field(default=None, alias="in")
    re: Regexes | None = None
    glob: Globs | None = None
    lt: Number | None = None
    le: Number | None = None
    gt: Number | None = None
    ge: Number | None = None
    path_under: Roots | None = None
    host_in: HostPatterns | None = None
    size: SizeFile | None = None
    type: Kind | None = None
    exists: bool | None = None
    absent: bool | None = None
    negated: ConditionFile | None = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _says_something(self) -> ConditionFile:
        said = self.model_fields_set
        if not said:
            raise ValueError("says nothing; expected a condition such as eq, in, re, glob, path_under or host_in")
        for name in said - {"eq"}:
            if getattr(self, name) is None:
                raise ValueError(f"{type(self).model_fields[name].alias or name} is null; expected a value")
        missing = self.absent is True or self.exists is False
        if missing and len(said) > 1:
            raise ValueError("what is absent has nothing else; expected absent (or exists: false) alone")
        if self.negated is not None and self.negated.model_fields_set & {"exists", "absent"}:
            raise ValueError("negates exists or absent; expected the other one of them")
        return self


class DuringFile(PolicyModel):
    """A time of the week. A window whose end is before its start goes over midnight, and belongs to the day on which
    it starts."""

    days: Annotated[list[Day], Field(min_length=1)] = Field(default_factory=lambda: list(get_args(Day)))
    start: TimeOfDay = Field(default="00:00", alias="from")
    end: Annotated[str, AfterValidator(lambda text: text)] = Field(default="24:00", alias="to")
    zone: Zone = "UTC"

    @model_validator(mode="after")
    def _some_time(self) -> DuringFile:
        if self.end != "24:00" and _TIME.match(self.end) is None:
            raise ValueError(f"{self.end!r:.60} is no time of day; expected text such as '17:30' (in quotes)")
        if self.start == self.end:
            raise ValueError("begins when it ends; expected from and to that differ")
        return self


class CallLimitsFile(PolicyModel):
    rate: Rate | None = None
    output_bytes: ByteCount | None = None
    timeout: PositiveDuration | None = None
    run_budget_usd: Usd | None = None


class TermsFile(PolicyModel):
    min_assurance: Assurance = "elicited"
    ttl: PositiveDuration = DAY_S


class RuleFile(PolicyModel):
    id: RuleId
    effect: Effect
    description: Text = ""
    match: MatchFile = Field(default_factory=MatchFile)
    when: dict[FieldPath, ConditionFile] = Field(default_factory=dict)
    condition: Condition | None = Field(default=None, alias="if")
    during: DuringFile | None = None
    limits: CallLimitsFile | None = None
    redact: RedactKinds | None = None
    trusts: list[Literal["read_only", "idempotent"]] | None = None
    approval: TermsFile | None = None

    @model_validator(mode="after")
    def _fits_its_effect(self) -> RuleFile:
        if self.effect == "deny":
            for name in ("limits", "redact", "trusts"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} mean nothing where the call is denied; expected no {name}")
        if self.effect != "require_approval" and self.approval is not None:
            raise ValueError("approval means nothing to this effect; expected effect: require_approval")
        if self.effect == "allow" and any(path.startswith("hints") for path in self.when):
            raise ValueError("allows by what the server says of its own tool; expected a condition on arguments")
        return self


class PolicyFile(PolicyModel):
    apiVersion: Literal["omium.dev/policy/v1"] = API_VERSION
    description: Text = ""
    profile: Profile | None = None
    default: Effect | None = None
    on_error: OnError | None = None
    limits: CallLimitsFile | None = None
    redact: RedactKinds | None = None
    approval: TermsFile | None = None
    rules: Annotated[list[RuleFile], Field(max_length=MAX_RULES)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ids_differ(self) -> PolicyFile:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise ValueError(f"the rule {rule.id!r} is there twice; expected ids that differ")
            seen.add(rule.id)
        return self


def _aware(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r:.60} is no time; expected text such as 2026-03-02T09:30:00+01:00") from None
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("has no time zone; expected text such as 2026-03-02T09:30:00+01:00")
    return value


class QuestionFile(PolicyModel):
    action: Action = "tool"
    server: str | None = None
    tool: str
    arguments: Any = Field(default_factory=dict)
    workflow: str | None = None
    node: str | None = None
    agent: str | None = None
    principal: str | None = None
    project: str | None = None
    hints: dict[str, Any] = Field(default_factory=dict)
    at: Annotated[datetime | None, BeforeValidator(_aware, json_schema_input_type=str)] = None

    def question(self) -> Question:
        return Question(**{name: getattr(self, name) for name in type(self).model_fields})
