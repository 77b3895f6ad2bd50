"""Which conversations of coding CLIs this machine has: a small file for each, with what it took and in which runs.

Its words are the CLI's own; here is nothing of them. A conversation that nobody has gone on with for its time to live
expires: below Omium's own directory its files go, and no node goes on with it any more.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from omium.clients.coding.sessions import is_session
from omium.clients.coding.spec import CodingSpec
from omium.clients.workspaces.paths import make_private

_log = logging.getLogger(__name__)

Standing = Literal["open", "ended", "expired", "corrupted"]
_SIZE: Final = 1024 * 1024  # bytes
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Share:
    """What one generation of a node took of a conversation. cost_usd: None where no price is known."""

    run: str
    node: str
    generation: int
    turns: int = 0
    tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A conversation. standing: `open` until its node is done, `ended`; `expired`, or `corrupted` when its CLI could
    not read it, which nobody goes on with. Times are seconds since the epoch. follows: the one that it was copied from,
    or that it takes the place of."""

    id: str
    project: str
    agent: str
    kind: str
    cwd: str
    began_at: float
    used_at: float
    standing: Standing = "open"
    follows: str | None = None
    shares: tuple[Share, ...] = field(default_factory=tuple)

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.run for one in self.shares))

    @property
    def turns(self) -> int:
        return sum(one.turns for one in self.shares)

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.shares)

    @property
    def cost_usd(self) -> float | None:
        """None where the price of a part is not known."""
        costs = [one.cost_usd for one in self.shares if one.tokens]
        known = [one for one in costs if one is not None]
        return sum(known) if len(known) == len(costs) else None

    def is_over(self, now: float, ttl_s: float | None) -> bool:
        """Whether nobody may go on with it any more."""
        return self.standing in ("expired", "corrupted") or (ttl_s is not None and now - self.used_at > ttl_s)


def config_directory(home: Path, agent: str) -> Path:
    """Where a CLI with a key of its own keeps its conversations."""
    return home / "coding" / agent.replace("/", "%2F")


class Conversations:
    """Those of one home. What cannot be written is logged and left out: the CLI's own files and the run's log are what
    the work relies on. wall: seconds since the epoch."""

    def __init__(self, home: Path, wall: Any = time.time) -> None:
        self.wall = wall
        self._home = home
        self._directory = home / "conversations"

    def get(self, identity: str) -> Entry | None:
        return self._read(self._directory / f"{identity}{_SUFFIX}") if is_session(identity) else None

    def entries(self) -> Iterator[Entry]:
        """All that can be read, those used last first."""
        try:
            paths = [path for path in self._directory.iterdir() if path.suffix == _SUFFIX]
        except OSError:  # there was never one
            return
        found = [entry for path in paths if (entry := self._read(path)) is not None]
        yield from sorted(found, key=lambda one: (-one.used_at, one.id))

    def note(self, entry: Entry, share: Share) -> None:
        """What a conversation has taken by now in a generation of a node. entry: as it is new; one that is known keeps
        its beginning and the shares of others."""
        known = self.get(entry.id)
        before = () if known is None else known.shares
        mine = (share.run, share.node, share.generation)
        others = tuple(one for one in before if (one.run, one.node, one.generation) != mine)
        began, follows = (entry.began_at, entry.follows) if known is None else (known.began_at, known.follows)
        self._write(replace(entry, began_at=began, follows=follows, shares=(*others, share)))

    def corrupted(self, entry: Entry) -> None:
        """Its CLI cannot read it. entry: as it is written if it was not known."""
        self._write(replace(self.get(entry.id) or entry, standing="corrupted"))

    def expire(self, project: str, specs: Mapping[str, CodingSpec], default_s: float) -> dict[str, int]:
        """Take the files of those away that are past their time, and forget what is past it twice. default_s: for CLIs
        that are declared no more. How many expired, and how many were forgotten."""
        now, expired, forgotten = self.wall(), 0, 0
        for entry in list(self.entries()):
            spec = specs.get(entry.agent)
            ttl_s = default_s if spec is None else spec.session_ttl_s
            if entry.project != project or ttl_s is None or now - entry.used_at <= ttl_s:
                continue
            self._remove_files(entry)
            if now - entry.used_at > 2 * ttl_s:
                self._path(entry.id).unlink(missing_ok=True)
                forgotten += 1
            elif entry.standing in ("open", "ended"):
                self._write(replace(entry, standing="expired"))
                expired += 1
        return {"expired": expired, "forgotten": forgotten}

    def forget(self, runs: Collection[str]) -> int:
        """Take away those that were of these runs only, with their files; how many."""
        gone = [entry for entry in self.entries() if entry.shares and set(entry.runs) <= set(runs)]
        for entry in gone:
            self._remove_files(entry)
            self._path(entry.id).unlink(missing_ok=True)
        return len(gone)

    # --- below ----------------------------------------------------------------------------------------------------

    def _remove_files(self, entry: Entry) -> None:
        """Only what lies below Omium's own directory: the user's conversations are the user's."""
        assert is_session(entry.id), "the name of a file is made of it"
        for path in config_directory(self._home, entry.agent).glob(f"projects/*/{entry.id}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _path(self, identity: str) -> Path:
        assert is_session(identity), "the name of a file is made of it"
        return self._directory / f"{identity}{_SUFFIX}"

    def _read(self, path: Path) -> Entry | None:
        try:
            with path.open("rb") as file:
                told = json.loads(file.read(_SIZE))
            entry = Entry(**{**told, "shares": tuple(Share(**one) for one in told["shares"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            _log.warning("what is known of a conversation cannot be read: %s: %r", path, error)
            return None
        return entry if entry.id == path.stem and is_session(entry.id) else None

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.id)
        temporary = path.with_suffix(".tmp")
        try:
            make_private(self._directory, above=self._home)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(asdict(entry), file)
            temporary.replace(path)
        except OSError as error:
            _log.warning("the conversation %s is not noted: %s", entry.id, error)
