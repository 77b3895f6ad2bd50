"""The codec: exact round trips, small patches, and no trust in what a frame claims."""

from __future__ import annotations

import json
import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.storage import codec
from omium.storage.codec import compressed, pack, unpack

LIMIT = 1 << 20


def state(size: int, seed: int = 1) -> dict[str, Any]:
    """Messages of an agent: repetitive keys, unique numbers, about `size` bytes as JSON."""
    rng = random.Random(seed)
    return {
        "messages": [
            {"id": f"m{at}", "role": "assistant", "score": rng.random(), "text": "lorem ipsum dolor " * 8}
            for at in range(size // 210)
        ]
    }


def as_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def refusal(encoding: str, data: bytes, base: bytes | None = None, limit: int = LIMIT) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        unpack(encoding, data, base, limit)
    return caught.value


# Small alphabets and repetition reach the compressing branches, plain binary the raw ones.
CONTENT = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=50), st.integers(0, 1000)),
    st.builds(lambda size, seed: noise(size, seed), st.integers(0, 20_000), st.integers(0, 5)),
)


@given(CONTENT, st.none() | CONTENT)
def test_every_content_comes_back(data: bytes, base: bytes | None) -> None:
    packed = pack(data, base)
    assert unpack(packed.encoding, packed.data, base, len(data)) == data
    assert len(packed.data) <= len(data)
    if packed.encoding == "patch":
        assert base


@given(CONTENT, st.data())
def test_an_edited_content_comes_back_from_its_base(base: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(base)))
    data = base[:at] + draw.draw(st.binary(max_size=200)) + base[at + draw.draw(st.integers(0, 200)) :]
    packed = pack(data, base)
    assert unpack(packed.encoding, packed.data, base, len(data)) == data


@given(st.sampled_from(["raw", "zstd", "patch"]), st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_refused_or_give_at_most_the_limit(encoding: str, data: bytes, framed: bool) -> None:
    try:
        content = unpack(encoding, (zstandard.FRAME_HEADER if framed else b"") + data, b"base" * 100, 1000)
    except OmiumError as error:
        assert error.code == "integrity"
    else:
        assert len(content) <= 1000


def test_small_content_is_stored_as_it_is() -> None:
    assert pack(b"a" * 2047).encoding == "raw"
    assert pack(b"a" * 2048).encoding == "zstd"
    assert pack(b"").data == b""


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    data = noise(100_000)
    assert pack(data).encoding == "raw"
    assert pack(data).data is data
    assert pack(data, noise(100_000, seed=8)).encoding == "raw"


def test_many_at_once_give_what_each_gives_alone() -> None:
    contents = [as_json(state(size, seed)) for seed, size in enumerate((100, 2100, 3000, 3000, 3500, 5000))]
    contents += [noise(3000), b"", contents[2]]
    known = compressed(contents)
    assert set(known) == {content for content in contents if 2048 <= len(content) < 4096}
    assert [pack(content, None, known) for content in contents] == [pack(content) for content in contents]
    assert compressed(contents[2:3]) == {}  # one alone is packed when its turn comes


def test_what_cannot_be_made_at_once_is_left_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def multi_compress_to_buffer(self, _: object) -> None:
            raise MemoryError

    monkeypatch.setattr(codec, "_contexts", SimpleNamespace(compressor=Full()))
    assert compressed([b"a" * 600, b"b" * 600]) == {}


def test_patches_start_at_4_kb() -> None:
    base = noise(5000)
    assert pack(base[:4095], base).encoding == "raw"
    assert pack(base[:4096], base).encoding == "patch"


@pytest.mark.parametrize("size", [100_000, 1_000_000, 5_000_000])
def test_a_change_of_1_kb_costs_about_1_kb(size: int) -> None:
    before = state(size)
    base = as_json(before)
    middle = len(before["messages"]) // 2
    before["messages"][middle]["text"] = noise(512).hex()  # 1 KB of text, 512 bytes of information
    for at in range(0, len(before["messages"]), len(before["messages"]) // 10):
        before["messages"][at]["score"] = 0.5
    data = as_json(before)
    packed = pack(data, base)
    assert packed.encoding == "patch"
    assert len(packed.data) < 1300
    assert unpack("patch", packed.data, base, len(data)) == data


def test_a_patch_of_incompressible_content_stores_only_what_changed() -> None:
    base = noise(100_000)
    data = base[:40_000] + noise(1024, seed=9) + base[41_024:]
    packed = pack(data, base)
    assert packed.encoding == "patch"
    assert 1024 <= len(packed.data) < 1200


def test_an_unrelated_base_is_not_used() -> None:
    data = as_json(state(50_000))
    assert pack(data, noise(50_000)).encoding == "zstd"


def test_the_size_limit_holds_for_every_encoding() -> None:
    base = as_json(state(20_000))
    for data, against in ((noise(600), None), (b"a" * 10_000, None), (base[:-3] + b"...", base)):
        packed = pack(data, against)
        assert unpack(packed.encoding, packed.data, against, len(data)) == data
        assert refusal(packed.encoding, packed.data, against, len(data) - 1).code == "integrity"
    assert {pack(noise(600)).encoding, pack(b"a" * 10_000).encoding, packed.encoding} == {"raw", "zstd", "patch"}


def test_a_decompression_bomb_is_refused_by_its_claim() -> None:
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(200 << 20))
    assert len(bomb) < 32_000
    error = refusal("zstd", bomb)
    assert error.code == "integrity"
    assert error.data["size"] == 200 << 20


def test_a_frame_that_hides_its_size_is_refused() -> None:
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 10_000)
    assert refusal("zstd", hidden).code == "integrity"


def test_damaged_bytes_are_refused() -> None:
    good = pack(b"abc" * 1000).data
    for bad in (b"", good[:-1], good + b"x", good + good, b"{" + good, good[:4]):
        assert refusal("zstd", bad).code == "integrity"


def test_a_patch_without_its_base_is_refused_and_with_another_is_never_the_content() -> None:
    base = as_json(state(20_000))
    data = base[:-3] + b"new"
    packed = pack(data, base)
    assert refusal("patch", packed.data, None).code == "integrity"
    try:
        assert unpack("patch", packed.data, as_json(state(20_000, seed=2)), LIMIT) != data
    except OmiumError as error:
        assert error.code == "integrity"


def test_an_encoding_of_a_later_version_is_named() -> None:
    assert refusal("brotli", b"x").code == "unsupported"


def test_threads_do_not_disturb_each_other() -> None:
    contents = [as_json(state(100_000, seed)) for seed in range(4)]
    expected = [pack(content).data for content in contents]
    failures: list[int] = []
    barrier = threading.Barrier(4)

    def work(which: int) -> None:
        barrier.wait()
        for _ in range(30):
            packed = pack(contents[which])
            same = packed.data == expected[which]
            if not same or unpack(packed.encoding, packed.data, None, LIMIT) != contents[which]:
                failures.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
