import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.errors import IllegalTransition
from intralb_gevent.policy.connectionstate import (
    CLOSED,
    DISCARDING,
    LAST,
    LINGERING,
    NAMES,
    OPEN,
    TRANSITIONS,
    Course,
    move,
)

STATES = [OPEN, DISCARDING, LAST, LINGERING, CLOSED]


@given(st.lists(st.sampled_from(STATES), max_size=20))
def test_whatever_is_asked_a_connection_only_goes_forward(wishes: list[int]) -> None:
    state = OPEN
    for wish in wishes:
        before = state
        try:
            state = move(state, wish)
        except IllegalTransition:
            assert wish <= before
        else:
            assert state > before


DECISIONS = {
    "discard": lambda course: course.discard(),
    "end": lambda course: course.end(lingers=False),
    "linger": lambda course: course.end(lingers=True),
    "cut": lambda course: course.cut(lingers=False),
    "cut and linger": lambda course: course.cut(lingers=True),
}


@given(st.lists(st.sampled_from(list(DECISIONS)), max_size=10))
def test_every_decision_is_legal_in_every_state_and_none_is_taken_back(decisions: list[str]) -> None:
    course = Course()
    for decision in decisions:
        before, discarded = course.state, course.discards
        DECISIONS[decision](course)
        assert course.state == before or course.state in TRANSITIONS[before]
        assert course.discards or not discarded or decision == "cut"
        if decision in ("discard", "linger"):
            assert course.discards
    assert (course.state >= LAST) == bool(set(decisions) - {"discard"})
    course.close()
    assert course.closed


@pytest.mark.parametrize("state", STATES)
def test_each_state_can_end_in_closed_only(state: int) -> None:
    assert set(TRANSITIONS) == set(range(len(NAMES))) == set(STATES)
    if state != CLOSED:
        assert move(state, CLOSED) == CLOSED
        with pytest.raises(IllegalTransition, match=r"closed cannot become .+; it can become nothing more"):
            move(CLOSED, state)


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_closed_connection_stays_closed(decision: str) -> None:
    course = Course()
    course.close()
    DECISIONS[decision](course)
    assert course.closed
    with pytest.raises(IllegalTransition):
        course.close()
