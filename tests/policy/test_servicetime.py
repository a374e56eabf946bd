"""Tests of the statistics of run times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.servicetime import ServiceTime


def settled(seconds: float) -> ServiceTime:
    service = ServiceTime()
    for _ in range(300):
        service.add(seconds, started=1.0)
    return service


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=100))
def test_the_mean_of_the_first_hundred_is_their_mean(times: list[float]) -> None:
    service = ServiceTime()
    for seconds in times:
        service.add(seconds)
    assert abs(service.mean - sum(times) / len(times)) < 1e-6


def test_one_slow_job_in_twenty_is_not_forgotten() -> None:
    service = settled(0.01)
    for _ in range(20):
        service.add(1.0)
        for _ in range(19):
            service.add(0.01)
    assert service.mean > 0.05
    assert service.residual > 0.25


def test_after_a_renewal_fifty_jobs_outweigh_all_earlier_ones() -> None:
    service = settled(2.0)
    service.renew(10.0)
    for _ in range(50):
        service.add(0.1, started=11.0)
    assert service.mean < 0.2
    assert service.residual < 0.6


def test_jobs_that_started_before_a_renewal_do_not_count_as_new_ones() -> None:
    service = settled(2.0)
    service.renew(10.0)
    for _ in range(50):
        service.add(4.0, started=9.0)
    for _ in range(50):
        service.add(0.1, started=11.0)
    assert service.mean < 0.3


def test_once_renewed_the_memory_is_long_again() -> None:
    service = settled(2.0)
    service.renew(10.0)
    for _ in range(100):
        service.add(0.1, started=11.0)
    before = service.mean
    service.add(1.1, started=12.0)
    assert service.mean - before < 0.011
