"""Verifying an exported JSONL by itself: nothing of Omium's database is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.log.chain import GENESIS, Chain
from omium.server.audit.writing import FORM


@dataclass(frozen=True, slots=True)
class Checked:
    """problems: empty when the export is what it says, and its chains hold. heads: of each log, to be compared with
    what was kept elsewhere."""

    logs: int
    events: int
    problems: tuple[str, ...]
    heads: Mapping[str, str]


def check(lines: Iterable[bytes], chain: Chain) -> Checked:
    """lines: of the file, with their ends. chain: with the key of the chain, for an export that says `hmac-sha256`."""
    digest, problems = hashlib.sha256(), []
    heads: dict[str, str] = {}
    at: dict[str, tuple[int, str]] = {}
    events, ended = 0, False
    for number, line in enumerate(lines, start=1):
        try:
            value = orjson.loads(line)
            record = value["record"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problems.append(f"line {number}: it is no record")
            digest.update(line)
            continue
        if ended:
            problems.append(f"line {number}: it stands behind the end")
        elif record == "end":
            ended = True
            if value.get("sha256") != digest.hexdigest() or value.get("logs") != len(heads):
                problems.append(f"line {number}: the lines before it are not those that were exported")
            continue
        elif record == "event":
            events += 1
            problems += (f"line {number}: {problem}" for problem in _event(value, at, chain))
        elif record == "proof":
            heads[str(value.get("log"))] = str(value.get("head"))
            problems += (f"line {number}: {problem}" for problem in _proof(value, at))
        elif number != 1 or value.get("form") != FORM:
            problems.append(f"line {number}: {record!r:.40} is not what stands there")
        digest.update(line)
    if not ended:
        problems.append("it has no end: the rest is missing")
    return Checked(len(heads), events, tuple(problems), heads)


def _event(value: Mapping[str, Any], at: dict[str, tuple[int, str]], chain: Chain) -> Iterator[str]:
    try:
        log, seq, given = str(value["log"]), int(value["seq"]), str(value["hash"])
        before, head = at.get(log, (0, GENESIS.hex()))
        at[log] = (seq, given)
        if seq != before + 1:
            yield f"event {before + 1} of {log} is missing, {seq} follows"
        elif value["prev_hash"] != head:
            yield f"{log}@{seq} does not follow from the event before it"
        previous = bytes.fromhex(value["prev_hash"])
        _, expected = chain.link(previous, log, seq, value["type"], value["at"], value["actor"], value["data"])
    except (KeyError, TypeError, ValueError, OmiumError):
        yield "it is no event"
        return
    if expected.hex() != given:
        yield f"the content of {log}@{seq} does not match its hash"


def _proof(value: Mapping[str, Any], at: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    seq, head = at.get(str(value.get("log")), (0, ""))
    if (value.get("events"), value.get("head")) != (seq, head):
        yield f"the proof of {value.get('log')} is not that of its events"
    for problem in value.get("problems") or ():
        yield str(problem)
