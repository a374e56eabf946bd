"""Middleware in front of the balancer holds no slot; requests behind the balancer are balanced and drained."""

from wsgiref.validate import validator

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, WSGIServer

TEXT = [("Content-Type", "text/plain")]


@pytest.fixture
def door():
    return Event()


@pytest.fixture
def server(door):
    def application(environ, start_response):
        door.wait()
        start_response("200 OK", TEXT)
        return [environ["front.said"].encode(), b" and so do I"]

    def middleware(environ, start_response):
        environ["front.said"] = "hello"
        if environ["PATH_INFO"] == "/broken":
            raise ValueError("on purpose")
        if environ["PATH_INFO"] == "/refused":
            start_response("403 Forbidden", TEXT)
            return [b"no"]
        return balancer(environ, start_response)

    options = Options(max_concurrent_per_router=1, queue_size=0, max_workers=1, request_timeout_seconds=0.2)
    balancer = LoadBalancer(validator(application), options)
    server = WSGIServer(("127.0.0.1", 0), validator(middleware), balancer=balancer)
    server.start()
    yield server
    server.stop(0)


def test_it_answers_by_itself_while_every_slot_is_busy(server, connect, door) -> None:
    busy = connect(server)
    busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client = connect(server)
    assert client.get("/refused").status == 403
    assert client.get("/").status == 503
    assert client.get("/refused").body == b"no"
    door.set()
    assert busy.reply().body == b"hello and so do I"
    assert server.balancer.snapshot().submitted == 2


def test_its_own_failure_is_500_and_logged(server, connect, caplog) -> None:
    client = connect(server)
    assert client.get("/broken").status == 500
    assert "failed in front of the balancer: ValueError (request " in caplog.text
    assert client.get("/refused").status == 403


def test_the_path_of_its_failure_is_no_line_of_its_own(connect, caplog) -> None:
    def middleware(environ, start_response):
        raise ValueError("on purpose")

    balancer = LoadBalancer(middleware)
    with WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer) as server:
        server.start()
        assert connect(server).get("/%0aCRITICAL%20all%20is%20lost%1b%5b31m%0d%c2%85").status == 500
    assert "GET /\\nCRITICAL\\x20all\\x20is\\x20lost\\x1b[31m\\r\\xc2\\x85 failed in front" in caplog.text
    assert not any(line.startswith("CRITICAL all") for line in caplog.text.splitlines())


def test_a_deadline_behind_it_is_504(server, connect) -> None:
    assert connect(server).get("/").status == 504


def test_stopping_drains_what_is_behind_it(server, connect, door, eventually) -> None:
    client = connect(server)
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    stopping = gevent.spawn(server.stop, 5)
    door.set()
    assert client.reply().headers["connection"] == "close"
    stopping.get()
    assert server.balancer.snapshot().condition == "stopped"
