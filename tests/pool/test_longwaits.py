"""Tests of running requests that wait for long, such as long polls, while the number of running requests is limited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import shift_path_info

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer


class One:
    """A limiter that allows one running request, however many slots there are; a test can set another limit."""

    limit = 1

    def observe(self, window: Any) -> None:
        pass

    def resize(self, most: int) -> None:
        pass


class Application:
    """The handlers of several paths.

    `/queries` waits for 1 ms and computes for 1 ms, again and again, until `ended` is set; `/queries-until` does so
    until `go_on` is set. All other paths but `/computes` wait until `go_on` is set. Then `/calls` and `/computes` are
    CPU-bound until `ended` is set, and yield every 15 ms, and `/renders` computes for 15 ms once. `/starts` computes
    for 6 ms before it waits. `/spawns` waits for a greenlet that makes the queries of `/queries`. `/evicts` calls
    `evict` instead.
    Like middleware that dispatches by the path, `/mounted/...` moves the first part of the path to `SCRIPT_NAME`.
    """

    def __init__(self) -> None:
        self.go_on, self.ended = Event(), Event()
        self.evict: Callable[[], Any] = self.go_on.wait

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/mounted/"):
            shift_path_info(environ)
        if path == "/starts":
            compute(0.006)
        if path == "/spawns":
            gevent.spawn(query, self.ended).join()
        elif path.startswith("/queries"):
            query(until=self.ended if path == "/queries" else self.go_on)
        elif path == "/evicts":
            self.evict()
        elif path != "/computes":
            self.go_on.wait()
        while path in ("/calls", "/computes") and not self.ended.is_set():
            gevent.sleep(0)
            compute(0.015)
        if path == "/renders":
            compute(0.015)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]


def query(until: Event) -> None:
    while not until.is_set():
        gevent.sleep(0.001)
        compute(0.001)


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def balancer(balance, application: Application) -> Iterator[LoadBalancer]:
    made = balance(
        application, max_workers=1, max_concurrent_per_router=10, request_timeout_seconds=20, limiter=lambda most: One()
    )
    yield made
    application.go_on.set()
    application.ended.set()
    (lane,) = made.intake.lanes
    while made.snapshot().running:
        gevent.sleep(0.001)
    assert lane.pool.long_waits.count == 0


@pytest.fixture
def start(balancer: LoadBalancer, ask) -> Callable[..., gevent.Greenlet]:
    """Return a function that starts a request, and lets the request proceed as far as it can."""

    def begin(path: str, **environ: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(ask, balancer, path, **environ)
        for _ in range(5):
            gevent.sleep(0)
        return greenlet

    return begin


@pytest.fixture
def begin_long_wait(balancer: LoadBalancer, start, eventually) -> Callable[[str], None]:
    """Return a function that starts a request, and returns once the request counts as a long wait."""

    def begin(path: str) -> None:
        start(path)
        eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 1)

    return begin


def seen(balancer: LoadBalancer) -> tuple[int, int]:
    snapshot = balancer.snapshot()
    return snapshot.running, snapshot.queued


def test_a_request_that_waits_for_half_a_second_does_not_count_towards_the_limit(balancer, start, eventually) -> None:
    start("/poll")
    start("/other")
    assert seen(balancer) == (1, 1)
    eventually(lambda: seen(balancer) == (2, 0))


def test_a_request_runs_beyond_the_limit_if_earlier_ones_with_its_path_have_waited(balancer, start, eventually) -> None:
    start("/poll")
    polls = [start("/poll") for _ in range(3)]
    other = start("/other")
    assert seen(balancer) == (1, 4)
    eventually(lambda: seen(balancer) == (5, 0))
    start("/another")
    start("/poll")
    assert seen(balancer) == (6, 1)
    assert not any(request.ready() for request in (*polls, other))


def test_a_request_that_is_cpu_bound_and_yields_counts_towards_the_limit_however_long_it_runs(
    balancer, start, eventually
) -> None:
    start("/computes")
    began = time.monotonic()
    start("/computes")
    eventually(lambda: time.monotonic() - began > 1.5)
    assert seen(balancer) == (1, 1)


def test_a_request_whose_greenlets_compute_counts_towards_the_limit(balancer, start, eventually) -> None:
    start("/spawns")
    began = time.monotonic()
    start("/spawns")
    eventually(lambda: time.monotonic() - began > 1.5)
    assert seen(balancer) == (1, 1)


def test_requests_that_compute_after_a_long_wait_count_towards_the_limit(
    application, balancer, start, eventually
) -> None:
    start("/calls")
    start("/poll")
    eventually(lambda: seen(balancer) == (2, 0))
    application.go_on.set()
    eventually(lambda: seen(balancer) == (1, 0))
    start("/calls")
    assert seen(balancer) == (1, 1)


def test_requests_that_compute_only_before_their_response_count_towards_the_limit(
    application, balancer, start, eventually
) -> None:
    start("/renders")
    start("/poll")
    eventually(lambda: seen(balancer) == (2, 0))
    application.go_on.set()
    eventually(lambda: seen(balancer) == (0, 0))
    application.go_on.clear()
    start("/renders")
    start("/renders")
    assert seen(balancer) == (1, 1)


def wait_long_and_compute(application, balancer, begin_long_wait, eventually) -> None:
    """Have a request to `/renders` wait for long, and then compute."""
    begin_long_wait("/renders")
    application.go_on.set()
    eventually(lambda: seen(balancer) == (0, 0))
    application.go_on.clear()


def test_a_request_does_not_count_while_it_waits_even_if_earlier_ones_have_computed_after_their_waits(
    application, balancer, start, begin_long_wait, eventually
) -> None:
    wait_long_and_compute(application, balancer, begin_long_wait, eventually)
    start("/renders")
    start("/other")
    assert seen(balancer) == (1, 1)
    eventually(lambda: seen(balancer) == (2, 0))


def test_a_long_wait_before_a_request_computes_does_not_count_as_run_time(
    application, balancer, start, eventually
) -> None:
    began = time.monotonic()
    start("/calls")
    eventually(lambda: time.monotonic() - began > 1.5)
    application.go_on.set()
    eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 0)
    application.ended.set()
    eventually(lambda: seen(balancer) == (0, 0))
    took = time.monotonic() - began
    assert 0 < balancer.intake.lanes[0].admission.service.mean < took - 0.9


def test_a_longer_wait_allows_a_request_to_compute_for_longer(balancer, start, begin_long_wait, eventually) -> None:
    begin_long_wait("/starts")
    start("/another")
    start("/starts")
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 2.5)
    start("/yet-another")
    start("/starts")
    assert seen(balancer) == (5, 0)


def test_paths_that_differ_in_an_id_are_the_same_path(balancer, start, begin_long_wait) -> None:
    begin_long_wait("/jobs/17/wait")
    start("/another")
    start("/jobs/f3a/wait")
    assert seen(balancer) == (3, 0)
    start("/jobs/18")
    assert seen(balancer) == (3, 1)


def test_the_path_of_a_request_is_known_although_middleware_changes_its_parts(balancer, start, begin_long_wait) -> None:
    begin_long_wait("/mounted/poll")
    start("/another")
    start("/poll")
    assert seen(balancer) == (2, 1)
    start("/mounted/poll")
    assert seen(balancer) == (3, 1)


def test_an_expected_long_wait_that_starts_with_some_work_does_not_count_towards_the_limit(
    balancer, start, begin_long_wait, eventually
) -> None:
    begin_long_wait("/starts")
    start("/another")
    for _ in range(4):
        start("/starts")
    assert seen(balancer) == (6, 0)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.3)
    assert balancer.intake.lanes[0].pool.long_waits.count == 5


def test_long_waits_of_a_lower_class_leave_half_of_the_slots(balancer, start, begin_long_wait, eventually) -> None:
    begin_long_wait("/poll")
    start("/computes")
    polls = [start("/poll", **{"intralb.priority": "sheddable"}) for _ in range(6)]
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 1.0)
    assert seen(balancer) == (5, 3)
    assert not any(poll.ready() for poll in polls)
    start("/poll")
    assert seen(balancer) == (6, 3)


def test_many_requests_that_share_a_saturated_loop_count_towards_the_limit(
    application, balance, ask, eventually
) -> None:
    limiter = One()
    limiter.limit = 99
    balancer = balance(
        application,
        max_workers=1,
        max_concurrent_per_router=100,
        request_timeout_seconds=20,
        limiter=lambda most: limiter,
    )
    crowd = [gevent.spawn(ask, balancer, "/queries") for _ in range(90)]
    eventually(lambda: seen(balancer) == (90, 0))
    limiter.limit = 1
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 2.0)
    late = gevent.spawn(ask, balancer, "/queries")
    eventually(lambda: seen(balancer) == (90, 1))
    application.ended.set()
    assert {request.get().status for request in (*crowd, late)} == {"200 OK"}


def test_requests_that_share_a_saturated_loop_count_towards_the_limit_while_most_of_them_end(
    application, balance, ask, eventually
) -> None:
    limiter = One()
    limiter.limit = 99
    balancer = balance(
        application,
        max_workers=1,
        max_concurrent_per_router=100,
        request_timeout_seconds=20,
        limiter=lambda most: limiter,
    )
    staying = [gevent.spawn(ask, balancer, "/queries") for _ in range(20)]
    leaving = [gevent.spawn(ask, balancer, "/queries-until") for _ in range(70)]
    eventually(lambda: seen(balancer) == (90, 0))
    limiter.limit = 1
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 1.5)
    application.go_on.set()
    eventually(lambda: seen(balancer) == (20, 0))
    late = [gevent.spawn(ask, balancer, "/queries") for _ in range(20)]
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.7)
    assert seen(balancer) == (20, 20)
    application.ended.set()
    assert {request.get().status for request in (*staying, *leaving, *late)} == {"200 OK"}


def test_a_single_long_wait_lets_only_a_few_requests_run_beyond_the_limit(balancer, start, eventually) -> None:
    start("/poll")
    eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 1)
    start("/other")
    for _ in range(8):
        start("/poll")
    assert seen(balancer) == (6, 4)
    eventually(lambda: seen(balancer)[1] == 0)


def test_long_waits_that_have_just_started_do_not_delay_those_of_another_path(
    balancer, start, begin_long_wait, eventually
) -> None:
    begin_long_wait("/poll")
    start("/events")
    eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 2)
    start("/computes")
    for _ in range(4):
        start("/poll")
    start("/events")
    assert seen(balancer) == (8, 0)


def test_queued_long_waits_start_once_earlier_ones_have_waited_even_if_no_other_request_ends(
    balancer, start, begin_long_wait, eventually
) -> None:
    begin_long_wait("/poll")
    start("/computes")
    for _ in range(8):
        start("/poll")
    assert seen(balancer) == (6, 4)
    eventually(lambda: seen(balancer) == (10, 0))


def test_a_queued_request_is_not_charged_for_the_time_of_a_running_request_that_takes_its_place(
    application, balance, ask, eventually
) -> None:
    balancer = balance(
        application, max_workers=1, max_concurrent_per_router=10, queue_size=1, limiter=lambda most: One()
    )
    evicts = Event()

    def evict() -> None:
        evicts.wait()
        compute(0.1)
        ask(balancer, "/other", **{"intralb.priority": "critical_plus"})

    application.evict = evict
    polls = [gevent.spawn(ask, balancer, "/poll")]
    eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 1)
    others = [gevent.spawn(ask, balancer, "/evicts")]
    eventually(lambda: seen(balancer) == (2, 0))
    polls += [gevent.spawn(ask, balancer, "/poll") for _ in range(5)]
    eventually(lambda: seen(balancer) == (6, 1))
    evicts.set()
    assert polls[-1].get().headers["X-Intralb-Reason"] == "evicted"
    eventually(lambda: balancer.intake.lanes[0].pool.long_waits.count == 6 and seen(balancer) == (7, 0))
    others.append(gevent.spawn(ask, balancer, "/another"))
    polls[-1] = gevent.spawn(ask, balancer, "/poll")
    eventually(lambda: seen(balancer)[0] == 8)
    application.go_on.set()
    assert {request.get().status for request in (*polls, *others)} == {"200 OK"}
