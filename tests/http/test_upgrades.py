"""Tests of connections that applications take over: raw bytes, slots, deadlines, logs and shutdown."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import sys
import time
from contextvars import ContextVar

import gevent
import gevent.pywsgi
import gevent.selectors
import gevent.ssl
import pytest
import trustme
from gevent.event import Event
from gevent.pywsgi import WSGIHandler

from intralb_gevent import LoadBalancer, Options, WSGIServer, current_session
from intralb_gevent.hub.forks import FORKS
from intralb_gevent.pool import upgrades

OFFER = b"GET /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ONE_SLOT = {"max_concurrent_per_router": 1, "max_workers": 1, "queue_size": 0, "client_key": "off"}
TEXT = [("Content-Type", "text/plain")]


def answer(start_response, text=b"done"):
    start_response("200 OK", TEXT)
    return [text]


def echoing(environ, start_response):
    """Take over the connection and echo data on it; answer requests without an upgrade offer normally."""
    if "gunicorn.socket" not in environ:
        return answer(start_response)
    sock = environ["gunicorn.socket"]
    sock.sendall(b"taken ")
    while data := sock.recv(4096):
        sock.sendall(data)
    return []


def read(client, size):
    data = b""
    while len(data) < size and (part := client.socket.recv(size - len(data))):
        data += part
    return data


def taken(server, connect, path=b"/raw"):
    """Connect, and return the client once the application has taken over its connection."""
    client = connect(server)
    client.send(OFFER.replace(b"/raw", path))
    assert read(client, 6) == b"taken "
    return client


def test_the_bytes_are_the_application_s_alone_and_those_behind_the_request_come_first(serve, connect) -> None:
    client = connect(serve(echoing))
    client.send(OFFER + b"first")
    assert read(client, 11) == b"taken first"
    client.send(b"x" * 300_000)
    assert read(client, 300_000) == b"x" * 300_000
    client.socket.shutdown(1)
    assert client.rest() == b""


@pytest.mark.parametrize("has_forked", [False, True])
def test_a_duplicate_of_the_socket_receives_the_bytes_behind_the_request(
    serve, connect, monkeypatch, has_forked
) -> None:
    monkeypatch.setattr(FORKS, "made", has_forked)

    def application(environ, start_response):
        with environ["gunicorn.socket"].dup() as duplicate:
            environ["gunicorn.socket"].close()
            return echoing({"gunicorn.socket": duplicate}, start_response)

    client = connect(serve(application))
    client.send(OFFER + b"first")
    assert read(client, 11) == b"taken first"
    client.send(b"more")
    assert read(client, 4) == b"more"
    client.socket.shutdown(socket.SHUT_WR)
    assert client.rest() == b""


LARGE = 20_000_000
"""Number of bytes that exceeds the buffers of both ends, so that sending waits for the client."""


def sending_with_send(environ, start_response):
    """Send much data with one `send()`, as simple-websocket does, while another greenlet sends a little."""
    sock = environ["gunicorn.socket"]
    little = gevent.spawn(sock.send, b"little")
    much = gevent.spawn(sock.sendall, b"y" * LARGE)
    assert sock.send(b"x" * LARGE) == LARGE
    gevent.joinall([little, much])
    return []


def assert_each_is_whole(data):
    assert len(data) == 2 * LARGE + len(b"little")
    for part in (b"x" * LARGE, b"y" * LARGE, b"little"):
        assert part in data


def test_send_sends_all_and_greenlets_that_send_do_not_mix_their_bytes(serve, connect) -> None:
    client = connect(serve(sending_with_send))
    client.send(OFFER)
    assert_each_is_whole(client.rest())


def test_send_with_a_timeout_may_send_a_part(serve, connect) -> None:
    def application(environ, start_response):
        sock = environ["gunicorn.socket"]
        sock.settimeout(0.01)
        sent = sock.send(b"x" * LARGE)
        sock.settimeout(None)
        sock.sendall(b" %d" % sent)
        return []

    client = connect(serve(application))
    client.send(OFFER)
    data, _, sent = client.rest().partition(b" ")
    assert len(data) == int(sent) < LARGE


def test_it_takes_neither_a_slot_nor_a_deadline(serve, connect, eventually) -> None:
    left = []

    def application(environ, start_response):
        if "gunicorn.socket" not in environ:
            return answer(start_response)
        environ["gunicorn.socket"].sendall(b"taken ")
        left.append(environ["intralb.deadline"].remaining())
        return echoing(environ, start_response)

    server = serve(application, **ONE_SLOT, request_timeout_seconds=5)
    clients = [taken(server, connect) for _ in range(20)]
    assert connect(server).get().body == b"done"
    snapshot = server.balancer.snapshot()
    assert (snapshot.upgraded, snapshot.running, snapshot.outcomes["completed"]) == (20, 0, 21)
    assert min(left) > 1_000_000
    for client in clients:
        client.close()
    eventually(lambda: server.balancer.snapshot().upgraded == 0)


def test_its_job_is_logged_as_switched(serve, connect, caplog, eventually) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent.jobs")
    server = serve(echoing, enable_logging=True)
    taken(server, connect)
    (line,) = eventually(lambda: [r.getMessage() for r in caplog.records if r.name == "intralb_gevent.jobs"])
    assert line.startswith("GET /raw 101 completed worker=1 ")


def test_looking_at_the_environ_takes_nothing_over(serve, connect) -> None:
    def application(environ, start_response):
        seen = f"{environ}{dict(environ)['gunicorn.socket']!r}{bool(environ['gunicorn.socket'])}"
        return answer(start_response, seen.encode()[-4:])

    client = connect(serve(application))
    for _ in range(2):
        client.send(OFFER)
        assert client.reply().body == b"True"


def asking(environ, start_response):
    """Ask the socket about its addresses and options, as middleware may do, and respond normally."""
    sock = environ["gunicorn.socket"]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    asked = (sock.family, sock.type & 1, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) > 0)
    assert asked == (socket.AF_INET, 1, True)
    return answer(start_response, f"{sock.getpeername()} {sock.getsockname()}".encode())


def test_questions_about_the_socket_take_nothing_over(serve, connect) -> None:
    server = serve(asking)
    client = connect(server)
    for _ in range(2):
        client.send(OFFER)
        local, peer = client.socket.getsockname(), client.socket.getpeername()
        assert client.reply().body.decode() == f"{local} {peer}"
    assert server.balancer.snapshot().upgraded == 0


def test_with_a_handler_class_too_questions_take_nothing_over(connect) -> None:
    server = WSGIServer(("127.0.0.1", 0), asking, handler_class=WSGIHandler, log=None)
    server.start()
    try:
        client = connect(server)
        client.send(OFFER)
        assert client.reply().body.decode() == f"{client.socket.getsockname()} {client.socket.getpeername()}"
        client.close()
    finally:
        server.stop(1)


def pywsgi(balance, application):
    return gevent.pywsgi.WSGIServer(("127.0.0.1", 0), balance(application), log=None)


def with_handler_class(balance, application):
    return WSGIServer(("127.0.0.1", 0), application, handler_class=WSGIHandler, log=None)


@pytest.mark.parametrize("begin", [pywsgi, with_handler_class])
@pytest.mark.parametrize("size", [0, 1, 5000, 100_000])
def test_inside_pywsgi_the_bytes_right_behind_the_request_reach_the_application(connect, balance, begin, size) -> None:
    server = begin(balance, echoing)
    server.start()
    try:
        client = connect(server)
        client.send(OFFER + b"x" * size)
        assert read(client, 6 + size) == b"taken " + b"x" * size
        client.send(b"more")
        assert read(client, 4) == b"more"
        client.close()
    finally:
        server.stop(1)


@pytest.mark.parametrize("begin", [pywsgi, with_handler_class])
def test_inside_pywsgi_a_client_that_has_reset_its_connection_leaves_no_descriptor(
    connect, balance, begin, eventually
) -> None:
    has_begun, has_ended = Event(), Event()

    def application(environ, start_response):
        has_begun.set()
        has_ended.wait()
        return echoing(environ, start_response)

    server = begin(balance, application)
    server.start()
    try:
        before = len(os.listdir("/dev/fd"))
        client = connect(server)
        client.send(OFFER)
        has_begun.wait()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        has_ended.set()
        eventually(lambda: len(os.listdir("/dev/fd")) <= before)
    finally:
        server.stop(1)


@pytest.mark.parametrize("uses_socket", [True, False])
def test_with_a_handler_class_an_application_that_fails_behind_its_101_is_logged_and_its_connection_closed(
    connect, caplog, eventually, uses_socket
) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "raw")])
        yield b"begun"
        if uses_socket:
            environ["gunicorn.socket"].recv(1)
        raise ValueError("on purpose")

    server = WSGIServer(("127.0.0.1", 0), application, handler_class=WSGIHandler, log=None)
    server.start()
    try:
        client = connect(server)
        client.send(OFFER)
        assert client.rest().endswith(b"begun")
        said = "GET /raw failed after it had taken its connection over: "
        (line,) = eventually(lambda: [line for line in caplog.messages if line.startswith(said)])
        assert ("RuntimeError" if uses_socket else "ValueError") in line
        client.close()
    finally:
        server.stop(1)


def test_over_tls_too_questions_take_nothing_over(tls_client) -> None:
    client = tls_client(asking)
    client.sendall(OFFER)
    assert client.recv(65536).endswith(f"{client.getsockname()} {client.getpeername()}".encode())


def test_requests_without_an_offer_are_offered_nothing(serve, connect) -> None:
    def application(environ, start_response):
        return answer(start_response, str("gunicorn.socket" in environ).encode())

    server = serve(application)
    client = connect(server)
    assert client.get().body == b"False"
    assert client.get(headers="Upgrade: raw\r\n").body == b"False"
    client.send(OFFER.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"))
    assert client.reply().body == b"False"
    old = connect(server)
    old.send(OFFER.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert old.rest().endswith(b"False")


def test_earlier_responses_are_sent_before(serve, connect) -> None:
    def application(environ, start_response):
        if "gunicorn.socket" in environ:
            return echoing(environ, start_response)
        return answer(start_response, b"x" * 20_000_000)

    client = connect(serve(application))
    client.send(GET + GET + OFFER)
    assert len(client.reply().body) == 20_000_000
    assert len(client.reply().body) == 20_000_000
    rest = client._judge.trailing_data[0]
    assert rest + read(client, 6 - len(rest)) == b"taken "


def test_an_application_that_has_begun_its_response_cannot_take_over(serve, connect, caplog) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)(b"begun")
        environ["gunicorn.socket"].sendall(b"taken ")
        return []

    client = connect(serve(application))
    client.send(OFFER)
    assert client.rest().endswith(b"begun\r\n")
    assert "the response has begun" in caplog.text


def test_what_the_application_returns_is_dropped_and_the_socket_closed(serve, connect, eventually) -> None:
    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        return answer(start_response, b"no response")

    server = serve(application)
    assert taken(server, connect).rest() == b""
    eventually(lambda: server.balancer.snapshot().upgraded == 0)


def test_a_generator_may_take_over(serve, connect) -> None:
    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        yield b"no response"

    assert taken(serve(application), connect).rest() == b""


@pytest.mark.parametrize("error", [StopIteration, ConnectionError, BrokenPipeError])
def test_what_libraries_end_with_is_silent(serve, connect, caplog, error, eventually) -> None:
    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        raise error

    server = serve(application)
    assert taken(server, connect).rest() == b""
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert "Traceback" not in caplog.text


def test_errors_after_the_client_has_left_are_silent(serve, connect, caplog, eventually) -> None:
    def application(environ, start_response):
        sock = environ["gunicorn.socket"]
        sock.sendall(b"taken ")
        raise ValueError(sock.recv(1))

    server = serve(application)
    taken(server, connect).close()
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert "Traceback" not in caplog.text


def test_an_error_of_the_application_is_logged_and_closes_the_connection(serve, connect, caplog, eventually) -> None:
    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        raise ValueError("on purpose")

    server = serve(application)
    assert taken(server, connect).rest() == b""
    eventually(lambda: "on purpose" in caplog.text)
    assert "GET /raw failed after it had taken its connection over: ValueError" in caplog.text
    assert server.balancer.snapshot().outcomes["failed"] == 0


def test_one_too_many_is_answered_503(serve, connect, eventually) -> None:
    server = serve(echoing, max_upgraded=1)
    first, second = taken(server, connect), connect(server)
    second.send(OFFER)
    refused = second.reply()
    assert (refused.status, refused.headers["x-intralb-reason"]) == (503, "upgraded")
    assert second.get().body == b"done"
    first.close()
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    second.send(OFFER)
    assert read(second, 6) == b"taken "


def test_sessions_last_until_the_application_ends(serve, connect, eventually) -> None:
    closed = []

    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        environ["gunicorn.socket"].sendall(current_session())
        return echoing(environ, start_response)

    server = serve(application, db_init_func=lambda worker_id: b"session", db_close_func=closed.append)
    client = taken(server, connect)
    assert read(client, 7) == b"session"
    assert not closed
    client.close()
    eventually(lambda: closed == [b"session"])


def test_context_variables_stay(serve, connect) -> None:
    variable: ContextVar[bytes] = ContextVar("variable", default=b"lost")

    def application(environ, start_response):
        variable.set(b"kept")
        environ["gunicorn.socket"].sendall(b"taken ")
        environ["gunicorn.socket"].sendall(variable.get())
        return []

    assert taken(serve(application), connect).rest() == b"kept"


def test_leaving_aborts_no_application_that_has_taken_over(serve, connect, eventually) -> None:
    ended = []

    def application(environ, start_response):
        try:
            echoing(environ, start_response)
            ended.append(environ["intralb.client_disconnected"]())
        except BaseException as error:
            ended.append(error)
        return []

    server = serve(application, cancel_on_disconnect=True)
    taken(server, connect).close()
    eventually(lambda: ended == [True])
    assert server.balancer.snapshot().outcomes["disconnected"] == 0


def test_it_says_whether_the_client_is_there(serve, connect) -> None:
    def application(environ, start_response):
        sock = environ["gunicorn.socket"]
        sock.sendall(b"taken ")
        sock.sendall(str(environ["intralb.client_disconnected"]()).encode())
        return []

    assert taken(serve(application), connect).rest() == b"False"


# 101 by start_response.

SWITCH = [("Connection", "Upgrade"), ("Upgrade", "raw"), ("X-More", "1")]


def test_an_application_may_answer_101_and_return_raw_bytes(serve, connect, eventually) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        return iter([b"raw ", b"bytes"])

    server = serve(application, **ONE_SLOT)
    client = connect(server)
    client.send(OFFER)
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\nX-More: 1\r\n\r\n"
    assert client.rest() == head + b"raw bytes"
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert server.balancer.snapshot().outcomes["completed"] == 1


@pytest.mark.parametrize("body", [[], [b"raw bytes"], [b"raw ", b"bytes"]])
def test_raw_bytes_may_be_a_list(serve, connect, body) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        return body

    client = connect(serve(application))
    client.send(OFFER)
    assert client.rest().partition(b"\r\n\r\n")[2] == b"".join(body)


def test_the_socket_works_behind_a_101(serve, connect) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        sock = environ["gunicorn.socket"]
        sock.sendall(sock.recv(5))
        return [b" and raw"]

    client = connect(serve(application))
    client.send(OFFER + b"hello")
    head, _, rest = client.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == b"hello and raw"


def test_101_without_an_offer_is_an_error(serve, connect) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        return []

    assert connect(serve(application)).get().status == 500


def test_a_101_before_which_the_application_fails_is_500(serve, connect) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        raise ValueError("on purpose")

    client = connect(serve(application))
    client.send(OFFER)
    assert client.reply().status == 500
    assert client.get().status == 500


def test_a_101_that_the_application_takes_back_is_not_sent(serve, connect) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", SWITCH)
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("400 Bad Request", TEXT, sys.exc_info())
        return [b"no"]

    client = connect(serve(application))
    client.send(OFFER)
    assert (reply := client.reply()).status == 400
    assert reply.body == b"no"
    assert client.get("/again").status == 500


@pytest.mark.parametrize("header", [("X-Bad", "1\r\nX-More: 2"), ("X\n", "1")])
def test_a_101_with_a_line_break_in_a_header_is_500(serve, connect, header) -> None:
    def application(environ, start_response):
        start_response("101 Switching Protocols", [*SWITCH, header])
        return []

    client = connect(serve(application))
    client.send(OFFER)
    assert client.reply().status == 500


# The end, beside a client that still sends.


def sending_a_file(environ, start_response):
    """Send data that fills the kernel's buffers, and return without reading what the client sends meanwhile."""
    environ["gunicorn.socket"].sendall(b"taken " + b"x" * SENT)
    return []


def closing_in_another_greenlet(environ, start_response):
    """Do the same, while the socket is read and then closed by another greenlet, as simple-websocket does."""
    sock, sent = environ["gunicorn.socket"], Event()

    def read_and_close():
        while not sent.is_set():
            sock.recv(1)
        sock.close()

    gevent.spawn(read_and_close)
    sending_a_file(environ, start_response)
    sent.set()
    return []


SENT = 3_000_000


@pytest.mark.parametrize("application", [sending_a_file, closing_in_another_greenlet])
@pytest.mark.parametrize("forked", [False, True])
def test_a_client_that_still_sends_receives_all_that_the_application_has_sent(
    serve, connect, eventually, monkeypatch, application, forked
) -> None:
    monkeypatch.setattr(FORKS, "made", forked)
    server = serve(application)
    client = connect(server)
    client.send(OFFER + b"unread")
    received = 0
    while part := client.socket.recv(65536):
        received += len(part)
        client.send(b"ping")
    assert received == 6 + SENT
    client.close()
    eventually(lambda: server.balancer.snapshot().upgraded == 0)


def test_a_client_that_sends_without_end_and_reads_nothing_is_closed(serve, connect, eventually, monkeypatch) -> None:
    monkeypatch.setattr(upgrades, "LINGER_SECONDS", 0.1)
    server = serve(sending_a_file)
    client = connect(server)
    client.send(OFFER)

    def talk():
        while True:
            client.socket.sendall(b"ping")
            gevent.sleep(0.001)

    talking = gevent.spawn(talk)
    # The data that does not fit into the kernel's buffers is read, as the application sends without a limit.
    assert read(client, 1_000_000).startswith(b"taken ")
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        talking.get(timeout=5)


def test_a_shutdown_does_not_wait_for_a_client_that_still_sends(serve, connect, eventually) -> None:
    server = serve(sending_a_file)
    client = connect(server)
    client.send(OFFER + b"unread")
    assert read(client, 6 + SENT)
    began = time.monotonic()
    assert server.finish(time.monotonic()) == 0
    assert time.monotonic() - began < 1
    assert client.rest() == b""


# Shutdown.


def test_a_shutdown_ends_connections_after_the_grace_and_cuts_no_request(serve, connect, eventually) -> None:
    ended = []

    def application(environ, start_response):
        echoing(environ, start_response)
        ended.append("by the end of the connection")
        return []

    server = serve(application, graceful_timeout_seconds=0.1)
    client = taken(server, connect)
    finishing = gevent.spawn(server.finish, time.monotonic() + 0.1)
    eventually(lambda: server.balancer.condition == "draining")
    client.send(b"still here")
    assert read(client, 10) == b"still here"
    assert client.rest() == b""
    assert finishing.get() == 0
    assert ended == ["by the end of the connection"]


def test_one_that_ends_in_time_lets_the_shutdown_end_at_once(serve, connect) -> None:
    server = serve(echoing)
    client = taken(server, connect)
    finishing = gevent.spawn(server.finish, time.monotonic() + 20)
    client.close()
    assert finishing.get(timeout=5) == 0


def test_an_application_that_does_not_look_at_its_connection_is_ended(serve, connect) -> None:
    ended = []

    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        try:
            Event().wait()
        finally:
            ended.append("cleaned up")

    server = serve(application, cleanup_seconds=0.1)
    client = taken(server, connect)
    assert server.finish(time.monotonic()) == 0
    assert ended == ["cleaned up"]
    assert client.rest() == b""
    assert server.balancer.snapshot().upgraded == 0


def test_a_server_that_stops_and_starts_again_serves(serve, connect) -> None:
    server = serve(echoing)
    taken(server, connect)
    server.stop(0)
    server.start()
    assert connect(server).get().body == b"done"
    taken(server, connect)


# Middleware in front of the balancer.


@pytest.fixture
def fronted():
    made = []

    def make(middleware, application, **options):
        balancer = LoadBalancer(application, Options(**options))
        made.append(WSGIServer(("127.0.0.1", 0), middleware(balancer), balancer=balancer))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop(0)


def test_an_application_behind_middleware_may_take_over(fronted, connect, eventually) -> None:
    server = fronted(lambda balancer: lambda e, s: balancer(e, s), echoing, **ONE_SLOT)
    clients = [taken(server, connect) for _ in range(3)]
    assert server.balancer.snapshot().upgraded == 3
    assert connect(server).get().body == b"done"
    for client in clients:
        client.socket.shutdown(1)
        assert client.rest() == b""
    eventually(lambda: server.balancer.snapshot().upgraded == 0)


def test_middleware_may_take_over_itself(fronted, connect, eventually) -> None:
    def middleware(balancer):
        return lambda e, s: echoing(e, s) if "gunicorn.socket" in e else balancer(e, s)

    server = fronted(middleware, echoing, max_upgraded=1)
    client = taken(server, connect)
    assert server.balancer.snapshot().upgraded == 1
    refused = connect(server)
    refused.send(OFFER)
    assert refused.reply().status == 503
    assert server.finish(time.monotonic()) == 0
    assert client.rest() == b""
    eventually(lambda: server.balancer.snapshot().upgraded == 0)


# TLS.

AUTHORITY = trustme.CA()


@pytest.fixture
def tls_client():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(trusting)
    servers, clients = [], []

    def make(application):
        server = WSGIServer(("127.0.0.1", 0), application, ssl_context=context)
        server.start()
        servers.append(server)
        plain = gevent.socket.create_connection(("127.0.0.1", server.server_port))
        clients.append(trusting.wrap_socket(plain, server_hostname="127.0.0.1"))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    for server in servers:
        server.stop(0)


def exactly(sock, size):
    data = bytearray()
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return bytes(data)


def test_over_tls_the_application_gets_plain_bytes(tls_client) -> None:
    client = tls_client(echoing)
    client.sendall(OFFER + b"first")
    assert exactly(client, 11) == b"taken first"
    # Read more data than the buffers of both sides hold, so that the server must wait while it sends, too.
    reading = gevent.spawn(exactly, client, 5_000_000)
    client.sendall(b"x" * 5_000_000)
    assert reading.get() == b"x" * 5_000_000
    client.unwrap()


def test_over_tls_the_end_of_an_application_that_returns_is_no_cut(tls_client) -> None:
    client = tls_client(sending_a_file)
    client.sendall(OFFER + b"unread")
    assert exactly(client, 6 + SENT).startswith(b"taken ")
    # unwrap() raises SSLEOFError without the server's close_notify.
    client.unwrap()


def test_over_tls_send_sends_all_too(tls_client) -> None:
    client = tls_client(sending_with_send)
    client.sendall(OFFER)
    assert_each_is_whole(exactly(client, 3 * LARGE))


def test_over_tls_select_reports_data_that_the_application_has_not_read_yet(tls_client) -> None:
    """simple-websocket reads in pieces of 4096 bytes and, with a `ping_interval`, calls `select` before each piece."""
    left = []

    def application(environ, start_response):
        sock, read = environ["gunicorn.socket"], b""
        sock.sendall(b"taken")
        selector = gevent.selectors.DefaultSelector()
        selector.register(sock, gevent.selectors.EVENT_READ)
        while len(read) < 100_000 and selector.select(5.0):
            read += sock.recv(4096)
        left.extend(selector.select(0))
        # gevent needs this: libev aborts the process if a descriptor is closed that a selector still watches.
        selector.close()
        sock.sendall(b"%d" % len(read))
        return []

    client = tls_client(application)
    client.sendall(OFFER)
    assert exactly(client, 5) == b"taken"
    client.sendall(b"x" * 100_000)
    assert exactly(client, 6) == b"100000"
    assert not left


def test_over_tls_a_file_and_a_timeout_work(tls_client) -> None:
    def application(environ, start_response):
        sock = environ["gunicorn.socket"]
        file = sock.makefile("rb")
        sock.sendall(file.readline())
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.sendall(b"in time")
        return []

    client = tls_client(application)
    client.sendall(OFFER + b"a line\n")
    assert exactly(client, 14) == b"a line\nin time"
    assert client.recv(1) == b""
