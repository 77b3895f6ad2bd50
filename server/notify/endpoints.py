"""Who is told of which events."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, get_args

from omium.orchestration.errors import OmiumError
from omium.orchestration.log.events import EventType

Kind = Literal["webhook", "slack", "pagerduty"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

TYPES: Final = tuple(one.value for one in EventType)
DEFAULT_EVENTS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "webhook": (
        *("approval.requested", "approval.expired", "run.completed", "run.failed", "run.cancelled"),
        "budget.reached",
    ),
    "slack": ("approval.requested", "run.failed", "budget.reached"),
    # The later ones close the alert that the first two open.
    "pagerduty": ("approval.requested", "run.failed", "approval.decided", "approval.expired", "run.completed"),
}
PLUGIN_EVENTS: Final = DEFAULT_EVENTS["webhook"]
"""Of kinds that installed packages offer."""
PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"


def default_events(kind: str) -> tuple[str, ...]:
    """What an endpoint of this kind is told of, unless it says otherwise."""
    return next((events for one, events in DEFAULT_EVENTS.items() if one == kind), PLUGIN_EVENTS)


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is read at the moment of its use: a variable of the environment, or a file. Never its value."""

    variable: str | None = None
    file: Path | None = None

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """Raises `unsupported` when it is not there, saying where it was looked for."""
        if self.variable is not None:
            found = (os.environ if environ is None else environ).get(self.variable, "").strip()
            if not found:
                raise OmiumError(
                    "unsupported", f"the environment variable {self.variable} is not set.", "It holds a secret."
                )
            return found
        assert self.file is not None
        try:
            found = self.file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OmiumError("unsupported", f"the secret in {self.file} cannot be read: {error}.") from None
        if not found:
            raise OmiumError("unsupported", f"the file {self.file} is empty, where a secret was expected.")
        return found


@dataclass(frozen=True, slots=True)
class Endpoint:
    """name: unique in the project, and in the outbox. kind: one of `KINDS`, or what an installed package offers under
    that name. url: where, unless that itself is a secret; empty where a package's kind needs none. key: what a webhook
    is signed with, or PagerDuty's routing key, or a secret of the package's kind; options: of that kind alone. events:
    types, `family.*` or `*`; workflows: patterns of their names. private: whether it may be at an address of this
    machine or of the operator's own network, also over plain http."""

    name: str
    kind: str
    url: str | Secret
    key: Secret | None = None
    events: Sequence[str] = ()
    workflows: Sequence[str] = ()
    timeout_s: float = 10.0
    private: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of event that it is told of."""
        patterns = self.events or default_events(self.kind)
        return tuple(one for one in TYPES if any(fnmatchcase(one, pattern) for pattern in patterns))

    def wants(self, workflow: str) -> bool:
        return not self.workflows or any(fnmatchcase(workflow, pattern) for pattern in self.workflows)

    def address(self) -> str:
        """Raises `unsupported` when the address is a secret that is not there."""
        return self.url if isinstance(self.url, str) else self.url.read()
