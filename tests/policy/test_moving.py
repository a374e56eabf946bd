"""The process that receives a connection is able to, of the latest generation, and the one with the fewest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.moving import Receiving, receiver_of

PROCESSES = st.lists(
    st.builds(
        Receiving,
        pid=st.integers(2, 50),
        generation=st.integers(0, 3),
        connections=st.integers(0, 1000),
        accepts=st.booleans(),
    ),
    unique_by=lambda process: process.pid,
    max_size=8,
)


@given(PROCESSES)
def test_the_latest_generation_and_in_it_the_fewest_connections(processes: list[Receiving]) -> None:
    chosen = receiver_of(processes)
    able = {process.pid: process for process in processes if process.accepts}
    if not able:
        assert chosen is None
        return
    assert chosen is not None
    best = able[chosen]
    assert best.generation == max(process.generation for process in able.values())
    same = [process for process in able.values() if process.generation == best.generation]
    assert best.connections == min(process.connections for process in same)


@given(PROCESSES.filter(lambda processes: any(process.accepts for process in processes)), st.integers(1, 60))
def test_many_connections_are_spread_evenly(processes: list[Receiving], count: int) -> None:
    state = {process.pid: process for process in processes}
    before = {pid: process.connections for pid, process in state.items()}
    for _ in range(count):
        pid = receiver_of(state.values())
        assert pid is not None
        state[pid] = state[pid]._replace(connections=state[pid].connections + 1)
    filled = [process.connections for pid, process in state.items() if process.connections > before[pid]]
    assert max(filled) - min(filled) <= 1
