"""A server that stops while others accept from the same listener leaves waiting connections to the others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from intralb_gevent import LoadBalancer, Options, WSGIServer


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        yield sock


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def server_on(listener: socket.socket, siblings: bool) -> WSGIServer:
    import gevent.socket

    copy = gevent.socket.socket(fileno=listener.dup().detach())
    server = WSGIServer(copy, LoadBalancer(app, Options()))
    server.siblings_listen = lambda: siblings
    server.start()
    return server


@pytest.mark.parametrize("siblings", [True, False])
def test_the_backlog_is_taken_in_by_the_last_one_only(listener: socket.socket, siblings: bool) -> None:
    server = server_on(listener, siblings)
    server.stop_accepting()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
    try:
        stopping = gevent.spawn(server.stop, 0)
        gevent.sleep(0)
        listener.setblocking(False)
        left = 0
        try:
            while True:
                listener.accept()[0].close()
                left += 1
        except BlockingIOError:
            assert left == (20 if siblings else 0)
        stopping.join()
    finally:
        for client in clients:
            client.close()
