"""A job is not started if it cannot finish in its remaining time."""

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.usual import MeanRunTime

SECONDS = st.floats(1e-6, 1e3)


@given(SECONDS, SECONDS)
def test_without_experience_everything_is_begun(left: float, whole: float) -> None:
    assert MeanRunTime().suffices(left, whole)


@given(st.lists(SECONDS, min_size=1), SECONDS)
def test_the_mean_lies_among_what_was_seen(times: list[float], whole: float) -> None:
    usual = MeanRunTime()
    for seconds in times:
        usual.add(seconds)
    assert min(times) * 0.999 <= usual.mean <= max(times) * 1.001
    assert usual.suffices(max(times) * 1.001, whole)


@given(SECONDS, st.floats(0.1, 10))
def test_too_little_is_less_than_usual_and_less_than_half(seconds: float, whole: float) -> None:
    usual = MeanRunTime()
    usual.add(seconds)
    least = min(seconds, whole / 2)
    assert not usual.suffices(least * 0.99, whole)
    assert usual.suffices(least, whole)


def test_it_follows_a_change_within_some_tens_of_jobs() -> None:
    usual = MeanRunTime()
    for seconds in [1.0] * 100 + [0.1] * 60:
        usual.add(seconds)
    assert 0.1 < usual.mean < 0.15
