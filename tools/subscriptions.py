"""Who is told that something has changed: the hub between the log and those who listen, in both protocol eras.

Every notification is a level trigger: "this has changed since you looked, read it again if you care". So whoever
listens has a mailbox that holds each thing that they wanted at most once, however often it changes and however slowly
they read. Nothing is replayed: who subscribes reads afterwards.

What changes comes from the log. Commits of this process are heard as they happen (`Store.listen`); that another process
has committed something is heard too (`Store.changes`), and then one look for all who listen says what it was. Nothing
is polled, and nothing runs while nobody listens.

An extension adds a member of its own to the filter of `subscriptions/listen`, as `taskIds` is one, by implementing
`Member` and handing it to `offer_subscriptions(server, members=[...])` (tools/listening.py). A server's own code tells
of other changes with `await hub.publish(event)`, which is the SDK's `SubscriptionBus`, so `ctx.notify_...` works too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.ports import RunQuery
from omium.orchestration.service.views import Caller
from omium.tools.uris import Ref, parse

if TYPE_CHECKING:
    from omium.orchestration.ports import Store
    from omium.orchestration.service.core import Core

_log = logging.getLogger(__name__)

MAX_LISTENERS = 2_048  # of a server
MAX_LISTENERS_EACH = 128  # of one principal
MAX_WANTED = 1_000  # things that one listener may want
RECENT = 100  # runs that are listed as resources

_PAUSE_S = 0.02  # between two looks at the database, however many commits there are
_TROUBLE_S = 1.0  # before it is tried again when it cannot be read
_MANY = 200  # events of one run that are looked at singly; of more, everything counts as changed


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """Something of an extension's kind has changed: `MemberChanged("taskIds", "tsk_...")`."""

    member: str
    id: str


Change: TypeAlias = ServerEvent | MemberChanged


@dataclass(frozen=True, slots=True)
class Note:
    """A notification as it goes over the wire; the subscription's id is put into its `_meta`."""

    method: str
    params: dict[str, Any]


class Member(Protocol):
    """A member of the filter of `subscriptions/listen` that lists ids: its name on the wire, and what it means."""

    @property
    def name(self) -> str:
        """`taskIds`."""

    async def admit(
        self, ctx: ServerRequestContext[Any, Any], core: Core, caller: Caller, ids: Sequence[str]
    ) -> list[str]:
        """Those of the ids that the caller may be told of; the acknowledgement names them. An id that is somebody
        else's is left out like one that there is not."""

    async def follow(
        self,
        ctx: ServerRequestContext[Any, Any],
        core: Core,
        caller: Caller,
        ids: Sequence[str],
        changed: Callable[[str], None],
    ) -> None:
        """Call `changed(id)` whenever one of these may have changed. Begins before the acknowledgement is sent, is
        cancelled when the stream ends, and must not poll. May return early."""

    async def note(self, ctx: ServerRequestContext[Any, Any], core: Core, caller: Caller, id: str) -> Note | None:
        """What is to be told of an id now: asked when the client is ready for it, so that what changed twice is told
        once. None, or the same as was told last: nothing is sent."""


class Mailbox:
    """What one listener has not been told yet. Holds at most what was wanted, each once."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.wanted: set[Change] = set()
        self.closed = False
        self._pending: dict[Change, None] = {}
        self._bell = anyio.Event()

    def put(self, change: Change) -> None:
        if change in self.wanted and not self.closed:
            self._pending[change] = None
            self._bell.set()

    async def take(self) -> Change | None:
        """The next change, in the order in which they first happened; None once it is closed and empty."""
        while not self._pending:
            if self.closed:
                return None
            await self._bell.wait()
            self._bell = anyio.Event()
        change = next(iter(self._pending))
        del self._pending[change]
        return change

    def forget(self, change: Change) -> None:
        """It is not wanted any more."""
        self.wanted.discard(change)
        self._pending.pop(change, None)

    def close(self) -> None:
        """No more is put in; what is there can still be taken."""
        self.closed = True
        self._bell.set()

    def __len__(self) -> int:
        return len(self._pending)


# --- what an event changes -------------------------------------------------------------------------------------------

_SHAPES = frozenset(
    {EventType.RUN_ROLLED_BACK, EventType.RUN_PLAYED_FROM, EventType.RUN_FAILED, EventType.RUN_CANCELLED}
)
_POSITIONS = frozenset(
    {
        EventType.NODE_COMPLETED, EventType.NODE_REUSED, EventType.NODE_FAILED, EventType.NODE_SKIPPED,
        EventType.CHECKPOINT_CREATED, EventType.APPROVAL_DECIDED, EventType.RUN_COMPLETED, EventType.RUN_CREATED,
    }
)  # fmt: skip
_TREES = frozenset({EventType.WORKSPACE_CAPTURED, EventType.WORKSPACE_RESTORED, EventType.RUN_ROLLED_BACK})


def touches(ref: Ref, event: Event) -> bool:
    """Whether an event of the run may change what a resource of that run shows."""
    kind = event.type
    match ref.kind:
        case "graph" | "graph.mmd" | "graph.dot" | "timeline":
            return kind.value.startswith(("run.", "node.", "approval."))
        case "checkpoints":
            return kind in _POSITIONS or kind in _SHAPES
        case "branches":
            return kind.value.startswith("run.")
        case "node":
            return event.data.get("node") == ref.name or kind in _SHAPES or kind is EventType.APPROVAL_DECIDED
        case "artifacts" | "artifact":
            if kind is EventType.ARTIFACT_SAVED:
                return ref.kind == "artifacts" or event.data["name"] == ref.name
            return kind in _TREES or "tree" in event.data
        case _:
            return True


# --- runs and lists --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """The resources of one run that somebody wants. `known`: the last position that was heard of."""

    known: Seq
    unlisten: Callable[[], None]
    refs: dict[str, Ref] = field(default_factory=dict)
    wanted: Counter[str] = field(default_factory=Counter)  # listeners by URI

    def changed(self, events: Sequence[Event]) -> list[str]:
        """The URIs that these events, which follow one another, may have changed. A gap before them means that
        another process was faster than its news: then it may be all of them."""
        if not events or events[-1].seq <= self.known:
            return []
        gap = events[0].seq > self.known + 1 or len(events) > _MANY
        fresh = [event for event in events if event.seq > self.known]
        self.known = events[-1].seq
        return [uri for uri, ref in self.refs.items() if gap or any(touches(ref, event) for event in fresh)]


@dataclass(slots=True)
class _Scope:
    """The lists of those who see the same runs, as they were when they were last looked at."""

    project: ProjectId
    owner: str | None
    mailboxes: set[Mailbox] = field(default_factory=set)
    seen: dict[str, object] = field(default_factory=dict)

    async def look(self, store: Store) -> list[str | None]:
        """Which of the lists differ from the last look: "runs", "approvals", "resources"."""
        rows = await store.runs(RunQuery(projects=(self.project,), owner=self.owner, limit=RECENT))
        waiting = await store.approvals(projects=[self.project], owner=self.owner, limit=MAX_WANTED)
        now: dict[str, object] = {
            "runs": [(row.id, row.status, row.title) for row in rows],
            "approvals": [row.id for row in waiting],
            "resources": [row.id for row in rows],
        }
        found: list[str | None] = [name for name in now if self.seen.get(name) != now[name]]
        self.seen = now
        return found

    def tell(self, names: Sequence[str | None]) -> None:
        for mailbox in list(self.mailboxes):
            for change in list(mailbox.wanted):
                if _list_of(change) in names:
                    mailbox.put(change)


def _list_of(change: Change) -> str | None:
    """The list, if any, that is told of in this way."""
    if isinstance(change, ResourcesListChanged):
        return "resources"
    if isinstance(change, ResourceUpdated):
        ref = parse(change.uri)
        return ref.kind if ref is not None and ref.kind in ("runs", "approvals") else None
    return None


_LISTED = ("run.", "approval.")


def _too_much() -> OmiumError:
    return OmiumError("invalid_argument", f"a listener can want {MAX_WANTED} things, not more.")


class Hub:
    """See the module. One per server; it is the server's `SubscriptionBus`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mailboxes: set[Mailbox] = set()
        self._listeners: dict[object, Callable[[ServerEvent], None]] = {}
        self._wanting: dict[Change, set[Mailbox]] = {}
        self._runs: dict[RunId, _Run] = {}
        self._scopes: dict[tuple[ProjectId, str | None], _Scope] = {}
        self._unlisten: Callable[[], None] | None = None
        self._unhear: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._others = False  # another process has committed something since the last look
        self._lists = False  # a list may have changed since the last look

    def __len__(self) -> int:
        return len(self._mailboxes)

    # --- the SDK's bus ------------------------------------------------------------------------------------------------

    async def publish(self, event: Change) -> None:
        """Tell everybody who wants to know of this."""
        self._tell(event)
        for listener in list(self._listeners.values()):
            if not isinstance(event, MemberChanged):
                listener(event)
        await anyio.lowlevel.checkpoint()

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Hear what is published. Gives what ends the listening."""
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    # --- listeners ----------------------------------------------------------------------------------------------------

    def open(self, caller: Caller) -> Mailbox:
        """A new, empty listener. Raises `queue_full` when there are too many, `rate_limited` when the caller has."""
        if len(self._mailboxes) >= MAX_LISTENERS:
            raise OmiumError("queue_full", f"{MAX_LISTENERS} listeners are connected.", "Try again later.")
        if sum(one.caller.principal == caller.principal for one in self._mailboxes) >= MAX_LISTENERS_EACH:
            hint = "Close other subscriptions: one can listen for many things."
            raise OmiumError("rate_limited", f"{caller.principal} has {MAX_LISTENERS_EACH} listeners.", hint)
        mailbox = Mailbox(caller)
        self._mailboxes.add(mailbox)
        return mailbox

    async def want(self, core: Core, mailbox: Mailbox, changes: Iterable[Change]) -> set[Change]:
        """Have a listener told of these from now on. Gives those that there are for its caller; the others are not
        listened for. Raises `invalid_argument` when it would want too much."""
        granted: set[Change] = set()
        for change in dict.fromkeys(changes):
            if len(mailbox.wanted) >= MAX_WANTED and change not in mailbox.wanted:
                raise _too_much()
            if change in mailbox.wanted or await self._start(core, mailbox, change):
                granted.add(change)
        await self._begin()
        return granted

    async def _start(self, core: Core, mailbox: Mailbox, change: Change) -> bool:
        ref = parse(change.uri) if isinstance(change, ResourceUpdated) else None
        if isinstance(change, ResourceUpdated) and ref is None:
            return False
        if ref is not None and ref.kind == "workflow" and ref.name not in core.catalog.workflows:
            return False
        if ref is not None and ref.run_id:
            try:
                row = await core.row(mailbox.caller, ref.run_id)
            except OmiumError:
                return False
            self._watch(ref, row.seq)
        self.add(mailbox, change)
        if _list_of(change) is not None:
            await self._join_scope(mailbox)
        return True

    def add(self, mailbox: Mailbox, change: Change) -> None:
        """Have a listener told when this is published."""
        mailbox.wanted.add(change)
        self._wanting.setdefault(change, set()).add(mailbox)

    def add_all(self, mailbox: Mailbox, changes: Iterable[Change]) -> None:
        for change in changes:
            if len(mailbox.wanted) >= MAX_WANTED and change not in mailbox.wanted:
                raise _too_much()
            self.add(mailbox, change)

    def _watch(self, ref: Ref, seq: Seq) -> None:
        run = self._runs.get(ref.run_id)
        if run is None:
            run = self._runs[ref.run_id] = _Run(seq, self._store.listen(self._hear, ref.run_id))
        run.refs[ref.uri] = ref
        run.wanted[ref.uri] += 1

    async def _join_scope(self, mailbox: Mailbox) -> None:
        caller = mailbox.caller
        key = (caller.project, caller.only)
        scope = self._scopes.get(key)
        if self._unlisten is None:
            self._unlisten = self._store.listen(self._hear_lists)
        if scope is None:
            scope = self._scopes[key] = _Scope(caller.project, caller.only)
            scope.mailboxes.add(mailbox)
            await scope.look(self._store)
        scope.mailboxes.add(mailbox)

    async def _begin(self) -> None:
        """Hear of other processes, if there is anything to hear for."""
        if self._unhear is None and (self._runs or self._scopes):
            self._unhear = self._store.on_change(self._wake, own=False)

    async def unwant(self, mailbox: Mailbox, changes: Iterable[Change]) -> None:
        """Take these from what a listener is told of."""
        for change in list(changes):
            if change not in mailbox.wanted:
                continue
            mailbox.forget(change)
            wanting = self._wanting[change]
            wanting.discard(mailbox)
            if not wanting:
                del self._wanting[change]
            ref = parse(change.uri) if isinstance(change, ResourceUpdated) else None
            if ref is not None and ref.run_id:
                self._unwatch(ref)
        if not any(_list_of(change) for change in mailbox.wanted):
            self._leave_scope(mailbox)
        await self._end()

    def _unwatch(self, ref: Ref) -> None:
        run = self._runs[ref.run_id]
        run.wanted[ref.uri] -= 1
        if run.wanted[ref.uri] <= 0:
            del run.wanted[ref.uri], run.refs[ref.uri]
        if not run.refs:
            run.unlisten()
            del self._runs[ref.run_id]

    def _leave_scope(self, mailbox: Mailbox) -> None:
        key = (mailbox.caller.project, mailbox.caller.only)
        scope = self._scopes.get(key)
        if scope is None:
            return
        scope.mailboxes.discard(mailbox)
        if not scope.mailboxes:
            del self._scopes[key]
        if not self._scopes and self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    async def _end(self) -> None:
        """Hear of nothing any more once nobody listens."""
        if self._runs or self._scopes:
            return
        unhear, self._unhear = self._unhear, None
        task, self._task = self._task, None
        if unhear is not None:
            unhear()
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with anyio.CancelScope(shield=True), contextlib.suppress(asyncio.CancelledError):
                await task

    async def leave(self, mailbox: Mailbox) -> None:
        """Forget a listener."""
        mailbox.close()
        self._mailboxes.discard(mailbox)
        await self.unwant(mailbox, list(mailbox.wanted))

    def end(self) -> None:
        """Let every stream end in the ordinary way, after what it still has to tell."""
        for mailbox in self._mailboxes:
            mailbox.close()

    # --- news ---------------------------------------------------------------------------------------------------------

    def _tell(self, change: Change) -> None:
        for mailbox in list(self._wanting.get(change, ())):
            mailbox.put(change)

    def _hear(self, run_id: RunId, events: Sequence[Event]) -> None:
        run = self._runs.get(run_id)
        for uri in run.changed(events) if run is not None else ():
            self._tell(ResourceUpdated(uri))

    def _hear_lists(self, _: RunId, events: Sequence[Event]) -> None:
        if any(event.type.value.startswith(_LISTED) for event in events):
            self._lists = True
            self._look()

    def _wake(self) -> None:
        self._others = self._lists = True
        self._look()

    def _look(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._looking(), name="omium-subscriptions")

    async def _looking(self) -> None:
        """Look until nothing has happened since."""
        while self._others or self._lists:
            others, self._others = self._others, False
            lists, self._lists = self._lists, False
            pause = _PAUSE_S
            try:
                if others:
                    await self._look_at_runs()
                if lists:
                    await self._look_at_lists()
            except Exception:  # nobody waits for this task, and the news must not be lost
                _log.warning("subscribers wait: the log cannot be read", exc_info=True)
                self._others, self._lists, pause = self._others or others, self._lists or lists, _TROUBLE_S
            await anyio.sleep(pause)

    async def _look_at_runs(self) -> None:
        heads = await self._store.heads(list(self._runs))
        for run_id, head in heads.items():
            run = self._runs.get(run_id)
            if run is not None and head > run.known:
                self._hear(run_id, await self._store.events(run_id, run.known, _MANY + 1))
                run.known = max(run.known, head)  # of more events than were read, everything counts as changed

    async def _look_at_lists(self) -> None:
        for scope in list(self._scopes.values()):
            scope.tell(await scope.look(self._store))
