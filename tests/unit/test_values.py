"""Values: exact round trips, one canonical form, and refusals that name the place."""

from __future__ import annotations

import copy
import enum
import json
import math
import string
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.values import MAX_DEPTH, Encoded, decode, digest_of, encode

KEYS = st.one_of(st.text(), st.sampled_from(["$omium", "$$omium", "v", "$", "dict", "a"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["$omium", "bytes", "dict", "int"]),
)
TAGGED = st.one_of(
    st.binary(),
    st.integers(min_value=2**64),
    st.integers(max_value=-(2**63) - 1),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 (the strategy adds the zone)
        max_value=datetime(9998, 1, 1),  # noqa: DTZ001
        timezones=st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds))),
    ),
)


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(KEYS, inner)), max_leaves=30
    )


def same(left: object, right: object) -> bool:
    """Equality that tells 5 from 5.0, 0.0 from -0.0, True from 1 and 1.0 from 1.00."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, datetime) and isinstance(right, datetime):
        return left == right and left.utcoffset() == right.utcoffset()
    return left == right


def refusal(value: object, **options: Any) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        encode(value, **options)
    assert caught.value.code == "invalid_value"
    return caught.value


# --- what goes in comes out -----------------------------------------------------------------------------------------


@given(values(st.one_of(SCALARS, TAGGED)))
def test_every_value_round_trips_exactly(value: Any) -> None:
    before = copy.deepcopy(value)
    encoded = encode(value)
    assert same(decode(encoded.data), value)
    assert same(value, before), "encoding changed its argument"
    assert encoded.size == len(encoded.data)
    assert encoded.digest == digest_of(value)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.text(), st.booleans()), min_size=9, max_size=40))
def test_long_lists_take_the_same_decisions_as_short_ones(items: list[Any]) -> None:
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        bad = next(index for index, item in enumerate(items) if isinstance(item, float) and not math.isfinite(item))
        assert refusal(items).data["path"] == f"$[{bad}]"
    else:
        assert same(decode(encode(items).data), items)


@given(values(SCALARS), values(SCALARS))
def test_two_values_share_a_digest_only_when_they_are_the_same(left: Any, right: Any) -> None:
    assert (digest_of(left) == digest_of(right)) == same(left, right)


@given(st.dictionaries(KEYS, st.one_of(SCALARS, st.dictionaries(KEYS, SCALARS))))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    def backwards(node: Any) -> Any:
        return {key: backwards(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    assert encode(backwards(value)) == encode(value)


@given(values(st.one_of(SCALARS, TAGGED)))
def test_the_encoded_form_is_a_version_byte_and_sorted_json(value: Any) -> None:
    data = encode(value).data
    assert data[:1] == b"\x01"
    loaded = json.loads(data[1:])
    assert orjson.dumps(loaded, option=orjson.OPT_SORT_KEYS) == data[1:]


def test_numbers_keep_their_type_sign_and_every_digit() -> None:
    value = [
        5,
        5.0,
        0,
        0.0,
        -0.0,
        True,
        2**53 + 1,
        2**60 + 1,
        2**63,
        2**64 - 1,
        -(2**63),
        5e-324,
        1.7976931348623157e308,
    ]
    assert same(decode(encode(value).data), value)
    assert len({digest_of(number) for number in (5, 5.0, 0, 0.0, -0.0, True, "5", Decimal(5))}) == 8


def test_integers_beyond_64_bits_are_exact_and_only_they_are_tagged() -> None:
    for number in (2**64, -(2**63) - 1, 10**4300 - 1, -(10**4300) + 1):
        assert b"$omium" in encode(number).data
        assert decode(encode({"n": [number]}).data) == {"n": [number]}
    assert b"$omium" not in encode([2**64 - 1, -(2**63)]).data


@pytest.mark.parametrize(
    "value",
    [
        {"$omium": "bytes", "v": "AAAA"},
        {"$omium": "dict", "v": {"$omium": "int", "v": "0x1"}},
        {"$omium": None},
        {"a": [{"$omium": {"$omium": {"$omium": b"x"}}}]},
        {"$omium": "unknown", "v": 1, "w": b"both"},
        {"$$omium": 1, "v": "$omium"},
        ["$omium", '"$omium"'],
    ],
)
def test_keys_of_the_user_that_look_like_tags_come_back_as_they_were(value: Any) -> None:
    assert same(decode(encode(value).data), value)
    assert digest_of(value) != digest_of(b"\x00\x00\x00")


def test_a_datetime_keeps_its_instant_and_its_offset() -> None:
    for text in ("2026-03-29T02:30:00+02:00", "2026-01-01T00:00:00.000001-11:30", "1890-01-01T00:00:00+00:19:32"):
        moment = datetime.fromisoformat(text)
        assert same(decode(encode(moment).data), moment)
    later = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Vienna"), fold=1)
    back = decode(encode(later).data)
    assert isinstance(back, datetime)
    assert back.astimezone(UTC) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_the_decimal_context_of_the_thread_does_not_change_the_encoding() -> None:
    value = Decimal("1.50E+40")
    with localcontext(Context(prec=2, capitals=0)):
        encoded = encode(value)
        assert same(decode(encoded.data), value)
    assert encoded == encode(value)


def test_encoded_is_immutable() -> None:
    encoded = encode({})
    assert isinstance(encoded, Encoded)
    with pytest.raises(AttributeError):
        encoded.size = 1  # type: ignore[misc]


# --- the form never changes -----------------------------------------------------------------------------------------

GOLDEN: list[tuple[Any, bytes, str]] = [
    (None, b"\x01null", "c58dcb77cee9027d1f4b3207bd876d232e61f79ee9f9dbd4e6d834778da78b16"),
    ({}, b"\x01{}", "e6a9d8dbd2b2941a6b6c47bf7910f0a6ee0b08d47c3462ab727ae2d73bc005da"),
    ([], b"\x01[]", "bb303ab33e10ab687ede112cdebd040e4861428d0cad88fd02f0a8ece1e82195"),
    (
        "é\n\u2028\x7f",
        b'\x01"\xc3\xa9\\n\xe2\x80\xa8\x7f"',
        "dcd39e42990abe4b35b0a24838b1343b7338ec0d84e226ada2a0ca1908aacbf4",
    ),
    (
        [5, 5.0, -0.0, 1e16, 1e-7, 0.1, 5e-324, 1.7976931348623157e308],
        b"\x01[5,5.0,-0.0,1e+16,1e-7,0.1,5e-324,1.7976931348623157e+308]",
        "76c2d55ac652a23451738bcbdc080c226582e7275338d1103c5e212f3b6e8008",
    ),
    (
        [True, False, 2**64 - 1, -(2**63)],
        b"\x01[true,false,18446744073709551615,-9223372036854775808]",
        "5631c5ae650e48991c36bc4952ff25617ffb4b6a49a6a274e3bb05f17724cb96",
    ),
    (
        {"b": 1, "a": [], "é": {"z": None, "B": 0}, "": ""},
        b'\x01{"":"","a":[],"b":1,"\xc3\xa9":{"B":0,"z":null}}',
        "a6144b6004a3bcd1c949e814a0480bbfd9fb5f622e6210f1ad4da23aa6a30429",
    ),
    (
        b"\x00\xff",
        b'\x01{"$omium":"bytes","v":"AP8="}',
        "093c7ab2eb6776e6a7dd19c1e2853cd8361b27904d6924a4e07eb715bea6e992",
    ),
    (
        2**64,
        b'\x01{"$omium":"int","v":"0x10000000000000000"}',
        "d9e263283714acf3b772cc4620779b8a9da1cfebd197111aa14bf8f63cbbfa38",
    ),
    (
        -(2**63) - 1,
        b'\x01{"$omium":"int","v":"-0x8000000000000001"}',
        "2c0bae0e35fcf41dc06de2621d60ecde8d95cbdcc04fd602e112dde89c24c2c4",
    ),
    (
        Decimal("-1.50E+40"),
        b'\x01{"$omium":"decimal","v":"-1.50E+40"}',
        "598e72af2de095e8aa803a7ac3db0a043e9eff91e75d79710b930a7bafb14fee",
    ),
    (
        datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
        b'\x01{"$omium":"datetime","v":"2026-01-02T03:04:05.000600+00:00"}',
        "625741db8375cf59fb5ffbd301ddc26a963c973a178dadb0df3681eaafde9387",
    ),
    (
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        b'\x01{"$omium":"datetime","v":"2026-01-02T00:00:00-03:30"}',
        "5c8a7dfeb1ad8e95ac812860adf1776f38e8addd891b0ea6b94242c6e5ae24fb",
    ),
    (
        {"$omium": "bytes", "v": [b"x"]},
        b'\x01{"$omium":"dict","v":{"$omium":"bytes","v":[{"$omium":"bytes","v":"eA=="}]}}',
        "d7dbd6fa7b361945ef2aa937dd3c0b4be72f449915ad77b11cb931b4c5c76e9f",
    ),
]


@pytest.mark.parametrize(("value", "data", "digest"), GOLDEN, ids=[str(at) for at in range(len(GOLDEN))])
def test_the_encoding_of_version_1_is_frozen(value: Any, data: bytes, digest: str) -> None:
    assert encode(value).data == data
    assert encode(value).digest == digest
    assert same(decode(data), value)


# --- refusals -------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Text(str):
    __slots__ = ()


@dataclass
class Point:
    x: int = 1


Pair = namedtuple("Pair", "a b")

REFUSED: list[Any] = [
    (1, 2),
    (),
    Pair(1, 2),
    {1, 2},
    frozenset(),
    bytearray(b"x"),
    memoryview(b"x"),
    range(3),
    1j,
    ...,
    object(),
    Point(),
    Point,
    Colour.RED,
    Level.LOW,
    Name.ADA,
    Text("x"),
    OrderedDict(a=1),
    uuid.UUID(int=1),
    date(2026, 1, 1),
    datetime(2026, 1, 1),  # noqa: DTZ001 (naive on purpose)
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
    timedelta(1),
    orjson.Fragment(b"{}"),
    math.nan,
    math.inf,
    -math.inf,
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("-Infinity"),
    Decimal("1" * 4301),
    10**4300,
    -(10**4300),
    "\ud800",
    "fine until \udfff",
    {1: 2},
    {None: 2},
    {b"a": 2},
    {("a",): 2},
    {Text("a"): 2},
    {Name.ADA: 2},
    {10**5000: 2},
    {"\udc80": 2},
]


@pytest.mark.parametrize("bad", REFUSED, ids=[f"{type(bad).__name__}-{at}" for at, bad in enumerate(REFUSED)])
def test_what_json_would_change_silently_is_refused_with_its_path(bad: Any) -> None:
    assert refusal(bad).data["path"] == "$"
    assert refusal({"a": [0, None, "x", {"b": bad}]}).data["path"] == "$.a[3].b"
    assert refusal([1.5] * 20 + [bad]).data["path"] == "$[20]"
    assert refusal({"tagged": b"", "$omium": [bad]}).data["path"] == "$['$omium'][0]"
    str(refusal([bad]).message).encode("utf-8")  # the message itself can be stored and sent


def test_a_path_quotes_odd_keys_and_shortens_long_ones() -> None:
    assert refusal({"a b": {"": [set()]}}).data["path"] == "$['a b'][''][0]"
    assert len(refusal({"k" * 100_000: set()}).data["path"]) < 60


def test_depth_is_capped_at_64_containers() -> None:
    def nested(depth: int, leaf: Any) -> Any:
        for _ in range(depth):
            leaf = [leaf] if _ % 2 else {"d": leaf}
        return leaf

    for leaf in (1, b"tagged"):
        deepest = nested(MAX_DEPTH, leaf)
        assert same(decode(encode(deepest).data), deepest)
        assert "nested deeper" in refusal(nested(MAX_DEPTH + 1, leaf)).message
    assert "nested deeper" in refusal(nested(100_000, 1)).message
    tags = nested(MAX_DEPTH - 1, {"$omium": b""})
    assert same(decode(encode(tags).data), tags)


def test_a_structure_that_contains_itself_is_refused() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert "nested deeper" in refusal(ring).message
    loop: dict[str, Any] = {"a": {"b": b"tagged"}}
    loop["a"]["c"] = loop
    assert "nested deeper" in refusal({"x": loop}).message


def test_a_small_structure_whose_json_would_be_endless_is_refused() -> None:
    for leaf in ("x", b"x"):
        bomb: Any = [leaf, leaf]
        for _ in range(50):
            bomb = [bomb, bomb]
        assert "larger than the limit" in refusal(bomb, max_size=10_000).message
    text = "x" * 1_000_000
    assert "larger than the limit" in refusal([text] * 100).message
    assert "larger than the limit" in refusal({"a": [b"", {text: 1}] * 100}).message


def test_size_is_capped_at_the_byte() -> None:
    size = encode({"a": "é" * 100}).size
    assert encode({"a": "é" * 100}, max_size=size).size == size
    error = refusal({"a": "é" * 100}, max_size=size - 1)
    assert str(size) in error.message
    for value in ("x" * 100, b"x" * 100, ["x"] * 100, [1.5] * 100, {"k" * 100: 1}):
        refusal(value, max_size=99)


# --- decoding what is not ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "integrity"),
        (b"\x01", "integrity"),
        (b"\x01{", "integrity"),
        (b"\x01NaN", "integrity"),
        (b"\x02{}", "unsupported"),
        (b"{}", "unsupported"),
        (b'\x01{"$omium":"bytes"}', "integrity"),
        (b'\x01{"$omium":"bytes","v":1}', "integrity"),
        (b'\x01{"$omium":"bytes","v":"*"}', "integrity"),
        (b'\x01{"$omium":"bytes","v":"","w":1}', "integrity"),
        (b'\x01{"$omium":"datetime","v":"yesterday"}', "integrity"),
        (b'\x01{"$omium":"decimal","v":"one"}', "integrity"),
        (b'\x01{"$omium":"int","v":"0xg"}', "integrity"),
        (b'\x01{"$omium":"dict","v":[]}', "integrity"),
        (b'\x01{"$omium":"pickle","v":"gASVAA=="}', "integrity"),
        (b'\x01[{"$omium":{},"v":{}}]', "integrity"),
    ],
)
def test_bytes_that_are_no_value_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(OmiumError) as caught:
        decode(data)
    assert caught.value.code == code


@given(st.text(string.printable))
def test_decode_never_fails_in_an_unforeseen_way(text: str) -> None:
    try:
        decode(b"\x01" + text.encode())
    except OmiumError as error:
        assert error.code == "integrity"
