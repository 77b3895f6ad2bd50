"""LangGraph's checkpoints in Omium's store: a saver that a compiled graph is given.

    async with open_omium(config) as core:
        saver = OmiumSaver(core.store, project)
        graph = builder.compile(checkpointer=saver)

Threads belong to a project; no other project sees them. Asynchronous methods run in the event loop in which the saver
was made. The synchronous ones are for other threads than that loop's, such as those in which LangGraph runs plain
functions: they have the loop do the work and wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

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

from omium.clients.langgraph.serializing import StrictSerializer
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports import Clock, SystemClock
from omium.orchestration.ports_graphs import GraphQuery, GraphRow, Graphs, GraphWrite, Packed

T = TypeVar("T")

_PAGE: Final = 50
_LONGEST: Final = 1_000
_COUNTERS: Final = "counters_since_delta_snapshot"


class OmiumSaver(BaseCheckpointSaver[int]):
    """See the module. allow: classes of the graph's state that may be rebuilt when it is read, beyond LangGraph's own
    types. Anything else that a state holds is refused as it is stored (`not_allowed`)."""

    def __init__(
        self,
        store: Graphs,
        project: ProjectId,
        *,
        allow: Iterable[type | tuple[str, str]] = (),
        clock: Clock | None = None,
    ) -> None:
        super().__init__(serde=StrictSerializer(allow))
        self._store = store
        self._project = project
        self._clock = clock or SystemClock()
        self._loop = asyncio.get_running_loop()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread, ns, checkpoint = _place(config)
        rows = await self._store.graphs(GraphQuery(self._project, thread, ns, checkpoint), 1)
        found = await self._tuples(rows)
        return found[0] if found else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        wanted = (config or {}).get("configurable", {})
        ns = wanted.get("checkpoint_ns")
        upper = _place(before)[2] if before is not None else None
        left = limit if limit is not None else -1
        after: tuple[str, str, str] | None = None
        while left:
            query = GraphQuery(
                self._project,
                _text("thread_id", wanted["thread_id"]) if "thread_id" in wanted else None,
                _text("checkpoint_ns", ns) if ns is not None else None,
                _text("checkpoint_id", wanted["checkpoint_id"]) if wanted.get("checkpoint_id") else None,
                upper,
                after,
            )
            rows = await self._store.graphs(query, _PAGE)
            if not rows:
                return
            after = (rows[-1].id, rows[-1].thread, rows[-1].ns)
            fitting = [row for row in rows if not filter or _fits(self._metadata(row), filter)]
            for found in await self._tuples(fitting[:left] if left > 0 else fitting):
                yield found
                left -= 1
            if len(rows) < _PAGE:
                return

    def _metadata(self, row: GraphRow) -> Any:
        return self.serde.loads_typed(row.metadata)

    async def _tuples(self, rows: Sequence[GraphRow]) -> list[CheckpointTuple]:
        writes: dict[tuple[str, str], Mapping[str, list[GraphWrite]]] = {}
        for place in dict.fromkeys((row.thread, row.ns) for row in rows):
            ids = [row.id for row in rows if (row.thread, row.ns) == place]
            writes[place] = await self._store.graph_writes(self._project, *place, ids)
        return [self._tuple(row, writes[row.thread, row.ns].get(row.id, [])) for row in rows]

    def _tuple(self, row: GraphRow, writes: Sequence[GraphWrite]) -> CheckpointTuple:
        return CheckpointTuple(
            config=_config(row.thread, row.ns, row.id),
            checkpoint=self.serde.loads_typed(row.document),
            metadata=self._metadata(row),
            parent_config=_config(row.thread, row.ns, row.parent) if row.parent else None,
            pending_writes=[(one.task, one.channel, self.serde.loads_typed(one.value)) for one in writes],
        )

    # --- writing ----------------------------------------------------------------------------------------------------

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread, ns, parent = _place(config)
        about = get_checkpoint_metadata(config, metadata)
        run = about.get("run_id")
        row = GraphRow(
            self._project,
            thread,
            ns,
            _text("checkpoint_id", checkpoint["id"]),
            parent,
            None if run is None else _text("run_id", run),
            Packed(*self.serde.dumps_typed(checkpoint)),
            Packed(*self.serde.dumps_typed(about)),
            self._clock.now_us(),
        )
        await self._store.put_graph(row)
        return _config(thread, ns, row.id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        thread, ns, checkpoint = _place(config)
        if checkpoint is None:
            raise OmiumError("invalid_argument", "writes need the checkpoint_id that they come after.")
        rows = [
            GraphWrite(
                _text("task_id", task_id),
                WRITES_IDX_MAP.get(channel, place),
                _text("task_path", task_path),
                _text("channel", channel),
                Packed(*self.serde.dumps_typed(value)),
            )
            for place, (channel, value) in enumerate(writes)
        ]
        await self._store.put_graph_writes(self._project, thread, ns, checkpoint, rows)

    async def adelete_thread(self, thread_id: str) -> None:
        await self._store.drop_graphs(self._project, thread=_text("thread_id", thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        for run in run_ids:
            await self._store.drop_graphs(self._project, run=_text("run_id", run))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        source, target = _text("thread_id", source_thread_id), _text("thread_id", target_thread_id)
        await self._store.copy_graph(self._project, source, target)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """keep_latest: of each namespace the newest checkpoint stays, and those before it that its delta channels are
        rebuilt from. delete: nothing stays."""
        if strategy not in ("keep_latest", "delete"):
            raise OmiumError("invalid_argument", f"there is no strategy {strategy!r}.", "keep_latest or delete.")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
                continue
            thread = _text("thread_id", thread_id)
            kept: dict[str, set[str]] = {}
            gone: list[str] = []
            async for found in self.alist({"configurable": {"thread_id": thread}}):
                place = found.config["configurable"]
                ns = place["checkpoint_ns"]
                if ns not in kept:
                    kept[ns] = await self._needed(found)
                if place["checkpoint_id"] not in kept[ns]:
                    gone.append(place["checkpoint_id"])
            if gone:
                await self._store.drop_graphs(self._project, thread=thread, ids=gone)

    async def _needed(self, latest: CheckpointTuple) -> set[str]:
        """The checkpoint, and its ancestors as far back as one of its delta channels has no whole value."""
        needed = {latest.config["configurable"]["checkpoint_id"]}
        missing = set(latest.metadata.get(_COUNTERS) or ()) - set(latest.checkpoint["channel_values"])
        at: CheckpointTuple | None = latest
        while missing and at is not None and at.parent_config is not None:
            at = await self.aget_tuple(at.parent_config)
            if at is not None:
                needed.add(at.config["configurable"]["checkpoint_id"])
                missing -= set(at.checkpoint["channel_values"])
        return needed

    # --- for other threads than the event loop's --------------------------------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop or self._loop.is_closed():
            work.close()
            raise OmiumError(
                "not_allowed",
                "the saver's event loop cannot wait for itself.",
                "Use the asynchronous methods (ainvoke, astream, aget_state) there.",
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._wait(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        async def all_() -> Sequence[CheckpointTuple]:
            return [one async for one in self.alist(config, filter=filter, before=before, limit=limit)]

        yield from self._wait(all_())

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._wait(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self._wait(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._wait(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._wait(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._wait(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._wait(self.aprune(thread_ids, strategy=strategy))


def _place(config: RunnableConfig) -> tuple[str, str, str | None]:
    """(thread, namespace, checkpoint) of a configuration."""
    named = config.get("configurable", {})
    if "thread_id" not in named:
        raise OmiumError("invalid_argument", "the configuration names no thread_id.")
    checkpoint = named.get("checkpoint_id")
    return (
        _text("thread_id", named["thread_id"]),
        _text("checkpoint_ns", named.get("checkpoint_ns", "")),
        _text("checkpoint_id", checkpoint) if checkpoint else None,
    )


def _text(what: str, value: Any) -> str:
    text = str(value)
    if len(text) > _LONGEST or "\0" in text:
        raise OmiumError("invalid_argument", f"the {what} is too long, or holds a zero character.")
    return text


def _config(thread: str, ns: str, checkpoint: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint}}


def _fits(metadata: Any, filter: Mapping[str, Any]) -> bool:
    return all(name in metadata and metadata[name] == wanted for name, wanted in filter.items())
