"""A client can use up only bounded memory and CPU time, whether by unread responses, pipelines or costly bytes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import LoadBalancer, Route, WSGIServer
from intralb_gevent.http.body import Body, BodyBudget
from intralb_gevent.http.bodystream import StreamedBody
from intralb_gevent.http.outbox import Outbox, OutputBudget

MEGABYTE = 1024**2
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


# Unread responses.


class Whole(list[bytes]):
    """A body of one part; `close` is called once the part is sent, or kept for the client."""

    def __init__(self, part: bytes, close: Callable[[], object]) -> None:
        super().__init__([part])
        self.close = close


@pytest.mark.parametrize("kind", ["list", "write"])
def test_others_are_answered_while_a_large_response_is_written_to_a_file(serve, kind: str) -> None:
    size, answered, seen = 100 * MEGABYTE, [], []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/":
            answered.append(None)
            start_response("200 OK", [])
            return [b"hello"]
        write = start_response("200 OK", [("Content-Length", str(size))])
        seen.append(len(answered))
        if kind == "list":
            return Whole(bytes(size), lambda: seen.append(len(answered)))
        write(bytes(size))
        seen.append(len(answered))
        return []

    address = ("127.0.0.1", serve(application).server_port)
    with gevent.socket.create_connection(address) as client, gevent.socket.create_connection(address) as large:
        large.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        while len(seen) < 2:
            client.sendall(GET)
            assert client.recv(MEGABYTE).endswith(b"hello")
        assert seen[1] - seen[0] > 1
        received = bytearray(large.recv(MEGABYTE))
        del received[: received.index(b"\r\n\r\n") + 4]
        while len(received) < size:
            received += large.recv(MEGABYTE)
    assert received == bytes(size)


def test_a_timeout_of_the_application_leaves_no_gap_in_a_response_that_is_written_to_a_file(serve, connect) -> None:
    size, caught = 100 * MEGABYTE, []

    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Length", str(size))])
        try:
            with gevent.Timeout(0.001):
                write(bytes(size))
        except gevent.Timeout:
            caught.append(None)
        return []

    client = connect(serve(application))
    for number in (1, 2):
        client.send(GET)
        assert len(client.reply().body) == size
        assert len(caught) == number


def test_a_body_written_to_a_file_is_not_mixed_with_what_other_greenlets_write(serve, connect) -> None:
    large = 100 * MEGABYTE

    def application(environ, start_response):
        write = start_response("200 OK", [])
        writers = [gevent.spawn(write, byte * size) for byte, size in ((b"a", large), (b"b", large), (b"c", 10))]
        gevent.joinall(writers)
        return []

    body = connect(serve(application)).get().body
    assert sorted(byte for byte, _ in itertools.groupby(body)) == list(b"abc")
    assert len(body) == 2 * large + 10


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Trace allocations; yields a function that returns the bytes that have been allocated and not yet released."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def separate(size: int) -> memoryview:
    """Data in memory of its own, as each response of an application."""
    return memoryview(bytes(bytearray(size)))


@pytest.mark.parametrize("size", [40, 126, 1000, 4096, 4097, 10_000, 70_000])
@pytest.mark.parametrize("clients", [1, 40])
def test_the_budget_for_unread_answers_holds_for_the_allocated_memory(size: int, clients: int) -> None:
    budget = OutputBudget(4 * MEGABYTE)
    outboxes = [Outbox(budget) for _ in range(clients)]
    with traced() as memory:
        while not budget.in_files:
            for outbox in outboxes:
                outbox.add(separate(size))
        kept = memory()
    assert 0.95 * kept < budget.in_memory < 1.01 * budget.memory_limit
    assert 0.9 * budget.memory_limit < kept < 1.05 * budget.memory_limit
    for outbox in outboxes:
        outbox.clear()
    assert (budget.in_memory, budget.in_files) == (0, 0)


def test_the_rest_of_a_large_answer_counts_with_all_that_is_kept_for_it() -> None:
    budget = OutputBudget(64 * MEGABYTE)
    outbox = Outbox(budget)
    outbox.add(memoryview(bytes(MEGABYTE))[-10_000:])
    assert outbox.size == 10_000
    assert MEGABYTE < budget.in_memory < MEGABYTE + 1000
    here, there = socket.socketpair()
    with here, there:
        outbox.send_to(here)
    assert (outbox.size, budget.in_memory) == (0, 0)


def test_the_rests_of_small_answers_take_little_more_than_their_bytes() -> None:
    outbox = Outbox(OutputBudget(64 * MEGABYTE))
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    here.setblocking(False)
    with here, there:
        with traced() as memory:
            for _ in range(64):
                outbox.add(memoryview(bytes(1000)))
            while outbox.size > 35_000:
                sent_by(outbox, here, there)
            kept = memory()
        assert 20_000 < outbox.size < kept < 1.2 * outbox.size


@given(st.lists(st.sampled_from([1, 100, 4096, 4097, 70_000]), max_size=30), st.sampled_from([0, 10_000, MEGABYTE]))
def test_all_is_sent_in_order_wherever_it_is_kept(sizes: list[int], room: int) -> None:
    budget = OutputBudget(room)
    outbox = Outbox(budget)
    here, there = socket.socketpair()
    expected, received = b"", b""
    with here, there:
        here.setblocking(False)
        for number, size in enumerate(sizes):
            expected += bytes([number]) * size
            outbox.add(memoryview(bytes([number]) * size))
            if number % 5 == 0:
                received += sent_by(outbox, here, there)
        while outbox.size:
            received += sent_by(outbox, here, there)
    assert received == expected
    assert (budget.in_memory, budget.in_files) == (0, 0)


def sent_by(outbox: Outbox, here: socket.socket, there: socket.socket) -> bytes:
    before = outbox.size
    with contextlib.suppress(BlockingIOError):
        outbox.send_to(here)
    sent, received = before - outbox.size, b""
    while len(received) < sent:
        received += there.recv(65536)
    return received


# Bodies of requests.


@pytest.mark.parametrize("piece", [100, 1000, 1024, 65_536])
def test_the_budget_for_bodies_holds_while_they_arrive_and_while_they_are_read(piece: int) -> None:
    budget = BodyBudget(4 * MEGABYTE)
    bodies = [Body(budget) for _ in range(8)]
    with traced() as memory:
        for body in bodies:
            while body.size < MEGABYTE:
                body.add(bytes(separate(min(piece, MEGABYTE - body.size))))
        arrived = memory()
        files = [body.open() for body in bodies]
        kept = memory()
    assert budget.taken <= budget.limit
    assert 0.7 * budget.limit < arrived < 1.05 * budget.limit
    assert 0.7 * budget.limit < kept < 1.05 * budget.limit
    assert [len(file.read()) for file in files] == [MEGABYTE] * 8
    for body in bodies:
        body.release()
    assert budget.taken == 0


def test_unread_pieces_of_a_streamed_body_take_little_more_than_their_bytes() -> None:
    body = StreamedBody(ClientWithoutTimeouts(), 0, None, False)
    with traced() as memory:
        for number in range(100_000):
            body.add(b"%02d" % (number % 100))
        kept = memory()
    assert body.unread == 200_000 < kept < 300_000
    body.end()
    assert body.open().read() == b"".join(b"%02d" % (number % 100) for number in range(100_000))


class ClientWithoutTimeouts:
    """The source of a streamed body that never has to wait."""

    body_timeout_seconds = 60.0

    def ask_for_body(self) -> None:
        """Do nothing, because the body arrives anyway."""

    def resume_body(self) -> None:
        """Do nothing, because the body arrives anyway."""

    def body_late(self) -> None:
        """Do nothing, because the body is never late."""


# Pipelined requests.


@pytest.mark.parametrize("size", [10, 3000, 60_000, 200_000])
def test_pipelined_bodies_are_read_in_their_turn_and_answered_in_order(serve, connect, eventually, size: int) -> None:
    door, read = Event(), []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        read.append(body[:1])
        if not body:
            door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d %b" % (len(body), body[:1])]

    server = serve(application)
    client = connect(server)
    bodies = [b"%d" % number * size for number in range(8)]
    client.send(GET)
    eventually(lambda: read)
    asking = [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (size, body) for body in bodies]
    sending = gevent.spawn(client.send, b"".join(asking))
    (connection,) = server.connections
    eventually(lambda: not connection.input.reader.active or sending.ready())
    door.set()
    assert client.reply().body == b"0 "
    assert [client.reply().body for _ in bodies] == [b"%d %d" % (size, number) for number in range(8)]
    assert server.shared.bodies.taken == 0


# Costly bytes.


def test_others_go_before_a_body_of_tiny_chunks(serve, connect, echo, eventually) -> None:
    server = serve(echo)
    costly, other = connect(server), connect(server)
    assert other.get().status == 200
    count = 1_000_000
    costly.send(CHUNKED)
    eventually(lambda: any(each.input.parser.in_body for each in server.connections))
    (connection,) = (each for each in server.connections if each.input.parser.in_body)
    sending = gevent.spawn(costly.send, b"1\r\na\r\n" * count)
    eventually(lambda: connection.input.parser.body_size)
    for _ in range(3):
        assert other.get().status == 200
    assert connection.input.parser.body_size < count / 2
    sending.join()
    costly.send(b"0\r\n\r\n")
    assert costly.reply("POST").body == b"a" * count


def test_what_has_arrived_of_a_chunked_body_is_read_at_once(tmp_path, echo, eventually) -> None:
    # Use a unix socket, because its buffer holds a known part of the body before the server reads any data.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "socket"))
    listener.listen()
    listener.setblocking(False)
    server = WSGIServer(listener, LoadBalancer(echo))
    server.start()
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_UNIX) as client:
        stack.callback(server.stop)
        client.connect(path)
        client.sendall(CHUNKED)
        eventually(lambda: any(each.input.parser.in_body for each in server.connections))
        (connection,) = server.connections
        client.setblocking(False)
        sent = client.send(b"10000\r\n" + b"a" * 0x10000 + b"\r\n" + b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
        assert sent > 1.5 * 0x10000
        turns = gevent.get_hub().loop.prepare()
        counted: list[int] = []
        turns.start(lambda: counted.append(connection.input.parser.body_size))
        eventually(lambda: connection.input.parser.body_size > 1.5 * 0x10000)
        turns.stop()
        turns.close()
    assert not any(0 < size < 1.5 * 0x10000 for size in counted)


@pytest.mark.parametrize("pieces", [1, 40])
def test_a_few_line_ends_before_a_request_are_ignored_and_more_are_refused(serve, connect, echo, pieces: int) -> None:
    server = serve(echo)
    client = connect(server)
    for _ in range(40):
        client.send(b"\r\n\r\n" + GET)
        assert client.reply().status == 200
    for _ in range(pieces):
        client.send(b"\r\n" * (40 // pieces))
    reply = client.reply()
    assert (reply.status, b"too many line ends" in reply.body) == (400, True)
    assert client.closed_by_server


# Slow clients.


def trickle(client: Any, data: bytes, seconds: float) -> None:
    """Send one byte at a time, with pauses, until the connection ends."""
    with contextlib.suppress(OSError):
        for byte in data:
            client.send(bytes([byte]))
            gevent.sleep(seconds)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_of_a_few_bytes_a_second_is_answered_408(serve, connect, echo, framing: str) -> None:
    server = serve(echo, body_timeout_seconds=1)
    client = connect(server)
    client.send(f"POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n")
    began = time.monotonic()
    trickling = gevent.spawn(trickle, client, b"1\r\na\r\n" * 100, 0.1)
    assert client.reply("POST").status == 408
    assert 4.5 < time.monotonic() - began < 8
    trickling.kill()


def test_a_streamed_body_may_be_as_slow_as_its_application_lets_it(serve, connect, echo) -> None:
    server = serve(echo, body_timeout_seconds=1, routes=[Route("/*", stream_request_bodies=True)])
    client = connect(server)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n")
    trickle(client, b"a" * 60, 0.1)
    assert client.reply("POST").body == b"a" * 60


def test_an_application_may_be_as_slow_as_it_likes(serve, connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (gevent.sleep(0.2) or b"a" for _ in range(30))

    client = connect(serve(application, write_timeout_seconds=1))
    assert client.get().body == b"a" * 30


def test_who_takes_an_answer_slowly_but_steadily_is_not_cut(serve, connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [bytes(16 * MEGABYTE)]

    server = serve(application, write_timeout_seconds=3)
    client = connect(server)
    # Use a small buffer, so that each read reopens the TCP window for the server. The server's kernel still accepts
    # more data only after hundreds of kilobytes.
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.send(GET)
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert client.socket.recv(1024)
        gevent.sleep(0.02)
    assert server.connections
    # Stop reading. The server must now disconnect the client.
    client.socket.settimeout(None)
    end = time.monotonic() + 15
    while server.connections and time.monotonic() < end:
        gevent.sleep(0.05)
    assert not server.connections
