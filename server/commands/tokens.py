"""Credentials of callers that come over a network: `token create`, `token list`, `token revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.server.identity.tokens import Sees

_ROLES = ("viewer", "operator", "approver", "admin")  # importing the core's own would slow the help down
_LEAST = 6  # characters of an id that a person has to type


@click.group()
def token() -> None:
    """Make, list and revoke the tokens of callers."""


@command(
    "omium token create --role operator --principal ci --expires 30d",
    "omium token create --role approver --principal ada --note 'on call'",
    name="create",
)
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What its bearer may do.")
@click.option(
    "--principal", metavar="NAME", help="Who its bearer is: token:NAME. Several tokens may share it; the id otherwise."
)
@click.option(
    "--sees", type=click.Choice(["own", "project"]), help="Runs that exist for it; own for an operator, else project."
)
@click.option("--expires", metavar="DURATION", help="Such as 12h or 30d; never, unless given.")
@click.option("--note", default="", metavar="TEXT", help="A line for the list.")
async def create(
    invocation: Invocation, role: str, principal: str | None, sees: Sees | None, expires: str | None, note: str
) -> None:
    """Make a token. Its secret is shown now and never again: only a digest of it is kept.

    A viewer reads. An operator also starts, steers, branches and rolls back. An approver reads and decides. An admin
    does everything."""
    from omium.orchestration.definition.schema import duration_seconds
    from omium.server.identity.tokens import create_token

    try:
        expires_s = None if expires is None else duration_seconds(expires)
    except ValueError as error:
        raise OmiumError("invalid_argument", f"--expires: {error}.") from None
    console = invocation.console
    async with opened(invocation, makes=True) as (core, caller):
        made = await create_token(
            core.store, caller, core.clock, role, name=principal, sees=sees, expires_s=expires_s, note=note
        )
    if console.json:
        console.view({"token": made.token, "secret": made.secret})
        return
    console.text(made.secret)
    shown = made.token
    seen = "its own runs" if shown.sees == "own" else "the runs of the project"
    console.note(f"{shown.id}: {shown.principal} is {shown.role} and sees {seen}.")
    console.note("this is the only time that the secret is shown. Send it as Authorization: Bearer <secret>")


@command("omium token list", "omium token list --json", name="list")
async def list_(invocation: Invocation) -> None:
    """List the tokens of the project, also those that are good for nothing any more. The oldest comes first."""
    from omium.server.commands.render import when
    from omium.server.identity.tokens import list_tokens

    console = invocation.console
    async with opened(invocation, lists=True) as (core, caller):
        found = await list_tokens(core.store, caller, core.clock)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("there are no tokens. Make one: omium token create --role operator")
        return
    console.table(
        ("token", "status", "principal", "role", "sees", "created", "expires", "note"),
        [
            (
                one.id,
                one.status,
                one.principal,
                one.role,
                one.sees,
                when(console, one.created_at),
                when(console, one.expires_at),
                one.note,
            )
            for one in found
        ],
    )


@command("omium token revoke tok_01KAG2W1D6B7N4QH3V8ZJ5MXRC", name="revoke")
@click.argument("token_id", metavar="TOKEN")
async def revoke(invocation: Invocation, token_id: str) -> None:
    """Take a token's worth away, at once and for good. TOKEN is an id or its unique end; what it did stays."""
    from omium.server.identity.tokens import list_tokens, revoke_token

    console = invocation.console
    async with opened(invocation) as (core, caller):
        known = [one.id for one in await list_tokens(core.store, caller, core.clock)]
        named = [one for one in known if one == token_id]
        if not named and len(token_id) >= _LEAST:
            named = [one for one in known if one.endswith(token_id.upper())]
        if len(named) != 1:
            what = "is not unique" if named else "is no token of this project"
            raise OmiumError("not_found", f"{token_id!r:.80} {what}.", "List them: omium token list")
        view = await revoke_token(core.store, caller, core.clock, named[0])
    if console.json:
        console.view(view)
    else:
        console.text(f"{safe(view.id)}\t{view.status}")


token.add_command(create)
token.add_command(list_)
token.add_command(revoke)
