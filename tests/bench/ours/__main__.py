"""One measurement in this process: `python -m tests.bench.ours '{"measure": "chain", ...}'` prints figures as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from omium.server.loop import run
from omium.server.memory import tune
from tests.bench.figures import Figure, exit_on_sigterm
from tests.bench.ours import (
    across,
    calls,
    checkouts,
    clients,
    commands,
    history,
    kill,
    pages,
    policies,
    quiet,
    runs,
    screens,
    tools,
    waiting,
)
from tests.bench.ours.work import Work, from_json

MEASURES: dict[str, Callable[[Work], Awaitable[list[Figure]]]] = {
    "chain": runs.chain,
    "runs": runs.runs,
    "fanout": runs.fanout,
    "storage": runs.storage,
    "branch": history.branch,
    "checkpoint": history.checkpoint,
    "rollback": history.rollback,
    "kill": kill.kill,
    "waiting": waiting.waiting,
    "approval": across.approval,
    "events": across.events,
    "cancel": across.cancelling,
    "commands": commands.commands,
    "calls": calls.calls,
    "pages": pages.pages,
    "policies": policies.policies,
    "http_clients": clients.http_clients,
    "tools": tools.tools,
    "checkouts": checkouts.checkouts,
    "quiet": quiet.quiet,
    "screens": screens.screens,
}


def main() -> None:
    work = from_json(sys.argv[1])
    exit_on_sigterm()
    tune()
    logging.basicConfig(level=logging.WARNING)
    figures = run(partial(MEASURES[work.measure], work))  # as every process of the product does
    print(json.dumps([figure.as_dict() for figure in figures]))


if __name__ == "__main__":
    main()
