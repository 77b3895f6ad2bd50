"""Looking closer at a run: what its nodes did when, what it saved, and whether its log is what was written.

Times are microseconds UTC since the epoch, sizes bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId, Principal, RunId, Seq
from omium.orchestration.log.chain import GENESIS, Break
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.state import RunState
from omium.orchestration.ports_workspace import FileEntry, Tree
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading, node_views
from omium.orchestration.service.timeline import NodeTimeline, Recorder, failing_path
from omium.orchestration.service.views import Caller

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.ports import Clock

_PAGE: Final = 1_000  # events of a log that are held at a time
_BREAKS: Final = 20  # of a chain that are told; each says where, and one is enough
LARGEST_FILE: Final = 16 * 1024 * 1024  # bytes of a file that is read as a whole


@dataclass(frozen=True, slots=True)
class TimelineView:
    """When the nodes of a run did what. `as_of`: where intervals end that have not ended. `failing`: the nodes on the
    way to what failed first, in order; empty when nothing failed."""

    run_id: RunId
    seq: Seq
    as_of: int
    started_at: int | None
    ended_at: int | None
    nodes: Sequence[NodeTimeline]
    failing: Sequence[NodeId]


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """A named value that a node saved; the newest of its name."""

    name: str
    node: NodeId
    at: int
    size: int
    digest: Digest
    media_type: str | None


@dataclass(frozen=True, slots=True)
class ArtifactsView:
    """What a run has to show. `files` is None when this process cannot look into workspaces."""

    values: Sequence[ArtifactView]
    files: Sequence[FileEntry] | None


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody did to a run."""

    seq: Seq
    at: int
    actor: Principal
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditView:
    """Whether the log of a run is whole up to `seq`, where `head` is its last hash. A log that was cut off together
    with its row shows only against heads that were exported earlier."""

    run_id: RunId
    seq: Seq
    head: str
    breaks: Sequence[Break]
    deeds: Sequence[Deed]

    @property
    def sound(self) -> bool:
        return not self.breaks


_DEEDS: Final = frozenset(
    {
        EventType.RUN_CREATED, EventType.RUN_PAUSED, EventType.RUN_RESUMED, EventType.RUN_CANCELLED,
        EventType.RUN_ROLLED_BACK, EventType.RUN_UNDONE, EventType.RUN_PLAYED_FROM, EventType.RUN_BRANCHED,
        EventType.RUN_CLOSED, EventType.RUN_ADOPTED,
        EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_RECOVERED, EventType.APPROVAL_REQUESTED,
        EventType.APPROVAL_DECIDED, EventType.APPROVAL_EXPIRED, EventType.EFFECT_COMPENSATED,
        EventType.CHECKPOINT_CREATED, EventType.SIGNAL_RECEIVED, EventType.ERASED,
    }
)  # fmt: skip


class InspectionService(Reading):
    """Part of the core."""

    if TYPE_CHECKING:
        engine: Engine | None
        clock: Clock

    async def timeline(self, caller: Caller, run_id: RunId) -> TimelineView:
        """What each node did when, in its present generation. The intervals of a node follow one another without a
        gap, so they add up to its duration."""
        roles.check(caller, "timeline")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        recorder = Recorder()
        async for page in self._log(run_id, state.seq):
            for event in page:
                recorder.hear(event)
        nodes = node_views(state, await self.structure(state))
        now = self.clock.now_us()
        return TimelineView(
            run_id=run_id,
            seq=Seq(state.seq),
            as_of=now,
            started_at=state.started_at,
            ended_at=state.ended_at,
            nodes=[recorder.of(node, now) for node in nodes],
            failing=failing_path(nodes),
        )

    async def artifacts(self, caller: Caller, run_id: RunId) -> ArtifactsView:
        """The named values that a run has saved, by name, and the files that it had when they were last captured."""
        roles.check(caller, "artifacts")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        saved: dict[str, ArtifactView] = {}
        async for page in self._log(run_id, state.seq):
            for event in page:
                if event.type is EventType.ARTIFACT_SAVED:
                    data = event.data
                    saved[data["name"]] = ArtifactView(
                        data["name"], data["node"], event.at, data["size"], data["digest"], data.get("media_type")
                    )
        return ArtifactsView([saved[name] for name in sorted(saved)], await self._files(state))

    async def file(self, caller: Caller, run_id: RunId, path: str) -> tuple[FileEntry, bytes]:
        """A file of the run's workspace as it was last captured; of a link its target, which is not followed.

        What is read is a tree of the installation's own store, by a path that it lists: no path leads out of it.
        Raises `not_found`, `invalid_argument` when it is larger than `LARGEST_FILE`, `unsupported` where there are no
        workspaces."""
        roles.check(caller, "file")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        files = await self._files(state)
        if files is None:
            hint = "Ask a server that executes runs, with git installed."
            raise OmiumError("unsupported", "this process cannot look into workspaces.", hint)
        entry = next((one for one in files if one.path == path), None)
        if entry is None or state.tree is None or self.engine is None:
            raise OmiumError("not_found", f"run {run_id} has no file {path[:200]!r}.", "List its artifacts.")
        if entry.size > LARGEST_FILE:
            raise OmiumError(
                "invalid_argument",
                f"the file {path[:200]!r} has {entry.size} bytes; up to {LARGEST_FILE} are read.",
                "Open it in the run's workspace.",
                size=entry.size,
            )
        return entry, await self.engine.workspaces.read(Tree(state.tree), path)

    async def _files(self, state: RunState) -> list[FileEntry] | None:
        """Without the repository inside: its configuration can hold credentials."""
        if self.engine is None or not self.engine.workspaces.available:
            return None
        if state.tree is None:
            return []
        files = await self.engine.workspaces.files(Tree(state.tree))
        return [one for one in files if ".git" not in one.path.lower().split("/")]

    async def audit(self, caller: Caller, run_id: RunId) -> AuditView:
        """Recompute the chain of a run's log, and list who did what to it. Changes nothing."""
        roles.check(caller, "audit")
        row = await self.row(caller, run_id)
        breaks: list[Break] = []
        deeds: list[Deed] = []
        after, head = Seq(0), GENESIS
        async for page in self._log(run_id, row.seq):
            breaks += self.store.chain.breaks(page, after=after, prev_hash=head)
            after, head = page[-1].seq, page[-1].hash
            deeds += [Deed(e.seq, e.at, e.actor, e.type.value, e.data) for e in page if e.type in _DEEDS]
        if after < row.seq:
            breaks.append(Break(run_id, Seq(after + 1), f"the log ends at {after}, the run is at {row.seq}"))
        elif head != row.head:
            breaks.append(Break(run_id, row.seq, "its last hash is not the one that the run has"))
        return AuditView(run_id, row.seq, head.hex(), breaks[:_BREAKS], deeds)

    async def _log(self, run_id: RunId, upto: int) -> AsyncIterator[list[Event]]:
        """The events of a run up to a position, in pages."""
        after = Seq(0)
        while after < upto:
            page = await self.store.events(run_id, after, min(_PAGE, upto - after))
            if not page:
                return
            yield page
            after = page[-1].seq
