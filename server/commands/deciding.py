"""Deciding what waits: `approvals`, `approve`, `reject`."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import click

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, is_id
from omium.server.commands.answering import ANSWER, approve_line, in_words
from omium.server.commands.arguments import json_object
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import Console, safe, short
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import ApprovalView, Assurance, Caller

_PREFIX = "apr_"
_LAST = "last"
_LEAST = 4  # characters of an id that a person has to type
_CREDENTIAL = click.option(
    "--credential",
    is_flag=True,
    help="Ask for an approver's token at the terminal: for gates that want more than anybody's word.",
)


@command("omium approvals", "omium approvals last", "omium approvals --run last --all --json")
@click.argument("approval", required=False)
@click.option("--run", metavar="RUN", help="Only those of this run.")
@click.option("--all", "decided", is_flag=True, help="Also those that are decided, expired or withdrawn.")
async def approvals(invocation: Invocation, approval: str | None, run: str | None, decided: bool) -> None:
    """List what waits for a decision. The oldest comes first; with APPROVAL (an id, its unique end or beginning, or
    `last` when only one waits) that one is shown in full, with exactly what would be done."""
    from omium.server.commands.render import identifier, when

    console = invocation.console
    async with opened(invocation, lists=True) as (core, caller):
        if approval is not None:
            _show(console, await _find(core, caller, approval))
            return
        run_id = await core.find_run(caller, run) if run else None
        found = await core.list_approvals(caller, run_id=run_id, pending=not decided)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("nothing waits for a decision.")
        return
    console.table(
        ("approval", "status", "run", "workflow", "node", "asked", "expires", "options", "question"),
        [
            (
                identifier(console, one.id),
                one.decision or one.status,
                identifier(console, one.run_id),
                one.workflow,
                one.node,
                when(console, one.requested_at),
                when(console, one.expires_at),
                ",".join(one.options),
                one.question,
            )
            for one in found
        ],
    )


def _show(console: Console, one: ApprovalView) -> None:
    """Everything that a decision rests on."""
    import json

    from omium.server.commands.render import when

    if console.json:
        console.view(one)
        return
    details = dict(one.details or {})
    arguments = details.pop("arguments", None)
    console.text(safe(one.question, lines=True))
    console.fields(
        [
            ("approval", one.id),
            ("run", f"{one.run_id} ({one.workflow})"),
            ("node", one.node),
            ("status", one.decision or one.status),
            ("asked", when(console, one.requested_at)),
            ("expires", when(console, one.expires_at)),
            ("options", ", ".join(one.options)),
            ("needs", one.min_assurance),
            ("decided by", one.decided_by),
            ("feedback", one.feedback),
            ("consequence", one.consequence),
            *((name, value if isinstance(value, str) else json.dumps(value)) for name, value in details.items()),
        ]
    )
    if arguments is not None:
        console.text("exactly:")
        for line in json.dumps(arguments, indent=2, ensure_ascii=False).splitlines():
            console.text(f"  {safe(line)}")


@command(
    "omium approve last",
    "omium approve 4T9GWM2A --choice retry --feedback 'the server is up again'",
)
@click.argument("approval")
@click.option(
    "--choice", metavar="OPTION", help="The option to choose; approve unless given, or what --feedback says in words."
)
@_CREDENTIAL
@click.option("--feedback", metavar="TEXT", help="A word to the agents that go on from here, or the answer to one.")
@click.option(
    "--arguments", metavar="JSON", help="Approve with these arguments, or this plan, instead; @FILE reads them."
)
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing.")
async def approve(
    invocation: Invocation,
    approval: str,
    choice: str | None,
    credential: bool,
    feedback: str | None,
    arguments: str | None,
    idempotency_key: str | None,
) -> None:
    """Approve what waits for a decision, or choose another option. APPROVAL is an id, its unique end or beginning, or
    `last` when only one waits."""
    chosen = choice or ("modify" if arguments is not None else None)
    await _decide(invocation, approval, chosen, feedback, idempotency_key, credential, arguments)


@command("omium reject 4T9GWM2A --reason 'the figures of May are missing'")
@click.argument("approval")
@click.option(
    "--reason", "--feedback", "reason", metavar="TEXT", help="Why; it stands in the log, and the agents are told."
)
@_CREDENTIAL
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing.")
async def reject(
    invocation: Invocation, approval: str, reason: str | None, credential: bool, idempotency_key: str | None
) -> None:
    """Reject what waits for a decision. APPROVAL is an id, its unique end or beginning, or `last` when only one
    waits."""
    await _decide(invocation, approval, "reject", reason, idempotency_key, credential)


async def _decide(
    invocation: Invocation,
    approval: str,
    decision: str | None,
    feedback: str | None,
    idempotency_key: str | None,
    credential: bool,
    arguments: str | None = None,
) -> None:
    """decision: None is what a person means who only says yes, or only gives the answer that was asked for."""
    console = invocation.console
    instead = None if arguments is None else json_object("--arguments", arguments)
    assurance: Assurance = "elicited"  # somebody with access to this account typed it; no more is known
    async with opened(invocation, executes=True) as (core, caller):
        if credential:
            caller, assurance = await _approver(core, caller), "out_of_band"
        found = await _find(core, caller, approval)
        decision = decision or (ANSWER if in_words(found.options) and feedback else "approve")
        if found.status == "pending" and decision not in found.options:
            choices = "|".join(shlex.quote(option) for option in found.options)
            raise OmiumError(
                "invalid_argument",
                f"approval {found.id} does not offer {decision!r}.",
                f"Answer in words: {approve_line(found.id, found.options)}"
                if in_words(found.options)
                else f"Choose one: omium approve {short(found.id)} --choice {choices}",
                options=list(found.options),
            )
        decided = await core.decide(
            caller,
            found.id,
            decision,
            feedback=feedback,
            arguments=instead,
            assurance=assurance,
            idempotency_key=idempotency_key,
        )
    if console.json:
        console.view(decided)
    elif console.terminal:
        console.text(f"{short(decided.id)} is decided: {console.status(decided.decision or '')}")
    else:
        console.text(f"{safe(decided.id)}\t{safe(decided.decision)}")


async def _approver(core: Core, local: Caller) -> Caller:
    """Whose token is typed at the controlling terminal, and nowhere else: what an agent pipes into this process, or has
    in its environment, proves nothing. Raises `forbidden`, `unauthenticated`."""
    import getpass

    from omium.server.identity.authority import Audited
    from omium.server.identity.tokens import Tokens

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise OmiumError(
            "forbidden", "there is no terminal to type a credential at.", "Run this command in a terminal of your own."
        ) from None
    try:
        secret = getpass.getpass("Approver's token: ")
    except EOFError:
        raise OmiumError("unauthenticated", "no token was typed.") from None
    tokens = Tokens(core.store, local.project, core.clock)
    try:
        found = await Audited(tokens, core.store, local.project, core.clock).caller_of(f"Bearer {secret.strip()}")
    except OmiumError as error:
        if error.code != "unauthenticated":
            raise
        raise OmiumError(
            "unauthenticated", "what was typed is no token that is good for this project.", "Look: omium token list"
        ) from error
    if found.role not in ("approver", "admin"):
        raise OmiumError("forbidden", f"{found.principal} has the role {found.role}.", "It takes an approver's token.")
    return found


async def _find(core: Core, caller: Caller, text: str) -> ApprovalView:
    """The approval that a person means. Raises `not_found`, naming the candidates when there are several: what is
    decided is never guessed."""
    if is_id(text, _PREFIX.rstrip("_")):
        return await core.get_approval(caller, ApprovalId(text))
    if text == _LAST:
        waiting = await core.list_approvals(caller)
        if not waiting:
            raise OmiumError("not_found", "nothing waits for a decision.", "Look at the runs: omium runs")
        return _only(text, waiting)
    wanted = text.upper().removeprefix(_PREFIX.upper())
    found: list[ApprovalView] = []
    if len(wanted) >= _LEAST:
        for pending in (True, False):
            listed = await core.list_approvals(caller, pending=pending)
            found = [one for one in listed if _bare(one.id).startswith(wanted) or one.id.endswith(wanted)]
            if found:
                break
    if not found:
        hint = f"That is a run; its questions: omium approvals --run {text}" if is_id(text, "run") else None
        raise OmiumError("not_found", f"there is no approval {text!r}.", hint or "List what waits: omium approvals")
    return _only(text, found)


def _only(text: str, found: list[ApprovalView]) -> ApprovalView:
    if len(found) > 1:
        raise OmiumError("not_found", f"{text!r} is not unique.", f"One of {', '.join(one.id for one in found[:5])}.")
    return found[0]


def _bare(identifier: str) -> str:
    return identifier.partition("_")[2]
