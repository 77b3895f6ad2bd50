"""Short forms of what the tests do to runs."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, Fence, NodeId, Principal, RunId, WorkerId
from omium.orchestration.log.commands import (
    Command,
    CompleteNode,
    CreateRun,
    PlanRun,
    RequestApproval,
    StartNode,
    StartRun,
)
from omium.orchestration.log.state import RunState, to_document
from omium.orchestration.ports import NewBlob, Store, WorkerRow, Write, Written
from omium.orchestration.values import Encoded, encode
from tests.conformance.store.databases import START_US

USER = Principal("user:ada")
ENGINE = Principal("engine")
WORKER = WorkerId("worker_1")
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")

_numbers = itertools.count(1)


def new_run() -> RunId:
    """Ids that sort by the order of their making, as real ones do."""
    return RunId(f"run_{next(_numbers):026}")


def blob(value: Any) -> NewBlob:
    return NewBlob(encode(value))


INPUTS: Encoded = encode({"topic": "otters"})
DEFINITION: Encoded = encode({"name": "demo"})
OUTPUT: Encoded = encode({"text": "done"})


def creation(**changes: Any) -> CreateRun:
    return CreateRun(
        **{
            "definition": DEFINITION.digest,
            "workflow": "demo",
            "inputs": INPUTS.digest,
            "project": "default",
            **changes,
        }
    )


@dataclass
class Run:
    """A run and the token of its owner."""

    store: Store
    id: RunId
    fence: Fence | None
    faults: int = 0

    async def do(self, *commands: Command, blobs: Sequence[NewBlob] = ()) -> Written:
        """As its owner."""
        write = Write(self.id, commands, ENGINE, fence=self.fence, blobs=blobs, faults=self.faults)
        try:
            return await self.store.write(write)
        except OmiumError:
            self.faults = write.faults + 1
            raise

    async def ask(self, *commands: Command, blobs: Sequence[NewBlob] = ()) -> Written:
        """As anybody."""
        return await self.store.write(Write(self.id, commands, USER, blobs=blobs))

    async def state(self) -> RunState:
        return await self.store.state(self.id)

    async def complete(self, *nodes: NodeId) -> None:
        for node in nodes:
            generation = (await self.state()).node(node).generation
            await self.do(StartNode(node, generation))
            await self.do(completion(node, generation))


def completion(node: NodeId, generation: int = 0, **changes: Any) -> CompleteNode:
    return CompleteNode(node, generation, OUTPUT.digest, OUTPUT.size, **changes)


async def draft(store: Store, **changes: Any) -> Run:
    """A run that is only created; nobody owns it."""
    run_id = new_run()
    await store.write(Write(run_id, [creation(**changes)], USER, blobs=[NewBlob(INPUTS), NewBlob(DEFINITION)]))
    return Run(store, run_id, None)


async def executing(store: Store, worker: WorkerId | None = WORKER, **changes: Any) -> Run:
    """A run that executes, owned by `worker`."""
    run_id = new_run()
    commands = [creation(**changes), PlanRun(), StartRun()]
    blobs = [NewBlob(INPUTS), NewBlob(DEFINITION), NewBlob(OUTPUT)]
    written = await store.write(Write(run_id, commands, USER, blobs=blobs, claim=worker))
    return Run(store, run_id, written.fence)


def request(approval: str, node: NodeId | None, **changes: Any) -> RequestApproval:
    return RequestApproval(
        **{
            "approval": ApprovalId(approval),
            "node": node,
            "generation": 0,
            "scope": "step",
            "question": "Publish?",
            "options": ("approve", "reject"),
            "expires_at": START_US + 3_600_000_000,
            "min_assurance": "elicited",
            **changes,
        }
    )


def worker_row(worker: WorkerId, *serving: str) -> WorkerRow:
    return WorkerRow(worker, "host", "boot", 1, 2.5, 0, list(serving) or ["default"])


async def refused(code: str, action: Awaitable[Any]) -> OmiumError:
    """The OmiumError with this code that `action` raises."""
    with pytest.raises(OmiumError) as caught:
        await action
    assert caught.value.code == code, caught.value
    return caught.value


def document(state: RunState) -> dict[str, Any]:
    """A state for comparison, as it is after a round trip through JSON."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(to_document(state)))
    return found


def digest_of(value: Any) -> Digest:
    return encode(value).digest
