"""`notify:` of `omium.yaml`: who is told of what happens.

notify:
- name: ops
  kind: webhook                       # webhook, slack or pagerduty
  url: https://hooks.example.com/omium
  secret_env: OMIUM_WEBHOOK_SECRET    # or secret_file; what the webhook is signed with
  events: [approval.requested, run.failed]    # types, family.* or *
  workflows: [release-*]
- {name: chat, kind: slack, url_env: SLACK_WEBHOOK_URL}
- {name: pager, kind: pagerduty, routing_key_env: PAGERDUTY_KEY, events: [run.failed, run.completed]}
- {name: team, kind: matrix, options: {room: ops}}    # a kind that an installed package offers
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from omium.orchestration.definition.document import VARIABLE
from omium.orchestration.definition.schema import Duration, FileModel, JsonObject, NameText
from omium.server.notify.endpoints import KINDS, PAGERDUTY_URL, TYPES, Endpoint, Secret, default_events
from omium.server.plugins import NOTIFIERS_GROUP, points

Url = Annotated[str, Field(min_length=8, max_length=2_048, pattern=r"^https?://[!-~]+$")]
Variable = Annotated[str, Field(pattern=VARIABLE)]
Pattern = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9_.*?-]+$")]


def _known(kind: str) -> str:
    """Raises ValueError for a kind that is neither ours nor that of an installed package, which is not imported."""
    if kind not in KINDS and kind not in (offered := sorted(point.name for point in points(NOTIFIERS_GROUP))):
        raise ValueError(f"{kind[:80]!r} is no kind of endpoint; expected one of {', '.join((*KINDS, *offered))}")
    return kind


class EndpointFile(FileModel):
    name: NameText
    kind: Annotated[str, AfterValidator(_known)] = "webhook"
    url: Url | None = None
    url_env: Variable | None = None
    url_file: str | None = None
    secret_env: Variable | None = None
    secret_file: str | None = None
    routing_key_env: Variable | None = None
    routing_key_file: str | None = None
    events: Annotated[list[Pattern], Field(max_length=100)] = Field(default_factory=list)
    workflows: Annotated[list[Pattern], Field(max_length=100)] = Field(default_factory=list)
    timeout: Annotated[Duration, Field(ge=0.1, le=60)] = 10.0
    allow_private: bool = False
    options: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        where = [name for name in ("url", "url_env", "url_file") if getattr(self, name) is not None]
        if len(where) > 1 or (not where and self.kind in ("webhook", "slack")):
            raise ValueError("expected exactly one of url, url_env and url_file")
        if self.kind in KINDS and self.options:
            raise ValueError("options are for kinds of installed packages; expected none")
        for what, kind in (("secret", "webhook"), ("routing_key", "pagerduty")):
            given = [name for name in (f"{what}_env", f"{what}_file") if getattr(self, name) is not None]
            fits = (self.kind == kind) == (len(given) == 1)
            if kind == "webhook" and self.kind not in KINDS:  # whether a package's kind needs one is its own affair
                fits = len(given) < 2
            if not fits:
                raise ValueError(f"{what}_env or {what}_file goes with the kind {kind}, exactly one of them")
        for pattern in self.events:
            if not any(fnmatchcase(one, pattern) for one in TYPES):
                raise ValueError(f"{pattern!r} is no event; expected one of {', '.join(TYPES)}, or family.*")
        if self.url is not None and self.url.startswith("http://") and not self.allow_private:
            raise ValueError("plain http reveals what is sent; expected https, or allow_private: true")
        return self

    def endpoint(self, directory: Path) -> Endpoint:
        """directory: what relative paths of files with secrets mean."""

        def secret(variable: str | None, file: str | None) -> Secret | None:
            if variable is None and file is None:
                return None
            return Secret(variable, None if file is None else (directory / Path(file).expanduser()).resolve())

        url = self.url or secret(self.url_env, self.url_file) or (PAGERDUTY_URL if self.kind == "pagerduty" else "")
        key = secret(self.secret_env or self.routing_key_env, self.secret_file or self.routing_key_file)
        return Endpoint(
            self.name,
            self.kind,
            url,
            key,
            tuple(self.events) or default_events(self.kind),
            tuple(self.workflows),
            float(self.timeout),
            self.allow_private,
            dict(self.options),
        )


def endpoints_of(files: list[EndpointFile], directory: Path) -> tuple[Endpoint, ...]:
    return tuple(one.endpoint(directory) for one in files)


def names_differ(files: list[EndpointFile]) -> list[EndpointFile]:
    """Raises ValueError when two endpoints have one name: the outbox knows them by it."""
    names = [one.name for one in files]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two entries are called {name!r}; expected one for each name")
    return files
