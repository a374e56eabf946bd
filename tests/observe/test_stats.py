import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.observe.stats import Histogram, Stats
from intralb_gevent.priority import Priority

ADVISED = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds that OpenTelemetry's semantic conventions recommend for the durations of HTTP requests."""


@given(st.lists(st.floats(1e-4, 500), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_exact_to_a_third(durations: list[float], share: float) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    ranked = sorted(durations)
    exact = next(value for place, value in enumerate(ranked, 1) if place >= share * len(ranked))
    assert exact <= histogram.quantile(share) * (1 + 1e-9)
    assert histogram.quantile(share) <= exact * 4 / 3 * (1 + 1e-9)


@given(st.one_of(st.floats(0, 0.01), st.floats(0, 3), st.floats(0, 1000), st.sampled_from(Histogram.BOUNDS)))
def test_a_bucket_has_the_durations_up_to_its_bound(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    bucket = histogram.counts.index(1)
    assert bucket == len(Histogram.BOUNDS) or seconds <= Histogram.BOUNDS[bucket]
    assert bucket == 0 or seconds > Histogram.BOUNDS[bucket - 1]


def test_opentelemetrys_bounds_and_common_timeouts_are_bounds() -> None:
    assert {*ADVISED, 0.001, 0.0025, 30, 60} <= set(Histogram.BOUNDS)
    assert max(high / low for low, high in zip(Histogram.BOUNDS, Histogram.BOUNDS[1:], strict=False)) < 1.34


def test_an_empty_histogram_says_nought() -> None:
    assert Histogram().quantile(0.99) == 0


def test_a_duration_beyond_the_last_bound_is_kept_as_the_longest() -> None:
    histogram = Histogram()
    histogram.add(3600)
    assert histogram.quantile(0.5) == pytest.approx(3600)


def test_totals_are_added() -> None:
    one, other = Stats(), Stats()
    for stats in (one, other):
        stats.received[Priority.CRITICAL] += 1
        stats.received[Priority.SHEDDABLE] += 1
        stats.add_shed("client", Priority.SHEDDABLE)
        stats.add("completed", 0.2, 0.1)
        stats.add_worker_changes("load", 2)
    one.received[Priority.SHEDDABLE] += 1
    one.add("failed", 0.2, 0.1)
    one.add_status("500 Internal Server Error", False)
    one.add_refused("no_session", Priority.SHEDDABLE)
    both = one + other
    assert (both.submitted, both.received) == (5, [0, 2, 0, 3])
    assert (both.shed_reasons, both.refused["client"]) == ({"client": 2}, [0, 0, 0, 2])
    assert both.statuses == {"200": 2, "429": 2, "500": 1}
    assert both.worker_changes == {("up", "load"): 4}
