from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.admission import place
from intralb_gevent.policy.routing import least_busy


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 8), st.integers(0, 1000))
def test_a_burst_fills_all_slots_then_all_queues_and_never_more(
    slots: int, queue_size: int, workers: int, burst: int
) -> None:
    loads, turn, refused = [0] * workers, 0, 0
    for _ in range(burst):
        index = least_busy(loads, turn)
        turn = (index + 1) % workers
        placement = place(loads[index], slots, queue_size)
        if placement == "wait":
            assert min(loads) >= slots, "a job waits although a slot is idle"
        if placement == "refuse":
            refused += 1
            assert min(loads) == slots + queue_size, "a job is refused although there is room"
        else:
            loads[index] += 1
    assert max(loads) <= slots + queue_size
    assert sum(loads) + refused == burst
