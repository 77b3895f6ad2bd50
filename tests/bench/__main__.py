"""The benchmark: `python -m tests.bench`, with `--help` for what it takes."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench import ours, peers, report
from tests.bench.figures import Figure, exit_on_sigterm
from tests.bench.peers import PEERS
from tests.bench.plan import PLAN, Figures, Line, Measure, Room, Sizes
from tests.bench.report import Row
from tests.postgres import start_postgres

NOTES = (
    "A step takes the whole state and returns it; the state is the output of a node that the next node consumes. All"
    " stores commit durably: SQLite with synchronous=FULL, PostgreSQL with fsync.",
    "Every run of chain and runs has a text of its own: a content that is stored already is not stored again, by ours.",
    "Floor, ours and peers were measured in turn within this run; each figure is the median of the rounds. Trust the"
    " ratios: the machine may be shared.",
    "The floor of rates is a bare insert and commit a step; where work is concurrent, one writer that commits in"
    " groups. That of times is one commit of the same size, the start of a bare interpreter, or a copy of the files"
    " that changed.",
    "branch_kb is what the database grows by for a branch; branch_wal_kb is what was written to the write-ahead log for"
    " it, whole pages that the next checkpoint of that log merges.",
    "event_latency is counted from the time in the event, which is that of the beginning of its commit; the follower is"
    " another process, while the run writes as fast as it can.",
    "tool_overhead is what stands between an agent and a pooled stdio call: policy, pins, the schema of the arguments"
    " and redaction. tool_node has the commits of the ledger besides.",
    "Ours runs on uvloop, as its own processes do, the peers on the loop that they come with. An interpreter that was"
    " built without profile-guided optimization, which is what pyenv does by default, is about a fifth slower at"
    " everything but waiting for the disk.",
    "While files are made shortly after very many were deleted, ext4 looks for numbers of files that were not in use"
    " lately: checkout_first_s and checkout_s are measured in that state, their floor too. Where nothing was deleted,"
    " 10,000 small files took git 0.19 s by one process and 0.17 s by two, here.",
)


def main() -> None:
    options = _options()
    exit_on_sigterm()
    wanted = set(options.only.split(",")) if options.only else None
    plan = _chosen(wanted, quick=options.quick)
    if options.peers and (reason := peers.unavailable()) is not None:
        sys.exit(f"the peers cannot be measured: {reason}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omium-bench-")))
        server = None
        if any(measure.store == "postgres" for measure, _ in plan):
            server = stack.enter_context(start_postgres(directory / "postgres"))
        room = Room(directory, server)
        rows: list[Row] = []
        for measure, lines in plan:
            rows += make(measure, lines, room, quick=options.quick, with_peers=options.peers)
            if not options.json:
                print(f"  {', '.join(_told(row) for row in rows[-len(lines) :])}", file=sys.stderr, flush=True)
        version = None if server is None else server.execute("SHOW server_version")
        facts = report.machine(directory, postgres=version, peers=peers.versions() if options.peers else None)
    if options.json:
        print(report.to_json(rows))
    else:
        report.print_table(rows, note="; ".join(f"{name}: {value}" for name, value in facts.items()))
    if options.write:
        command = " ".join(["python -m tests.bench", *_flags(options)])
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(report.markdown(rows, command=command, machine=facts, notes=NOTES))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure the floors of this machine, Omium, and with --peers others."
    )
    parser.add_argument("--quick", action="store_true", help="less of each work: within a minute, without the peers")
    parser.add_argument("--peers", action="store_true", help="LangGraph and DBOS too; installs them on first use")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    parser.add_argument("--only", metavar="NAME,...", help="only these rows")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page for the documentation")
    return parser.parse_args()


def _flags(options: argparse.Namespace) -> list[str]:
    flags = ["--quick"] if options.quick else []
    flags += ["--peers"] if options.peers else []
    flags += [f"--only {options.only}"] if options.only else []
    return [*flags, f"--write {options.write}"]


def _chosen(wanted: set[str] | None, *, quick: bool) -> list[tuple[Measure, Sequence[Line]]]:
    """The measures to be made, each with its lines. A row that was asked for and is not there ends the program."""
    known = {line.name for measure in PLAN for line in measure.lines if not quick or measure.quick is not None}
    if wanted is not None and (missing := wanted - known):
        where = " in a quick run" if quick else ""
        sys.exit(f"no row {', '.join(sorted(missing))}{where}; there are: {', '.join(sorted(known))}")
    plan: list[tuple[Measure, Sequence[Line]]] = []
    for measure in PLAN:
        lines = [line for line in measure.lines if line.name in known and (wanted is None or line.name in wanted)]
        if lines:
            plan.append((measure, lines))
    return plan


def _told(row: Row) -> str:
    return f"{row.measure} {row.ours:g} {row.unit}" if row.ours is not None else f"{row.measure} failed"


def make(measure: Measure, lines: Sequence[Line], room: Room, *, quick: bool, with_peers: bool) -> list[Row]:
    """The rows of one measure. What fails is a row without a figure, and says why on standard error."""
    sizes = (measure.quick or {}) if quick else measure.sizes
    rounds = 1 if quick else measure.rounds
    floors: dict[str, list[float]] = {line.name: [] for line in lines}
    found: dict[str, list[float]] = {}
    others: dict[str, list[Figure]] = {}
    for number in range(rounds):
        _floors(floors, lines, room, sizes)
        try:
            _ours(found, measure, room, sizes)
        except RuntimeError as error:
            print(f"{measure.work}: {error}", file=sys.stderr)
        if with_peers and measure.peer is not None and number < (1 if quick else measure.peer_rounds):
            _peers(others, measure, room, sizes)
    _floors(floors, lines, room, sizes)
    figures = {name: statistics.median(values) for name, values in found.items()}
    return [_row(line, figures, floors[line.name], others, full=not quick or line.any_size) for line in lines]


def _floors(floors: dict[str, list[float]], lines: Sequence[Line], room: Room, sizes: Sizes) -> None:
    for line in lines:
        if line.floor is not None:
            _settle()
            floors[line.name].append(line.floor(room, sizes))


def _ours(found: dict[str, list[float]], measure: Measure, room: Room, sizes: Sizes) -> None:
    for variant, more in measure.variants.items():
        _settle()
        url = room.database() if measure.store == "postgres" else None
        given = {**sizes, **more}
        figures = ours.measure(measure.work, store=measure.store, url=url, directory=room.directory, **given)
        for name, figure in figures.items():
            found.setdefault(f"{variant}.{name}" if variant else name, []).append(figure.value)


def _peers(others: dict[str, list[Figure]], measure: Measure, room: Room, sizes: Sizes) -> None:
    known = {name: value for name, value in sizes.items() if name != "times"}
    for peer in PEERS:
        _settle()
        url = room.database() if measure.store == "postgres" else None
        try:
            figure = peers.measure(
                peer, str(measure.peer), store=measure.store, url=url, directory=room.directory, **known
            )
        except RuntimeError as error:
            print(f"{peer}: {error}", file=sys.stderr)
        else:
            others.setdefault(peer, []).append(Figure(**figure))


def _settle() -> None:
    """What the last measurement left to be written is not to be the next one's burden."""
    os.sync()


def _row(line: Line, figures: Figures, floors: Sequence[float], others: dict[str, list[Figure]], *, full: bool) -> Row:
    try:
        value = figures[line.figure] if isinstance(line.figure, str) else line.figure(figures)
    except KeyError:
        value = None
    floor = statistics.median(floors) if floors else None
    measured: dict[str, float] = {}
    if line.peer is not None:
        for peer, found in others.items():
            values = [one.value if line.peer == "value" else one.detail[line.peer] for one in found]
            measured[peer] = statistics.median(values)
    value = None if value is None else float(f"{value:.5g}")
    floor = None if floor is None else float(f"{floor:.5g}")
    ratio = report.ratio(value, floor)
    holds = None if value is None else _holds(line, value, ratio, measured, full=full)
    return Row(line.name, line.unit, value, floor, ratio, measured, line.target, holds)


def _holds(line: Line, value: float, ratio: float | None, others: dict[str, float], *, full: bool) -> bool | None:
    """Whether the target is reached: False if any part of it is missed, None if some part cannot be told."""
    parts: list[bool | None] = []
    if line.below is not None:
        parts.append(value < line.below if full else None)
    if line.of_floor is not None:
        parts.append(ratio >= line.of_floor if full and ratio is not None else None)
    if line.most_of_floor is not None:
        parts.append(ratio <= line.most_of_floor if full and ratio is not None else None)
    if line.of_peers is not None:
        told = full and set(others) == set(PEERS)
        parts.append(value >= line.of_peers * max(others.values()) if told else None)
    if False in parts:
        return False
    return True if parts and None not in parts else None


if __name__ == "__main__":
    main()
