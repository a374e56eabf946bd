"""If a request waited in its socket while the event loop was blocked, its time limit counts from its arrival.

The handler of /block sends other clients' requests itself, and then blocks the loop, so that the requests wait in their
sockets while the loop is blocked, independently of the machine's speed.
"""

import contextlib
import json
import logging
import socket
import ssl
import sys
import time

import gevent.socket
import gevent.ssl
import pytest
import trustme

from intralb_gevent import LoadBalancer, Options, Route, WSGIServer
from intralb_gevent.http.tcpinfo import seconds_since_data
from intralb_gevent.hub.busy import HubWatch

BLOCKED = 0.6
SHORT, LONG = 0.3, 20.0
TEXT = [("Content-Type", "text/plain")]
TIMES = {"request_timeout_seconds": LONG, "routes": [Route("/late", request_timeout_seconds=SHORT)]}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data came")


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def job_lines(caplog):
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "intralb_gevent.jobs"]


class Blocking:
    """An application that blocks the loop at /block after other clients have sent, and records when each
    request's time began.
    """

    def __init__(self) -> None:
        self.meanwhile = lambda: None
        self.sent = self.blocked_until = 0.0
        self.calls: list[str] = []
        self.began: list[float] = []

    def __call__(self, environ, start_response):
        self.calls.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/block":
            self.sent = time.monotonic()
            self.meanwhile()
            time.sleep(BLOCKED)
            self.blocked_until = time.monotonic()
        else:
            self.began.append(environ["intralb.deadline"].began)
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode()]

    def assert_counted_from_arrival(self) -> None:
        """Check that the request's time began after the request was sent, and long before it was read."""
        assert self.began
        for began in self.began:
            assert self.sent <= began <= self.blocked_until - BLOCKED / 2


@pytest.fixture
def blocking():
    return Blocking()


@pytest.fixture
def newcomers():
    """Return a function that connects clients whose connections are accepted only when their requests are read."""
    made = []

    def come(server, count, request):
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=10))
            made[-1].sendall(request)
            # Continue with a gevent socket, so that the client uses the event loop.
            made[-1] = gevent.socket.socket(fileno=made[-1].detach())
            made[-1].settimeout(10)
        return made

    yield come
    for client in made:
        client.close()


def test_what_has_no_time_left_is_refused_without_a_slot(serve, connect, blocking, caplog) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent.jobs")
    server = serve(blocking, **TIMES, enable_logging=True, log_format="json")
    client, late = connect(server), connect(server)
    blocking.meanwhile = lambda: late.send(get("/late"))
    assert client.get("/block").status == 200
    reply = late.reply()
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "expired")
    assert reply.headers["x-intralb-executed"] == "0"
    assert blocking.calls == ["/block"]
    assert late.get("/next").status == 200
    figures = server.balancer.snapshot()
    assert (figures.submitted, figures.ended, figures.outcomes["expired"]) == (3, 3, 1)
    server.balancer.drain(1)
    workers = {line["path"]: line["worker"] for line in job_lines(caplog)}
    assert (workers["/late"], workers["/next"] is None) == (None, False)


def test_so_is_what_came_with_a_connection_that_was_not_accepted_yet(serve, connect, blocking, newcomers) -> None:
    server = serve(blocking, **TIMES)
    # Open more connections than the server accepts in one iteration of the loop.
    count = server.max_accept + 20
    clients = []
    blocking.meanwhile = lambda: clients.extend(newcomers(server, count, get("/late")))
    assert connect(server).get("/block").status == 200
    assert {client.recv(12) for client in clients} == {b"HTTP/1.1 503"}
    assert blocking.calls == ["/block"]
    assert server.balancer.snapshot().outcomes["expired"] == count


def test_what_has_time_is_run_and_its_wait_counts(serve, connect, blocking, newcomers, caplog) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent.jobs")
    server = serve(blocking, request_timeout_seconds=LONG, enable_logging=True, log_format="json")
    client, late = connect(server), connect(server)

    def meanwhile():
        late.send(get("/late"))
        newcomers(server, 1, get("/late"))

    blocking.meanwhile = meanwhile
    assert client.get("/block").status == 200
    assert late.reply().body == b"/late"
    assert client.get("/after").status == 200
    blocking.began.pop()
    assert len(blocking.began) == 2
    blocking.assert_counted_from_arrival()
    assert server.balancer.snapshot().queue_wait.longest > BLOCKED / 2
    server.balancer.drain(1)
    waits = {line["path"]: line["queue_wait_ms"] for line in job_lines(caplog)}
    assert waits["/late"] > BLOCKED / 2 * 1000
    assert waits["/after"] < waits["/late"]


def test_time_that_a_proxy_has_counted_is_not_counted_twice(serve, connect, blocking) -> None:
    server = serve(blocking, request_timeout_seconds=LONG, trusted_proxies=["127.0.0.1"])
    client, late = connect(server), connect(server)
    blocking.meanwhile = lambda: late.send(get("/late", f"X-Request-Start: t={time.time() + 0.001:.6f}\r\n"))
    assert client.get("/block").status == 200
    assert late.reply().status == 200
    blocking.assert_counted_from_arrival()


def test_a_request_behind_the_one_that_kept_the_loop_had_to_wait_anyway(serve, connect, blocking) -> None:
    server = serve(blocking, **TIMES)
    client = connect(server)
    client.send(get("/block") + get("/late"))
    assert [client.reply().body for _ in range(2)] == [b"/block", b"/late"]


def test_below_tls(connect, blocking) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    client_context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    balancer = LoadBalancer(blocking, Options(**TIMES))
    with WSGIServer(("127.0.0.1", 0), balancer, ssl_context=context, log=None) as server:
        server.start()
        client, late = connect(server), connect(server)
        for each in (client, late):
            each.socket = client_context.wrap_socket(each.socket, server_hostname="localhost")
            assert each.get("/first").status == 200
        blocking.meanwhile = lambda: late.send(get("/late"))
        assert client.get("/block").status == 200
        assert late.reply().headers["x-intralb-reason"] == "expired"


def test_over_a_unix_socket_it_counts_from_when_it_is_read(blocking, tmp_path) -> None:
    listener = gevent.socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    balancer = LoadBalancer(blocking, Options(**TIMES))
    clients = [gevent.socket.socket(socket.AF_UNIX) for _ in range(2)]
    with WSGIServer(listener, balancer, log=None) as server:
        server.start()
        for client in clients:
            client.connect(str(tmp_path / "socket"))
        blocking.meanwhile = lambda: clients[1].sendall(get("/late"))
        clients[0].sendall(get("/block"))
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
    assert blocking.calls == ["/block", "/late"]


# Arrival times reported by the kernel.


def test_it_is_never_told_to_have_come_before_it_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for turn in range(50):
            with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as accepted:
                before = time.monotonic()
                client.sendall(b"x")
                time.sleep(0.0007 * turn)
                told = seconds_since_data(accepted)
                assert told <= time.monotonic() - before
    assert told > 0


def test_nothing_is_told_of_other_sockets() -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"x")
        assert seconds_since_data(one) == 0.0


# Detection of a late hub.


@pytest.fixture
def watch():
    watch = HubWatch(gevent.get_hub().loop, 1000, lambda: None)
    yield watch
    watch.stop()


def late(watch) -> bool:
    return time.monotonic() >= watch.late_after


def test_a_hub_is_late_with_what_came_during_a_long_stretch_and_then_no_more(watch, eventually) -> None:
    watch.start()
    gevent.sleep(0.001)
    eventually(lambda: not late(watch))
    found: list[bool] = []

    def next_is_on_time():
        count = len(found)
        theirs.sendall(b"x")
        eventually(lambda: len(found) > count)
        return not found[-1]

    with contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        reader = stack.enter_context(gevent.get_hub().loop.io(ours.fileno(), 1))
        reader.start(lambda: (ours.recv(1), found.append(late(watch))))
        theirs.sendall(b"x")
        time.sleep(0.1)
        assert late(watch)
        eventually(lambda: found)
        assert found == [True]
        eventually(next_is_on_time)


def test_a_hub_that_is_not_watched_is_never_late(watch, eventually) -> None:
    assert not late(watch)
    watch.start()
    time.sleep(0.1)
    gevent.sleep(0.001)
    watch.stop()
    assert not late(watch)
