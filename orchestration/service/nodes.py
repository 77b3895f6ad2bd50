"""Looking at one node of a run, and at the files of a run as they were at a position.

Times are microseconds UTC since the epoch, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.definition.model import NodeDef
from omium.orchestration.engine import starting
from omium.orchestration.engine.inputs import resolve
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.positions import find, parse
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import EffectRow
from omium.orchestration.ports_workspace import FileEntry
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading, node_views
from omium.orchestration.service.views import Caller, NodeView
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine

LARGEST_FILE: Final = 16 * 1024 * 1024  # bytes of a file that is read as a whole
_PAGE: Final = 1_000  # events that are held at a time
_SAID: Final = 500  # lines of progress, the newest


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at a node. outcome: how it ended (`completed`, `failed`, `interrupted`), None while it runs."""

    generation: int
    attempt: int
    started_at: int
    ended_at: int | None = None
    outcome: str | None = None
    error: Mapping[str, Any] | None = None
    reason: str | None = None
    again_at: int | None = None  # when the next one may start


@dataclass(frozen=True, slots=True)
class ProgressView:
    """What a node said of its progress."""

    at: int
    generation: int
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeDetailView:
    """A node with what became of it. inputs: what it is given, rendered now from what the run has recorded; when that
    cannot be (yet), `no_inputs` says why. attempts: oldest first, of every generation in this run's own log."""

    node: NodeView
    definition: NodeDef
    inputs: Value
    no_inputs: str | None
    attempts: Sequence[AttemptView]
    progress: Sequence[ProgressView]
    effects: Sequence[EffectRow]


class NodeService(Reading):
    """Part of the core."""

    if TYPE_CHECKING:
        engine: Engine | None

        @property
        def _ground(self) -> Ground: ...

    async def node_detail(self, caller: Caller, run_id: RunId, node: str) -> NodeDetailView:
        """A node of a run: inputs, attempts, what it said, and its calls in the ledger. Raises `not_found`."""
        roles.check(caller, "node_detail")
        await self.row(caller, run_id)
        state = await self.store.state(run_id)
        structure = await self.structure(state)
        found = next((one for one in node_views(state, structure) if one.id == node), None)
        if found is None:
            raise OmiumError("not_found", f"run {run_id} has no node {node[:200]!r}.", "Show the run to see its nodes.")
        heard = _Heard(found.id)
        after = Seq(0)
        while page := await self.store.events(run_id, after, _PAGE):
            for event in page:
                heard.hear(event)
            after = page[-1].seq
        inputs, why = await self._inputs(state, found)
        effects = [one for one in await self.store.effects(run_id) if one.node == node]
        definition = structure.node_def(found.id)
        return NodeDetailView(found, definition, inputs, why, heard.attempts, heard.progress[-_SAID:], effects)

    async def _inputs(self, state: RunState, node: NodeView) -> tuple[Value, str | None]:
        try:
            recorded = await self._ground.recorded(state)
            definition = recorded.structure.node_def(node.id)
            whole = not node.id.endswith("]") and bool(definition.for_each or definition.repeat)
            if whole or definition.kind in ("group", "approval", "wait"):
                return None, "It is given nothing itself."
            scope, digests = await recorded.scope(node.id, definition)
            return starting.given(recorded.execution, node.id, resolve(definition.input, scope, digests)[0]), None
        except OmiumError as error:
            if node.started_at is None:
                return None, "They are not known before what it needs has ended."
            return None, error.message

    async def effects(self, caller: Caller, run_id: RunId) -> list[EffectRow]:
        """The ledger of a run: every call that was made outside, in the order of the intents."""
        roles.check(caller, "effects")
        await self.row(caller, run_id)
        return await self.store.effects(run_id)

    async def files_at(self, caller: Caller, run_id: RunId, at: str | int) -> Sequence[FileEntry] | None:
        """The files of a run's workspace as of a position; None when this process cannot look into workspaces."""
        roles.check(caller, "files_at")
        tree = await self._tree_at(caller, run_id, at)
        if self.engine is None or not self.engine.workspaces.available:
            return None
        if tree is None:
            return []
        files = await self.engine.workspaces.files(tree)
        return [one for one in files if ".git" not in one.path.lower().split("/")]

    async def file_at(self, caller: Caller, run_id: RunId, at: str | int, path: str) -> tuple[FileEntry, bytes]:
        """A file as of a position, by a path that `files_at` lists; of a link its target, which is not followed.

        Raises `not_found`, `invalid_argument` when it is larger than `LARGEST_FILE`, `unsupported` where there are no
        workspaces."""
        roles.check(caller, "file_at")
        files = await self.files_at(caller, run_id, at)
        if files is None or self.engine is None:
            hint = "Ask a server that executes runs, with git installed."
            raise OmiumError("unsupported", "this process cannot look into workspaces.", hint)
        entry = next((one for one in files if one.path == path), None)
        tree = await self._tree_at(caller, run_id, at)
        if entry is None or tree is None:
            raise OmiumError("not_found", f"run {run_id} has no file {path[:200]!r} at {at}.", "List its files.")
        if entry.size > LARGEST_FILE:
            problem = f"the file {path[:200]!r} has {entry.size} bytes; up to {LARGEST_FILE} are read."
            raise OmiumError("invalid_argument", problem, "Open it in the run's workspace.", size=entry.size)
        return entry, await self.engine.workspaces.read(tree, path)

    async def _tree_at(self, caller: Caller, run_id: RunId, at: str | int) -> str | None:
        row = await self.row(caller, run_id)
        state = await self.store.state(run_id, await find(self.store, row, parse(at, row.id), self.store.state))
        return state.tree


_ENDS: Final = {
    EventType.NODE_COMPLETED: "completed",
    EventType.NODE_ATTEMPT_FAILED: "failed",
    EventType.NODE_INTERRUPTED: "interrupted",
}


class _Heard:
    """What the events of a run say of one node, told in order."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self.attempts: list[AttemptView] = []
        self.progress: list[ProgressView] = []

    def hear(self, event: Event) -> None:
        kind, data = event.type, event.data
        if data.get("node") != self._node:
            return
        if kind in (EventType.NODE_STARTED, EventType.NODE_RETRY_STARTED):
            self.attempts.append(AttemptView(int(data["generation"]), int(data["attempt"]), event.at))
        elif kind is EventType.NODE_PROGRESS:
            said = ProgressView(event.at, int(data["generation"]), int(data["attempt"]), str(data["text"]))
            self.progress.append(said)
        elif kind in _ENDS and self.attempts and self.attempts[-1].outcome is None:
            last = replace(self.attempts[-1], ended_at=event.at, outcome=_ENDS[kind])
            self.attempts[-1] = replace(last, error=data.get("error"), reason=data.get("reason"))
        elif kind is EventType.NODE_RETRY_BACKOFF and self.attempts:
            self.attempts[-1] = replace(self.attempts[-1], again_at=int(data["due_at"]))
