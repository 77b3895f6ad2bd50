"""Text and bytes from outside are stored as what they are: never SQL, never a pattern, never code, never a path."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId, Principal, ProjectId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import IdempotencyKey, NewBlob, RunQuery, Write
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.sqlite.store import SqliteStore
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "omium.db")
    yield opened
    await opened.close()


async def refused(code: str, action: Any) -> None:
    with pytest.raises(OmiumError) as caught:
        await action
    assert caught.value.code == code, caught.value


NASTY = (
    "' OR 1=1 --", "'; DROP TABLE runs; --", "%", "_", "100%_\\", '"quoted"', "$.a[0]", "a\x00b".replace("\x00", "\\0"),
    "{run}", ":run", "?", "\\", "'' \" ` ; --", "ünïcödé ‮ \U0001f600",
)  # fmt: skip


async def test_text_from_outside_is_only_ever_text(store: SqliteStore) -> None:
    life = Life(store)
    runs = {text: await life.create(title=text, session=text, project=text) for text in NASTY}
    plain = await life.create(title="plain")
    for text, run_id in runs.items():
        assert run_id in [row.id for row in await store.runs(RunQuery(text=text))]
        for query in (RunQuery(session=text), RunQuery(projects=(ProjectId(text),))):
            assert [row.id for row in await store.runs(query)] == [run_id]
        found = [row.id for row in await store.runs(RunQuery(text=text))]
        assert (plain in found) == (text in plain)  # ids are searched too
        assert await store.runs(RunQuery(workflow=text)) == []
        assert await store.runs(RunQuery(statuses=(text,))) == []
        assert await store.runs(RunQuery(parent=RunId(text), caller=RunId(text))) == []
        assert await store.run(RunId(text)) is None
        assert await store.effects(RunId(text)) == []
        key = IdempotencyKey(text, text, Digest("0" * 64), {"text": text})
        await store.write(Write(run_id, [c.Label(Seq(1), text, note=text)], Principal(text), idempotency=key))
        assert await store.recall(text, text) == ("0" * 64, {"text": text})
        assert [(row.label, row.actor) for row in await store.labels(run_id)] == [(text, text)]
        await life.do(run_id, c.StartNode(NodeId(text), 0), c.InterruptNode(NodeId(text), 0, 1, text))
        assert await m.append_project_event(m.keeper(store), ProjectId(text), "a.b", Principal(text), {text: text}) == 1
        await refused("not_found", m.verify(m.keeper(store), [RunId(text)]))
    assert len(await store.runs(RunQuery(text="%"))) == 2  # "%" and "100%_\", not everything
    assert await m.verify(m.keeper(store)) == []
    assert (await m.rebuild(m.keeper(store))).broken == []


PAYLOADS = (
    b"cos\nsystem\n(S'touch PLACE'\ntR.",  # a pickle
    b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x94\x8c\x0btouch PLACE\x85R.",
    b'\x01{"$omium":"python/object:os.system","v":"touch PLACE"}',
    b'\x01{"$omium":"pickle","v":"Y29zCnN5c3RlbQo="}',
    b'\x02{"newer":1}',
    b"\x01!!python/object/apply:os.system ['touch PLACE']",
)
CONSTRUCTORS = (
    {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch PLACE"]}]},
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "touch PLACE"}},
    {"__class__": "subprocess.Popen", "__args__": ["touch PLACE"]},
    {"$omium": "bytes", "v": "of a user"},
)


async def test_stored_bytes_never_become_code(store: SqliteStore, tmp_path: Path) -> None:
    place = str(tmp_path / "executed").encode()
    for payload in PAYLOADS:
        data = payload.replace(b"PLACE", place)
        digest = Digest(hashlib.sha256(data).hexdigest())
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute("INSERT INTO blobs VALUES (?, ?, 'raw', NULL, 0, 0, NULL, ?)", (digest, len(data), data))
        with pytest.raises(OmiumError) as refusal:
            await store.value(digest)
        assert refusal.value.code in ("integrity", "unsupported")
    for value in CONSTRUCTORS:
        encoded = encode(value)
        await store.put([NewBlob(encoded)])
        assert await store.value(encoded.digest) == value  # data, as it came
    assert not (tmp_path / "executed").exists()


async def test_a_directory_of_blobs_that_leads_elsewhere_is_not_followed(store: SqliteStore, tmp_path: Path) -> None:
    life = Life(store)
    run_id, value = await life.create(), encode({"noise": os.urandom(400_000)})
    await life.do(run_id, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    path = tmp_path / "blobs" / value.digest[:2] / value.digest[2:4] / value.digest
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    other = await SqliteStore.open(store.path)
    await refused("storage_unavailable", other.value(value.digest))
    await other.close()
