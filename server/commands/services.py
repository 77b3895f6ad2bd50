"""Long-running commands: `serve`, `worker`, `demo`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from omium.server.commands.base import DONE, Invocation, Number, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, local_caller

if TYPE_CHECKING:
    from omium.server.config import Config


@command(
    "claude mcp add omium -- omium-mcp serve",
    "omium serve --toolsets default --read-only",
    "omium serve --transport http --port 8765",
)
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http"]),
    default="stdio",
    show_default=True,
    help="How clients connect. http: Streamable HTTP at /mcp, SSE at /sse, REST at /api/v1.",
)
@click.option("--toolsets", metavar="NAMES", help="The groups of tools to offer, separated by commas.")
@click.option("--read-only", is_flag=True, help="Offer only what changes nothing, and execute nothing.")
@click.option(
    "--no-detach", is_flag=True, help="When the server ends, park its runs instead of leaving a worker behind."
)
@click.option("--session", metavar="NAME", help="A label for the runs that are started through this server.")
@click.option("--host", default="127.0.0.1", show_default=True, help="With http: where to listen. See `omium token`.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="With http; 0 takes a free one."
)
@click.option(
    "--auth",
    type=click.Choice(["tokens"]),
    help="With http: ask for a credential also on loopback (a token, or a JWT of a configured issuer).",
)
@click.option("--allow-host", metavar="NAME", multiple=True, help="With http: a name by which clients reach it.")
@click.option("--allow-origin", metavar="URL", multiple=True, help="With http: a site whose pages may use it.")
async def serve(
    invocation: Invocation, transport: str, toolsets: str | None, read_only: bool, no_detach: bool, **options: Any
) -> None:
    """Serve MCP. On stdio until the client closes the input, over HTTP until it is stopped; runs then go on in the
    background."""
    from omium.server.logs import set_up_logging

    set_up_logging("warning")
    config = configuration(invocation)
    if no_detach:
        config = replace(config, detach=False)
    chosen = [] if toolsets is None else [name.strip() for name in toolsets.split(",") if name.strip()]
    offer = Offer(tuple(chosen) if toolsets is not None else None, read_only, options.pop("session"))
    if transport == "http":
        await _over_http(invocation, config, offer, **options)
    else:
        context = click.get_current_context()
        given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --transport http.")
        await _over_stdio(config, offer)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers. toolsets: None for the default; session: the label of its runs."""

    toolsets: tuple[str, ...] | None
    read_only: bool
    session: str | None

    def options(self) -> dict[str, Any]:
        named = {} if self.toolsets is None else {"toolsets": self.toolsets}
        return {"read_only": self.read_only, **named}


async def _over_stdio(config: Config, offer: Offer) -> None:
    import anyio

    from omium.server.app import open_omium
    from omium.server.formkey import form_key
    from omium.server.identity.composing import rate_limits_for
    from omium.server.mcp import serve_stdio
    from omium.server.signals import Signals
    from omium.server.wiring.supervision import LiveSupervision

    supervision = LiveSupervision(config)
    signals = Signals(supervision)
    with signals.held():
        async with (
            open_omium(config, engine=not offer.read_only, leave="detach", supervision=supervision) as core,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(signals.heed, lambda _: tasks.cancel_scope.cancel())
            limits = rate_limits_for(config, core.clock)
            await serve_stdio(
                core,
                local_caller(config, offer.session),
                **offer.options(),
                limits=limits,
                form_key=form_key(config),
            )
            tasks.cancel_scope.cancel()


async def _over_http(
    invocation: Invocation,
    config: Config,
    offer: Offer,
    *,
    host: str,
    port: int,
    auth: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
) -> None:
    from omium.server.app import open_omium
    from omium.server.http.app import HttpSettings
    from omium.server.http.serving import serve_core
    from omium.server.identity.composing import is_loopback
    from omium.server.signals import Signals
    from omium.server.wiring.supervision import LiveSupervision

    if auth is not None:
        config = replace(config, auth=replace(config.auth, open_loopback=False))
    settings = HttpSettings(
        loopback=is_loopback(host),
        hosts=allow_host,
        origins=allow_origin,
        issuers=[issuer.issuer for issuer, _ in config.auth.issuers],
        read_only=offer.read_only,
    )

    def ready(url: str) -> None:
        invocation.console.note(f"serving {url}/mcp, {url}/sse and {url}/api/v1")

    supervision = LiveSupervision(config)
    signals = Signals(supervision)
    with signals.held():
        async with open_omium(config, engine=not offer.read_only, leave="detach", supervision=supervision) as core:
            await serve_core(
                config, core, local_caller(config, offer.session), (host, port), settings, ready, signals,
                **offer.options(),
            )  # fmt: skip


@command("omium worker", "omium worker --idle 300")
@click.option(
    "--idle",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so long without work; never, unless given.",
)
async def worker(invocation: Invocation, idle: float | None) -> None:
    """Execute runs until it is stopped. Several may work on one database; Ctrl-C hands the runs over."""
    from omium.server.logs import set_up_logging
    from omium.server.worker import run_worker

    set_up_logging("info")
    await run_worker(configuration(invocation), idle)


@command("omium demo", "omium demo --directory omium-demo", located=False)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="DIR",
    help="Play it in this empty directory and leave everything there; a temporary one otherwise.",
)
async def demo(invocation: Invocation, directory: Path | None) -> int:
    """Watch a workflow run, die, resume, wait, branch and roll back. Offline, in under a minute."""
    from omium.server.demo import run_demo

    console = invocation.console
    if not console.json:
        return await run_demo(directory, say=lambda line: console.text(safe(line, lines=True)))
    said: list[str] = []
    code = await run_demo(directory, say=said.append)
    console.view({"held": code == DONE, "said": said})
    return code
