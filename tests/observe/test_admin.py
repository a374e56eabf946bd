"""Tests of the admin server: while the pool's only slot is busy, and under attack."""

import contextlib
import json
import signal
import socket as plain
import threading
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent.observe.admin import AdminServer

PATIENCE = 10.0
ATTACK_SECONDS = 2.0
GET_LIVE = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"


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


class QuickAdminServer(AdminServer):
    """An admin server with a short timeout for silent connections."""

    SILENT_SECONDS = 0.2
    SWEEP_SECONDS = 0.05


class NarrowAdminServer(AdminServer):
    """An admin server that disconnects a client with any unread data."""

    MOST_UNSENT_BYTES = 0
    SWEEP_SECONDS = 0.05


@pytest.fixture
def admin(request, server):
    kind = getattr(request, "param", AdminServer)
    with kind(("127.0.0.1", 0), server.balancer) as admin:
        admin.start()
        yield admin


@pytest.fixture
def ask(admin):
    def get(path: str) -> tuple[int, str]:
        with socket.create_connection(("127.0.0.1", admin.server_port), timeout=5) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while part := client.recv(65536):
                answer += part
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    return get


@pytest.fixture
def connect(admin):
    """Return a function that connects to the admin server; connections are closed at the end of the test."""
    made = []

    def connected() -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", admin.server_port), timeout=PATIENCE))
        return made[-1]

    yield connected
    for each in made:
        each.close()


def is_closed(client: socket.socket) -> bool:
    """Wait until the server has closed a connection; then return True."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True


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
    known = "/ (the status page), /live, /metrics, /ready and /snapshot"
    assert ask("/nowhere") == (404, f"This path is unknown. The known paths are {known}.\n")


def test_a_connection_is_kept_and_answers_come_in_the_order_of_the_requests(connect) -> None:
    client = connect()
    client.sendall(GET_LIVE * 50 + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 50
    assert answers.rpartition(b"HTTP/1.1 ")[2].startswith(b"404")


def test_requests_that_wait_do_not_keep_a_probe_from_its_answer(admin, ask, connect) -> None:
    for _ in range(2 * admin.MOST_CONNECTIONS):
        connect().sendall(GET_LIVE * 100)
    assert ask("/ready") == (200, "serving\n")


def test_a_body_is_refused(connect) -> None:
    client = connect()
    client.sendall(b"POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 413")
    assert is_closed(client)


def test_of_many_silent_connections_the_oldest_are_closed_and_probes_are_answered(admin, ask, connect) -> None:
    silent = [connect() for _ in range(3 * admin.MOST_CONNECTIONS)]
    assert ask("/live") == (200, "live\n")
    assert is_closed(silent[0])
    assert len(admin.connections) <= admin.MOST_CONNECTIONS
    silent[-1].sendall(GET_LIVE)
    assert silent[-1].recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("admin", [QuickAdminServer], indirect=True)
@pytest.mark.parametrize("sent", [b"", b"GET /li", GET_LIVE])
def test_a_client_that_has_vanished_is_closed_in_time(connect, sent: bytes) -> None:
    client = connect()
    client.sendall(sent)
    assert is_closed(client)


@pytest.mark.parametrize("admin", [NarrowAdminServer], indirect=True)
def test_a_client_that_asks_and_does_not_read_is_cut(admin, eventually) -> None:
    admin.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", admin.server_port))
        client.sendall(b"GET /snapshot HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        eventually(lambda: admin.connections)
        eventually(lambda: not admin.connections)


def test_stopping_closes_the_connections(admin, ask, connect) -> None:
    kept = connect()
    kept.sendall(GET_LIVE)
    assert kept.recv(65536).startswith(b"HTTP/1.1 200")
    admin.stop()
    assert is_closed(kept)


def test_what_clients_ask_and_do_not_wait_for_is_not_kept(admin, ask, connect) -> None:
    for _ in range(300):
        client = connect()
        client.sendall(GET_LIVE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
    assert ask("/live") == (200, "live\n")
    assert len(admin.connections) <= admin.MOST_CONNECTIONS


@pytest.mark.parametrize(
    "sent",
    [
        GET_LIVE * 1000,
        b"GET /snapshot HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
        b"GET /flames HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
        b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
        b"POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
    ],
    ids=["live", "snapshot", "flames", "events", "chunks"],
)
def test_nobody_at_the_admin_address_keeps_the_event_loop(serve_app, sent: bytes) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    port = json.loads(server.ready_file.read_text())["admin"]["port"]
    end = time.monotonic() + ATTACK_SECONDS
    attacking = threading.Thread(target=attack, args=(port, sent, end), daemon=True)
    attacking.start()
    worst = 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        assert server.get() == 200
        assert status_of(port, "/ready") == 200
        worst = max(worst, time.monotonic() - began)
    assert worst < ATTACK_SECONDS / 2
    attacking.join(PATIENCE)
    assert "Traceback" not in server.said


@pytest.mark.parametrize("digits", [10, 5000])
def test_an_absurd_number_in_a_query_is_no_error(serve_app, digits: int) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    port = json.loads(server.ready_file.read_text())["admin"]["port"]
    for page in (f"/flames?part={'1' * digits}", f"/snapshot?process={'1' * digits}"):
        assert status_of(port, page, "localhost") == 200
    assert "Traceback" not in server.said


def test_probes_are_answered_until_the_shutdown_is_over_and_do_not_delay_it(serve_app) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    port = json.loads(server.ready_file.read_text())["admin"]["port"]
    running = server.asked("/wait/1")
    with plain.create_connection(("127.0.0.1", port)) as kept, plain.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"GET /li")
        kept.sendall(GET_LIVE)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        server.signal(signal.SIGTERM)
        server.until(lambda: "SIGTERM" in server.said)
        server.until(lambda: status_of(port, "/ready") == 503)
        kept.sendall(GET_LIVE)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        assert running() == 200
        assert server.ended() == 0


def attack(port: int, sent: bytes, end: float) -> None:
    """Send the same data repeatedly, and read the responses; reconnect whenever the connection is closed."""
    while time.monotonic() < end:
        with plain.create_connection(("127.0.0.1", port), PATIENCE) as client, contextlib.suppress(OSError):
            threading.Thread(target=read_until, args=(client, end), daemon=True).start()
            while time.monotonic() < end:
                client.sendall(sent)


def read_until(client: plain.socket, end: float) -> None:
    """Read until the time `end`; then shut the connection down, which also wakes a greenlet that sends on it."""
    with contextlib.suppress(OSError):
        while time.monotonic() < end and client.recv(65536):
            pass
        client.shutdown(plain.SHUT_RDWR)


def status_of(port: int, path: str, host: str = "x") -> int:
    with plain.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(client.recv(65536).split()[1])
