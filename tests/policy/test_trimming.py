"""Freed memory is returned to the kernel after a peak, but rarely, and less often if little can be returned."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.trimming import Trimming

MEGABYTE = 1024**2
USUAL, PEAK = 40 * MEGABYTE, 600 * MEGABYTE


def test_a_peak_is_given_back_once() -> None:
    trimming = Trimming(0.0, USUAL)
    assert not trimming.due(29.0, PEAK)
    assert trimming.due(31.0, PEAK)
    trimming.trimmed(31.0, PEAK, USUAL)
    assert not trimming.due(1000.0, USUAL + Trimming.SPARE_BYTES)


def test_one_that_is_in_use_is_given_back_when_it_is_free() -> None:
    trimming = Trimming(0.0, USUAL)
    trimming.trimmed(31.0, PEAK, PEAK)
    assert not trimming.due(90.0, PEAK)
    assert trimming.due(92.0, PEAK)


@given(st.lists(st.tuples(st.floats(0.0, 60.0), st.integers(0, PEAK)), max_size=200))
def test_it_is_never_often(looks: list[tuple[float, int]]) -> None:
    trimming, now, last = Trimming(0.0, USUAL), 0.0, 0.0
    for pause, resident in looks:
        now += pause
        if trimming.due(now, resident):
            assert now - last >= Trimming.PAUSE_SECONDS
            trimming.trimmed(now, resident, resident // 2)
            last = now


def test_in_vain_it_waits_longer_and_longer_up_to_a_limit() -> None:
    trimming, now, times = Trimming(0.0, USUAL), 0.0, []
    while now < 5000.0:
        now += 1.0
        if trimming.due(now, PEAK):
            times.append(now)
            trimming.trimmed(now, PEAK, PEAK)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == Trimming.MOST_PAUSE_SECONDS
