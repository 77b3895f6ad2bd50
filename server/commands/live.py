"""What a person sees while a run executes: a line for what happened, and below, on a terminal, what happens now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import click

from omium.orchestration.service.views import EventView, RunView
from omium.server.commands.answering import in_words
from omium.server.commands.console import coloured, duration, safe, short
from omium.server.commands.wire import rfc3339

_SPINNER_HZ = 8


class Shown(Protocol):
    def event(self, event: EventView) -> None: ...

    def aside(self) -> AbstractContextManager[None]:
        """Leave the terminal to a question for as long as the block takes."""


@contextmanager
def progress(run: RunView) -> Iterator[Shown]:
    """Where events are shown as they come: on standard error, live where that is a terminal."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, no_color=not coloured(sys.stderr), highlight=False, markup=False)
    picture = _Picture(run)
    with Live(picture, console=console, refresh_per_second=_SPINNER_HZ, transient=True) as live:
        picture.live = live
        yield picture


class Nodes:
    """Which nodes run now and how many have ended, as the events tell."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.ended = 0
        self.failed = 0
        self.waiting: dict[str, str] = {}
        self.tried: dict[str, str] = {}  # attempts that failed, until it is known what comes of it

    def take(self, event: EventView) -> None:
        node = str(event.data.get("node") or "")
        if event.type == "node.attempt_failed":
            if "rule" in event.data:
                self.running.pop(node, None)
            self.tried[node] = f"attempt {event.data['attempt']} failed: {_said(event.data['error'])}"
        elif event.type in ("node.retry_backoff", "node.failed", "approval.requested"):
            self.tried.pop(node, None)
        if event.type in ("node.started", "node.retry_started"):
            self.running[node] = event.at
        elif event.type in ("node.completed", "node.failed", "node.skipped", "node.reused"):
            self.running.pop(node, None)
            self.ended += 1
            self.failed += event.type == "node.failed"
        elif event.type in ("node.interrupted", "node.retry_backoff", "node.waiting"):
            self.running.pop(node, None)
        elif event.type == "approval.requested":
            self.running.pop(node, None)
            self.waiting[str(event.data["approval"])] = node
        elif event.type in ("approval.decided", "approval.expired"):
            self.waiting.pop(str(event.data["approval"]), None)
        elif event.type in ("run.rolled_back", "run.played_from"):
            self.running.clear()
            self.tried.pop(str(event.data.get("cause") or ""), None)
            self.ended = 0


def _said(error: Any) -> str:
    """What a failure says, and what shows where to look."""
    from omium.server.commands.render import problem

    if not isinstance(error, dict):
        return safe(error)
    return safe(problem({name: value for name, value in error.items() if name not in ("node", "category")}))


def told(event: EventView, nodes: Nodes) -> Iterator[tuple[str, str]]:
    """(what kind of news, the line) for an event that a person wants to see; nothing for the others. `nodes`: as they
    stood before it. An attempt that failed is told together with what comes of it."""
    node = str(event.data.get("node") or "")
    if event.type == "approval.requested" and node in nodes.tried:
        yield "bad", f"{safe(node)}  {nodes.tried[node]}"
    cause = str(event.data.get("cause") or "")
    if event.type == "run.rolled_back" and cause in nodes.tried:
        yield "bad", f"{safe(cause)}  {nodes.tried[cause]}"
    line = _line(event, nodes.running, nodes.tried.get(node))
    if line is not None:
        yield line


def _line(event: EventView, started: dict[str, int], tried: str | None) -> tuple[str, str] | None:
    data = event.data
    node = safe(data.get("node") or "")
    kind = event.type
    if kind == "node.completed":
        begun = started.get(node)
        return "good", f"{node}  {duration((event.at - begun) / 1000) if begun else ''}".rstrip()
    if kind == "node.reused":
        return "good", f"{node}  reused"
    if kind == "node.skipped":
        return "quiet", f"{node}  skipped: {safe(data['reason'])}"
    if kind == "node.failed":
        return "bad", f"{node}  failed: {_said(data['error'])}"
    if kind == "node.retry_backoff":
        left = (int(data["due_at"]) - event.at) / 1000
        again = "tries again at once" if left < 1 else f"tries again in {duration(left)}"
        return ("bad", f"{node}  {tried}; {again}") if tried else ("quiet", f"{node}  {again}")
    if kind == "node.progress":
        return "quiet", f"{node}  {safe(data['text'])}"
    if kind == "approval.requested":
        options = " | ".join(safe(option) for option in data["options"])
        asked = short(str(data["approval"]))
        how = f"omium approve {asked}"
        if "approve" not in data["options"]:
            how += " --feedback TEXT" if in_words(data["options"]) else " --choice OPTION"
        return "ask", f"{node or 'the run'} asks: {safe(data['question'])}  [{options}]  {how}"
    if kind == "approval.decided":
        return "good" if data[
            "decision"
        ] != "reject" else "bad", f"decided: {safe(data['decision'])} by {safe(data['by'])}"
    if kind == "approval.expired":
        return "bad", f"the question {short(str(data['approval']))} expired"
    if kind == "checkpoint.created":
        return "quiet", f"checkpoint {safe(data['label'])} at {data['at']}"
    if kind in ("run.paused", "run.resumed", "run.rolled_back", "run.played_from", "run.recovered"):
        reason = data.get("reason")
        return "quiet", f"{kind.removeprefix('run.').replace('_', ' ')}{': ' + safe(reason) if reason else ''}"
    return None


_MARKS = {"good": ("✓", "green"), "bad": ("✗", "red"), "ask": ("?", "yellow"), "quiet": ("·", "bright_black")}


class _Lines:
    """Standard error is a file or a pipe: a line with its time for each piece of news."""

    def __init__(self) -> None:
        self._nodes = Nodes()

    def event(self, event: EventView) -> None:
        for _, line in told(event, self._nodes):
            click.echo(f"{rfc3339(event.at)[11:19]}  {line}", err=True)
        self._nodes.take(event)

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Picture:
    """The lower lines of a terminal, drawn again and again; news scroll away above them."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._nodes = Nodes()
        self.live: Any = None

    def event(self, event: EventView) -> None:
        from rich.text import Text

        for kind, line in told(event, self._nodes):
            mark, colour = _MARKS[kind]
            self.live.console.print(Text.assemble((mark, colour), " ", line))
        self._nodes.take(event)

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.live.stop()
        try:
            yield
        finally:
            self.live.start(refresh=True)

    def __rich__(self) -> Any:
        from rich.text import Text

        nodes, now = self._nodes, time.time_ns() // 1000
        began = self._run.started_at or self._run.created_at
        text = Text(no_wrap=True, overflow="ellipsis")
        spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(time.monotonic() * _SPINNER_HZ) % 10]
        text.append(f"{spinner} {safe(self._run.workflow)} {short(self._run.id)}  ", style="bold")
        text.append(f"{duration((now - began) / 1000)}  {nodes.ended} done")
        if nodes.failed:
            text.append(f"  {nodes.failed} failed", style="red")
        if nodes.waiting:
            text.append("  waits for a decision", style="yellow")
        running = list(nodes.running.items())
        if running:
            text.append("  now: " + ", ".join(f"{safe(n)} {duration((now - at) / 1000)}" for n, at in running[:4]))
            if len(running) > 4:
                text.append(f" and {len(running) - 4} more")
        text.append("  (Ctrl-C leaves it running)", style="bright_black")
        return text
