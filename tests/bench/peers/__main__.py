"""Measures both peers on both stores: `python -m tests.bench.peers [--quick] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.figures import exit_on_sigterm
from tests.bench.peers.workload import Store
from tests.postgres import PostgresServer, start_postgres

STORES: tuple[Store, ...] = ("sqlite", "postgres")
Plan = list[tuple[str, str, dict[str, Any]]]

FULL: Plan = [
    ("chain", "chain", {}),
    ("chain_100kb", "chain", {"state_kb": 100, "steps": 500}),
    ("runs_100", "runs", {"runs": 100}),
    ("runs_1000", "runs", {"runs": 1000}),
    ("fanout", "fanout", {}),
    ("fork", "fork", {}),
    ("storage", "storage", {"state_kb": 100, "steps": 200}),
    ("kill", "kill", {}),
]
QUICK: Plan = [
    ("chain", "chain", {"steps": 300}),
    ("runs_100", "runs", {"runs": 50}),
    ("fanout", "fanout", {"branches": 300}),
    ("fork", "fork", {"steps": 200}),
    ("storage", "storage", {"state_kb": 100, "steps": 50}),
    ("kill", "kill", {"steps": 200}),
]
# A graph of one looped node is LangGraph's best case and another program, so it is shown for information.
LANGGRAPH_LOOPED: Plan = [
    ("chain_looped", "chain", {"looped": True}),
    ("chain_100kb_looped", "chain", {"looped": True, "state_kb": 100, "steps": 500}),
]


def measure_all(plan: Plan, stores: tuple[Store, ...], server: PostgresServer | None) -> Iterator[dict[str, Any]]:
    """The figure of each measure of the plan, for each peer and store, as it comes; with `error` where it failed."""
    for name, measure, sizes in plan:
        for store in stores:
            for peer in peers.PEERS:
                if name.endswith("_looped") and peer != "langgraph":
                    continue
                url = None
                if store == "postgres" and server is not None:
                    url = server.create_database(f"{peer}_{uuid.uuid4().hex}")
                try:
                    figure = peers.measure(peer, measure, store=store, url=url, **sizes)
                except RuntimeError as error:
                    figure = {"measure": f"{measure}_{store}", "value": None, "unit": "", "error": str(error)}
                yield {"peer": peer, "store": store, "name": name, **figure}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description="Measure LangGraph and DBOS here.")
    parser.add_argument("--quick", action="store_true", help="less of each work")
    parser.add_argument("--json", action="store_true", help="print a JSON list of figures at the end")
    parser.add_argument("--store", choices=STORES, help="only this store")
    parser.add_argument("--only", metavar="NAME", action="append", help="only this measure; may be given again")
    options = parser.parse_args()
    exit_on_sigterm()
    if (reason := peers.unavailable()) is not None:
        sys.exit(f"not installed: {reason}")
    plan = [
        item
        for item in (QUICK if options.quick else FULL + LANGGRAPH_LOOPED)
        if not options.only or item[0] in options.only
    ]
    stores: tuple[Store, ...] = (options.store,) if options.store else STORES
    figures = []
    with tempfile.TemporaryDirectory(prefix="omium-bench-") as name, start_postgres(Path(name)) as server:
        for figure in measure_all(plan, stores, server):
            figures.append(figure)
            if not options.json:
                print(f"{figure['name']:20} {figure['store']:9} {figure['peer']:10} {figure['value']} {figure['unit']}")
    if options.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
