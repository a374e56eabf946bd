"""Failed starts are retried ever more slowly; a healthy process that ends is replaced at once the first time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.backoff import FIRST_SECONDS, LONGEST_SECONDS, SETTLED_SECONDS, Backoff


@given(st.integers(1, 2000))
def test_the_wait_doubles_up_to_its_limit(failures: int) -> None:
    backoff, now = Backoff(), 0.0
    for count in range(failures):
        backoff.ended(now, started=now, ready=None)
        assert backoff.not_before - now == min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(count, 20))
        now = backoff.not_before


def test_a_process_that_has_served_is_replaced_immediately_once() -> None:
    backoff = Backoff()
    backoff.ended(10, started=0, ready=1)
    assert backoff.not_before <= 10
    backoff.ended(12, started=10, ready=11)
    assert backoff.not_before == 13


@given(st.integers(2, 50), st.integers(0, 10))
def test_a_process_that_has_served_is_replaced_within_a_second_however_often_that_happens(
    ends: int, failed_starts: int
) -> None:
    backoff, now = Backoff(), 0.0
    for _ in range(failed_starts):
        backoff.ended(now, started=now, ready=None)
        now = backoff.not_before
    for _ in range(ends):
        ended = now + 5.0
        backoff.ended(ended, started=now, ready=now + 1.0)
        assert backoff.not_before - ended <= 1.0
        now = max(ended, backoff.not_before)
    backoff.ended(now, started=now, ready=None)
    assert backoff.not_before - now == 2.0


@given(st.integers(1, 20), st.floats(0, 1000))
def test_a_long_life_is_no_failure(failures: int, more: float) -> None:
    backoff = Backoff()
    for count in range(failures):
        backoff.ended(float(count), started=float(count), ready=None)
    ready = 100.0
    backoff.ended(ready + SETTLED_SECONDS + more, started=ready, ready=ready)
    assert backoff.not_before <= ready + SETTLED_SECONDS + more


def test_failures_are_forgotten_while_a_process_serves() -> None:
    backoff = Backoff()
    for count in range(5):
        backoff.ended(float(count), started=float(count), ready=None)
    backoff.look(SETTLED_SECONDS, ready=1.0)
    assert backoff.failures == 5
    backoff.look(4 + SETTLED_SECONDS, ready=1.0)
    assert backoff.failures == 0


def test_processes_that_started_together_fail_once() -> None:
    backoff = Backoff()
    for ended in (5.0, 5.1, 5.2):
        backoff.ended(ended, started=4.0, ready=None)
    assert backoff.failures == 1


def test_only_a_program_that_was_never_ready_is_hopeless() -> None:
    backoff = Backoff()
    for count in range(3):
        assert not backoff.hopeless(proven=False)
        backoff.ended(float(count), started=float(count), ready=None)
    assert backoff.hopeless(proven=False)
    assert not backoff.hopeless(proven=True)
