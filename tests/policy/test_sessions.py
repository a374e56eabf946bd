"""Sessions are closed when they reach their age limit or their idle limit."""

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.sessions import SessionLimits

TIMES = st.floats(0, 1e6)


@given(TIMES, TIMES, TIMES)
def test_without_limits_a_session_lasts_for_ever(opened: float, idle: float, more: float) -> None:
    assert not SessionLimits().any
    assert not SessionLimits().stale(opened, opened + idle, opened + idle + more)


@given(TIMES, TIMES, TIMES, st.floats(1, 1e6))
def test_idle_time_counts_from_the_last_use(opened: float, used: float, more: float, limit: float) -> None:
    limits = SessionLimits(idle=limit)
    assert limits.any
    assert limits.stale(opened, used, used + more) == (used + more - used >= limit)
    assert not limits.too_old(opened, opened + more)


@given(TIMES, TIMES, st.floats(1, 1e6))
def test_age_counts_from_its_opening_whoever_uses_it(opened: float, age: float, limit: float) -> None:
    limits = SessionLimits(age=limit)
    now = opened + age
    assert limits.too_old(opened, now) == limits.stale(opened, now, now) == (now - opened >= limit)
