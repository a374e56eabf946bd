"""The rejection ratio follows the load quickly, and decays within seconds after an overload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.excess import RejectionRatio


@given(st.floats(1, 20), st.integers(1, 1000))
def test_it_is_what_exceeds_the_capacity(load: float, capacity: int) -> None:
    excess = RejectionRatio()
    for _ in range(100):
        excess.add(capacity, round(capacity * (load - 1)))
    assert excess.ratio == pytest.approx(load - 1, abs=1 / capacity)


def test_ten_times_too_much_is_known_after_a_window() -> None:
    excess = RejectionRatio()
    for _ in range(1000):
        excess.add(20, 0)
    excess.add(20, 180)
    assert excess.ratio > 0.15
    for _ in range(10):
        excess.add(20, 180)
    assert excess.ratio > 1


def test_it_is_forgotten_in_some_seconds() -> None:
    excess = RejectionRatio()
    for _ in range(100):
        excess.add(20, 180)
    for _ in range(100):
        excess.add(20, 0)
    assert 0 < excess.ratio < 1.5
    for _ in range(500):
        excess.add(0, 0)
    assert excess.ratio < 0.1


def test_nothing_at_all_is_no_excess() -> None:
    assert RejectionRatio().ratio == 0
