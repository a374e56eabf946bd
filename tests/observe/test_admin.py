"""What probes and programs see, while the only slot is busy."""

import json

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent.observe.admin import AdminServer


@pytest.fixture
def door():
    return Event()


@pytest.fixture
def server(serve, door):
    def application(environ, start_response):
        door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    return serve(application, max_concurrent_per_router=1, queue_size=0, max_workers=1)


@pytest.fixture
def ask(server):
    with AdminServer(("127.0.0.1", 0), server.balancer) as admin:
        admin.start()

        def get(path: str) -> tuple[int, str]:
            with socket.create_connection(("127.0.0.1", admin.server_port), timeout=5) as client:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b""
                while part := client.recv(65536):
                    answer += part
            head, _, body = answer.decode().partition("\r\n\r\n")
            return int(head.split()[1]), body

        yield get


def busy(server) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.server_port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


def test_probes_do_not_wait_behind_traffic(server, ask, eventually) -> None:
    with busy(server):
        eventually(lambda: server.balancer.snapshot().running)
        assert ask("/live") == (200, "live\n")
        assert ask("/ready") == (200, "serving\n")


def test_the_snapshot_is_json(server, ask, eventually) -> None:
    with busy(server):
        eventually(lambda: server.balancer.snapshot().running)
        status, body = ask("/snapshot")
    picture = json.loads(body)
    assert status == 200
    assert (picture["submitted"], picture["running"], picture["queued"], picture["most_workers"]) == (1, 1, 0, 1)
    assert picture["workers"] == [
        {"id": 1, "lane": "", "queued": 0, "running": 1, "slots": 1, "sessions": 0, "retiring": False}
    ]


def test_readiness_fails_from_the_beginning_of_a_shutdown_on(server, ask, eventually, door) -> None:
    with busy(server):
        eventually(lambda: server.balancer.snapshot().running)
        draining = gevent.spawn(server.balancer.drain, 5)
        gevent.sleep(0)
        assert ask("/ready") == (503, "draining\n")
        assert ask("/live")[0] == 200
        door.set()
        draining.get()


def test_other_paths_say_what_there_is(ask) -> None:
    assert ask("/") == (404, "There are /live, /ready and /snapshot.\n")
