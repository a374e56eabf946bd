import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import LoadBalancer
from intralb_gevent.errors import IllegalTransition
from intralb_gevent.observe.stats import Stats
from intralb_gevent.policy.lifecycle import OUTCOMES, State
from intralb_gevent.pool.channel import Channel
from intralb_gevent.pool.job import Job

_ROUTE = LoadBalancer(lambda environ, start_response: []).intake.mounts.find({})
_JOB = Job({}, Channel(lambda *args: lambda data: None), 0.0, 0.0, _ROUTE)


def move(present: State, following: State) -> State:
    """Return the state of a job after a transition."""
    _JOB.state = present
    _JOB.move(following)
    return _JOB.state


STATES: list[State] = ["new", "queued", "ready", "running", *OUTCOMES]


@given(st.lists(st.sampled_from(STATES), max_size=30))
def test_whatever_is_asked_a_job_ends_once_and_stays_ended(wishes: list[State]) -> None:
    state: State = "new"
    ends = 0
    for wish in wishes:
        try:
            state = move(state, wish)
        except IllegalTransition:
            continue
        ends += state in OUTCOMES
    assert ends == (state in OUTCOMES)


@given(st.lists(st.lists(st.sampled_from(STATES), max_size=8), max_size=20))
def test_submitted_is_ended_plus_in_the_system(jobs: list[list[State]]) -> None:
    stats, in_system = Stats(), 0
    for wishes in jobs:
        stats.received[0] += 1
        state: State = "new"
        for wish in wishes:
            try:
                state = move(state, wish)
            except IllegalTransition:
                continue
            if state == "shed":
                stats.add_shed("queue_full")
            elif state in stats.outcomes:
                stats.add(state, 0.0, None)
        in_system += state not in OUTCOMES
    assert stats.submitted == stats.ended + in_system


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_ended_job_refuses_every_further_state_and_says_so(outcome: State) -> None:
    for state in STATES:
        with pytest.raises(IllegalTransition, match="it has ended"):
            move(outcome, state)


def test_a_job_that_never_ran_cannot_have_completed() -> None:
    with pytest.raises(IllegalTransition, match="queued cannot become completed"):
        move("queued", "completed")


def test_a_job_has_a_slot_before_it_runs() -> None:
    for state in ("new", "queued"):
        with pytest.raises(IllegalTransition, match=f"{state} cannot become running"):
            move(state, "running")
        assert move(move(state, "ready"), "running") == "running"


def test_a_running_job_cannot_be_shed_or_expire() -> None:
    for outcome in ("shed", "expired"):
        with pytest.raises(IllegalTransition):
            move("running", outcome)
