"""Values, and how they lie in the database."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.log.commands import ResumeRun, Signal
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import Encoded, Value, encode
from tests.conformance.store.acting import blob, digest_of, executing, refused
from tests.conformance.store.databases import AnyStore, Database

pytestmark = pytest.mark.anyio


def words(size: int, seed: int = 0) -> str:
    """Text of about `size` bytes that compresses little."""
    return random.Random(seed).randbytes(size // 2).hex()


def encoding_of(database: Database, digest: Digest) -> str:
    return str(database.execute(f"SELECT encoding FROM blobs WHERE digest = '{digest}'")[0][0])


async def test_values_come_back_exactly(store: AnyStore) -> None:
    values: list[Value] = [
        None,
        "",
        "text",
        {"a": [1, 2.5, True, None, {"b": "ü\x00"}]},
        b"\x00\xff",
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        Decimal("1.10"),
        2**100,
        {"$omium": "tag"},
        ["x" * 100_000],
        words(1_000_000),
    ]
    encoded = [encode(value) for value in values]
    await store.put([NewBlob(e) for e in encoded])
    assert await store.values([e.digest for e in encoded]) == dict(
        zip([e.digest for e in encoded], values, strict=True)
    )
    for e, value in zip(encoded, values, strict=True):
        assert await store.value(e.digest) == value
    await refused("not_found", store.value(digest_of("never stored")))
    await refused("not_found", store.values([encoded[0].digest, digest_of("never stored")]))
    assert await store.values([]) == {}
    await store.put([])


async def test_values_are_found_by_another_process(database: Database) -> None:
    mine, theirs = await database.open(), await database.open()
    small, large = encode({"n": 1}), encode(words(1_000_000))
    await mine.put([NewBlob(small), NewBlob(large)])
    assert await theirs.values([small.digest, large.digest]) == {small.digest: {"n": 1}, large.digest: words(1_000_000)}


async def test_a_value_is_stored_once(database: Database) -> None:
    store = await database.open()
    await asyncio.gather(*(store.put([blob({"n": 1}), blob({"n": 2}), blob({"n": 1})]) for _ in range(10)))
    assert len(database.execute("SELECT digest FROM blobs")) == 2


async def test_a_put_refreshes_what_is_there(database: Database) -> None:
    store = await database.open()
    await store.put([blob({"n": 1})])
    database.clock.advance(5)
    await store.put([blob({"n": 1})])
    [(touched,)] = database.execute("SELECT touched_at FROM blobs")
    assert int(touched) == database.clock.us


async def test_small_changes_of_a_large_value_are_stored_as_patches(database: Database) -> None:
    store = await database.open()
    text = words(100_000)
    versions: list[Encoded] = []
    for n in range(130):
        version = encode({"n": n, "head": words(500, n), "text": text})
        await store.put([NewBlob(version, versions[-1].digest if versions else None)])
        versions.append(version)
    rows = database.execute("SELECT depth, length(data) FROM blobs")
    depths = sorted(int(row[0]) for row in rows)
    assert depths == sorted([*range(65), *range(65)])  # chains end at 64 patches
    stored = sum(int(row[1]) for row in rows)
    assert stored / len(versions) < 4096
    another = await database.open()
    for n in (0, 1, 63, 64, 65, 129):
        assert await another.value(versions[n].digest) == {"n": n, "head": words(500, n), "text": text}
    found = await (await database.open()).values([version.digest for version in versions])
    assert [found[version.digest]["n"] for version in versions] == list(range(130))  # type: ignore[call-overload, index]


async def test_a_base_may_come_from_another_process(database: Database) -> None:
    mine, theirs = await database.open(), await database.open()
    text = words(50_000)
    first, second, third = (encode({"n": n, "text": text}) for n in range(3))
    await mine.put([NewBlob(first)])
    await mine.put([NewBlob(second, first.digest)])
    await theirs.put([NewBlob(third, second.digest)])
    assert [encoding_of(database, e.digest) for e in (second, third)] == ["patch", "patch"]
    assert await (await database.open()).value(third.digest) == {"n": 2, "text": text}
    await theirs.put([NewBlob(encode({"n": 4, "text": text}), digest_of("never stored"))])


async def test_a_base_that_was_never_committed_is_not_built_upon(store: AnyStore, database: Database) -> None:
    text = words(50_000)
    first, second, third, fourth = (encode({"n": n, "text": text}) for n in range(4))
    run = await executing(store)
    await refused("not_allowed", run.ask(ResumeRun(), blobs=[NewBlob(first)]))
    await run.ask(Signal("go", second.digest, second.size), blobs=[NewBlob(second, first.digest)])
    assert encoding_of(database, second.digest) == "zstd"
    await store.put([NewBlob(fourth, third.digest), NewBlob(third, first.digest)])
    assert [encoding_of(database, e.digest) for e in (third, fourth)] == ["zstd", "zstd"]
    reopened = await database.open()
    assert await reopened.values([second.digest, third.digest]) == {
        second.digest: {"n": 1, "text": text},
        third.digest: {"n": 2, "text": text},
    }


async def test_a_base_that_was_swept_is_not_built_upon(database: Database) -> None:
    store = await database.open()
    text = words(50_000)
    first, second, third = (encode({"n": n, "text": text}) for n in range(3))
    await store.put([NewBlob(first)])
    database.execute(f"DELETE FROM blobs WHERE digest = '{first.digest}'")
    await store.put([NewBlob(second, first.digest)])
    database.clock.advance(2 * 86_400)
    run = await executing(store)
    # Old as it is, it is there, and building upon it makes it young again.
    await run.ask(Signal("go", third.digest, third.size), blobs=[NewBlob(third, second.digest)])
    assert [encoding_of(database, e.digest) for e in (second, third)] == ["zstd", "patch"]
    assert await (await database.open()).value(third.digest) == {"n": 2, "text": text}


async def test_a_chain_that_was_counted_anew_is_read_to_its_end(database: Database) -> None:
    """A process that stores whole what another one keeps as a patch does not know how long the chain below it is."""
    text = words(20_000)
    versions = [encode({"n": n, "text": text}) for n in range(110)]
    mine = await database.open()
    for n in range(60):
        await mine.put([NewBlob(versions[n], versions[n - 1].digest if n else None)])
    theirs = await database.open()
    await theirs.put([NewBlob(versions[59])])
    for n in range(60, 110):
        await theirs.put([NewBlob(versions[n], versions[n - 1].digest)])
    assert await (await database.open()).value(versions[-1].digest) == {"n": 109, "text": text}


async def test_a_large_value_lies_in_a_file(database: Database, tmp_path: Path) -> None:
    store = await database.open()
    large = encode(words(1_000_000))
    await store.put([NewBlob(large)])
    assert encoding_of(database, large.digest) == "file"
    [file] = list(tmp_path.rglob(large.digest))
    assert file.stat().st_size == large.size and file.stat().st_mode & 0o077 == 0
    assert await (await database.open()).value(large.digest) == words(1_000_000)
    await store.put([NewBlob(large)])
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    error = await refused("integrity", (await database.open()).value(large.digest))
    assert error.data["digest"] == large.digest and not file.exists()  # set aside
    await store.put([NewBlob(large)])
    assert await (await database.open()).value(large.digest) == words(1_000_000)
    file.unlink()
    await refused("not_found", (await database.open()).value(large.digest))


async def test_a_flipped_byte_is_found(database: Database) -> None:
    store = await database.open()
    text = words(20_000)
    base, patch, raw, packed = encode({"t": text}), encode({"t": text, "n": 1}), encode({"n": 1}), encode(["x" * 3000])
    await store.put([NewBlob(base), NewBlob(raw), NewBlob(packed)])
    await store.put([NewBlob(patch, base.digest)])
    for name, victim in (("patch", patch), ("raw", raw), ("zstd", packed)):
        assert encoding_of(database, victim.digest) == name
        flip(database, victim.digest)
        error = await refused("integrity", (await database.open()).value(victim.digest))
        assert error.data["digest"] == victim.digest
    assert await (await database.open()).value(base.digest) == {"t": text}
    flip(database, base.digest)
    error = await refused("integrity", (await database.open()).value(base.digest))
    assert error.data["digest"] == base.digest


def flip(database: Database, digest: Digest) -> None:
    """Change the last byte of what is stored."""
    if database.name == "sqlite":
        other = "CASE substr(data, -1) WHEN x'ff' THEN x'00' ELSE x'ff' END"
        changed = f"CAST(substr(data, 1, length(data) - 1) || {other} AS BLOB)"
    else:
        changed = "set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 255)"
    database.execute(f"UPDATE blobs SET data = {changed} WHERE digest = '{digest}'")


async def test_a_new_copy_heals_a_quarantined_blob(database: Database) -> None:
    store = await database.open()
    value = encode({"text": words(3000)})
    await store.put([NewBlob(value)])
    flip(database, value.digest)
    database.execute(f"UPDATE blobs SET encoding = 'bad' WHERE digest = '{value.digest}'")
    error = await refused("integrity", (await database.open()).value(value.digest))
    assert "quarantined" in error.message
    await store.put([NewBlob(value)])
    assert await (await database.open()).value(value.digest) == {"text": words(3000)}


async def test_a_missing_base_is_said(database: Database) -> None:
    store = await database.open()
    text = words(20_000)
    base, patch = encode({"t": text}), encode({"t": text, "n": 1})
    await store.put([NewBlob(base)])
    await store.put([NewBlob(patch, base.digest)])
    database.execute(f"DELETE FROM blobs WHERE digest = '{base.digest}'")
    with pytest.raises(OmiumError) as caught:
        await (await database.open()).value(patch.digest)
    assert caught.value.code == "not_found" and base.digest in caught.value.message
