"""A request's time limits follow from its route, and a proxy can shorten these limits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import Options, Route
from intralb_gevent.policy.deadline import (
    OLDEST_START_SECONDS,
    ProxyTiming,
    TimeLimits,
    handed_on,
    proxy_timing,
    time_limits,
)

NOW = 1_760_000_000.25
EXPECTED, GRPC = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS", "HTTP_GRPC_TIMEOUT"
START, QUEUED = "HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"
ANYTHING = st.text() | st.text("0123456789.,-+t= mSnHMuE_\u0663", max_size=20)
SECONDS = st.floats(0.001, 10_000, allow_nan=False)


def left(name: str, text: str) -> float:
    told = proxy_timing({name: text}, NOW)
    return math.inf if told is None else told.left


def waited(text: str, name: str = START) -> float:
    told = proxy_timing({name: text}, NOW)
    return 0.0 if told is None else told.waited


# Time limits that a route sets.


def test_what_a_route_does_not_say_is_as_in_the_options() -> None:
    options = Options(request_timeout_seconds=5, stream_timeout_seconds=60, max_request_timeout_seconds=30)
    assert time_limits(options) == time_limits(options, Route("/plain")) == TimeLimits(5, 30, 60, 60)
    assert time_limits(options, Route("/reports/*", request_timeout_seconds=20)) == TimeLimits(20, 30, 60, 60)
    assert time_limits(options, Route("/feed", stream_timeout_seconds=3600)) == TimeLimits(5, 30, 3600, 60)


def test_a_stream_has_no_end_by_default_and_may_be_silent_for_a_minute() -> None:
    assert time_limits(Options(request_timeout_seconds=7)) == TimeLimits(7, 600, None, 60)


def test_a_stream_may_be_silent_for_as_long_as_it_is_told() -> None:
    options = Options(stream_idle_timeout_seconds=5, routes=[Route("/feed", stream_idle_timeout_seconds="off")])
    assert time_limits(options).idle == 5
    assert time_limits(options, options.routes[0]).idle == math.inf


def test_or_for_as_long_as_its_request_may_take_if_that_is_more() -> None:
    assert time_limits(Options(request_timeout_seconds=90)).idle == 90
    assert time_limits(Options(), Route("/reports/*", request_timeout_seconds=600)).idle == 600
    options = Options(stream_idle_timeout_seconds=5)
    assert time_limits(options, Route("/reports/*", request_timeout_seconds=600)).idle == 5


@given(SECONDS, SECONDS, SECONDS)
def test_a_timeout_above_the_longest_raises_it_for_its_own_requests_only(
    usual: float, longest: float, special: float
) -> None:
    options = Options(request_timeout_seconds=usual, max_request_timeout_seconds=longest)
    assert time_limits(options, Route("/special", request_timeout_seconds=special)).longest == max(special, longest)
    assert time_limits(options).longest == max(usual, longest)


# Times that a proxy reports.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1500", 1.5),
        ("1", 0.001),
        ("0015", 0.015),
        (" 20 ", 0.02),
        ("9000, 250", 0.25),
        ("999999999999999", 1e12 - 1e-3),
    ],
)
def test_milliseconds_of_envoy(text: str, seconds: float) -> None:
    assert left(EXPECTED, text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2H", 7200), ("3M", 180), ("20S", 20), ("150m", 0.15), ("5000u", 0.005), ("99999999n", 0.099999999), ("0n", 0)],
)
def test_timeouts_of_grpc(text: str, seconds: float) -> None:
    assert left(GRPC, text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "000", "-5", "+5", "1.5", "5 s", "1e3", "٣", "9" * 16, "5,", "infinity"])
def test_milliseconds_that_are_none_say_nothing(text: str) -> None:
    assert left(EXPECTED, text) == math.inf


@pytest.mark.parametrize("text", ["", "5", "S", "5s", "5 S", "-5S", "1.5S", "123456789m", "5Sm", "5S,", "٣S"])
def test_timeouts_that_grpc_does_not_know_say_nothing(text: str) -> None:
    assert left(GRPC, text) == math.inf


@pytest.mark.parametrize(
    "text",
    [
        "t=1759999998.250",  # nginx: t=${msec}
        "1759999998.25",
        "1759999998250",  # Heroku
        "t=1759999998250000",  # Apache: %t
        "t=1759999998250000000",
        "t=1, t=1759999998.250",
        "t=1759999998.250\t",
    ],
)
@pytest.mark.parametrize("name", [START, QUEUED])
def test_starts_in_the_units_that_proxies_write(text: str, name: str) -> None:
    assert waited(text, name) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    ["", "t=", "-5", "t=-5", "t=1e9", "T=1759999998", "s=1759999998", "1759999998 s", "now", "1" * 21, "t=1759999998,"],
)
def test_starts_that_are_none_say_nothing(text: str) -> None:
    assert proxy_timing({START: text}, NOW) is None


def test_a_start_in_the_future_or_long_ago_is_a_wrong_clock() -> None:
    for unit in (1, 1_000, 1_000_000):
        assert waited(str(int((NOW + 1) * unit))) == 0
        assert waited(str(int((NOW - OLDEST_START_SECONDS - 2) * unit))) == 0
        assert waited(str(int((NOW - OLDEST_START_SECONDS + 2) * unit))) > OLDEST_START_SECONDS - 3


def test_of_several_the_one_that_leaves_least_counts() -> None:
    headers = {EXPECTED: "3000", GRPC: "2S", START: "t=1759999999.25", QUEUED: "1759999996250"}
    assert proxy_timing(headers, NOW) == ProxyTiming(2.0, 4.0)


def test_without_any_nothing_is_told() -> None:
    assert proxy_timing({"HTTP_HOST": "x"}, NOW) is None


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_whatever_is_written_is_read_without_an_error(expected: str, grpc: str, start: str, queued: str) -> None:
    told = proxy_timing({EXPECTED: expected, GRPC: grpc, START: start, QUEUED: queued}, NOW)
    if told is not None:
        assert told.left >= 0
        assert 0 <= told.waited <= OLDEST_START_SECONDS
        assert told.left < math.inf or told.waited > 0


@given(st.floats(0, OLDEST_START_SECONDS - 1), st.sampled_from([1, 1_000, 1_000_000]), st.sampled_from(["", "t="]))
def test_a_start_is_understood_in_any_unit(ago: float, unit: int, prefix: str) -> None:
    assert waited(f"{prefix}{(NOW - ago) * unit:.3f}") == pytest.approx(ago, abs=0.002)


# Remaining time that is passed on to other services.


def test_what_is_left_is_told_in_whole_milliseconds() -> None:
    assert handed_on(1.2349) == {"X-Envoy-Expected-Rq-Timeout-Ms": "1234", "grpc-timeout": "1234m"}


@pytest.mark.parametrize("seconds", [0.0, -3.0, 0.0004])
def test_at_least_a_millisecond_is_left(seconds: float) -> None:
    assert handed_on(seconds) == {"X-Envoy-Expected-Rq-Timeout-Ms": "1", "grpc-timeout": "1m"}


def test_more_milliseconds_than_grpc_can_count_are_told_in_hours() -> None:
    assert handed_on(99_999.999)["grpc-timeout"] == "99999999m"
    assert handed_on(100_000)["grpc-timeout"] == "27H"


@given(st.floats(0.001, 1e8))
def test_who_is_handed_it_never_waits_longer_than_we_do(seconds: float) -> None:
    headers = handed_on(seconds)
    told = proxy_timing({EXPECTED: headers["X-Envoy-Expected-Rq-Timeout-Ms"]}, NOW)
    assert told is not None
    assert seconds - 0.0011 <= told.left <= seconds
    assert left(GRPC, headers["grpc-timeout"]) <= seconds * (1 + 1e-12)


@given(waited=st.floats(0, 300), seconds=st.floats(0, 300), left=st.floats(0, 300))
def test_what_was_told_is_less_by_the_time_nobody_looked(waited: float, seconds: float, left: float) -> None:
    told = ProxyTiming(left, waited).seen_earlier(seconds)
    assert told.left == left
    # The reported wait plus these seconds equals the longer of the two times.
    assert told.waited + seconds == pytest.approx(max(waited, seconds))
