"""Which definitions of tools were approved, and what becomes of those that differ.

On the first use of a server all that it offers is pinned, unless the operator wants to see it first. From then on a
tool that is defined otherwise, or that is new, is not callable until a person has approved it: a server that was
harmless when it was tried must not become another one later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

from omium.clients.external.definitions import Definition, difference, shadowed
from omium.clients.external.spec import ServerSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Principal, ProjectId
from omium.orchestration.ports import Clock, Store
from omium.orchestration.ports_gates import PinRow

_log = logging.getLogger(__name__)

Status = Literal["pinned", "changed", "disabled"]

ENGINE: Final = Principal("engine")
FIRST_USE: Final = Principal("first-use")
_READ_EVERY_S: Final = 1.0  # how soon what another process has approved or disabled counts here


class PinBook:
    """The pins of one project, as this process knows them."""

    def __init__(self, store: Store, project: ProjectId, clock: Clock) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._rows: dict[str, PinRow] = {}
        self._read_at: float | None = None

    def known(self, name: str) -> PinRow | None:
        """What was last read of a tool; `read` reads."""
        return self._rows.get(name)

    def rows(self) -> Mapping[str, PinRow]:
        return self._rows

    async def read(self, *, now: bool = False) -> Mapping[str, PinRow]:
        """The pins by `server/tool`, at most a second old."""
        at = self._clock.monotonic()
        if now or self._read_at is None or at - self._read_at > _READ_EVERY_S:
            rows = await self._store.pins(self._project)
            self._rows = {f"{one.server}/{one.tool}": one for one in rows}
            self._read_at = at
        return self._rows

    async def meet(
        self, spec: ServerSpec, offered: Mapping[str, Definition], by: Principal = ENGINE, *, pin: bool = False
    ) -> list[PinRow]:
        """Hold what a server offers against its pins, and record what differs; the rows that were written.

        pin: pin what nobody has approved yet, as on the first use. Changed tools wait for `approve` all the same.
        """
        rows = await self.read(now=True)
        first = not any(one.server == spec.name for one in rows.values())
        trusted = by if pin else FIRST_USE if first and spec.pinning == "first_use" else None
        others = [name for name in rows if not name.startswith(f"{spec.name}/")]
        written = []
        for definition in offered.values():
            old = rows.get(definition.name)
            new = self._met(definition, old, trusted, others)
            if new is None or new == old:
                continue
            if await self._store.put_pin(new, by, old):
                written.append(new)
                if new.status != "pinned":
                    _log.warning("the tool %s is disabled: %s", definition.name, _why(new))
        if written:
            await self.read(now=True)
        return written

    def _met(
        self, definition: Definition, old: PinRow | None, trusted: Principal | None, others: list[str]
    ) -> PinRow | None:
        """The row that follows from a definition that a server offers; the old one when nothing does."""
        if definition.problem and old is None:
            return None
        findings = [one.as_dict() for one in (*definition.findings, *shadowed(definition, others))]
        document: dict[str, Any] = {"definition": dict(definition.document), "findings": findings}
        if old is None or (old.status == "disabled" and old.approved_by is None and "proposed" not in old.document):
            if old is not None and old.digest == definition.digest and trusted is None:
                return old
            status = "pinned" if trusted is not None and not definition.problem else "disabled"
            return PinRow(
                self._project,
                definition.server,
                definition.tool,
                definition.digest,
                document,
                "pinned" if status == "pinned" else "disabled",
                trusted if status == "pinned" else None,
                self._clock.now_us(),
            )
        proposed = old.document.get("proposed", {})
        if definition.digest == proposed.get("digest"):
            return old
        if definition.digest == old.digest:
            # One that has come back is not trusted again by itself: what changes twice may change a third time. But
            # what it was in between is no longer what waits for approval.
            kept = {name: part for name, part in old.document.items() if name != "proposed"}
            return self._next(old, old.status, kept) if proposed else old
        document = {
            **old.document,
            "proposed": {**document, "digest": definition.digest, "problem": definition.problem},
        }
        return self._next(old, "disabled" if old.status == "disabled" else "changed", document)

    async def approve(self, row: PinRow, by: Principal) -> PinRow:
        """Pin what waits for approval in `row`, exactly as that row was shown. Raises `conflict` when it has changed
        since, `not_allowed` when nothing can be approved."""
        proposed = row.document.get("proposed")
        document: Mapping[str, Any] = row.document
        digest = row.digest
        if proposed is not None:
            if proposed.get("problem"):
                raise OmiumError(
                    "not_allowed", f"the new definition of {row.server}/{row.tool} cannot be: {proposed['problem']}."
                )
            digest = Digest(proposed["digest"])
            document = {"definition": proposed["definition"], "findings": proposed["findings"]}
        elif row.status == "pinned":
            raise OmiumError("not_allowed", f"{row.server}/{row.tool} is pinned as it is; nothing waits for approval.")
        return await self._put(self._next(row, "pinned", document, digest, by), by, row)

    async def disable(self, row: PinRow, by: Principal) -> PinRow:
        """Take a tool's approval back."""
        return await self._put(self._next(row, "disabled", row.document), by, row)

    def _next(
        self,
        old: PinRow,
        status: Status,
        document: Mapping[str, Any],
        digest: Digest | None = None,
        by: Principal | None = None,
    ) -> PinRow:
        """The row that follows upon one, with the digest and the approver of that unless others are given."""
        now = self._clock.now_us()
        digest, by = digest or old.digest, by or old.approved_by
        return PinRow(old.project, old.server, old.tool, digest, document, status, by, now)

    async def _put(self, new: PinRow, by: Principal, old: PinRow) -> PinRow:
        if not await self._store.put_pin(new, by, old):
            raise OmiumError("conflict", f"{old.server}/{old.tool} has changed since it was shown.", "Look again.")
        await self.read(now=True)
        return new


def waiting(row: PinRow) -> list[str]:
    """What a person approves: the lines by which the definition that waits differs from the one that was approved, or
    all of it when none was."""
    proposed = row.document.get("proposed")
    if proposed is None:
        return [] if row.status == "pinned" else difference({}, row.document["definition"])
    return difference(row.document["definition"], proposed["definition"])


def findings(row: PinRow) -> list[Mapping[str, str]]:
    """What was found in the definition that waits for approval, or in the pinned one."""
    shown: Mapping[str, Any] = row.document.get("proposed") or row.document
    return list(shown.get("findings", ()))


def refusal(name: str, row: PinRow) -> OmiumError:
    """Why a tool whose pin is not good may not be called."""
    return OmiumError(
        "denied",
        f"the tool {name} is disabled: {_why(row)}.",
        f"A person has to look at it: omium mcp approve {name}",
        rule="pin",
        reason=row.status,
        tool=name,
        sent=False,
    )


def _why(row: PinRow) -> str:
    if row.status == "changed":
        return "its definition has changed since it was approved"
    if row.approved_by is None:
        return "nobody has approved it yet"
    return "its approval was taken back"
