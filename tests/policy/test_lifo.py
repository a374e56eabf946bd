"""The newest first above 80 % of the places, until 60 % are reached."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.lifo import AdaptiveLifo


@given(st.integers(0, 1000), st.lists(st.floats(0, 1), max_size=50))
def test_the_order_turns_above_one_bound_and_back_at_the_other(places: int, shares: list[float]) -> None:
    lifo, before = AdaptiveLifo(), False
    for waiting in (int(share * places) for share in shares):
        after = lifo.look(waiting, places)
        if waiting > 0.8 * places:
            assert after
        elif waiting <= 0.6 * places:
            assert not after
        else:
            assert after == before
        before = after


def test_where_nothing_can_wait_nothing_is_turned_round() -> None:
    assert not AdaptiveLifo().look(0, 0)
