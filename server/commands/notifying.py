"""Who is told of what happens: `notify list`, `notify retry`, `notify test`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import DONE, FAILED, Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.orchestration.ports_notices import NoticeStatus
    from omium.server.config import Config
    from omium.server.notify.endpoints import Endpoint


@click.group()
def notify() -> None:
    """List, repeat and test what others are told of."""


@command("omium notify list", "omium notify list --status dead", name="list")
@click.option("--status", type=click.Choice(["waiting", "delivered", "dead"]), help="Only those.")
@click.option("--endpoint", metavar="NAME", help="Only what this one is told.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
async def list_(invocation: Invocation, status: NoticeStatus | None, endpoint: str | None, limit: int) -> None:
    """List what others were told, are still to be told, or could not be told. The newest comes first."""
    from omium.server.commands.render import when

    console = invocation.console
    config = configuration(invocation, definitions=False)
    async with opened(invocation, lists=True) as (core, caller):
        found = await core.store.notices(caller.project, status=status, endpoint=endpoint, limit=limit)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note(
            "nothing." if config.notify else "nobody is told anything. Say whom under `notify:` in omium.yaml."
        )
        return
    console.table(
        ("notice", "endpoint", "event", "run", "status", "attempts", "due", "problem"),
        [
            (
                one.id,
                one.endpoint,
                one.type,
                one.run_id,
                one.status,
                one.attempts,
                when(console, one.due_at) if one.status == "waiting" else "",
                one.problem or "",
            )
            for one in found
        ],
    )


@command("omium notify retry --all", "omium notify retry ntc_01KAG2W1D6B7N4QH3V8ZJ5MXRC", name="retry")
@click.argument("notices", nargs=-1, metavar="[NOTICE]...")
@click.option("--all", "every", is_flag=True, help="All that are dead.")
async def retry(invocation: Invocation, notices: tuple[str, ...], every: bool) -> int:
    """Try dead notices again, from their first attempt. Exits with 1 when one of them fails again."""
    from omium.server.wiring.notify import carrier_of

    if every == bool(notices):
        raise click.UsageError("Name the notices, or say --all.")
    console = invocation.console
    config = configuration(invocation)
    async with opened(invocation, lists=True) as (core, caller):
        again = await core.store.retry_notices(caller.project, None if every else notices, core.clock.now_us())
        if not again and not every:
            raise OmiumError("not_found", "none of these is a dead notice.", "omium notify list --status dead")
        if again:
            await carrier_of(config, core.store, core.clock).deliver()
        left = [one for one in await core.store.notices(caller.project, status="waiting", limit=1000) if one.problem]
    if console.json:
        console.view({"retried": again, "failed": len(left)})
    else:
        console.text(f"{again} tried again, {len(left)} still to be told")
    return FAILED if left else DONE


@command("omium notify test ops", name="test")
@click.argument("endpoint", metavar="ENDPOINT")
async def test(invocation: Invocation, endpoint: str) -> None:
    """Send a test to an endpoint now, once. Nothing of it is kept; what goes wrong is said."""
    from omium.orchestration.ids import new_id
    from omium.orchestration.ports import SystemClock
    from omium.server.notify.documents import trial_document
    from omium.server.notify.notifiers import notifier_of

    config, clock = configuration(invocation), SystemClock()
    one = _named(config, endpoint)
    notice = new_id("ntc")
    await notifier_of(one, clock).send(notice, trial_document(one.name, config.project.id, clock.now_us()))
    if invocation.console.json:
        invocation.console.view({"endpoint": one.name, "notice": notice, "delivered": True})
    else:
        invocation.console.text(f"{safe(one.name)} took it")


def _named(config: Config, name: str) -> Endpoint:
    for one in config.notify:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in config.notify) or "none"
    raise OmiumError("not_found", f"there is no endpoint {name!r:.80}.", f"omium.yaml has under `notify:`: {known}.")


notify.add_command(list_)
notify.add_command(retry)
notify.add_command(test)
