import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.observe.stats import Histogram


@given(st.lists(st.floats(1e-4, 500), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_exact_to_a_quarter(durations: list[float], share: float) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    ranked = sorted(durations)
    exact = next(value for place, value in enumerate(ranked, 1) if place >= share * len(ranked))
    assert exact <= histogram.quantile(share) * (1 + 1e-9)
    assert histogram.quantile(share) <= exact * 1.25 * (1 + 1e-9)


def test_an_empty_histogram_says_nought() -> None:
    assert Histogram().quantile(0.99) == 0


def test_a_duration_beyond_the_last_bound_is_kept_as_the_longest() -> None:
    histogram = Histogram()
    histogram.add(3600)
    assert histogram.quantile(0.5) == pytest.approx(3600)
