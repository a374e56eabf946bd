"""A request's remaining time and priority are accepted from a trusted proxy, but not from other clients."""

from __future__ import annotations

import math
import time

import pytest

from intralb_gevent import Options, Route, WSGIServer, extend_deadline
from intralb_gevent.pool.balancer import LoadBalancer

TRUSTED = ["127.0.0.1"]
DIGITS = "9" * 5000


def remaining(environ, start_response):
    """Extend the deadline by the seconds in the query, and respond with the remaining seconds, rounded up."""
    deadline = environ["intralb.deadline"]
    asked = environ["QUERY_STRING"]
    left = extend_deadline(float(asked)) if asked else deadline.remaining()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(math.ceil(left)).encode()]


def seconds_ago(seconds: float) -> str:
    return f"X-Request-Start: t={time.time() - seconds:.3f}\r\n"


def priority(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ.get("intralb.priority", "none told").encode()]


def test_a_trusted_peer_sets_the_priority_in_the_field_that_is_named_for_it(serve, connect) -> None:
    client = connect(serve(priority, trusted_proxies=TRUSTED, priority_header="X-Class"))
    assert client.get(headers="X-Class: sheddable\r\n").body == b"sheddable"
    for ignored in ("X-Class: urgent\r\n", "X-Class: critical\r\nX-Class: critical\r\n", "X-Class:\r\n", ""):
        assert client.get(headers=ignored).body == b"none told"
    assert client.get(headers="X-Intralb-Priority: sheddable\r\n").body == b"none told"


def test_no_client_chooses_its_priority_where_no_field_is_named_or_its_peer_is_not_trusted(serve, connect) -> None:
    headers = "X-Intralb-Priority: critical_plus\r\n"
    named = {"priority_header": "X-Intralb-Priority"}
    for server in (
        serve(priority),
        serve(priority, trusted_proxies=TRUSTED),
        serve(priority, trusted_proxies=["10.0.0.0/8"], **named),
    ):
        assert connect(server).get(headers=headers).body == b"none told"


@pytest.mark.parametrize("headers", ["X-Envoy-Expected-Rq-Timeout-Ms: 7000\r\n", "grpc-timeout: 7S\r\n"])
def test_no_request_goes_on_when_its_proxy_waits_no_more(serve, connect, headers) -> None:
    client = connect(serve(remaining, request_timeout_seconds=20, trusted_proxies=TRUSTED))
    assert client.get(headers=headers).body == b"7"
    assert client.get().body == b"20"


def test_time_spent_in_front_counts(serve, connect) -> None:
    routes = [Route("/long", request_timeout_seconds=40)]
    client = connect(serve(remaining, request_timeout_seconds=20, trusted_proxies=TRUSTED, routes=routes))
    assert client.get(headers=seconds_ago(8.5)).body == b"12"
    assert client.get("/long", headers=seconds_ago(8.5)).body == b"32"


@pytest.mark.parametrize(
    "headers",
    [
        "X-Envoy-Expected-Rq-Timeout-Ms: 60000\r\n",
        "grpc-timeout: 1H\r\n",
        "X-Envoy-Expected-Rq-Timeout-Ms: soon\r\ngrpc-timeout: 5\r\nX-Request-Start: yesterday\r\n",
        "X-Request-Start: t=1\r\n",
        *(f"{name}: {DIGITS}\r\n" for name in ("X-Envoy-Expected-Rq-Timeout-Ms", "X-Request-Start", "X-Queue-Start")),
        f"grpc-timeout: {DIGITS}S\r\nX-Forwarded-Port: {DIGITS}\r\nX-Forwarded-For: 192.0.2.1:{DIGITS}\r\n",
        f"X-Forwarded-Host: x:{DIGITS}\r\nForwarded: for=192.0.2.1;host=x:{DIGITS}\r\n",
    ],
)
def test_no_deadline_gets_later_and_nonsense_is_no_error(serve, connect, headers) -> None:
    client = connect(serve(remaining, request_timeout_seconds=20, trusted_proxies=TRUSTED))
    reply = client.get(headers=headers)
    assert (reply.status, reply.body) == (200, b"20")


def test_an_extension_ends_where_the_proxy_waits_no_more(serve, connect) -> None:
    client = connect(serve(remaining, request_timeout_seconds=5, trusted_proxies=TRUSTED))
    assert client.get("/?15", headers="X-Envoy-Expected-Rq-Timeout-Ms: 7000\r\n").body == b"7"
    assert client.get("/?15").body == b"15"


def test_what_is_over_already_is_not_run(serve, connect) -> None:
    calls = []

    def application(environ, start_response):
        calls.append(environ["PATH_INFO"])
        return remaining(environ, start_response)

    client = connect(serve(application, request_timeout_seconds=5, trusted_proxies=TRUSTED))
    for headers in ("grpc-timeout: 0n\r\n", seconds_ago(6)):
        reply = client.get("/late", headers=headers)
        assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "expired")
    assert client.get("/then").status == 200
    assert calls == ["/then"]


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"]])
def test_others_are_not_believed_but_the_application_sees_what_they_say(serve, connect, trusted) -> None:
    def application(environ, start_response):
        assert environ["HTTP_GRPC_TIMEOUT"] == "1S"
        return remaining(environ, start_response)

    client = connect(serve(application, request_timeout_seconds=20, trusted_proxies=trusted))
    headers = f"grpc-timeout: 1S\r\nX-Envoy-Expected-Rq-Timeout-Ms: 1000\r\n{seconds_ago(15)}"
    assert client.get(headers=headers).body == b"20"


def test_pipelined_requests_have_each_their_own(serve, connect) -> None:
    client = connect(serve(remaining, request_timeout_seconds=20, trusted_proxies=TRUSTED))
    client.send(
        b"GET / HTTP/1.1\r\nHost: x\r\ngrpc-timeout: 7S\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: x\r\ngrpc-timeout: 9S\r\n\r\n"
    )
    assert [client.reply().body for _ in range(3)] == [b"7", b"20", b"9"]


def test_through_middleware_in_front_of_the_balancer_too(connect) -> None:
    balancer = LoadBalancer(remaining, Options(request_timeout_seconds=20, trusted_proxies=TRUSTED))

    def middleware(environ, start_response):
        return balancer(environ, start_response)

    with WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer) as server:
        server.start()
        client = connect(server)
        assert client.get(headers="grpc-timeout: 7S\r\n").body == b"7"
        assert client.get().body == b"20"
