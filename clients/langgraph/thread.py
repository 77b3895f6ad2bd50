"""The checkpoints of the one graph that a node runs: in memory, and as JSON with what the node keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)

from omium.clients.agents.adapter import AgentContext
from omium.clients.agents.kept import unreadable
from omium.clients.langgraph.packed import as_json, of_json
from omium.clients.langgraph.serializing import StrictSerializer
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

FORMAT: Final = 1
THREAD: Final = "node"
_STEP: Final = ":"  # in the namespace of a subgraph that belongs to one step only


class ThreadSaver(BaseCheckpointSaver[int]):
    """The newest checkpoint of each namespace with the writes after it. Each change is a checkpoint of the agent's.

    more: what is kept beside them. closed: nothing is kept any more, since the work is somebody else's."""

    def __init__(self, ctx: AgentContext, more: dict[str, Any]) -> None:
        super().__init__(serde=StrictSerializer())
        self._ctx = ctx
        self.more = more
        self.closed = False
        self._latest: dict[str, dict[str, Any]] = {}
        self._writes: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}

    def restore(self, blob: Value) -> None:
        """Take over what was kept. Raises `unsupported` for what is none of it."""
        try:
            told: Any = blob
            self.more.update(told["more"])
            for ns, one in told["checkpoints"].items():
                self._latest[ns] = {name: one[name] for name in ("id", "parent", "document", "metadata")}
                self._writes[ns] = {(write["task"], write["idx"]): dict(write) for write in one["writes"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise unreadable("it holds no state of a graph") from error

    async def _keep(self) -> None:
        if self.closed:
            return
        told = {ns: {**one, "writes": list(self._writes.get(ns, {}).values())} for ns, one in self._latest.items()}
        await self._ctx.checkpoint(cast(Value, {"checkpoints": told, "more": self.more}))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        named = config["configurable"]
        ns = named.get("checkpoint_ns", "")
        one = self._latest.get(ns)
        if one is None or named.get("checkpoint_id") not in (None, "", one["id"]):
            return None
        writes = sorted(
            self._writes.get(ns, {}).values(), key=lambda write: (write["path"], write["task"], write["idx"])
        )
        return CheckpointTuple(
            _config(ns, one["id"]),
            self.serde.loads_typed(of_json(one["document"])),
            self.serde.loads_typed(of_json(one["metadata"])),
            _config(ns, one["parent"]) if one["parent"] else None,
            [(write["task"], write["channel"], self.serde.loads_typed(of_json(write["value"]))) for write in writes],
        )

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        found = await self.aget_tuple(config or _config("", ""))
        if found is not None and before is None and limit != 0:
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if metadata.get("counters_since_delta_snapshot"):
            raise OmiumError("unsupported", "a graph with delta channels needs its whole history, which a node lacks.")
        named = config["configurable"]
        ns = named.get("checkpoint_ns", "")
        if not ns:  # a step of the graph itself: the subgraphs of the step before have come to their ends
            for other in [other for other in self._latest if _STEP in other]:
                del self._latest[other], self._writes[other]
        self._latest[ns] = {
            "id": checkpoint["id"],
            "parent": named.get("checkpoint_id"),
            "document": as_json(*self.serde.dumps_typed(checkpoint)),
            "metadata": as_json(*self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))),
        }
        self._writes[ns] = {}
        await self._keep()
        return _config(ns, checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        named = config["configurable"]
        ns = named.get("checkpoint_ns", "")
        one = self._latest.get(ns)
        if one is None or one["id"] != named.get("checkpoint_id"):
            return  # of a step that is over
        there = self._writes.setdefault(ns, {})
        for place, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, place)
            if idx >= 0 and (task_id, idx) in there:
                continue
            there[task_id, idx] = {
                "task": task_id,
                "idx": idx,
                "path": task_path,
                "channel": channel,
                "value": as_json(*self.serde.dumps_typed(value)),
            }
        await self._keep()

    async def adelete_thread(self, thread_id: str) -> None:
        self._latest.clear()
        self._writes.clear()


def _config(ns: str, checkpoint: str) -> RunnableConfig:
    return {"configurable": {"thread_id": THREAD, "checkpoint_ns": ns, "checkpoint_id": checkpoint}}
