"""The writes of a store that come with an event of the project's own log, in one transaction, on either database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, Seq
from omium.orchestration.ports import TokenRow
from omium.orchestration.ports_gates import Amounts, PinRow
from omium.storage import pins
from omium.storage.budgets import allow_more, told

if TYPE_CHECKING:
    from omium.storage.maintenance.tables import Keeper, Tables

_PUT: Final = (
    "INSERT INTO tokens (id, digest, project, principal, role, sees, note, created_at, expires_at, revoked_at)"
    " VALUES (:id, :digest, :project, :principal, :role, :sees, :note, :created_at, :expires_at, :revoked_at)"
    " ON CONFLICT DO NOTHING"
)
_REVOKE: Final = (
    "UPDATE tokens SET revoked_at = :at WHERE id = :id AND project = :project AND revoked_at IS NULL"
)  # fmt: skip


class ProjectLog:
    """Part of a store."""

    def _keeper(self) -> Keeper:
        from omium.storage.maintenance import keeper  # which knows the stores, so it comes after them

        return keeper(self)

    async def record(self, project: ProjectId, kind: str, actor: Principal, data: Mapping[str, Any]) -> Seq:
        from omium.storage.maintenance import append_project_event

        return await append_project_event(self._keeper(), project, kind, actor, data)

    async def raise_budget(self, project: ProjectId, name: str, extra: Amounts, by: Principal) -> None:
        from omium.storage.maintenance.logs import append_event

        keeper = self._keeper()
        at = keeper.clock.now_us()

        def work(tables: Tables) -> None:
            allow_more(tables, project, name, extra, at)
            append_event(tables, keeper.chain, project, "budget.raised", at, by, told(name, extra))

        await keeper.write(work)

    async def put_token(self, token: TokenRow, by: Principal) -> None:
        from omium.storage.maintenance.logs import append_event

        keeper = self._keeper()
        at = keeper.clock.now_us()
        created = {
            "token": token.id,
            "principal": token.principal,
            "role": token.role,
            "sees": token.sees,
            "note": token.note,
            "expires_at": token.expires_at,
        }

        def work(tables: Tables) -> None:
            if not tables.run(_PUT, **asdict(token)):
                raise OmiumError("conflict", f"there is a token {token.id}, or one with its secret.")
            append_event(tables, keeper.chain, token.project, "token.created", at, by, created)

        await keeper.write(work)

    async def revoke_token(self, project: ProjectId, token_id: str, at_us: int, by: Principal) -> bool:
        from omium.storage.maintenance.logs import append_event

        keeper = self._keeper()

        def work(tables: Tables) -> bool:
            if not tables.run(_REVOKE, at=at_us, id=token_id, project=project):
                return False
            append_event(tables, keeper.chain, project, "token.revoked", at_us, by, {"token": token_id})
            return True

        return await keeper.write(work)

    async def put_pin(self, pin: PinRow, by: Principal, before: PinRow | None) -> bool:
        from omium.storage.maintenance.logs import append_event

        keeper = self._keeper()

        def work(tables: Tables) -> bool:
            if not pins.put(tables, pin, before):
                return False
            said = pins.told(pin, before)
            append_event(tables, keeper.chain, pin.project, f"tool.{pin.status}", pin.at, by, said)
            return True

        return await keeper.write(work)
