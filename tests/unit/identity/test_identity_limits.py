"""Token buckets and calls under way, on a clock of the test's."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.server.identity.limits import Buckets, Kind, RateLimits, RequestLimits, kind_of

KINDS: tuple[Kind, ...] = ("read", "change", "start")


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def limits(clock: Hands, **told: int) -> RateLimits:
    return RateLimits(RequestLimits(**told), clock)


def spent(one: RateLimits, principal: str, kind: Kind) -> int:
    """How many requests go at once."""
    for count in range(100_000):
        try:
            one.admit(principal, kind)
        except OmiumError as error:
            assert error.code == "rate_limited"
            return count
    raise AssertionError("there is no end to it")


def test_a_burst_and_then_the_rate() -> None:
    clock = Hands()
    one = limits(clock, reads=120)
    assert spent(one, "a", "read") == 60  # half a minute's worth
    with pytest.raises(OmiumError) as refused:
        one.admit("a", "read")
    after = refused.value.data["retry_after_s"]
    assert after == 0.5
    clock.now += after
    one.admit("a", "read")
    with pytest.raises(OmiumError):
        one.admit("a", "read")
    clock.now += 3_600
    assert spent(one, "a", "read") == 60


def test_by_default_200_clients_of_one_principal_can_begin_at_once() -> None:
    one = limits(Hands())
    assert spent(one, "a", "start") >= 200
    assert spent(one, "a", "read") >= 200 * 10


def test_credentials_that_fail_have_a_smaller_burst() -> None:
    one = limits(Hands(), failures=120)
    for _ in range(20):
        one.may_try("192.0.2.1")
        one.refused("192.0.2.1")
    with pytest.raises(OmiumError) as error:
        one.may_try("192.0.2.1")
    assert error.value.code == "rate_limited"


def test_kinds_and_principals_have_buckets_of_their_own() -> None:
    clock = Hands()
    one = limits(clock, reads=600, changes=120, starts=60)
    assert [spent(one, "a", kind) for kind in KINDS] == [300, 60, 30]
    assert [spent(one, "b", kind) for kind in KINDS] == [300, 60, 30]


def test_refused_requests_cost_nothing() -> None:
    clock = Hands()
    one = limits(clock, starts=60)
    spent(one, "a", "start")
    for _ in range(1_000):
        with pytest.raises(OmiumError):
            one.admit("a", "start")
    clock.now += 1
    one.admit("a", "start")


@given(
    st.integers(1, 6_000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=40),
)
def test_never_more_than_burst_and_rate_allow(per_minute: int, moves: list[tuple[float, int]]) -> None:
    clock = Hands()
    buckets = Buckets(per_minute, clock)
    begun, taken = clock.now, 0
    for wait, tries in moves:
        clock.now += wait
        for _ in range(tries):
            said = buckets.wait_s("k")
            wait_s = buckets.take("k")
            assert said == wait_s
            taken += wait_s == 0.0
        assert taken <= buckets.burst + (clock.now - begun) * buckets.rate + 1e-6


def test_memory_is_bounded() -> None:
    buckets = Buckets(60, Hands(), remembered=100)
    for number in range(10_000):
        buckets.take(number)
    assert len(buckets) == 100


def test_looking_makes_no_bucket() -> None:
    buckets = Buckets(60, Hands())
    assert buckets.wait_s("k") == 0.0
    assert len(buckets) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = Hands()
    one = limits(clock, starts=60)
    spent(one, "a", "start")
    clock.now -= 500
    with pytest.raises(OmiumError):
        one.admit("a", "start")


@pytest.mark.anyio
async def test_calls_under_way_are_bounded_for_each_principal() -> None:
    one = limits(Hands(), concurrent=2)
    async with one.held("a"), one.held("a"):
        with pytest.raises(OmiumError) as refused:
            async with one.held("a"):
                raise AssertionError("it was let in")
        assert refused.value.code == "rate_limited"
        assert refused.value.data["retry_after_s"] > 0
        async with one.held("b"):
            pass
    async with one.call("a", "read"), one.call("a", "change"):
        pass
    assert one._under_way == {}


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_or_fails_is_under_way_no_more() -> None:
    one = limits(Hands(), concurrent=1)
    with anyio.CancelScope() as scope:
        async with one.held("a"):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    with pytest.raises(ValueError, match="it broke"):
        async with one.held("a"):
            raise ValueError("it broke")
    async with one.held("a"):
        pass


def test_an_address_whose_credentials_fail_is_not_looked_at_for_a_while() -> None:
    clock = Hands()
    one = limits(clock, failures=60)
    for _ in range(10):
        one.may_try("10.0.0.1")
        one.refused("10.0.0.1")
    with pytest.raises(OmiumError) as refused:
        one.may_try("10.0.0.1")
    assert refused.value.code == "rate_limited"
    one.may_try("10.0.0.2")
    clock.now += refused.value.data["retry_after_s"]
    one.may_try("10.0.0.1")


def test_the_kinds_of_verbs() -> None:
    assert kind_of("run_workflow", reads_only=False) == "start"
    assert kind_of("branch", reads_only=False) == "start"
    assert kind_of("get_run", reads_only=True) == "read"
    assert kind_of("rollback", reads_only=False) == "change"
