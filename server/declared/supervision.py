"""`supervision:` of `omium.yaml`: how registered commands are watched, unless a command says otherwise itself.

supervision:
  timeouts: {hard: 30m, idle: 5m, stall: 2m, heartbeat: 90s, grace: 5s}
  progress: activity                 # or output: work that says nothing is then no progress
  limits: {memory: 2GiB, output: 32MiB}
  approvals: {expires: 24h, min_assurance: elicited, max_resumes: 3}
  reconciliation: {every: 60s, orphans: kill, grace: 0s}
  logging: {enabled: true, output: false, max_size: 100MB, keep: 5}
  commands:
    deploy: {hard: 2h, idle: null, min_assurance: out_of_band}
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from omium.clients.commands import Asking, CommandSpec
from omium.orchestration.definition.problems import Problem
from omium.orchestration.definition.schema import Duration, FileModel, NameText
from omium.orchestration.errors import OmiumError


def _size(value: Any) -> int:
    from omium.server.project_file import size_bytes  # which imports this module

    return size_bytes(value)


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]
Worth = Literal["none", "elicited", "separate_identity", "out_of_band", "signed"]
Progress = Literal["output", "activity"]
Resumes = Annotated[int, Field(ge=0, le=16)]
Limit = Annotated[Duration, Field(gt=0)]  # no time at all would end whatever starts; null is for none


class TimeoutsFile(FileModel):
    hard: Limit | None = 1800.0
    idle: Limit | None = 300.0
    stall: Limit | None = 120.0
    heartbeat: Limit | None = 90.0
    grace: Duration = 5.0


class CommandLimitsFile(FileModel):
    memory: Size | None = None
    output: Size = 32 * 1024 * 1024


class ApprovalsFile(FileModel):
    expires: Annotated[Duration, Field(ge=1)] = 86_400.0
    min_assurance: Worth = "elicited"
    max_resumes: Resumes = 3


class ReconciliationFile(FileModel):
    every: Annotated[Duration, Field(ge=1)] = 60.0
    orphans: Literal["kill", "adopt"] = "kill"
    grace: Duration = 0.0


class LoggingFile(FileModel):
    enabled: bool = True
    output: bool = False
    max_size: Size = 100 * 1000 * 1000
    keep: Annotated[int, Field(ge=1, le=100)] = 5


class OverrideFile(FileModel):
    """What one command has of its own; a key that is missing is as for all."""

    hard: Limit | None = None
    idle: Limit | None = None
    stall: Limit | None = None
    heartbeat: Limit | None = None
    grace: Duration = 5.0
    progress: Progress = "activity"
    memory: Size | None = None
    output: Size = 32 * 1024 * 1024
    expires: Annotated[Duration, Field(ge=1)] = 86_400.0
    min_assurance: Worth = "elicited"
    max_resumes: Resumes = 3


class SupervisionFile(FileModel):
    timeouts: TimeoutsFile = Field(default_factory=TimeoutsFile)
    progress: Progress = "activity"
    limits: CommandLimitsFile = Field(default_factory=CommandLimitsFile)
    approvals: ApprovalsFile = Field(default_factory=ApprovalsFile)
    reconciliation: ReconciliationFile = Field(default_factory=ReconciliationFile)
    logging: LoggingFile = Field(default_factory=LoggingFile)
    commands: dict[NameText, OverrideFile] = Field(default_factory=dict)


# Key of an override -> the section in which it stands for all commands, and the field of a command that it becomes.
_KEYS: Final[Mapping[str, tuple[str | None, str]]] = {
    "hard": ("timeouts", "hard_timeout_s"),
    "idle": ("timeouts", "idle_timeout_s"),
    "stall": ("timeouts", "stall_after_s"),
    "heartbeat": ("timeouts", "heartbeat_timeout_s"),
    "grace": ("timeouts", "grace_s"),
    "progress": (None, "progress"),
    "memory": ("limits", "memory_limit_bytes"),
    "output": ("limits", "output_limit_bytes"),
    "expires": ("approvals", "expires_s"),
    "min_assurance": ("approvals", "min_assurance"),
    "max_resumes": ("approvals", "max_resumes"),
}
_ASKING: Final = frozenset({"expires_s", "min_assurance", "max_resumes"})
# The keys of a command under `commands:` that say the same.
SAME_AS: Final[Mapping[str, str]] = {
    "hard": "timeout",
    "idle": "idle_timeout",
    "grace": "grace",
    "memory": "memory_limit",
    "output": "output_limit",
}
_PREFIX: Final = "OMIUM_SUPERVISION_"


def supervised(
    file: SupervisionFile, specs: Mapping[str, CommandSpec], own: Mapping[str, frozenset[str]]
) -> dict[str, CommandSpec]:
    """The commands as they are to be supervised: an override goes before what the command's declaration states, that
    before what holds for all. own: the fields that declarations in a file state; of one in Python, what differs from
    the default."""
    return {name: _supervised(file, spec, own.get(name, stated_in_python(spec))) for name, spec in specs.items()}


def _supervised(file: SupervisionFile, spec: CommandSpec, own: frozenset[str]) -> CommandSpec:
    said = file.commands.get(spec.name)
    told: dict[str, Any] = {}
    for key, (section, target) in _KEYS.items():
        if said is not None and key in said.model_fields_set:
            told[target] = getattr(said, key)
        elif target not in own:
            told[target] = getattr(file if section is None else getattr(file, section), key)
    asking = {key: told.pop(key) for key in _ASKING if key in told}
    return replace(spec, asking=replace(spec.asking, **asking), **told)


def explained(file: SupervisionFile, spec: CommandSpec, own: frozenset[str] | None) -> Iterator[tuple[str, Any, str]]:
    """What holds for a command: (key, value, the path in `omium.yaml` where that is, or would be, said)."""
    own = stated_in_python(spec) if own is None else own
    holds, said = _supervised(file, spec, own), file.commands.get(spec.name)
    for key, (section, target) in _KEYS.items():
        value = getattr(holds.asking if target in _ASKING else holds, target)
        if said is not None and key in said.model_fields_set:
            place = f"supervision.commands.{spec.name}.{key}"
        elif target in own:
            place = f"commands.{spec.name}.{SAME_AS.get(key, key)}"
        else:
            place = ".".join(part for part in ("supervision", section, key) if part)
        yield key, value, place


def variable_of(path: str) -> str:
    """The variable that says the same as `supervision.<section>.<key>`."""
    return _PREFIX + path.removeprefix("supervision.").replace(".", "_").upper()


def stated(fields: Collection[str]) -> frozenset[str]:
    """The fields of a command that keys under `commands:` state."""
    said = {key for key, same in SAME_AS.items() if same in fields}
    return frozenset(_KEYS[key][1] for key in said)


def stated_in_python(spec: CommandSpec) -> frozenset[str]:
    """The same for a command that was registered in Python: what differs from the default."""
    plain, asking = CommandSpec(spec.name, spec.argv), Asking()
    differs = {t for _, t in _KEYS.values() if t not in _ASKING and getattr(spec, t) != getattr(plain, t)}
    return frozenset(differs | {t for t in _ASKING if getattr(spec.asking, t) != getattr(asking, t)})


def problems_of(file: SupervisionFile, commands: Mapping[str, Any]) -> list[Problem]:
    """Overrides of commands that are not registered, and what is said twice. commands: `commands:` of the file."""
    found = []
    for name, one in file.commands.items():
        here = f"supervision.commands.{name}"
        if name not in commands:
            found.append(Problem(here, f"there is no command {name!r}", "the name of a command under `commands:`"))
            continue
        for key in sorted(one.model_fields_set & SAME_AS.keys()):
            if SAME_AS[key] in commands[name].model_fields_set:
                what = f"commands.{name}.{SAME_AS[key]} says the same"
                found.append(Problem(f"{here}.{key}", what, "one of them"))
    return found


def with_environment(file: SupervisionFile, env: Mapping[str, str]) -> SupervisionFile:
    """The settings with what `OMIUM_SUPERVISION_<SECTION>_<KEY>` say: they go before the file's, and a command's own go
    before both. Raises `invalid_argument` naming the variable."""
    for variable, text in sorted(env.items()):
        if variable.startswith(_PREFIX) and text.strip():
            file = _with(file, variable, text.strip())
    return file


def _with(file: SupervisionFile, variable: str, text: str) -> SupervisionFile:
    document = file.model_dump(exclude={"commands"})
    section, _, key = variable.removeprefix(_PREFIX).lower().partition("_")
    place, key = (document, section) if section == "progress" else (document.get(section), key)
    if not isinstance(place, dict) or key not in place:
        raise _refused(variable, text, "no such setting; one is OMIUM_SUPERVISION_TIMEOUTS_HARD")
    place[key] = None if text.lower() == "none" else _parsed(text)
    try:
        checked = SupervisionFile.model_validate(document)
    except ValidationError as error:
        raise _refused(variable, text, error.errors()[0]["msg"]) from None
    return checked.model_copy(update={"commands": file.commands})


def _parsed(text: str) -> Any:
    known = {"true": True, "false": False}
    return int(text) if text.isascii() and text.isdigit() else known.get(text.lower(), text)


def _refused(variable: str, text: str, expected: str) -> OmiumError:
    message = f"the environment variable {variable} is {text[:80]!r}."
    return OmiumError("invalid_argument", message, f"{expected[:1].upper()}{expected[1:]}.", variable=variable)
