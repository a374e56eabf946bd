from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.routing import least_busy, oldest

LOADS = st.lists(st.integers(0, 200), min_size=1, max_size=20)


@given(LOADS, st.data())
def test_no_pick_but_a_minimal_one(loads: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(loads) - 1))
    assert loads[least_busy(loads, first)] == min(loads)


@given(LOADS, st.data())
def test_the_pick_is_the_nearest_minimal_one_from_the_turn_on(loads: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(loads) - 1))
    turns = [(first + step) % len(loads) for step in range(len(loads))]
    assert least_busy(loads, first) == next(index for index in turns if loads[index] == min(loads))


@given(st.integers(1, 12), st.integers(1, 10))
def test_ties_rotate_so_that_equal_workers_get_equal_shares(workers: int, rounds: int) -> None:
    turn, picks = 0, Counter[int]()
    for _ in range(workers * rounds):
        index = least_busy([0] * workers, turn)
        turn = (index + 1) % workers
        picks[index] += 1
    assert set(picks.values()) == {rounds}


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=20))
def test_the_oldest_waiting_job_is_stolen(arrivals: list[float | None]) -> None:
    index = oldest(arrivals)
    waiting = [arrival for arrival in arrivals if arrival is not None]
    if index is None:
        assert not waiting
    else:
        assert arrivals[index] == min(waiting)
