"""Definitions: `workflows`, `workflow validate`, `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.arguments import document, pairs, undeclared
from omium.server.commands.base import DONE, NOT_FOUND, USAGE, Invocation, command, report
from omium.server.commands.console import duration, money, safe
from omium.server.commands.opening import opened


@command("omium workflows")
async def workflows(invocation: Invocation) -> None:
    """List the registered workflows."""
    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        found = await core.list_workflows(caller)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("no workflows. List their files under `workflows:` in omium.yaml, or put them in workflows/.")
        return
    console.table(
        ("workflow", "nodes", "inputs", "description"),
        [(one.name, one.nodes, ",".join((one.inputs or {}).get("properties", {})), one.description) for one in found],
    )


@click.group(no_args_is_help=False)
def workflow() -> None:
    """Check workflow files."""


@command("omium workflow validate workflows/release.yaml", name="validate", located=False)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
async def validate(invocation: Invocation, files: tuple[str, ...]) -> int:
    """Check workflow files as they stand: form, names, graph, expressions. Exits with 2 when something is wrong,
    with 4 when a file is not there, and prints each problem as file:line: message. What a file names is looked up only
    when its project is loaded."""
    from omium.orchestration.definition.hashing import definition_hash
    from omium.orchestration.definition.load import load_file

    console = invocation.console
    checked: list[dict[str, Any]] = []
    missing = False
    for path in files:
        try:
            definition = load_file(Path(path))
        except OmiumError as error:
            problems = error.data.get("problems") or [
                {"file": path, "line": None, "path": "", "message": error.message, "expected": ""}
            ]
            checked.append({"file": path, "valid": False, "problems": list(problems)})
            missing = missing or error.code == "not_found"
            if not console.json:
                report(console, error)
        else:
            checked.append(
                {
                    "file": path,
                    "valid": True,
                    "problems": [],
                    "workflow": definition.name,
                    "nodes": len(definition.nodes),
                    "definition": definition_hash(definition),
                }
            )
            if not console.json:
                count = len(definition.nodes)
                console.text(f"{safe(path)}: {safe(definition.name)}, {count} {'node' if count == 1 else 'nodes'}")
    if console.json:
        console.view(checked)
    return NOT_FOUND if missing else DONE if all(one["valid"] for one in checked) else USAGE


workflow.add_command(validate)


@command("omium simulate release --input repository=.")
@click.argument("workflow")
@click.option("--input", "given", multiple=True, metavar="NAME=VALUE", help="An input; may be repeated.")
@click.option("--inputs", "path", metavar="FILE", help="Inputs in a YAML or JSON file; - reads standard input.")
async def simulate(invocation: Invocation, workflow: str, given: tuple[str, ...], path: str | None) -> None:
    """Show what a workflow would do; nothing is executed. Prints the order, the gates and what it is likely to take."""
    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        view, _ = await core.get_workflow(caller, workflow)
        inputs = {**(document(path) if path else {}), **pairs(given, view.inputs)}
        for warning in undeclared(inputs, view.inputs):
            console.note(warning)
        found = await core.simulate(caller, workflow, inputs or None)
    if console.json:
        console.view(found)
        return
    console.table(
        ("level", "node", "kind", "use", "estimate", "cost", "asks"),
        [
            (
                one.level,
                one.node,
                one.kind,
                one.use,
                duration(one.estimate_ms),
                money(one.estimate_cost_usd or 0.0),
                one.asks or one.note,
            )
            for one in found.order
        ],
    )
    if console.terminal:
        console.text()
        console.fields(
            [
                ("approvals", found.approvals),
                ("estimate", duration(found.estimate_ms)),
                ("longest way", " > ".join(found.longest_way)),
                ("cost", money(found.estimate_cost_usd or 0.0)),
            ]
        )
    for warning in found.warnings:
        console.note(f"warning: {warning}")
