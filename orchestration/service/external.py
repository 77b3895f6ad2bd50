"""What there is of external servers and their tools, for whoever looks. Nothing here reaches a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from omium.orchestration.ids import Digest
from omium.orchestration.ports_gates import PinRow
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading
from omium.orchestration.service.views import Caller


@dataclass(frozen=True, slots=True)
class ExternalServerView:
    """A declared server. status: `used`, `disabled` by the operator, or `skipped` for a reason; pinned: tools that may
    be called; waiting: tools that a person has to approve first."""

    name: str
    transport: str
    status: Literal["used", "disabled", "skipped"]
    reason: str
    description: str
    pinned: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ExternalToolView:
    """A tool as it is pinned, or as it waits for approval. name: `server/tool`. definition and findings are the
    server's own words, and what looked suspicious in them: {where, kind, excerpt}. proposed: the digest that waits."""

    name: str
    status: Literal["pinned", "changed", "disabled"]
    digest: Digest
    approved_by: str | None
    seen_at: int
    definition: Mapping[str, Any]
    findings: Sequence[Mapping[str, str]]
    proposed: Digest | None = None


class ExternalService(Reading):
    """Part of the core."""

    async def list_external_servers(self, caller: Caller) -> list[ExternalServerView]:
        """All that the project declares, also those that cannot be used, in the order of the file."""
        roles.check(caller, "list_external_servers")
        rows = await self.store.pins(caller.project)
        return [
            ExternalServerView(
                one.name,
                one.transport,
                "disabled" if not one.enabled else "skipped" if one.reason else "used",
                one.reason,
                one.description,
                sum(row.server == one.name and row.status == "pinned" for row in rows),
                sum(row.server == one.name and row.status != "pinned" for row in rows),
            )
            for one in self.catalog.servers.values()
        ]

    async def list_external_tools(
        self, caller: Caller, pattern: str = "*", *, statuses: Sequence[str] = ()
    ) -> list[ExternalToolView]:
        """The known tools whose `server/tool` fits the pattern, by name; of a server that was never used there are
        none."""
        roles.check(caller, "list_external_tools")
        return [
            _view(row)
            for row in await self.store.pins(caller.project)
            if fnmatchcase(f"{row.server}/{row.tool}", pattern if "/" in pattern else f"{pattern}/*")
            and (not statuses or row.status in statuses)
        ]


def _view(row: PinRow) -> ExternalToolView:
    proposed = row.document.get("proposed")
    return ExternalToolView(
        f"{row.server}/{row.tool}",
        row.status,
        row.digest,
        row.approved_by,
        row.at,
        row.document["definition"],
        list((proposed or row.document).get("findings", ())),
        None if proposed is None else Digest(proposed["digest"]),
    )
