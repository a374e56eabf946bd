"""The deadline covers the queue, the application and the body; an aborted application can clean up."""

import contextlib
import time

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import DeadlineExceeded, Route
from intralb_gevent.pool.channel import ResponseCut

TIMEOUT = 0.1


def test_a_waiting_job_whose_deadline_passes_is_answered_503_and_never_run(balance, gate, asking) -> None:
    sizes = {"max_concurrent_per_router": 1, "queue_size": 1, "max_workers": 1}
    # The first request holds the only slot until the second request's deadline has passed.
    routes = [Route("/1", request_timeout_seconds=2 * TIMEOUT)]
    balancer = balance(gate, request_timeout_seconds=TIMEOUT, routes=routes, **sizes)
    first, second = asking(balancer, "/1", "/2")
    answer = second.get()
    assert answer.status == "503 Service Unavailable"
    assert answer.headers["X-Intralb-Reason"] == "expired"
    assert first.get().status == "504 Gateway Timeout"
    assert gate.calls == ["/1"]
    outcomes = balancer.snapshot().outcomes
    assert (outcomes["expired"], outcomes["timed_out"]) == (1, 1)


def test_a_running_job_is_cut_at_its_deadline_and_its_finally_blocks_run(balance, asking) -> None:
    seen = []

    def application(environ, start_response):
        try:
            Event().wait()
        except DeadlineExceeded:
            seen.append("signal")
            raise
        finally:
            seen.append("finally")

    balancer = balance(application, request_timeout_seconds=TIMEOUT)
    began = time.monotonic()
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    assert TIMEOUT <= time.monotonic() - began < TIMEOUT + 1
    assert seen == ["signal", "finally"]


def test_except_exception_does_not_swallow_it(balance, asking, eventually) -> None:
    ended = []

    def application(environ, start_response):
        try:
            while True:
                with contextlib.suppress(Exception):
                    gevent.sleep(60)
        finally:
            ended.append(True)

    balancer = balance(application, request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: ended)


def test_one_that_swallows_it_is_cut_again_and_its_client_does_not_wait_for_that(balance, asking, eventually) -> None:
    swallowed = []

    def application(environ, start_response):
        while len(swallowed) < 2:
            try:
                gevent.sleep(60)
            except BaseException as error:
                swallowed.append(error)
        gevent.sleep(60)

    balancer = balance(application, request_timeout_seconds=TIMEOUT, max_concurrent_per_router=1, max_workers=1)
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    assert len(swallowed) == 1
    eventually(lambda: len(swallowed) == 2)
    assert balancer.snapshot().outcomes["timed_out"] == 1


def test_after_headers_the_response_is_cut_and_not_ended(balance) -> None:
    closed = []

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"begun"
            Event().wait()
        finally:
            closed.append(True)

    balancer = balance(application, stream_idle_timeout_seconds=TIMEOUT)
    result = balancer({"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert next(result) == b"begun"
    with pytest.raises(ResponseCut):
        next(result)
    gevent.sleep(0)
    assert closed == [True]


def test_the_application_reads_what_is_left(balance, asking) -> None:
    left = []

    def application(environ, start_response):
        left.append(environ["intralb.deadline"].remaining())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(application, request_timeout_seconds=7)
    gevent.joinall(asking(balancer, "/"))
    assert 6 < left[0] <= 7


def test_the_default_is_30_seconds_or_the_graceful_timeout_if_that_is_more(balance, asking) -> None:
    left = []

    def application(environ, start_response):
        left.append(environ["intralb.deadline"].remaining())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    for grace, expected in ((3, 30), (40, 40)):
        gevent.joinall(asking(balance(application, graceful_timeout_seconds=grace), "/"))
        assert expected - 1 < left.pop() <= expected


def test_many_deadlines_are_each_kept(balance, gate, asking) -> None:
    balancer = balance(gate, request_timeout_seconds=TIMEOUT)
    rounds = []
    for _ in range(5):
        rounds += asking(balancer, *"12345678")
        gevent.sleep(TIMEOUT / 4)
    assert {request.get().status for request in rounds} == {"504 Gateway Timeout"}
    assert balancer.snapshot().outcomes["timed_out"] == 40
