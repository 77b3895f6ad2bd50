"""Comparing what happened: `branch-tree`, `compare` and its other name `diff`, `replay`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from omium.server.commands.base import DONE, FAILED, Invocation, OmiumCommand, command
from omium.server.commands.console import Console, money, safe, short
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import BranchView, Caller, ComparisonView


@command("omium branch-tree last")
@click.argument("run")
async def branch_tree(invocation: Invocation, run: str) -> None:
    """Show the tree of branches that a run belongs to."""
    async with opened(invocation) as (core, caller):
        tree = await core.branch_tree(caller, await core.find_run(caller, run))
    if invocation.console.json:
        invocation.console.view(tree)
    else:
        _branch(invocation.console, tree, "", "")


def _branch(console: Console, tree: BranchView, before: str, below: str) -> None:
    run = tree.run
    words = [
        short(run.id) if console.terminal else run.id,
        console.status(run.status),
        safe(run.branch or run.title or run.workflow),
        f"at {run.parent_seq}" if run.parent_seq else "",
        safe(run.hypothesis or ""),
        f"[{safe(run.closed)}]" if run.closed else "",
    ]
    console.text(before + "  ".join(word for word in words if word))
    for index, child in enumerate(tree.children):
        last = index == len(tree.children) - 1
        _branch(console, child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


def _comparison(name: str) -> OmiumCommand:
    @command(f"omium {name} 7Q2XKD3M last", f"omium {name} 7Q2XKD3M last --exit-status --json", name=name)
    @click.argument("a")
    @click.argument("b")
    @click.option("--exit-status", is_flag=True, help="Exit with 1 when nodes, outputs or files differ.")
    async def compare(invocation: Invocation, a: str, b: str, exit_status: bool) -> int:
        """Compare two runs: inputs, nodes, outputs, files, costs and decisions. Nodes are matched by their ids. Instead
        of a run, a position of one can be given: RUN@NUMBER."""
        async with opened(invocation, hands=True) as (core, caller):
            found = await core.compare(caller, await _side(core, caller, a), await _side(core, caller, b))
        if invocation.console.json:
            invocation.console.view(found)
        else:
            _show(invocation.console, found)
        return FAILED if exit_status and differs(found) else DONE

    return compare


async def _side(core: Core, caller: Caller, text: str) -> str:
    """A run, or a position of one, with the run's whole id."""
    run, at, position = text.partition("@")
    return f"{await core.find_run(caller, run)}{at}{position}"


compare = _comparison("compare")
diff = _comparison("diff")


def differs(found: ComparisonView) -> bool:
    """Whether two runs gave something else: a node, a file or the output. Cost and time always differ."""
    return found.outputs_equal is False or bool(found.files) or any(node.change != "same" for node in found.nodes)


def _show(console: Console, found: ComparisonView) -> None:
    from omium.server.commands.render import span

    console.table(
        ("", "a", "b"),
        [
            ("run", *(short(one.id) if console.terminal else one.id for one in (found.a, found.b))),
            ("status", found.a.status, found.b.status),
            ("branch", found.a.branch, found.b.branch),
            ("cost", *(money(cost) for cost in found.cost_usd)),
            ("tokens", *found.tokens),
            ("took", *(span(console, ms) for ms in found.duration_ms)),
        ],
    )
    parts = (("inputs", found.inputs), ("nodes", found.overrides))
    given = [(f"{kind}.{one.name}", one.a or "-", one.b or "-") for kind, several in parts for one in several]
    if given:
        console.text()
        console.table(("given", "a", "b"), given)
    changed = [node for node in found.nodes if node.change != "same"]
    if changed:
        console.text()
        console.table(
            ("node", "change", "a", "b", ""),
            [
                (
                    one.node,
                    one.change,
                    one.a.status if one.a else "",
                    one.b.status if one.b else "",
                    "first divergence" if one.node == found.first_divergence else "",
                )
                for one in changed
            ],
        )
    for one in changed:
        if one.output_diff:
            console.text()
            console.text(console.paint(f"output of {safe(one.node)}", bold=True))
            _patch(console, one.output_diff)
    for file in found.files:
        console.text()
        console.text(console.paint(f"{safe(file.get('status', ''))} {safe(file.get('path', ''))}", bold=True))
        if file.get("patch"):
            _patch(console, str(file["patch"]))
    for decision in found.decisions:
        console.text(safe(f"decision of {decision['node']}: a {_decided(decision['a'])}, b {_decided(decision['b'])}"))
    count = len(changed) + len(found.files)
    console.text()
    if differs(found):
        console.text(f"{count} {'difference' if count == 1 else 'differences'}")
    else:
        console.text("no differences" if not (found.inputs or found.overrides) else "no differences in what came of it")


def _decided(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "not asked"
    if side["decision"] is None:
        return "not decided"
    feedback = side.get("feedback")
    return f"{side['decision']}{f' ({feedback})' if feedback else ''}"


def _patch(console: Console, patch: str) -> None:
    for line in patch.splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        console.text(console.paint(safe(line), fg=colour) if colour else safe(line))


@command("omium replay last", "omium replay last --exit-status --json")
@click.argument("run")
@click.option("--exit-status", is_flag=True, help="Exit with 1 when the replay diverges.")
async def replay(invocation: Invocation, run: str, exit_status: bool) -> int:
    """Feed a run's recorded results to its definition, without effects. Equal replays print equal digests."""
    console = invocation.console
    async with opened(invocation, hands=True) as (core, caller):
        found = await core.replay(caller, await core.find_run(caller, run))
    if console.json:
        console.view(found)
    else:
        divergence = found.divergence or {}
        console.fields(
            [
                ("run", found.run_id),
                ("result", "identical" if found.identical else "diverged"),
                ("nodes", found.replayed),
                ("digest", found.digest),
                *((f"divergence {name}", value) for name, value in divergence.items()),
            ]
        )
    return FAILED if exit_status and not found.identical else DONE
