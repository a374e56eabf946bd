"""`wsgi.early_hints` sends responses before the final one, and checks the fields that an application passes to it."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from intralb_gevent import LoadBalancer, WSGIServer

STYLE = ("Link", "</style.css>; rel=preload; as=style")
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n"


def hinting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.early_hints"]([STYLE])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


def test_hints_come_before_the_response_is_made(serve, connect) -> None:
    door = gevent.event.Event()

    def application(environ, start_response):
        environ["wsgi.early_hints"]([STYLE])
        door.wait()
        start_response("200 OK", [])
        return [b"page"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.socket.recv(1000) == HINTS
    door.set()
    assert client.reply().body == b"page"


def test_pipelined_each_is_in_its_place_and_the_connection_is_kept(serve, connect) -> None:
    client = connect(serve(hinting))
    client.send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + "GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    data = client.rest()
    assert [part[:4] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"103 ", b"200 "] * 3
    assert data.count(HINTS) == 3


def test_several_calls_send_several_responses(serve, connect) -> None:
    def application(environ, start_response):
        environ["wsgi.early_hints"]([STYLE])
        environ["wsgi.early_hints"]((("Link", "</b>"), ("X-More", "1")))
        return hinting(environ, start_response)

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    more = b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\nX-More: 1\r\n\r\n"
    assert client.rest().startswith(HINTS + more + HINTS + b"HTTP/1.1 200 OK\r\n")


def test_http_1_0_is_sent_none(serve, connect) -> None:
    client = connect(serve(hinting))
    client.send("GET / HTTP/1.0\r\n\r\n")
    assert client.rest().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([("Link", "a\r\nX: b")], ValueError),
        ([("Li nk", "a")], ValueError),
        ([("Content-Length", "1")], ValueError),
        ([("Link", b"a")], TypeError),
        ("Link", ValueError),
        (None, TypeError),
    ],
)
def test_what_may_not_be_sent_is_an_error_of_the_application_s(serve, connect, headers, error) -> None:
    def application(environ, start_response):
        with pytest.raises(error):
            environ["wsgi.early_hints"](headers)
        start_response("200 OK", [])
        return [b"checked"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.reply().body == b"checked"


def test_behind_the_headers_they_are_an_error(serve, connect) -> None:
    def application(environ, start_response):
        write = start_response("200 OK", [])
        environ["wsgi.early_hints"]([STYLE])
        write(b"begun, ")
        with pytest.raises(RuntimeError, match="send them before"):
            environ["wsgi.early_hints"]([STYLE])
        return [b"checked"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.reply().body == b"begun, checked"


def test_another_greenlet_has_no_request_to_hint_for(serve, connect) -> None:
    def application(environ, start_response):
        with pytest.raises(RuntimeError, match="call it in the handler"):
            gevent.spawn(environ["wsgi.early_hints"], [STYLE]).get()
        start_response("200 OK", [])
        return [b"checked"]

    assert connect(serve(application)).get().body == b"checked"


def test_others_are_served_while_a_handler_sends_hints_without_waiting(serve, connect) -> None:
    served: list[str] = []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/other":
            served.append("other")
        else:
            other.send("GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
            until = time.monotonic() + 5
            while not served and time.monotonic() < until:
                environ["wsgi.early_hints"]([STYLE])
            served.append("hinting")
        start_response("200 OK", [])
        return [b""]

    server = serve(application)
    client, other = connect(server), connect(server)
    # A client of HTTP/1.0 gets no hints, so that unsent data does not make the handler wait.
    client.send("GET / HTTP/1.0\r\n\r\n")
    assert client.reply().status == 200
    assert served == ["other", "hinting"]


def test_a_client_that_has_left_is_told_of_as_in_write(serve, connect, eventually) -> None:
    raised: list[BaseException] = []

    def application(environ, start_response):
        eventually(environ["intralb.client_disconnected"])
        try:
            for _ in range(1000):
                environ["wsgi.early_hints"]([STYLE])
                gevent.sleep(0)
        except BaseException as error:
            raised.append(error)
            raise
        return []

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.close()
    eventually(lambda: raised)
    assert type(raised[0]).__name__ == "ClientDisconnected"


def test_behind_middleware_both_may_hint(connect) -> None:
    balancer = LoadBalancer(hinting)

    def middleware(environ, start_response):
        environ["wsgi.early_hints"]([("Link", "</middle>")])
        return balancer(environ, start_response)

    server = WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer)
    server.start()
    try:
        client = connect(server)
        client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        middle = b"HTTP/1.1 103 Early Hints\r\nLink: </middle>\r\n\r\n"
        assert client.rest().startswith(middle + HINTS + b"HTTP/1.1 200 OK\r\n")
    finally:
        server.stop(0)
