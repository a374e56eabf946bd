"""Tests of the cases of an admission decision, in the order in which they are checked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.admission import (
    ADMIT,
    EQUAL,
    EVICT,
    GROW,
    OUTRANKS,
    OVER_SHARE,
    REJECT_FULL,
    REJECT_OVERLOADED,
    REJECT_SHARE,
    REJECT_TIME,
    REJECTIONS,
    contend,
    decide,
)

LACKS = st.sampled_from([REJECT_FULL, REJECT_OVERLOADED])
CLAIMS = st.sampled_from([EQUAL, OVER_SHARE, OUTRANKS])


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_request_is_rejected_only_for_its_time_or_for_lack_of_capacity_in_a_pool_that_may_not_grow(
    in_time: bool, full: bool, long_queue: bool, may_grow: bool
) -> None:
    decision = decide(in_time=in_time, full=full, long_queue=long_queue, may_grow=may_grow)
    assert (decision == REJECT_TIME) == (not in_time)
    assert (decision == ADMIT) == (in_time and not full and not long_queue)
    assert (decision == GROW) == (in_time and (full or long_queue) and may_grow)
    if decision == REJECT_OVERLOADED:
        assert long_queue
        assert not full
    assert (decision in REJECTIONS) == (decision not in (ADMIT, GROW))


@given(st.booleans(), st.booleans())
def test_after_it_has_grown_a_pool_decides_without_growing(full: bool, long_queue: bool) -> None:
    assert decide(in_time=True, full=full, long_queue=long_queue, may_grow=False) != GROW


@given(LACKS, CLAIMS, st.booleans())
def test_only_a_claim_evicts_and_a_client_beyond_its_share_has_none(
    rejection: int, claim: int, lower_queued: bool
) -> None:
    decision = contend(rejection, claim, lower_queued=lower_queued)
    assert (decision == REJECT_SHARE) == (claim == OVER_SHARE)
    if claim == EQUAL and not lower_queued:
        assert decision == rejection
    if decision == EVICT:
        assert claim == OUTRANKS or (lower_queued and rejection == REJECT_FULL)


@given(CLAIMS)
def test_a_long_queue_of_lower_priorities_gives_no_claim(claim: int) -> None:
    with_them = contend(REJECT_OVERLOADED, claim, lower_queued=True)
    assert with_them == contend(REJECT_OVERLOADED, claim, lower_queued=False)
