from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry.helpers import FakeClock

from bucketry.server.auth.buckets import Buckets, Rate
from bucketry.server.auth.errors import TooManyAttempts
from bucketry.server.auth.throttle import Attempt, FailedLogins, RateLimits, network_of

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def logins(clock: FakeClock) -> FailedLogins:
    return FailedLogins(monotonic=clock.monotonic, by_address=Rate(1, 10), by_name=Rate(0.5, 5), most=100)


def tries(logins: FailedLogins, address: str, name: str, most: int = 1000) -> int:
    """How many logins are let try at once, all of them wrong."""
    for number in range(most):
        try:
            logins.attempt(address, name)
        except TooManyAttempts:
            return number
    return most


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::1%other", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_an_address_counts_as_what_its_owner_has(address: str, network: str) -> None:
    assert network_of(address) == network


def test_what_is_no_address_is_bounded() -> None:
    assert len(network_of("x" * 100_000)) <= 100


def test_failed_logins_are_throttled_by_name_whatever_the_address(logins: FailedLogins) -> None:
    assert sum(tries(logins, f"192.0.2.{number}", "alice") for number in range(50)) == 5
    assert tries(logins, "198.51.100.1", "bob") == 5


def test_failed_logins_are_throttled_by_address_whatever_the_name(logins: FailedLogins) -> None:
    assert sum(tries(logins, HERE, f"user{number}", 1) for number in range(50)) == 10
    assert tries(logins, THERE, "user", 1) == 1


def test_a_v6_network_is_one_address(logins: FailedLogins) -> None:
    assert sum(tries(logins, f"2001:db8::{number:x}", f"user{number}", 1) for number in range(50)) == 10


def test_waiting_as_long_as_was_said_lets_try_again(logins: FailedLogins, clock: FakeClock) -> None:
    tries(logins, HERE, "alice")
    with pytest.raises(TooManyAttempts, match="wait 2 seconds") as caught:
        logins.attempt(THERE, "alice")
    clock.advance(caught.value.retry_after - 0.01)
    with pytest.raises(TooManyAttempts):
        logins.attempt(THERE, "alice")
    clock.advance(0.01)

    assert tries(logins, THERE, "alice") == 1


def test_right_passwords_are_never_throttled(logins: FailedLogins) -> None:
    for _ in range(1000):
        logins.succeeded(logins.attempt(HERE, "alice"))


def test_guesses_sent_all_at_once_count_before_any_is_answered(logins: FailedLogins) -> None:
    assert tries(logins, HERE, "alice") == 5


def test_nobody_is_kept_out_by_failures_in_their_name_elsewhere(logins: FailedLogins) -> None:
    logins.succeeded(logins.attempt(HERE, "alice"))
    assert tries(logins, THERE, "alice") == 5

    logins.succeeded(logins.attempt(HERE, "alice"))
    with pytest.raises(TooManyAttempts):
        logins.attempt("198.51.100.7", "alice")


def test_where_a_name_is_known_its_failures_are_throttled_too(logins: FailedLogins) -> None:
    logins.succeeded(logins.attempt(HERE, "alice"))

    assert tries(logins, HERE, "alice") == 5


def test_nobody_who_is_known_is_kept_out_by_others_behind_the_same_address(logins: FailedLogins) -> None:
    logins.succeeded(logins.attempt(HERE, "alice"))
    assert sum(tries(logins, HERE, f"user{number}", 1) for number in range(50)) == 10

    logins.succeeded(logins.attempt(HERE, "alice"))
    assert tries(logins, HERE, "alice") == 5
    assert tries(logins, HERE, "bob") == 0


def test_what_is_no_guess_is_not_charged_but_waits_like_any_other(logins: FailedLogins) -> None:
    for _ in range(100):
        logins.attempt(HERE, "alice", guess=False)
    assert tries(logins, HERE, "alice") == 5

    with pytest.raises(TooManyAttempts):
        logins.attempt(HERE, "alice", guess=False)


def test_what_was_not_charged_is_not_given_back(logins: FailedLogins) -> None:
    tries(logins, HERE, "alice", 4)
    for _ in range(3):
        logins.undecided(logins.attempt(HERE, "alice", guess=False))

    assert tries(logins, HERE, "alice") == 1


def test_a_success_forgets_the_failures_of_that_name_there(logins: FailedLogins, clock: FakeClock) -> None:
    logins.succeeded(logins.attempt(HERE, "alice"))
    for _ in range(2):
        assert tries(logins, HERE, "alice", 4) == 4
        logins.succeeded(logins.attempt(HERE, "alice"))
        clock.advance(4)
    assert tries(logins, HERE, "alice") == 5


def test_one_good_password_does_not_let_guess_others(logins: FailedLogins) -> None:
    guesses = 0
    for number in range(200):
        guesses += tries(logins, HERE, f"victim{number}", 1)
        try:
            logins.succeeded(logins.attempt(HERE, "mallory"))
        except TooManyAttempts:
            break

    assert guesses == 10


def test_what_nobody_looked_at_is_given_back(logins: FailedLogins) -> None:
    for _ in range(100):
        logins.undecided(logins.attempt(HERE, "alice"))

    assert tries(logins, HERE, "alice") == 5


def test_memory_is_bounded_whatever_is_sent(logins: FailedLogins, clock: FakeClock) -> None:
    for number in range(2000):
        clock.advance(0.001)
        address = f"10.0.{number // 250}.{number % 250}"
        logins.attempt(address, f"user{number}")
        logins.succeeded(Attempt(address, "x" * 10_000 + str(number), known=False))

    assert len(logins._addresses) <= 100
    assert len(logins._names) <= 100
    assert len(logins._pairs) <= 100
    assert len(logins._known) <= 100
    assert all(len(pair) < 200 for pair in logins._known)


def test_names_that_cannot_be_encoded_do_no_harm(logins: FailedLogins) -> None:
    assert tries(logins, HERE, "\ud800" * 200) == 5


def test_requests_are_limited_by_principal_and_by_address(clock: FakeClock) -> None:
    limits = RateLimits(monotonic=clock.monotonic, by_principal=Rate(2, 4), by_address=Rate(1, 3))

    assert [limits.principal("user:alice") for _ in range(6)] == [0, 0, 0, 0, 0.5, 0.5]
    assert limits.principal("user:bob") == 0
    assert [limits.address(HERE) for _ in range(4)] == [0, 0, 0, 1.0]
    assert limits.address(THERE) == 0
    clock.advance(0.5)
    assert limits.principal("user:alice") == 0
    assert limits.address(HERE) == 0.5


def test_anonymous_requests_are_limited_by_address_alone(clock: FakeClock) -> None:
    limits = RateLimits(monotonic=clock.monotonic, by_principal=Rate(1, 1))

    assert [limits.principal("anonymous") for _ in range(10)] == [0] * 10
    assert [limits.address(HERE) for _ in range(10)] == [0] * 10


def test_what_costs_more_than_the_burst_is_let_through_when_the_bucket_is_full(clock: FakeClock) -> None:
    limits = RateLimits(monotonic=clock.monotonic, by_address=Rate(1, 3))

    assert limits.address(HERE, 10) == 0
    assert limits.address(HERE) == 4


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=60))
def test_no_key_takes_more_than_its_burst_and_its_rate(steps: list[tuple[float, str]]) -> None:
    clock = FakeClock()
    buckets = Buckets(Rate(2, 5), monotonic=clock.monotonic)
    taken = {"a": 0, "b": 0}
    for seconds, key in steps:
        clock.advance(seconds)
        if buckets.wait(key) == 0:
            buckets.take(key)
            taken[key] += 1
        assert taken[key] <= 5 + 2 * clock.monotonic() + 1e-6


def test_waiting_long_gives_no_more_than_a_burst(clock: FakeClock) -> None:
    limits = RateLimits(monotonic=clock.monotonic, by_address=Rate(1, 3))
    for _ in range(3):
        limits.address(HERE)
        clock.advance(1000)
        limits.address(HERE)

    assert [limits.address(HERE) for _ in range(3)] == [0, 0, 1.0]


def test_a_clock_that_goes_back_takes_nothing_away(clock: FakeClock) -> None:
    buckets = Buckets(Rate(1, 2), monotonic=clock.monotonic)
    buckets.take("a")
    clock.advance(-100)

    assert buckets.wait("a") == 0
    assert len(buckets) == 1
    buckets.give("a")
    assert len(buckets) == 0


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1), (1, float("nan"))])
def test_a_rate_that_lets_nothing_through_is_none(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Rate(per_second, burst)
