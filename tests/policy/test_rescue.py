"""Tests of the policy that chooses the process to which a request moves."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.rescue import SILENT_SECONDS, STUCK_SECONDS, Candidate, candidates_in_order

SECONDS = st.floats(0, 3)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        pid=st.integers(1, 10**6),
        serves=st.booleans(),
        free=st.integers(0, 20),
        promised=st.integers(0, 20),
        connections=st.integers(0, 100),
        busy_seconds=st.one_of(st.just(0.0), SECONDS),
        silent_seconds=SECONDS,
    ),
    max_size=12,
    unique_by=lambda each: each.pid,
)


@given(CANDIDATES)
def test_no_request_moves_to_a_process_that_cannot_start_it_at_once(candidates):
    for each in candidates_in_order(candidates):
        assert each.serves
        assert each.free > each.promised
        assert each.busy_seconds <= STUCK_SECONDS
        assert each.silent_seconds <= SILENT_SECONDS


@given(CANDIDATES)
def test_a_process_that_can_start_it_is_never_left_out(candidates):
    found = candidates_in_order(candidates)
    able = [each for each in candidates if each.serves and each.free > each.promised]
    assert {each for each in able if each.busy_seconds == 0 and each.silent_seconds == 0} <= set(found)


@given(CANDIDATES)
def test_the_process_with_the_most_free_slots_is_the_first_and_then_that_with_the_fewest_connections(candidates):
    found = candidates_in_order(candidates)
    assert all((-a.left, a.connections) <= (-b.left, b.connections) for a, b in itertools.pairwise(found))


@given(st.lists(st.integers(0, 8), min_size=2, max_size=6), st.integers(1, 60))
def test_requests_of_one_moment_fill_the_free_slots_and_no_more(free, requests):
    promised = [0] * len(free)
    for _ in range(requests):
        found = candidates_in_order(Candidate(i, True, free[i], promised[i], 0, 0.0, 0.0) for i in range(len(free)))
        if found:
            promised[found[0].pid] += 1
    assert all(count <= slots for count, slots in zip(promised, free, strict=True))
    assert sum(promised) == min(requests, sum(free))
