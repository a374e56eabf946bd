"""Tests of deadlines that routes, requests and proxies set."""

from __future__ import annotations

import math
import time

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import OptionError, Route, deadline_headers, extend_deadline
from intralb_gevent.errors import NoCurrentJob
from intralb_gevent.policy.deadline import ProxyTiming, TimeLimits
from intralb_gevent.pool.job import Deadline, UpstreamDeadline

TIMEOUT = 0.1


def answering(function):
    """Return an application that calls `function` with its environ, and responds with the result."""

    def application(environ, start_response):
        body = str(function(environ)).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def remaining(environ) -> float:
    return environ["intralb.deadline"].remaining()


# Deadlines of a route.


def test_a_route_has_a_deadline_of_its_own(balance, gate, asking) -> None:
    routes = [Route("/quick/*", request_timeout_seconds=TIMEOUT)]
    balancer = balance(gate, request_timeout_seconds=20, routes=routes)
    quick, other = asking(balancer, "/quick/1", "/quick")
    assert quick.get().status == "504 Gateway Timeout"
    gate.gate.set()
    assert other.get().status == "200 OK"


def test_a_route_can_have_more_time_than_the_rest(balance, gate, asking) -> None:
    routes = [Route("/reports/*", request_timeout_seconds=20)]
    balancer = balance(gate, request_timeout_seconds=TIMEOUT, routes=routes)
    report, other = asking(balancer, "/reports/1", "/other")
    assert other.get().status == "504 Gateway Timeout"
    gate.gate.set()
    assert report.get().body == b"/reports/1"


def test_a_waiting_request_has_the_deadline_of_its_route_too(balance, gate, asking) -> None:
    routes = [Route("/quick/*", request_timeout_seconds=TIMEOUT)]
    balancer = balance(gate, request_timeout_seconds=20, routes=routes, max_concurrent_per_router=1, max_workers=1)
    first, quick = asking(balancer, "/first", "/quick/1")
    assert quick.get().headers["X-Intralb-Reason"] == "expired"
    gate.gate.set()
    assert first.get().status == "200 OK"
    assert gate.calls == ["/first"]


def test_the_first_route_that_matches_counts(balance, ask) -> None:
    routes = [Route("/a/b", request_timeout_seconds=10), Route("/a/c"), Route("/a/*", request_timeout_seconds=30)]
    balancer = balance(answering(remaining), request_timeout_seconds=20, routes=routes)
    seconds = [math.ceil(float(ask(balancer, path).body)) for path in ("/a/b", "/a/c", "/a/d", "/a")]
    assert seconds == [10, 20, 30, 20]


# Deadlines extended by a handler.


def test_a_handler_extends_its_deadline_and_is_let_go_on(balance, asking, eventually) -> None:
    extended, go_on = [], Event()

    def application(environ):
        began = time.monotonic()
        extended.append((began + TIMEOUT, extend_deadline(20)))
        go_on.wait()
        return "done"

    balancer = balance(answering(application), request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    due, left = extended[0]
    assert 19 < left <= 20
    eventually(lambda: time.monotonic() > due + TIMEOUT)
    assert not request.ready()
    go_on.set()
    assert request.get().body == b"done"


def test_an_extended_deadline_is_a_deadline(balance, asking) -> None:
    balancer = balance(
        answering(lambda environ: extend_deadline(3 * TIMEOUT) and Event().wait()), request_timeout_seconds=TIMEOUT
    )
    began = time.monotonic()
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    assert 3 * TIMEOUT <= time.monotonic() - began < 3 * TIMEOUT + 5


def test_it_is_extended_up_to_a_maximum(balance, asking) -> None:
    left = []

    def application(environ):
        left.extend([extend_deadline(60), extend_deadline(60)])
        Event().wait()

    balancer = balance(answering(application), request_timeout_seconds=TIMEOUT, max_request_timeout_seconds=3 * TIMEOUT)
    began = time.monotonic()
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    assert 3 * TIMEOUT <= time.monotonic() - began < 3 * TIMEOUT + 5
    assert TIMEOUT < left[1] <= left[0] <= 3 * TIMEOUT


def test_it_is_never_made_earlier(balance, ask) -> None:
    balancer = balance(answering(lambda environ: extend_deadline(1)), request_timeout_seconds=20)
    assert 19 < float(ask(balancer).body) <= 20


def test_a_route_above_the_maximum_raises_its_own(balance, ask) -> None:
    routes = [Route("/long", request_timeout_seconds=30)]
    balancer = balance(
        answering(lambda environ: extend_deadline(100)),
        request_timeout_seconds=5,
        max_request_timeout_seconds=20,
        routes=routes,
    )
    assert [math.ceil(float(ask(balancer, path).body)) for path in ("/long", "/")] == [30, 20]


def test_a_greenlet_of_the_handler_extends_by_the_environ(balance, ask) -> None:
    def application(environ):
        return gevent.spawn(environ["intralb.deadline"].extend, 20).get()

    balancer = balance(answering(application), request_timeout_seconds=5)
    assert 19 < float(ask(balancer).body) <= 20


def test_what_is_handed_on_is_what_is_left(balance, ask) -> None:
    def application(environ):
        own = deadline_headers()
        spawned = gevent.spawn(environ["intralb.deadline"].headers).get()
        return f"{own['X-Envoy-Expected-Rq-Timeout-Ms']} {spawned['grpc-timeout']}"

    balancer = balance(answering(application), request_timeout_seconds=5)
    expected, grpc = ask(balancer).body.decode().split()
    assert 4000 < int(expected) <= 5000
    assert grpc.endswith("m")
    assert 4000 < int(grpc[:-1]) <= int(expected)


def test_a_valid_trace_is_handed_on_with_the_deadline(balance, ask) -> None:
    balancer = balance(answering(lambda environ: " ".join(sorted(deadline_headers()))))
    field = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    plain = ask(balancer, HTTP_TRACEPARENT=field.upper()).body.decode()
    traced = ask(balancer, HTTP_TRACEPARENT=field, HTTP_TRACESTATE="vendor=1").body.decode()
    assert plain == "X-Envoy-Expected-Rq-Timeout-Ms grpc-timeout"
    assert traced == f"{plain} traceparent tracestate"


def test_a_request_that_was_cut_stays_cut(balance, asking, eventually) -> None:
    after = []

    def application(environ):
        try:
            Event().wait()
        finally:
            after.append((extend_deadline(20), deadline_headers()))

    balancer = balance(answering(application), request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    (left, headers) = eventually(lambda: after)[0]
    assert left <= 0
    assert headers == {"X-Envoy-Expected-Rq-Timeout-Ms": "1", "grpc-timeout": "1m"}


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, True, "5", None])
def test_nonsense_is_refused_in_the_handler(balance, ask, seconds: object) -> None:
    def application(environ):
        with pytest.raises(ValueError, match=r"seconds: .* is not allowed; it must be a number of seconds, above 0"):
            extend_deadline(seconds)
        return "refused"

    assert ask(balance(answering(application))).body == b"refused"


@pytest.mark.parametrize(
    ("function", "method"), [(lambda: extend_deadline(5), "extend"), (deadline_headers, "headers")]
)
def test_outside_of_a_request_there_is_none(balance, ask, function, method) -> None:
    with pytest.raises(NoCurrentJob, match=rf'environ\["intralb.deadline"\].{method}\(\)'):
        function()

    def application(environ):
        # A greenlet that the handler has started does not run a request.
        with pytest.raises(NoCurrentJob):
            gevent.spawn(function).get()
        return "none"

    assert ask(balance(answering(application))).body == b"none"


# Tests of the deadline object.

LIMITS = TimeLimits(timeout=5.0, longest=30.0, stream=None, idle=20.0)


def deadline(arrived: float, limits: TimeLimits = LIMITS) -> Deadline:
    return Deadline(arrived + limits.timeout, arrived, limits)


def test_what_a_proxy_tells_only_makes_it_earlier() -> None:
    now = time.monotonic()
    assert UpstreamDeadline(now, LIMITS, ProxyTiming()).at == deadline(now).at
    assert UpstreamDeadline(now, LIMITS, ProxyTiming(left=2.0)).at == now + 2
    assert UpstreamDeadline(now, LIMITS, ProxyTiming(left=60.0)).at == now + 5
    assert UpstreamDeadline(now, LIMITS, ProxyTiming(waited=4.0)).at == pytest.approx(now + 1)
    assert UpstreamDeadline(now, LIMITS, ProxyTiming(left=2.0, waited=60.0)).at == pytest.approx(now - 55)


def test_no_extension_goes_beyond_what_a_proxy_waits() -> None:
    now = time.monotonic()
    told = UpstreamDeadline(now, LIMITS, ProxyTiming(left=10.0))
    assert 9 < told.extend(60) <= 10
    waited = UpstreamDeadline(now, LIMITS, ProxyTiming(waited=20.0))
    assert 9 < waited.extend(60) <= 10


def streaming(arrived: float, **limits: float) -> Deadline:
    stream = deadline(arrived, LIMITS._replace(**limits))
    stream.begin_stream()
    return stream


def test_a_stream_may_be_silent_from_part_to_part_and_has_no_end() -> None:
    stream = streaming(time.monotonic() - 4)
    assert 19 < stream.remaining() <= 20
    stream.at -= 15
    stream.part_sent()
    assert 19 < stream.remaining() <= 20


def test_a_stream_can_have_an_end() -> None:
    stream = streaming(time.monotonic() - 4, stream=1.0)
    stream.part_sent()
    assert 0 < stream.remaining() <= 1
    assert stream.extend(60) <= 1
    assert stream.setting == "stream_timeout_seconds=1"
    assert 19 < streaming(time.monotonic() - 4, stream=60.0).remaining() <= 20


def test_a_stream_ends_when_a_proxy_waits_no_longer() -> None:
    told = UpstreamDeadline(time.monotonic(), LIMITS._replace(stream=60.0), ProxyTiming(left=10.0))
    told.begin_stream()
    told.part_sent()
    assert 9 < told.remaining() <= 10
    assert told.setting == "the timeout of the proxy in front"


def test_a_stream_that_may_be_silent_for_ever_has_a_finite_deadline() -> None:
    stream = streaming(time.monotonic(), idle=math.inf)
    assert 86400 < stream.remaining() < math.inf
    assert stream.headers()


def test_a_handler_that_asked_for_more_may_be_silent_for_as_long() -> None:
    stream = streaming(time.monotonic() - 100)
    assert 29 < stream.extend(60) <= 30
    stream.part_sent()
    assert 29 < stream.remaining() <= 30
    assert stream.setting == "extend_deadline()"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_time_of_a_slow_client_does_not_count(streamed: bool) -> None:
    slow = streaming(time.monotonic() - 4) if streamed else deadline(time.monotonic() - 4)
    left = slow.remaining()
    slow.suspend()
    assert slow.remaining() > 86400
    # Simulate that the time limit has been suspended for five seconds.
    slow._suspended -= 5
    slow.resume()
    assert slow.remaining() == pytest.approx(left + 5, abs=0.1)
    # A request has at most 30 seconds from its arrival, not counting time spent waiting for its client.
    assert slow.extend(60) == pytest.approx(30 if streamed else 31, abs=0.1)


def test_the_end_of_a_stream_does_not_wait_for_a_slow_client() -> None:
    stream = streaming(time.monotonic(), stream=1.0)
    stream.suspend()
    assert stream.remaining() <= 1


def test_a_deadline_without_limits_is_fixed() -> None:
    fixed = Deadline(time.monotonic() + 5)
    assert fixed.extend(60) <= 5
    fixed.begin_stream()
    assert fixed.remaining() <= 5
    with pytest.raises(OptionError):
        fixed.extend(-1)
