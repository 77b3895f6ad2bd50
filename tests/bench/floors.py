"""The floors of this machine: the least that durable work costs here, whatever is built on top.

Each function does its work once in the directory or database that it is given and returns a Figure. A step is a row
with the step's state, inserted and committed on its own; fsync is on everywhere.

    python -m tests.bench.floors --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg  # type: ignore[import-untyped]

from tests.bench.figures import Figure, exit_on_sigterm, milliseconds, payload, percentile, rate
from tests.postgres import start_postgres

Synchronous = Literal["FULL", "NORMAL"]

SQLITE_TABLE = "CREATE TABLE step (run INTEGER, seq INTEGER, state BLOB, PRIMARY KEY (run, seq)) WITHOUT ROWID"
SQLITE_INSERT = "INSERT INTO step VALUES (?, ?, ?)"
POSTGRES_TABLE = "CREATE TABLE step (run int, seq int, state text, PRIMARY KEY (run, seq))"
POSTGRES_INSERT = "INSERT INTO step VALUES ($1, $2, $3)"
POSTGRES_BATCH = "INSERT INTO step SELECT * FROM unnest($1::int[], $2::int[], $3::text[])"


@contextmanager
def _sqlite(directory: Path, synchronous: Synchronous) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(
        directory / f"floor-{uuid.uuid4().hex}.db", isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(SQLITE_TABLE)
        yield connection
    finally:
        connection.close()


def sqlite_chain(directory: Path, *, steps: int = 1000, state_kb: int = 1, synchronous: Synchronous = "FULL") -> Figure:
    """Bare sqlite3 in WAL mode: one insert and one commit a step."""
    state = payload(state_kb)
    latencies = []
    with _sqlite(directory, synchronous) as connection:
        for seq in range(steps):  # a first chain, as everyone makes: the journal has grown when the clock starts
            connection.execute(SQLITE_INSERT, (0, seq, state))
        begin = time.perf_counter()
        for seq in range(steps):
            start = time.perf_counter()
            connection.execute(SQLITE_INSERT, (1, seq, state))
            latencies.append(time.perf_counter() - start)
        seconds = time.perf_counter() - begin
    return rate(f"sqlite_chain_{synchronous.lower()}_{state_kb}kb", "steps/s", steps, seconds, latencies)


def sqlite_group_commit(directory: Path, *, runs: int = 1000, nodes: int = 10, state_kb: int = 1) -> Figure:
    """`runs` concurrent runs of `nodes` steps before one writer thread that commits whatever has come in as one batch.

    Each step is acknowledged after the commit that holds it, and its run goes on only then.
    """
    with _sqlite(directory, "FULL") as connection:

        def write(rows: list[tuple[int, int, str]]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(SQLITE_INSERT, rows)
            connection.execute("COMMIT")

        seconds, batches = asyncio.run(_group_commit(write, runs, nodes, payload(state_kb)))
    return rate("sqlite_group_commit", "runs/s", runs, seconds, nodes=nodes, batches=batches)


async def _group_commit(write: Any, runs: int, nodes: int, state: str) -> tuple[float, int]:
    loop = asyncio.get_running_loop()
    rows: queue.SimpleQueue[tuple[tuple[int, int, str], asyncio.Future[None]] | None] = queue.SimpleQueue()
    batches = 0

    def acknowledge(waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            future.set_result(None)

    def writer() -> None:
        nonlocal batches
        while (first := rows.get()) is not None:
            batch = [first]
            while not rows.empty():
                item = rows.get()
                if item is None:
                    rows.put(None)
                    break
                batch.append(item)
            write([row for row, _ in batch])
            batches += 1
            loop.call_soon_threadsafe(acknowledge, [future for _, future in batch])

    async def run(number: int) -> None:
        for seq in range(nodes):
            done = loop.create_future()
            rows.put(((number, seq, state), done))
            await done

    thread = threading.Thread(target=writer)
    thread.start()
    begin = time.perf_counter()
    await asyncio.gather(*(run(number) for number in range(runs)))
    seconds = time.perf_counter() - begin
    rows.put(None)
    thread.join()
    return seconds, batches


async def _postgres_table(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP TABLE IF EXISTS step")
        await connection.execute(POSTGRES_TABLE)
    finally:
        await connection.close()


def postgres_chain(url: str, *, steps: int = 1000, state_kb: int = 1) -> Figure:
    """One asyncpg insert a step, prepared once, in autocommit."""
    return asyncio.run(_postgres_chain(url, steps, state_kb))


async def _postgres_chain(url: str, steps: int, state_kb: int) -> Figure:
    await _postgres_table(url)
    state = payload(state_kb)
    latencies = []
    connection = await asyncpg.connect(url)
    try:
        insert = await connection.prepare(POSTGRES_INSERT)
        for seq in range(steps):
            await insert.fetch(0, seq, state)
        begin = time.perf_counter()
        for seq in range(steps):
            start = time.perf_counter()
            await insert.fetch(1, seq, state)
            latencies.append(time.perf_counter() - start)
        seconds = time.perf_counter() - begin
    finally:
        await connection.close()
    return rate(f"postgres_chain_{state_kb}kb", "steps/s", steps, seconds, latencies)


def postgres_connections(
    url: str, *, runs: int = 1000, nodes: int = 10, state_kb: int = 1, connections: int = 16
) -> Figure:
    """The concurrent runs without batching: a pool of connections and one insert in autocommit a step."""
    return asyncio.run(_postgres_connections(url, runs, nodes, state_kb, connections))


async def _postgres_connections(url: str, runs: int, nodes: int, state_kb: int, connections: int) -> Figure:
    await _postgres_table(url)
    state = payload(state_kb)
    async with asyncpg.create_pool(url, min_size=connections, max_size=connections) as pool:

        async def run(number: int) -> None:
            for seq in range(nodes):
                await pool.execute(POSTGRES_INSERT, number, seq, state)

        begin = time.perf_counter()
        await asyncio.gather(*(run(number) for number in range(runs)))
        seconds = time.perf_counter() - begin
    return rate("postgres_connections", "runs/s", runs, seconds, nodes=nodes, connections=connections)


def postgres_group_commit(url: str, *, runs: int = 1000, nodes: int = 10, state_kb: int = 1) -> Figure:
    """The concurrent runs on one connection that inserts whatever has come in as one statement."""
    return asyncio.run(_postgres_group_commit(url, runs, nodes, state_kb))


async def _postgres_group_commit(url: str, runs: int, nodes: int, state_kb: int) -> Figure:
    await _postgres_table(url)
    state = payload(state_kb)
    loop = asyncio.get_running_loop()
    waiting: list[tuple[int, int, asyncio.Future[None]]] = []
    arrived = asyncio.Event()
    batches = 0

    async def run(number: int) -> None:
        for seq in range(nodes):
            done: asyncio.Future[None] = loop.create_future()
            waiting.append((number, seq, done))
            arrived.set()
            await done

    connection = await asyncpg.connect(url)
    try:
        insert = await connection.prepare(POSTGRES_BATCH)

        async def writer() -> None:
            nonlocal batches
            left = runs * nodes
            while left:
                await arrived.wait()
                arrived.clear()
                batch = waiting[:]
                waiting.clear()
                numbers, sequences, futures = zip(*batch, strict=True)
                await insert.fetch(numbers, sequences, [state] * len(batch))
                batches += 1
                left -= len(batch)
                for future in futures:
                    future.set_result(None)

        begin = time.perf_counter()
        await asyncio.gather(writer(), *(run(number) for number in range(runs)))
        seconds = time.perf_counter() - begin
    finally:
        await connection.close()
    return rate("postgres_group_commit", "runs/s", runs, seconds, nodes=nodes, batches=batches)


def interpreter_start(*, times: int = 10) -> Figure:
    """A new Python process that does nothing, from its start to its end; `value` is the median in seconds."""
    latencies = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        latencies.append(time.perf_counter() - start)
    middle = percentile(latencies, 50) or 0.0
    return Figure(
        "interpreter_start", round(middle, 4), "s", milliseconds(middle), milliseconds(percentile(latencies, 95))
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a measurement does: the whole, or the quick variant."""

    steps: int = 1000
    large_steps: int = 1000
    runs: int = 1000
    nodes: int = 10


QUICK = Sizes(steps=300, large_steps=100, runs=200)


def measure_all(directory: Path, database_url: str, sizes: Sizes) -> dict[str, Figure]:
    """Every floor by its measure's name."""
    steps, large, runs, nodes = sizes.steps, sizes.large_steps, sizes.runs, sizes.nodes
    figures = [
        sqlite_chain(directory, steps=steps),
        sqlite_chain(directory, steps=steps, synchronous="NORMAL"),
        sqlite_chain(directory, steps=large, state_kb=100),
        sqlite_chain(directory, steps=large, state_kb=100, synchronous="NORMAL"),
        sqlite_group_commit(directory, runs=runs, nodes=nodes),
        postgres_chain(database_url, steps=steps),
        postgres_chain(database_url, steps=large, state_kb=100),
        postgres_connections(database_url, runs=runs, nodes=nodes),
        postgres_group_commit(database_url, runs=runs, nodes=nodes),
        interpreter_start(),
    ]
    return {figure.measure: figure for figure in figures}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.floors", description="Measure this machine's floors.")
    parser.add_argument("--quick", action="store_true", help="less of each work")
    parser.add_argument("--json", action="store_true", help="print a JSON list of figures")
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="omium-bench-") as name, start_postgres(Path(name) / "server") as server:
        figures = measure_all(Path(name), server.create_database("floors"), QUICK if options.quick else Sizes())
    if options.json:
        print(json.dumps([figure.as_dict() for figure in figures.values()], indent=2))
        return
    for figure in figures.values():
        print(f"{figure.measure:28} {figure.value:10} {figure.unit:8} p50 {figure.p50_ms} ms, p95 {figure.p95_ms} ms")


if __name__ == "__main__":
    main()
