"""The connection of the reads that are asked most, on its own thread.

Each is one hop to the thread and one run of a statement that SQLite keeps compiled; over the async engine it would be a
dozen hops. Reads that come in while one is under way are answered together.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects import sqlite

from omium.orchestration.errors import OmiumError
from omium.storage.sqlite.errors import translated

_log = logging.getLogger(__name__)

Row = tuple[Any, ...]
Answer = tuple["asyncio.Future[list[Row]]", "list[Row] | BaseException"]


class Reader:
    """Answers statements that are kept for good: each is turned into SQL once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[Select[Any], tuple[str, Sequence[str], Mapping[str, Any]]] = {}
        self._asked: queue.SimpleQueue[tuple[str, Row, asyncio.Future[list[Row]]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def fetch(self, statement: Select[Any], values: Mapping[str, Any]) -> list[Row]:
        """All rows. Raises `storage_unavailable`."""
        if self._closed:
            raise OmiumError("storage_unavailable", "the store is closed.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="omium-reader", daemon=True)
            self._thread.start()
        text, names, fixed = self._texts.get(statement) or self._compile(statement)
        future: asyncio.Future[list[Row]] = self._loop.create_future()
        self._asked.put((text, tuple([values[name] if name in values else fixed[name] for name in names]), future))
        return await future

    def _compile(self, statement: Select[Any]) -> tuple[str, Sequence[str], Mapping[str, Any]]:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        found = self._texts[statement] = str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params)
        return found

    async def close(self) -> None:
        """What was asked for is still answered."""
        self._closed = True
        self._asked.put(None)
        while self._thread is not None and self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 1.0)

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        ending = False
        while not ending:
            asked = [self._asked.get()]
            while not self._asked.empty():
                asked.append(self._asked.get())
            answers: list[Answer] = []
            for one in asked:
                if one is None:
                    ending = True
                    continue
                text, parameters, future = one
                try:
                    db = db or _connect(self._path)
                    answers.append((future, db.execute(text, parameters).fetchall()))
                except Exception as error:  # whoever asked hears of it, and the next one gets a new connection
                    answers.append((future, translated(error, self._path)))
                    if db is not None:
                        db.close()
                    db = None
            try:
                self._loop.call_soon_threadsafe(_deliver, answers)
            except RuntimeError:
                _log.warning("the event loop ended before a read could be answered")
        if db is not None:
            db.close()


def _deliver(answers: Sequence[Answer]) -> None:
    for future, answer in answers:
        if future.done():  # whoever asked was cancelled
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    db.execute("PRAGMA busy_timeout = 5000")
    db.execute("PRAGMA query_only = 1")
    return db
