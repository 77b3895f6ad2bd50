"""What `omium.yaml` says of callers: `server: {auth: ...}` and `limits: {requests: ...}`.

server:
  auth:
    open_loopback: true        # a bind to loopback asks for no credential; false: it does
    jwt:
    - issuer: https://login.example.com/
      audience: omium
      jwks: https://login.example.com/keys    # found by OpenID discovery unless given
      role_claim: [resource_access, omium]     # the path to it; a name is one step. omium_role unless given
      roles: {omium-operators: operator, omium-approvers: approver}
limits:
  requests: {reads: 6000, changes: 1200, starts: 600, concurrent: 512, failures: 60}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from omium.orchestration.definition.schema import Duration, FileModel
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.views import Role
from omium.server.identity.issuers import AuthSettings, IssuerSettings

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Url = Annotated[str, Field(min_length=8, max_length=2_048, pattern=r"^https?://[!-~]+$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
PerMinute = Annotated[int, Field(ge=1, le=10_000_000)]
_VARIABLES: Final = ("issuer", "audience", "jwks", "name", "role_claim")


def _path(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _all() -> list[Algorithm]:
    return list(get_args(Algorithm))


class JwtFile(FileModel):
    issuer: Url
    audience: Text
    jwks: Url | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = Field(default_factory=_all)
    role_claim: Annotated[list[Text], BeforeValidator(_path, json_schema_input_type=str | list[str])] = Field(
        default_factory=lambda: ["omium_role"], min_length=1, max_length=8
    )
    roles: dict[Text, Role] = Field(default_factory=dict)
    leeway: Duration = 30.0
    allow_loopback: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.leeway > 300:
            raise ValueError("leeway is for clocks that differ a little; expected at most 300 s")
        return self

    def settings(self) -> IssuerSettings:
        return IssuerSettings(
            self.issuer, self.audience, self.jwks, self.name, tuple(self.algorithms), tuple(self.role_claim),
            self.roles, float(self.leeway),
        )  # fmt: skip


class AuthFile(FileModel):
    open_loopback: bool = True
    jwt: Annotated[list[JwtFile], Field(max_length=16)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _each_its_own(self) -> Self:
        for what in ("issuer", "name"):
            given = [value for one in self.jwt if (value := getattr(one, what)) is not None]
            if len(set(given)) < len(given):
                raise ValueError(f"two entries of jwt have the same {what}; expected one for each {what}")
        return self

    def settings(self) -> AuthSettings:
        return AuthSettings(self.open_loopback, tuple((one.settings(), one.allow_loopback) for one in self.jwt))


class ServerFile(FileModel):
    auth: AuthFile = Field(default_factory=AuthFile)


class RequestsFile(FileModel):
    reads: PerMinute | None = None
    changes: PerMinute | None = None
    starts: PerMinute | None = None
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    failures: PerMinute | None = None


def jwt_of_environment(given: Mapping[str, str]) -> tuple[IssuerSettings, bool] | None:
    """The issuer that the variables OMIUM_JWT_* name; None when they name none. Raises `invalid_argument`."""
    named = {key: text for key in _VARIABLES if (text := given.get(f"OMIUM_JWT_{key.upper()}", "").strip())}
    if not named:
        return None
    try:
        file = JwtFile.model_validate(named)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)[0]
        variable = f"OMIUM_JWT_{str((wrong['loc'] or _VARIABLES)[0]).upper()}"
        raise OmiumError("invalid_argument", f"{variable}: {wrong['msg']}.", variable=variable) from None
    return file.settings(), False
