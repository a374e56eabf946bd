"""A client that keeps up the minimum rate never times out; a slower client times out after bounded time."""

import math

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.pace import LEAST_BYTES_PER_SECOND, LEAST_WINDOW_SECONDS, Pace

SECONDS = st.sampled_from([0.5, 5.0, 30.0, 60.0])


def course(seconds: float, steps: list[tuple[float, int]], kept_until: float = -math.inf) -> float | None:
    """Return when a client with these pauses and byte counts times out; None if it never does."""
    pace, now, count = Pace(), 0.0, 0
    expires = pace.until(now, math.inf, count, seconds, kept_until)
    for pause, size in steps:
        now += pause
        if now > expires:
            return expires
        count += size
        expires = pace.until(now, expires, count, seconds, kept_until)
    return None


@given(SECONDS, st.floats(0.01, 1.0))
def test_a_client_with_twice_the_least_rate_goes_on(seconds: float, share: float) -> None:
    pause = share * min(seconds, LEAST_WINDOW_SECONDS) * 0.9
    assert course(seconds, [(pause, math.ceil(pause * 2 * LEAST_BYTES_PER_SECOND))] * 1000) is None


@given(SECONDS, st.floats(0.01, 1.0), st.floats(0.0, 0.9))
def test_a_slower_one_ends_in_a_window(seconds: float, share: float, rate: float) -> None:
    window = max(seconds, LEAST_WINDOW_SECONDS)
    pause = share * seconds * 0.9
    size = int(pause * rate * LEAST_BYTES_PER_SECOND)
    end = course(seconds, [(pause, size)] * math.ceil(3 * window / pause))
    assert end is not None
    assert end <= window


@given(SECONDS)
def test_whatever_has_come_before_silence_has_its_time(seconds: float) -> None:
    assert course(seconds, [(0.1, 10**9), (seconds * 1.01, 1)]) == 0.1 + seconds


def test_something_else_between_begins_anew() -> None:
    pace = Pace()
    first = pace.until(0.0, math.inf, 0, 30.0, -math.inf)
    assert pace.until(29.0, first, 1, 30.0, -math.inf) == 30.0
    assert pace.until(29.0, math.inf, 1, 30.0, -math.inf) == 59.0


def test_a_kept_loop_does_too() -> None:
    pace = Pace()
    first = pace.until(0.0, math.inf, 0, 30.0, -math.inf)
    assert pace.until(29.0, first, 1, 30.0, 20.0) == 59.0
