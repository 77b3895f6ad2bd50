"""`policy:` of `omium.yaml`: what runs may do outside.

policy: safe                       # a profile: safe (what holds without this key), or research
policy: policies/main.yaml         # a file, which is read again when it changes
policy:
  path: policies/main.yaml         # or `profile: safe`, or the keys of a policy itself: default, rules, ...
  shadow: policies/next.yaml       # tried beside it: where it would decide differently is recorded, and nothing else
  opa: {url: "http://127.0.0.1:8181", path: omium/decision, timeout: 1s}    # asked too; can only withhold more
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from omium.clients.opa import Opa, checked_path, checked_url
from omium.orchestration.definition.document import Document
from omium.orchestration.definition.problems import Problem, located
from omium.orchestration.definition.schema import Duration
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy import Policy, PolicySource
from omium.orchestration.gates.policy.load import load_policy, policy_of, policy_problems, profile_policy
from omium.orchestration.gates.policy.profiles import PROFILES
from omium.orchestration.gates.policy.schema import PolicyModel

_INLINE: Final = ("apiVersion", "description", "default", "on_error", "limits", "redact", "approval", "rules")


def _url(text: str) -> str:
    return _checked(checked_url, text)


def _path(text: str) -> str:
    return _checked(checked_path, text)


def _checked(check: Any, text: str) -> str:
    try:
        return str(check(text))
    except OmiumError as error:
        raise ValueError(f"{error.message.rstrip('.')}; expected {error.hint}") from None


def _short(value: Any) -> Any:
    """A profile's name or a path in the place of the mapping."""
    if not isinstance(value, str):
        return value
    return {"profile": value} if value in PROFILES else {"path": value}


class OpaFile(PolicyModel):
    url: Annotated[str, AfterValidator(_url)]
    path: Annotated[str, AfterValidator(_path)]
    timeout: Annotated[Duration, Field(ge=0.01, le=60)] = 1.0


class ShadowFile(PolicyModel):
    profile: str | None = None
    path: str | None = None


ShadowKey = Annotated[ShadowFile, BeforeValidator(_short, json_schema_input_type=str | ShadowFile)]


class PolicyKeyFile(PolicyModel):
    """profile or path, or the keys of a policy itself, which `policy_problems` checks by their own form."""

    profile: str | None = None
    path: str | None = None
    shadow: ShadowKey | None = None
    opa: OpaFile | None = None
    apiVersion: Any = None
    description: Any = None
    default: Any = None
    on_error: Any = None
    limits: Any = None
    redact: Any = None
    approval: Any = None
    rules: Any = None

    @property
    def inline(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _INLINE if name in self.model_fields_set}


PolicyKey = Annotated[PolicyKeyFile, BeforeValidator(_short, json_schema_input_type=str | PolicyKeyFile)]


@dataclass(frozen=True, slots=True)
class DeclaredPolicy:
    """What a project says of policy. policy and shadow: a file, or a policy; without a policy the profile `safe` holds.
    opa: how to make one, once a process needs it."""

    policy: Path | Policy | None = None
    shadow: Path | Policy | None = None
    opa: tuple[str, str, float] | None = None

    def source(self) -> PolicySource:
        """Where a process gets its policies from. Raises `not_found` and `invalid_definition`."""
        return PolicySource(self.policy, self.shadow)

    def policy_agent(self) -> Opa | None:
        """The OPA that is asked after the policy; to be closed by whoever asks for it."""
        return None if self.opa is None else Opa(*self.opa)

    def present(self) -> Policy:
        """The policy as it stands now. Raises `not_found` and `invalid_definition`."""
        return load_policy(self.policy) if isinstance(self.policy, Path) else self.policy or profile_policy()


def declared_policy(file: PolicyKeyFile | None, directory: Path) -> DeclaredPolicy:
    """What the key says, once it has no problems; without it, the profile `safe`."""
    if file is None:
        return DeclaredPolicy()
    inline = file.inline
    if file.path is not None:
        policy: Path | Policy = _under(directory, file.path)
    elif inline:
        policy = policy_of({**inline, **({"profile": file.profile} if file.profile else {})}, "omium.yaml")
    else:
        policy = profile_policy(file.profile or "safe")
    opa = None if file.opa is None else (file.opa.url, file.opa.path, float(file.opa.timeout))
    return DeclaredPolicy(policy, _shadow(file.shadow, directory), opa)


def _shadow(file: ShadowFile | None, directory: Path) -> Path | Policy | None:
    if file is None:
        return None
    return _under(directory, file.path) if file.path is not None else profile_policy(file.profile or "safe")


def policy_key_problems(file: PolicyKeyFile | None, directory: Path, document: Document) -> Iterator[Problem]:
    """What is wrong with the key, and with the files that it names, each with file and line."""
    if file is None:
        return
    own: list[Problem] = []
    if file.path is not None and (file.profile is not None or file.inline):
        own.append(
            Problem("policy", "names a file and says something else beside it", "path, with shadow and opa alone")
        )
    for under, one in (("policy", file), ("policy.shadow", file.shadow)):
        if one is None:
            continue
        if one.profile is not None and one.profile not in PROFILES:
            own.append(Problem(f"{under}.profile", f"is {one.profile!r:.60}", " or ".join(PROFILES)))
        elif one.profile is None and one.path is None and (one is file.shadow or not file.inline):
            own.append(Problem(under, "says nothing of what is allowed", "profile, path, or rules"))
        if one.path is not None:
            yield from _file_problems(one.path, f"{under}.path", directory, document)
    if own:
        yield from located(own, document.source, document.line_of)
    elif file.path is None and file.inline:
        inline = {**file.inline, **({"profile": file.profile} if file.profile else {})}
        yield from policy_problems(inline, document, "policy")


def _file_problems(path: str, under: str, directory: Path, document: Document) -> Iterator[Problem]:
    try:
        load_policy(_under(directory, path))
    except OmiumError as error:
        reported = error.data.get("problems")
        if not reported:
            what = f"there is no policy {path!r}: {error.message.rstrip('.')}"
            yield from located([Problem(under, what, f"a file below {directory}")], document.source, document.line_of)
            return
        for one in reported:
            yield Problem(one["path"], one["message"], one["expected"], one["file"], one["line"])


def _under(directory: Path, text: str) -> Path:
    return (directory / Path(text).expanduser()).resolve()
