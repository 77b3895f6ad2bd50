"""External MCP servers: `mcp servers`, `mcp test`, `mcp tools`, `mcp pin`, `mcp approve`, `mcp import`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import WAITING, Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, for_looking, local_caller, opened

if TYPE_CHECKING:
    from omium.clients.external.tools import ExternalTools
    from omium.orchestration.ports_gates import PinRow
    from omium.orchestration.service.views import Caller

_SECRET_NAME = re.compile(r"(?i)token|secret|passw|key|credential|auth|bearer|cookie|\bpat\b")


@asynccontextmanager
async def _reaching(
    invocation: Invocation, server: str, *, makes: bool = False
) -> AsyncIterator[tuple[ExternalTools, Caller]]:
    """What reaches the declared servers, and who asks. Raises `not_found` when none is declared. makes: it may be the
    first one to use a database, if `server` is declared."""
    from omium.server.app import open_omium
    from omium.server.wiring.external import external_tools

    config = configuration(invocation)
    async with AsyncExitStack() as stack:
        if not (makes and server in config.project.servers.specs):
            config = for_looking(stack, invocation, config, told=False)
        core = await stack.enter_async_context(open_omium(config, engine=False))
        reach = external_tools(config.project, core.store, core.clock, warn=False)
        tools = await stack.enter_async_context(reach)
        if tools is None:
            raise OmiumError(
                "not_found", "no MCP server is declared.", "Servers are declared under mcp_servers in omium.yaml."
            )
        yield tools, local_caller(config)


@command("omium mcp servers", "omium mcp servers --json", name="servers")
async def servers(invocation: Invocation) -> None:
    """List the external servers of the project, whether each is used and why not, and how many of its tools are pinned
    or wait for approval. Connects to none."""
    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        found = await core.list_external_servers(caller)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("there are none. They are declared under mcp_servers in omium.yaml.")
        return
    console.table(
        ("server", "status", "transport", "pinned", "waiting", "about"),
        [
            (one.name, one.status, one.transport, one.pinned, one.waiting, one.reason or one.description)
            for one in found
        ],
    )


@command("omium mcp test github", "omium mcp test github --json", name="test")
@click.argument("server")
async def test(invocation: Invocation, server: str) -> None:
    """Connect to a server and list its tools. Records nothing. Fails with what the server last said when it cannot be
    reached."""
    console = invocation.console
    async with _reaching(invocation, server) as (tools, _):
        session = await tools.session(server)
        offered = await session.definitions()
        protocol = session.protocol
    if console.json:
        console.view(
            {
                "server": server,
                "protocol": protocol,
                "count": len(offered),
                "tools": [
                    {"name": one.name, "digest": one.digest, "problem": one.problem or None,
                     "findings": [finding.as_dict() for finding in one.findings]}
                    for one in offered.values()
                ],
            }
        )  # fmt: skip
        return
    console.text(f"{safe(server)}: {len(offered)} tools, protocol {safe(protocol)}")
    console.table(
        ("tool", "digest", "about"),
        [
            (one.tool, one.digest[:12], one.problem or ", ".join(sorted({finding.kind for finding in one.findings})))
            for one in offered.values()
        ],
    )


@command("omium mcp tools", "omium mcp tools github", "omium mcp tools 'github/*_issue' --json", name="tools")
@click.argument("pattern", required=False, default="*")
async def tools(invocation: Invocation, pattern: str) -> None:
    """List the tools that are pinned or wait for approval, of all servers, of one, or those that PATTERN names.
    Connects to none."""
    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        found = await core.list_external_tools(caller, pattern)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("none is known. A server's tools are pinned on its first use, or by: omium mcp pin SERVER")
        return
    console.table(
        ("tool", "status", "digest", "approved by", "suspicious"),
        [
            (
                one.name,
                one.status,
                one.digest[:12],
                one.approved_by,
                ", ".join(sorted({f["kind"] for f in one.findings})),
            )
            for one in found
        ],
    )


@command("omium mcp pin github", name="pin")
@click.argument("server")
async def pin(invocation: Invocation, server: str) -> int | None:
    """Connect to a server and pin all its tools that nobody has approved yet, as they are now. A tool that has changed
    since it was approved stays disabled; the exit code is then 3."""
    console = invocation.console
    async with _reaching(invocation, server, makes=True) as (reach, caller):
        await reach.discover(server, caller.principal, pin=True)
        rows = [row for row in (await reach.book.read(now=True)).values() if row.server == server]
    waiting = [row for row in rows if row.status != "pinned"]
    if console.json:
        console.view([{"tool": f"{one.server}/{one.tool}", "status": one.status, "digest": one.digest} for one in rows])
    else:
        console.table(("tool", "status", "digest"), [(f"{o.server}/{o.tool}", o.status, o.digest[:12]) for o in rows])
        for one in waiting:
            console.note(
                f"{one.server}/{one.tool} is {one.status}. Look at it: omium mcp approve {one.server}/{one.tool}"
            )
    return WAITING if waiting else None


@command("omium mcp approve github/create_issue", "omium mcp approve github/create_issue --revoke", name="approve")
@click.argument("tool", metavar="SERVER/TOOL")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--revoke", is_flag=True, help="Disable the tool instead, until it is approved again.")
async def approve(invocation: Invocation, tool: str, yes: bool, revoke: bool) -> None:
    """Show how a tool's definition differs from what was approved, and approve it. What is shown is what is approved:
    if it changes meanwhile, nothing happens."""
    from omium.clients.external.pins import PinBook
    from omium.server.commands.base import INTERRUPTED

    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        book = PinBook(core.store, caller.project, core.clock)
        row = (await book.read()).get(tool)
        if row is None:
            raise OmiumError("not_found", f"there is no tool {tool!r:.120}.", "List them: omium mcp tools")
        if revoke:
            new = await book.disable(row, caller.principal)
        else:
            _show(invocation, row)
            if row.status == "pinned" and "proposed" not in row.document:
                raise OmiumError("not_allowed", f"{tool} is pinned as it is; nothing waits for approval.")
            if not yes and not _agreed(invocation):
                raise click.exceptions.Exit(INTERRUPTED)
            new = await book.approve(row, caller.principal)
    if console.json:
        console.view({"tool": tool, "status": new.status, "digest": new.digest, "approved_by": new.approved_by})
    else:
        console.text(f"{safe(tool)}\t{new.status}\t{new.digest[:12]}")


def _show(invocation: Invocation, row: PinRow) -> None:
    from omium.clients.external.pins import findings, waiting

    console = invocation.console
    if console.json:
        return
    for line in waiting(row):
        colour = {"+": "green", "-": "red"}.get(line[:1])
        console.text(console.paint(safe(line), fg=colour) if colour else safe(line))
    for one in findings(row):
        console.note(f"suspicious: {one['kind']} in {one['where']}: {one['excerpt']}")


def _agreed(invocation: Invocation) -> bool:
    if invocation.console.json or not invocation.console.interactive:
        raise OmiumError("invalid_argument", "nobody is there to be asked.", "Look at it, then repeat with --yes.")
    return click.confirm("Approve this definition?", default=False, err=True)


@command("omium mcp import", "omium mcp import ~/.cursor/mcp.json --json", name="import", located=False)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path(".mcp.json"))
async def import_(invocation: Invocation, file: Path) -> None:
    """Print what an MCP client's file declares as it stands in omium.yaml, for you to paste. Values that look like
    secrets become variables of the environment. (`mcp_servers: {import: FILE}` reads such a file at every start.)"""
    from omium.server.declared.mcp_json import read_mcp_json

    console = invocation.console
    found: dict[str, Any] = {}
    for one in read_mcp_json(file):
        if one.problem:
            console.note(f"{one.name} is left out: {one.problem}.")
        else:
            found[one.name] = {key: _without_secrets(key, value) for key, value in one.entry.items()}
    if console.json:
        console.view({"mcp_servers": found})
        return
    import yaml

    text = yaml.safe_dump({"mcp_servers": found}, sort_keys=False, allow_unicode=False, width=100)
    console.text(safe(text, lines=True).rstrip())


def _without_secrets(key: str, value: Any) -> Any:
    if key not in ("env", "headers") or not isinstance(value, Mapping):
        return value
    shown = {}
    for name, text in value.items():
        literal = isinstance(text, str) and "${" not in text
        variable = re.sub(r"\W", "_", str(name)).upper()
        shown[name] = f"${{{variable}}}" if literal and (key == "headers" or _SECRET_NAME.search(str(name))) else text
    return shown


COMMANDS: tuple[Any, ...] = (servers, test, tools, pin, approve, import_)
