"""Tests of clients that connect, wait, are rejected, are slow, and disconnect."""

import contextlib
import gc
import logging
import os
import struct
import tempfile
import time
from collections import Counter
from wsgiref.validate import validator

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, WSGIServer
from intralb_gevent.http import accepting
from intralb_gevent.http import server as server_module
from intralb_gevent.http.output import UNSENT_MOST_BYTES
from intralb_gevent.hub.log import all_dropped

REQUEST = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TEXT = [("Content-Type", "text/plain")]


def reset(client) -> None:
    """Disconnect by a reset, which the server cannot mistake for a shutdown of the sending side."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.fixture
def door():
    return Event()


@pytest.fixture
def calls():
    return []


@pytest.fixture
def waiting(door, calls):
    """Return an application that responds when the test sets the event `door`."""

    def application(environ, start_response):
        calls.append(environ["PATH_INFO"])
        door.wait()
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode()]

    return validator(application)


def test_one_slot_one_place_five_requests(serve, connect, waiting, door, calls) -> None:
    server = serve(waiting, max_concurrent_per_router=1, queue_size=1, max_workers=1)

    def request(client):
        began = time.monotonic()
        reply = client.get()
        return reply, time.monotonic() - began

    asked = [gevent.spawn(request, connect(server)) for _ in range(5)]
    refused = [greenlet.get() for greenlet in gevent.iwait(asked, count=3)]
    assert [reply.status for reply, _ in refused] == [503] * 3
    assert {reply.headers["x-intralb-reason"] for reply, _ in refused} == {"queue_full"}
    assert max(seconds for _, seconds in refused) < 0.05
    door.set()
    gevent.joinall(asked)
    assert sorted(greenlet.get()[0].status for greenlet in asked) == [200, 200, 503, 503, 503]
    assert len(calls) == 2


def test_a_refused_connection_stays_usable(serve, connect, waiting, door, calls, eventually) -> None:
    server = serve(waiting, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    first, second = connect(server), connect(server)
    first.send(REQUEST)
    eventually(lambda: calls)
    assert second.get().status == 503
    door.set()
    assert first.reply().status == 200
    assert second.get().status == 200


@pytest.mark.parametrize("sent", ["POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", "GET / HT"])
def test_a_request_that_has_not_arrived_when_the_server_stops_is_told_so(serve, connect, echo, caplog, sent) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent")
    server = serve(echo)
    client = connect(server)
    client.send(sent)
    gevent.wait([gevent.spawn(server.stop, 0.05)])
    reply = client.reply()
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "draining")
    assert reply.headers["x-intralb-executed"] == "0"
    assert "refused a request from 127.0.0.1: 503" in caplog.text


def test_idle_and_half_sent_requests_hold_no_slot(serve, connect, echo) -> None:
    server = serve(validator(echo), max_concurrent_per_router=1, queue_size=0, max_workers=1)
    idle = [connect(server) for _ in range(50)]
    for client in idle[::2]:
        client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert connect(server).get().status == 200
    assert server.balancer.snapshot().running == 0


def test_504_while_running_and_the_connection_goes_on(serve, connect, waiting, door) -> None:
    client = connect(serve(waiting, request_timeout_seconds=0.05))
    assert client.get().status == 504
    door.set()
    assert client.get().status == 200


def test_503_when_the_deadline_passes_in_the_queue(serve, connect, door, calls, eventually) -> None:
    def application(environ, start_response):
        calls.append(environ["PATH_INFO"])
        try:
            Event().wait()
        finally:
            # Let the first request clean up until after the second request's deadline, while it holds the only slot.
            door.wait()

    server = serve(application, max_concurrent_per_router=1, queue_size=5, max_workers=1, request_timeout_seconds=0.05)
    first, second = connect(server), connect(server)
    first.send(REQUEST)
    eventually(lambda: calls)
    second.send(REQUEST)
    assert first.reply().status == 504
    reply = second.reply()
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "expired")
    door.set()
    assert calls == ["/"]


def test_after_headers_silence_cuts_the_connection_without_a_final_chunk(serve, connect) -> None:
    ended = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            yield b"begun"
            Event().wait()
        finally:
            ended.append(True)

    client = connect(serve(validator(application), stream_idle_timeout_seconds=0.05))
    client.send(REQUEST)
    assert client.rest().endswith(b"\r\n5\r\nbegun\r\n")
    gevent.sleep(0)
    assert ended


def test_a_client_that_leaves_while_it_waits_is_never_run(serve, connect, waiting, door, calls, eventually) -> None:
    server = serve(waiting, max_concurrent_per_router=1, queue_size=5, max_workers=1)
    first, second = connect(server), connect(server)
    first.send("GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: calls)
    second.send("GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().queued == 1)
    reset(second)
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)
    door.set()
    assert first.reply().body == b"/first"
    assert calls == ["/first"]


@pytest.fixture
def computing(calls):
    """Return an application that computes for longer than the server may defer the responses to other requests."""

    def application(environ, start_response):
        calls.append(environ["PATH_INFO"])
        end = time.monotonic() + 0.005
        while time.monotonic() < end:
            pass
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode()]

    return application


def test_one_that_leaves_while_slots_are_free_and_others_compute_is_never_run(
    serve, connect, computing, calls, eventually
) -> None:
    server = serve(computing)
    clients = {f"/{number}": connect(server) for number in range(9)}
    for path, client in clients.items():
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: len(calls) == 3)
    leaving = [path for path in clients if path not in calls][:3]
    for path in leaving:
        reset(clients[path])
    assert {clients[path].reply().status for path in clients.keys() - leaving} == {200}
    eventually(lambda: server.balancer.snapshot().running == 0)
    assert server.balancer.snapshot().outcomes["disconnected"] == 3
    assert set(calls) == clients.keys() - leaving


def test_those_that_finish_sending_at_once_are_answered_though_others_compute(serve, connect, computing) -> None:
    server = serve(computing)
    clients = [connect(server) for _ in range(5)]
    for client in clients:
        client.send(REQUEST)
        client.socket.shutdown(1)
    assert [client.reply().status for client in clients] == [200] * 5


def test_a_client_that_leaves_while_it_is_served_is_noticed_at_the_next_write(serve, connect, eventually) -> None:
    closed = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        try:
            while True:
                gevent.sleep(0.001)
                yield b"x" * 1000
        finally:
            closed.append(True)

    server = serve(validator(application))
    client = connect(server)
    client.send(REQUEST)
    client.socket.recv(100)
    client.close()
    eventually(lambda: closed)
    assert eventually(lambda: server.balancer.snapshot().outcomes["disconnected"]) == 1
    assert not server.connections


def test_one_that_has_only_finished_sending_gets_all_its_answers(serve, connect, echo) -> None:
    client = connect(serve(validator(echo)))
    client.send(REQUEST * 3)
    client.socket.shutdown(1)
    assert [client.reply().status for _ in range(3)] == [200] * 3
    assert client.closed_by_server


QUICK = {"write_timeout_seconds": 1}


@pytest.mark.parametrize("head", ["HTTP/1.1\r\nHost: x\r\nConnection: close", "HTTP/1.0"])
@pytest.mark.parametrize("framing", ["length", "none"])
def test_a_client_that_sends_behind_its_last_request_gets_the_whole_answer(serve, connect, head, framing) -> None:
    size = 2_000_000

    def application(environ, start_response):
        start_response("200 OK", [])
        parts = [b"x" * size, b"end"]
        return [b"".join(parts)] if framing == "length" else iter(parts)

    server = serve(application)
    client = connect(server)
    client.send(f"GET / {head}\r\n\r\n")
    answer = bytearray()
    while part := client.socket.recv(65536):
        answer += part
        client.send(b"\r\n")
    assert b"x" * size in answer
    assert b"end" in answer[-20:]
    client.close()
    assert server.finish(time.monotonic() + 5) == 0


def test_one_that_never_reads_its_last_answer_is_closed(serve, connect, eventually) -> None:
    server = serve(lambda environ, start_response: start_response("200 OK", []) and [b"x" * 500_000], **QUICK)
    client = connect(server)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send("GET / HTTP/1.0\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["completed"])
    eventually(lambda: not server.connections)


def test_an_idle_connection_is_closed_after_keep_alive_seconds(serve, connect, echo, monkeypatch) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)
    client = connect(serve(echo, keep_alive_seconds=0.05))
    assert client.get().status == 200
    assert client.closed_by_server


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        ("GET / HTTP/1.1\r\nHost", "header_timeout_seconds"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "body_timeout_seconds"),
    ],
)
def test_a_request_that_does_not_arrive_is_answered_408(
    serve, connect, echo, monkeypatch, eventually, sent, limit
) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)
    server = serve(echo, **{limit: 0.05})
    client = connect(server)
    client.send(sent)
    assert client.reply().status == 408
    assert client.closed_by_server
    client.close()
    eventually(lambda: not server.connections)


def test_a_client_that_says_nothing_is_closed_without_a_word(serve, connect, echo, monkeypatch) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)
    assert connect(serve(echo, header_timeout_seconds=0.05)).closed_by_server


def test_a_client_that_does_not_read_is_cut(serve, connect, monkeypatch, eventually) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return [b"x" * 20_000_000]

    server = serve(application, write_timeout_seconds=0.05)
    connect(server).send(REQUEST)
    eventually(lambda: server.connections)
    eventually(lambda: not server.connections)
    assert (server.shared.budget.in_memory, server.shared.budget.in_files) == (0, 0)


def test_a_bug_of_ours_closes_one_connection_and_is_reported(serve, connect, echo, monkeypatch, caplog) -> None:
    server = serve(echo)
    monkeypatch.setattr(server.shared, "submit", lambda environ, exchange: 1 / 0)
    client = connect(server)
    client.send(REQUEST)
    assert client.closed_by_server
    assert "ZeroDivisionError" in caplog.text


def test_an_application_can_ask_whether_its_client_has_left(serve, connect, eventually) -> None:
    seen = []

    def application(environ, start_response):
        has_left = environ["intralb.client_disconnected"]
        seen.append(has_left())
        while not has_left():
            gevent.sleep(0.001)
        seen.append(has_left())
        start_response("200 OK", TEXT)
        return [b""]

    client = connect(serve(validator(application)))
    client.send(REQUEST)
    eventually(lambda: seen)
    client.close()
    eventually(lambda: seen == [False, True])


def test_cancel_on_disconnect_ends_a_running_request(serve, connect, eventually) -> None:
    ended = []

    def application(environ, start_response):
        try:
            Event().wait()
        finally:
            ended.append(time.monotonic())

    server = serve(validator(application), cancel_on_disconnect=True)
    client = connect(server)
    client.send(REQUEST)
    eventually(lambda: server.balancer.snapshot().running)
    left = time.monotonic()
    client.close()
    eventually(lambda: ended)
    assert ended[0] - left < 0.2
    assert server.balancer.snapshot().outcomes["disconnected"] == 1
    assert not server.connections


@pytest.mark.parametrize("end", ["late", "killed"])
def test_nor_does_one_that_cannot_be_answered_harm_others(serve, connect, eventually, end) -> None:
    def application(environ, start_response):
        Event().wait()

    seconds = 0.2 if end == "late" else 20
    server = serve(application, cancel_on_disconnect=True, request_timeout_seconds=seconds, max_workers=1)
    leaving, staying = connect(server), connect(server)
    # Fill the pipeline, so that the server stops reading the connection and does not notice the disconnect.
    leaving.send(REQUEST * 40)
    eventually(lambda: server.balancer.snapshot().running)
    staying.send(REQUEST)
    eventually(lambda: server.balancer.snapshot().running == 2)
    reset(leaving)
    if end == "killed":
        server.stop(0)
    assert staying.reply().status == (504 if end == "late" else 503)
    eventually(lambda: not server.balancer.snapshot().running)
    outcomes = server.balancer.snapshot().outcomes
    assert {name: count for name, count in outcomes.items() if count} == {"timed_out" if end == "late" else end: 2}


@pytest.mark.parametrize("has_middleware", [False, True], ids=["in a slot", "in front"])
def test_a_log_that_fails_costs_neither_the_answer_nor_the_slot(connect, request, has_middleware) -> None:
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            raise ValueError
        start_response("200 OK", TEXT)
        return [b"hello"]

    def no_room(record):
        raise OSError("no room")

    logger = logging.getLogger("intralb_gevent")
    logger.addFilter(no_room)
    request.addfinalizer(lambda: logger.removeFilter(no_room))
    balancer = LoadBalancer(application, Options(max_concurrent_per_router=1, queue_size=0, max_workers=1))
    dropped = all_dropped()
    with WSGIServer(("127.0.0.1", 0), application if has_middleware else balancer, balancer=balancer) as server:
        server.start()
        client = connect(server)
        assert [client.get(path).status for path in ("/fails", "/fails", "/")] == [500, 500, 200]
    assert all_dropped() == dropped + 2


def test_a_file_whose_head_cannot_be_kept_is_cut_and_closed(serve, connect, eventually, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    (tmp_path / "none").write_bytes(b"")

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"))

    server = serve(application)
    # Leave no memory in the budget, and no directory for temporary files.
    server.shared.budget.memory_limit = -1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    before = os.listdir("/proc/self/fd")
    client = connect(server)
    client.send(REQUEST)
    assert client.rest() == b""
    client.close()
    eventually(lambda: not server.connections)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_one_connection_too_many_is_told_so_and_the_others_go_on(serve, connect, echo, eventually) -> None:
    server = serve(validator(echo), max_connections=3)
    clients = [connect(server) for _ in range(3)]
    assert [client.get().status for client in clients] == [200] * 3
    late = connect(server)
    reply = late.get()
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "connections")
    assert late.closed_by_server
    assert [client.get().status for client in clients] == [200] * 3
    clients[0].close()
    late.close()
    eventually(lambda: len(server.connections) == 2)
    assert connect(server).get().status == 200


def test_beyond_that_they_are_closed_and_accepting_goes_on(serve, connect, echo, monkeypatch) -> None:
    monkeypatch.setattr(accepting, "REFUSED_CONNECTIONS", 1)
    server = serve(echo, max_connections=1)
    clients = [connect(server) for _ in range(5)]
    assert clients[0].get().status == 200
    assert sum(client.rest() == b"" for client in clients[1:]) == 3
    assert clients[0].get().status == 200


def test_unsent_answers_beyond_the_budget_wait_in_files(serve, connect, eventually, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "UNSENT_IN_MEMORY_BYTES", 1_000_000)
    big = bytes(range(256)) * 40_000

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/stream":
            return iter([big[start : start + 100_000] for start in range(0, len(big), 100_000)])
        return [big]

    server = serve(application, max_concurrent_per_router=2, max_workers=1)
    clients = [connect(server) for _ in range(6)]
    for number, client in enumerate(clients):
        client.send(f"GET {('/', '/stream')[number % 2]} HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["completed"] == 6)
    assert server.shared.budget.in_memory <= 1_000_000 < server.shared.budget.in_files
    assert [client.reply().body == big for client in clients] == [True] * 6
    assert [client.get().body == big for client in clients] == [True] * 6
    eventually(lambda: (server.shared.budget.in_memory, server.shared.budget.in_files) == (0, 0))


@pytest.mark.parametrize("why", ["late", "failed", "left while waiting"])
def test_an_earlier_answer_does_not_suffer_from_one_that_is_cut(serve, connect, eventually, door, why) -> None:
    big = bytes(range(256)) * 80_000

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/busy":
            door.wait()
        start_response("200 OK", TEXT)
        return broken() if environ["PATH_INFO"] == "/broken" else [big]

    def broken():
        yield b"begun"
        if why == "late":
            door.wait()
        raise ValueError

    # Over TCP, a disconnect looks like a shutdown of the sending side; this option treats both as a disconnect.
    limits = {"late": {"stream_idle_timeout_seconds": 0.05}, "left while waiting": {"cancel_on_disconnect": True}}
    server = serve(application, max_concurrent_per_router=1, max_workers=1, **limits.get(why, {}))
    client, busy = connect(server), connect(server)
    client.send(REQUEST)
    eventually(lambda: server.balancer.snapshot().ended == 1)
    if why == "left while waiting":
        busy.send(REQUEST.replace("/", "/busy", 1))
        eventually(lambda: server.balancer.snapshot().running)
    client.send(REQUEST.replace("/", "/broken", 1))
    eventually(lambda: server.balancer.snapshot().submitted == (3 if "left" in why else 2))
    if why == "left while waiting":
        client.socket.shutdown(socket.SHUT_WR)
    outcome = {"late": "timed_out", "failed": "failed", "left while waiting": "disconnected"}[why]
    eventually(lambda: server.balancer.snapshot().outcomes[outcome])
    assert client.reply().body == big
    assert b"0\r\n\r\n" not in client.rest()
    door.set()


ASKING = ["GET /more HTTP/1.1\r\nHost: x\r\n\r\n", "POST /more HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"]


@pytest.mark.parametrize("asked", ASKING, ids=["get", "post"])
@pytest.mark.parametrize("full", [False, True], ids=["with room", "full"])
def test_who_asks_and_asks_and_does_not_read_has_to_wait(serve, connect, eventually, door, asked, full) -> None:
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/busy":
            door.wait()
        start_response("200 OK", TEXT)
        return [bytes(2 * UNSENT_MOST_BYTES if environ["PATH_INFO"] == "/big" else 1000)]

    server = serve(application, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    client, busy, other = (connect(server) for _ in range(3))
    client.send(REQUEST.replace("/", "/big", 1))
    eventually(lambda: [each for each in server.connections if each.unsent > UNSENT_MOST_BYTES])
    if full:
        busy.send(REQUEST.replace("/", "/busy", 1))
        eventually(lambda: server.balancer.snapshot().running)
    client.send(asked * 200)
    before = server.balancer.snapshot().submitted
    # If the pool is full while this request waits, other requests are rejected.
    assert {other.get().status for _ in range(50)} == {503 if full else 200}
    assert server.balancer.snapshot().submitted - before == 50
    assert client.reply().status == 200
    assert {client.reply("POST").status for _ in range(200)} == {503 if full else 200}
    door.set()


def test_nothing_is_left_to_the_garbage_collector(serve, connect, echo, eventually) -> None:
    server = serve(echo)
    client = connect(server)

    def exchange():
        assert client.get().status == 200
        client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert client.reply("POST").body == b"hi"
        with contextlib.closing(type(client)(server)) as other:
            assert other.get(headers="Connection: close\r\n").status == 200

    exchange()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            exchange()
        eventually(lambda: len(server.connections) == 1)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = Counter(type(thing) for thing in gc.garbage if type(thing).__module__.startswith("intralb_gevent"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    # If an exchange leaked an object, there would be one object per exchange; other tests leave fewer objects.
    assert [kind for kind, count in ours.items() if count >= 20] == []


# Clients that have shut down their sending side.


@pytest.fixture
def over_unix(tmp_path):
    """Return a function that serves an application on a unix socket.

    The function returns the server, and a second function that connects to the server and sends data.
    """
    with contextlib.ExitStack() as stack:

        def start(application, **options):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "sock"))
            listener.listen()
            server = WSGIServer(listener, LoadBalancer(application, Options(**options)))
            server.start()
            stack.callback(server.stop, 0)
            return server, connect

        def connect(sent: str):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(10)
            client.connect(str(tmp_path / "sock"))
            client.sendall(sent.encode())
            return client

        yield start


def all_from(client) -> bytes:
    data = bytearray()
    while part := client.recv(65536):
        data += part
    return bytes(data)


CLOSING = "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_one_that_waits_and_has_finished_sending_is_answered(serve, connect, waiting, door, calls, eventually) -> None:
    server = serve(waiting, max_concurrent_per_router=1, queue_size=5, max_workers=1)
    first, second = connect(server), connect(server)
    first.send(REQUEST)
    eventually(lambda: calls)
    second.send("GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
    second.socket.shutdown(socket.SHUT_WR)
    eventually(lambda: [each for each in server.connections if each.has_left()])
    door.set()
    assert second.reply().body == b"/second"
    assert second.closed_by_server


def test_several_that_wait_behind_each_other_are_answered(serve, connect, waiting, door, calls, eventually) -> None:
    server = serve(waiting, max_concurrent_per_router=1, queue_size=5, max_workers=1)
    client = connect(server)
    client.send(REQUEST * 3)
    client.socket.shutdown(socket.SHUT_WR)
    eventually(lambda: calls)
    door.set()
    assert [client.reply().status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("cancel", [False, True])
def test_a_unix_socket_tells_who_has_left_from_who_has_finished_sending(
    over_unix, waiting, door, calls, eventually, cancel
) -> None:
    limits = {"max_concurrent_per_router": 1, "queue_size": 5, "max_workers": 1}
    server, ask = over_unix(waiting, cancel_on_disconnect=cancel, **limits)
    first = ask(CLOSING.format("first"))
    eventually(lambda: calls)
    first.shutdown(socket.SHUT_WR)
    half, gone = ask(CLOSING.format("half")), ask(CLOSING.format("gone"))
    eventually(lambda: server.balancer.snapshot().queued == 2)
    half.shutdown(socket.SHUT_WR)
    gone.close()
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)
    door.set()
    assert b"/first" in all_from(first)
    assert b"/half" in all_from(half)
    assert calls == ["/first", "/half"]


def test_one_that_leaves_a_unix_socket_ends_what_runs_if_that_is_wanted(over_unix, waiting, calls, eventually) -> None:
    server, ask = over_unix(waiting, cancel_on_disconnect=True)
    leaving = ask(CLOSING.format(""))
    eventually(lambda: calls)
    leaving.close()
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)


def test_a_reset_ends_what_runs_if_that_is_wanted(serve, connect, waiting, calls, eventually) -> None:
    server = serve(waiting, cancel_on_disconnect=True)
    client = connect(server)
    client.send(REQUEST)
    eventually(lambda: calls)
    client.socket.shutdown(socket.SHUT_RD)
    reset(client)
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)
