"""A worker's queue is a bounded gevent queue that defines its own order."""

from __future__ import annotations

from typing import Any

import gevent
import gevent.queue
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import Priority
from intralb_gevent.pool.queueorder import QueueOrder
from intralb_gevent.pool.queues import Full, JobQueue
from tests.pool.conftest import waiting_job

PRIORITIES = st.sampled_from(list(Priority))


def fill(queue: JobQueue, priorities: list[Priority], first: int = 0) -> list[Any]:
    jobs = [waiting_job(priority, arrived=first + number) for number, priority in enumerate(priorities)]
    for job in jobs:
        queue.put_nowait(job)
    return jobs


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_full_queue_refuses_in_the_hub_and_in_any_greenlet(size: int) -> None:
    queue = JobQueue(size, QueueOrder())
    fill(queue, [Priority.CRITICAL] * size)
    refused: list[bool] = []

    def put() -> None:
        with pytest.raises(gevent.queue.Full):
            queue.put_nowait(waiting_job(Priority.CRITICAL))
        refused.append(True)

    put()
    gevent.get_hub().loop.run_callback(put)
    gevent.sleep(0)
    assert refused == [True, True]
    assert queue.qsize() == len(queue.jobs) == size


@given(st.lists(PRIORITIES, max_size=30), st.lists(st.integers(0, 29)))
def test_get_returns_the_oldest_of_the_highest_priority_whatever_was_removed(
    priorities: list[Priority], removed: list[int]
) -> None:
    order = QueueOrder()
    queue = JobQueue(30, order)
    jobs = fill(queue, priorities)
    for index in removed:
        if index < len(jobs) and jobs[index] in queue.jobs:
            queue.jobs.remove(jobs[index])
    left = [job for index, job in enumerate(jobs) if index not in removed]
    assert queue.qsize() == order.count == len(left)
    assert [queue.peek_nowait() for _ in left[:1]] == sorted(left, key=lambda job: job.priority)[:1]
    assert [queue.get_nowait() for _ in left] == sorted(left, key=lambda job: job.priority)
    with pytest.raises(gevent.queue.Empty):
        queue.get_nowait()
    assert order.count == sum(order.by_class) == 0


@given(st.lists(st.lists(PRIORITIES, max_size=10), min_size=1, max_size=4))
def test_the_order_of_a_lane_is_that_of_age_within_a_priority_whichever_queue_a_job_is_in(
    queues: list[list[Priority]],
) -> None:
    order = QueueOrder()
    filled = [JobQueue(10, order) for _ in queues]
    for number, (queue, priorities) in enumerate(zip(filled, queues, strict=True)):
        fill(queue, priorities, first=number * 100)
    served = []
    while (job := order.next([queue.jobs for queue in filled], limit=1)) is not None:
        next(queue for queue in filled if job in queue.jobs).jobs.remove(job)
        served.append(job)
    for priority in Priority:
        arrivals = [job.arrived for job in served if job.priority is priority]
        assert arrivals == sorted(arrivals)
    assert len(served) == sum(map(len, queues))


def test_a_put_raises_what_the_standard_library_raises() -> None:
    assert Full is gevent.queue.Full
