"""A process is replaced when it reaches a limit, and processes reach their limits at different times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.recycling import JITTER, RSS_SAMPLES, Limits, Use, limits_with, reason_to_replace


@given(st.integers(1, 10**9), st.floats(0.1, 1e6), st.floats(0, 1))
def test_a_random_share_only_lowers_a_limit(requests: int, seconds: float, share: float) -> None:
    limits = limits_with(Limits(requests, seconds, 512), share)
    assert limits.requests is not None
    assert limits.seconds is not None
    assert (1 - JITTER) * requests <= limits.requests * 1.0001 <= requests * 1.0002
    assert (1 - JITTER) * seconds <= limits.seconds * 1.0001 <= seconds * 1.0002
    assert limits.rss == 512


@given(st.floats(0, 1))
def test_no_limit_stays_none(share: float) -> None:
    assert limits_with(Limits(), share) == Limits()
    assert reason_to_replace(Use(10**9, 1e9, 100), limits_with(Limits(), share)) is None


@given(st.integers(0, 100), st.floats(0, 100), st.integers(0, 4))
def test_the_reason_is_a_limit_that_was_reached(requests: int, seconds: float, above: int) -> None:
    reason = reason_to_replace(Use(requests, seconds, above), Limits(50, 50.0, 1))
    reached = {"requests": requests >= 50, "seconds": seconds >= 50, "rss": above >= RSS_SAMPLES}
    assert reached[reason] if reason else not any(reached.values())
