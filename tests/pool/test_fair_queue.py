"""Under overload, clients are served in rotation, however many queued requests each client has."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import Priority
from intralb_gevent.policy.fairness import Clients
from intralb_gevent.pool.queueorder import FairOrder
from tests.pool.conftest import waiting_job

STEPS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(["comes", "has its turn", "leaves"])), max_size=200
)


class Waiting:
    """A model of the workers' queues, with which the fair queue is compared."""

    def __init__(self) -> None:
        self.clients = Clients(0.0)
        self.queue = FairOrder(self.clients, ())
        self.jobs: list[Any] = []

    def comes(self, client: str) -> None:
        job = waiting_job(Priority.CRITICAL, client)
        self.clients.admit(client, Priority.CRITICAL, 0.0)
        self.queue.append(job)
        self.jobs.append(job)

    def leaves(self, job: Any, began: bool = False) -> None:
        self.queue.remove(job)
        self.jobs.remove(job)
        if began:
            self.clients.begin(job.client, job.priority)
        self.clients.end(job.client, job.priority, began=began)

    def step(self, client: str, what: str) -> None:
        mine = [job for job in self.jobs if job.client == client]
        if what == "comes":
            self.comes(client)
        elif what == "leaves" and mine:
            self.leaves(mine[-1])
        elif what == "has its turn" and self.jobs:
            self.expect(self.queue.next(Priority.CRITICAL))

    def expect(self, job: Any) -> None:
        """Check that this job is the oldest queued job of its client."""
        assert job is next(other for other in self.jobs if other.client == job.client)
        self.leaves(job, began=True)


@given(STEPS)
def test_each_has_the_job_of_its_client_that_waited_longest(steps: list[tuple[str, str]]) -> None:
    waiting = Waiting()
    for step in steps:
        waiting.step(*step)
    while waiting.jobs:
        waiting.expect(waiting.queue.next(Priority.CRITICAL))
    assert repr(waiting.queue) == "<FairOrder of 0, 0, 0, 0 clients>"


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=50))
def test_nobody_has_a_second_turn_before_all_that_wait_have_had_one(clients: list[str]) -> None:
    waiting = Waiting()
    for client in clients:
        waiting.comes(client)
    turns = []
    for _ in clients:
        job = waiting.queue.next(Priority.CRITICAL)
        turns.append(job.client)
        waiting.leaves(job, began=True)
    while turns:
        crowd = set(turns)
        assert set(turns[: len(crowd)]) == crowd
        turns = turns[len(crowd) :]


def test_one_that_asks_seldom_is_next_when_it_asks() -> None:
    waiting = Waiting()
    for client in ("seldom", *"abcd" * 3):
        waiting.comes(client)
    for _ in range(5):
        waiting.expect(waiting.queue.next(Priority.CRITICAL))
    waiting.comes("seldom")
    waiting.comes("new")
    for client in ("new", "seldom"):
        job = waiting.queue.next(Priority.CRITICAL)
        assert job.client == client
        waiting.leaves(job, began=True)
