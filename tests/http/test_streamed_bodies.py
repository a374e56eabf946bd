"""On routes with `stream_request_bodies`, the application reads a request's body as it arrives."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import trustme
from gevent import socket, ssl
from gevent.event import Event

from intralb_gevent import LoadBalancer, OptionError, Options, Route, WSGIServer
from intralb_gevent.config.route import route_list
from intralb_gevent.errors import RequestBodyError
from intralb_gevent.http.body import SKIPPED_BODY_BYTES
from intralb_gevent.http.bodystream import STREAMED_BODY_BYTES
from intralb_gevent.http.context import RECEIVE_BYTES

TEXT = [("Content-Type", "text/plain")]
STREAMED = [Route("/up*", stream_request_bodies=True)]
ONE_SLOT = {"max_workers": 1, "max_concurrent_per_router": 1}
MEGABYTE = 1024 * 1024


def head(framing: str, path: str = "/up", method: str = "POST", version: str = "1.1") -> str:
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{framing}\r\n\r\n"


def length(size: int) -> str:
    return f"Content-Length: {size}"


CHUNKED = "Transfer-Encoding: chunked"


def in_chunks(body: bytes, size: int = 4096) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Uploads:
    """An application that calls the function `read` with `wsgi.input`, and responds with the result."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read
        self.begun = Event()
        self.environs: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environs.append({**environ})
        self.begun.set()
        try:
            told = self.read(environ["wsgi.input"])
        except BaseException as error:
            self.errors.append(error)
            raise
        start_response("200 OK", TEXT)
        return [told if isinstance(told, bytes) else repr(told).encode()]


@pytest.fixture
def uploads(serve) -> Callable[..., Any]:
    def make(read: Callable[[Any], Any], **options: Any) -> Any:
        application: Any = Uploads(read)
        application.server = serve(application, **{"routes": STREAMED, **options})
        return application

    return make


@pytest.fixture
def the_connection(eventually) -> Callable[[WSGIServer], Any]:
    """Return a function that waits until a server has accepted its only connection, and returns this connection."""
    return lambda server: eventually(lambda: next(iter(server.connections), None))


# Reading.


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_application_reads_what_has_arrived_before_the_rest_is_sent(uploads, connect, framing) -> None:
    pieces: list[bytes] = []

    def read(file: Any) -> bytes:
        while piece := file.read1():
            pieces.append(piece)
        return b"|".join(pieces)

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(length(6) if framing == "length" else CHUNKED))
    for number, piece in enumerate((b"abc", b"def"), 1):
        uploads.begun.wait()
        client.send(piece if framing == "length" else b"3\r\n%b\r\n" % piece)
        while len(pieces) < number:
            gevent.sleep(0.001)
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
    assert client.reply("POST").body == b"abc|def"
    assert client.get("/next").status == 200


def test_what_the_environ_says_of_it(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    for framing, said in ((length(5), b"hello"), (CHUNKED, in_chunks(b"hello"))):
        client.send(head(framing))
        uploads.begun.wait()
        client.send(said)
        assert client.reply("POST").body == b"hello"
        uploads.begun.clear()
    by_length, chunked = uploads.environs
    assert by_length["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in by_length
    assert chunked["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert "CONTENT_LENGTH" not in chunked
    assert by_length["wsgi.input_terminated"] is chunked["wsgi.input_terminated"] is True


READS: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda file: file.read(), b"one\ntwo\nthree"),
    (lambda file: file.read(-1), b"one\ntwo\nthree"),
    (lambda file: (file.read(5), file.read(100), file.read(1), file.read()), (b"one\nt", b"wo\nthree", b"", b"")),
    (lambda file: (file.readline(), file.readline(2), file.readline(), file.readline(50), file.readline()),
     (b"one\n", b"tw", b"o\n", b"three", b"")),
    (lambda file: file.readlines(), [b"one\n", b"two\n", b"three"]),
    (lambda file: file.readlines(5), [b"one\n", b"two\n"]),
    (lambda file: list(file), [b"one\n", b"two\n", b"three"]),
    (lambda file: (file.read(0), file.read1(1), file.readable(), file.closed), (b"", b"o", True, False)),
    (lambda file: (file.readinto(buffer := bytearray(13)), bytes(buffer)), (13, b"one\ntwo\nthree")),
    (lambda file: io.TextIOWrapper(file).read(), "one\ntwo\nthree"),
]  # fmt: skip


@pytest.mark.parametrize(("read", "told"), READS)
@pytest.mark.parametrize("framing", [length(13), CHUNKED])
@pytest.mark.parametrize("step", [1, 4, 1000])
def test_it_is_read_as_any_file_however_it_comes(uploads, connect, read, told, framing, step) -> None:
    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(framing))
    body = b"one\ntwo\nthree"
    said = body if framing != CHUNKED else in_chunks(body, 3)
    for start in range(0, len(said), step):
        client.send(said[start : start + step])
        gevent.sleep(0)
    assert client.reply("POST").body == (told if isinstance(told, bytes) else repr(told).encode())
    assert client.get("/next").status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_takes_little_memory_and_arrives_whole(uploads, connect, framing) -> None:
    size, most, total = 30 * MEGABYTE, 0, 0

    def read(file: Any) -> int:
        nonlocal most, total
        while piece := file.read(100_000):
            assert piece.count(b"x") == len(piece)
            total += len(piece)
            most = max(most, file.raw.unread)
            gevent.sleep(0)
        return total

    uploads = uploads(read, max_body_bytes=size)
    client = connect(uploads.server)
    client.send(head(length(size) if framing == "length" else CHUNKED))
    block = b"x" * MEGABYTE
    for _ in range(30):
        client.send(block if framing == "length" else b"100000\r\n%b\r\n" % block)
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
    assert client.reply("POST").body == str(size).encode()
    assert most <= STREAMED_BODY_BYTES + RECEIVE_BYTES
    assert uploads.server.shared.bodies.taken == 0
    assert client.get("/next").status == 200


def test_a_client_waits_while_the_application_does_not_read(uploads, connect, eventually, the_connection) -> None:
    go_on = Event()

    def read(file: Any) -> int:
        go_on.wait()
        return len(file.read())

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(length(20 * MEGABYTE)))
    sender = gevent.spawn(client.send, b"x" * 20 * MEGABYTE)
    connection = the_connection(uploads.server)
    eventually(lambda: not connection.input.reader.active)
    assert not sender.dead
    assert connection.input.parser._body.unread <= STREAMED_BODY_BYTES + RECEIVE_BYTES
    go_on.set()
    assert client.reply("POST").body == str(20 * MEGABYTE).encode()


def test_other_routes_are_called_with_the_whole_body(uploads, connect, eventually, the_connection) -> None:
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    client.send(head(length(5), path="/other"))
    eventually(lambda: the_connection(uploads.server).input.parser.in_body)
    # When a later request has been answered, this one would have begun.
    assert connect(uploads.server).get("/later").status == 200
    assert [environ["PATH_INFO"] for environ in uploads.environs] == ["/later"]
    client.send("hello")
    assert client.reply("POST").body == b"hello"


def test_requests_behind_the_body_are_answered_in_order(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    body = b"x" * 100_000
    said = head(length(len(body))).encode() + body + head("X: y", "/next", "GET").encode()
    said += head(CHUNKED, "/up2").encode() + in_chunks(body) + head(length(2), "/up3").encode() + b"hi"
    client.send(said)
    replies = [client.reply(method).body for method in ("POST", "GET", "POST", "POST")]
    assert replies == [body, b"", body, b"hi"]
    assert [environ["PATH_INFO"] for environ in uploads.environs] == ["/up", "/next", "/up2", "/up3"]


def test_a_body_that_began_behind_another_request_is_read_whole(serve, connect, eventually, the_connection) -> None:
    door = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/first":
            door.wait()
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    server = serve(application, routes=STREAMED)
    client = connect(server)
    early, late = b"a" * 200_000, b"b" * 200_000
    client.send(head("X: y", "/first", "GET").encode() + head(length(400_000)).encode() + early)
    connection = the_connection(server)
    eventually(lambda: connection.input.parser.in_body and not connection.input.reader.active)
    door.set()
    assert client.reply().body == b""
    client.send(late)
    assert client.reply("POST").body == early + late


# Expect: 100-continue.


def test_a_client_that_asks_is_told_to_go_on_when_the_application_reads(uploads, connect) -> None:
    go_on = Event()

    def read(file: Any) -> bytes:
        go_on.wait()
        return file.read()

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head("Expect: 100-continue\r\n" + length(5)))
    uploads.begun.wait()
    client.socket.settimeout(0.01)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    client.socket.settimeout(10)
    go_on.set()
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send("hello")
    assert client.reply("POST").body == b"hello"
    assert client.get("/next").status == 200


def test_one_whose_body_is_not_read_gets_its_answer_and_the_connection_closes(uploads, connect) -> None:
    uploads = uploads(lambda file: b"unread")
    client = connect(uploads.server)
    client.send(head("Expect: 100-continue\r\n" + length(5)))
    reply = client.reply("POST")
    assert (reply.body, reply.headers["connection"]) == (b"unread", "close")
    assert client.closed_by_server


# Unread bodies.


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_rest_that_is_not_read_is_skipped(uploads, connect, framing) -> None:
    uploads = uploads(lambda file: file.read(3))
    client = connect(uploads.server)
    body = b"x" * (SKIPPED_BODY_BYTES // 2)
    client.send(head(length(len(body)) if framing == "length" else CHUNKED))
    said = body if framing == "length" else in_chunks(body)
    client.send(said[:1000])
    reply = client.reply("POST")
    assert (reply.body, reply.headers.get("connection")) == (b"xxx", None)
    client.send(said[1000:])
    assert client.get("/next").status == 200


def test_a_longer_rest_closes_the_connection_behind_the_answer(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read(3))
    client = connect(uploads.server)
    client.send(head(length(2 * SKIPPED_BODY_BYTES)) + "x" * 1000)
    reply = client.reply("POST")
    assert (reply.body, reply.headers["connection"]) == (b"xxx", "close")
    assert client.closed_by_server


def test_a_longer_rest_in_chunks_does_too(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read(3))
    client = connect(uploads.server)
    client.send(head(CHUNKED).encode() + in_chunks(b"x" * 1000)[:-5])
    assert client.reply("POST").body == b"xxx"
    client.send(in_chunks(b"x" * 2 * SKIPPED_BODY_BYTES)[:-5])
    assert client.socket.recv(1) == b""


def test_a_rest_that_does_not_come_ends_the_connection(uploads, connect, monkeypatch) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)
    uploads = uploads(lambda file: b"", body_timeout_seconds=0.05)
    client = connect(uploads.server)
    client.send(head(length(5)))
    assert client.reply("POST").status == 200
    assert client.closed_by_server


# Limits and clients that disconnect.


def answered(client: Any) -> bytes:
    return client.rest()


def test_a_declared_length_that_is_too_much_is_refused_by_the_head(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read(), max_body_bytes=1000)
    client = connect(uploads.server)
    client.send(head(length(1001)))
    assert client.reply("POST").status == 413
    assert not uploads.environs


@pytest.mark.parametrize(
    ("framing", "said", "status"),
    [
        (CHUNKED, in_chunks(b"x" * 5000), 413),
        (CHUNKED, b"3\r\nabcWRONG", 400),
        (length(5), b"ab", 408),
    ],
)
def test_a_body_that_ends_wrongly_is_answered_so(uploads, connect, caplog, framing, said, status) -> None:
    uploads = uploads(lambda file: file.read(), max_body_bytes=4000, body_timeout_seconds=0.2)
    client = connect(uploads.server)
    client.send(head(framing))
    uploads.begun.wait()
    client.send(said)
    reply = client.reply("POST")
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert client.closed_by_server
    (error,) = uploads.errors
    assert isinstance(error, RequestBodyError)
    assert isinstance(error, OSError)
    assert f": {status} " in str(error)
    outcomes = uploads.server.balancer.snapshot().outcomes
    assert (outcomes["disconnected"], outcomes["failed"]) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("said", [b"3\r\nabcWRONG", b"3\r\nabc"])
def test_a_body_that_ends_wrongly_is_logged_with_the_id_of_its_response(uploads, connect, caplog, eventually, said):
    caplog.set_level(logging.INFO, "intralb_gevent")
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    client.send(head(CHUNKED))
    uploads.begun.wait()
    client.send(said)
    client.socket.shutdown(socket.SHUT_WR)
    reply = client.reply("POST")
    (line,) = eventually(lambda: [line for line in caplog.messages if line.startswith("refused a request")])
    assert line.endswith(f"(request {reply.headers['x-request-id']})")
    assert reply.body.decode().partition("\n\n")[2].strip() in line


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_in_the_middle_of_its_body_is_one_line(uploads, connect, caplog, eventually, how) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent")
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    client.send(head(length(100)) + "abc")
    uploads.begun.wait()
    if how == "resets":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    (line,) = eventually(lambda: [line for line in caplog.messages if line.startswith("refused a request")])
    request_id = uploads.environs[0]["intralb.request_id"]
    assert line.endswith(f"The client ended its data before the end of the request's body. (request {request_id})")


def test_a_client_that_ends_its_data_behind_a_whole_body_is_answered_and_not_logged(
    uploads, connect, caplog, eventually
) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent")
    go_on = Event()

    def read(file: Any) -> bytes:
        go_on.wait()
        return bytes(file.read())

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(length(3)) + "abc")
    uploads.begun.wait()
    client.socket.shutdown(socket.SHUT_WR)
    eventually(uploads.environs[0]["intralb.client_disconnected"])
    go_on.set()
    assert client.reply("POST").body == b"abc"
    assert client.closed_by_server
    assert not [line for line in caplog.messages if line.startswith("refused")]


def test_the_application_may_answer_in_its_own_way(serve, connect) -> None:
    begun = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        begun.set()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            start_response("418 I'm a teapot", TEXT)
            return [type(error).__name__.encode()]
        raise AssertionError

    server = serve(application, routes=STREAMED)
    client = connect(server)
    client.send(head(CHUNKED))
    begun.wait()
    client.send(b"3\r\nabcWRONG")
    reply = client.reply("POST")
    assert (reply.status, reply.body, reply.headers["connection"]) == (418, b"RequestBodyError", "close")
    assert client.closed_by_server


def test_what_had_arrived_is_read_before_the_error(uploads, connect) -> None:
    def read(file: Any) -> bytes:
        data = file.read1()
        with pytest.raises(RequestBodyError):
            file.read1()
        return bytes(data)

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(length(100)))
    client.send("abc")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.reply("POST").body == b"abc"


@pytest.mark.parametrize("how", ["ends its input", "closes", "resets"])
def test_a_client_that_leaves_frees_the_slot_at_once(uploads, connect, eventually, caplog, how) -> None:
    uploads = uploads(lambda file: file.read(), **ONE_SLOT)
    client = connect(uploads.server)
    client.send(head(length(100)) + "abc")
    uploads.begun.wait()
    if how == "ends its input":
        client.socket.shutdown(socket.SHUT_WR)
        assert client.reply("POST").status == 400
    else:
        if how == "resets":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    eventually(lambda: uploads.server.balancer.snapshot().running == 0)
    outcomes = uploads.server.balancer.snapshot().outcomes
    assert (outcomes["disconnected"], outcomes["failed"]) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    eventually(lambda: not uploads.server.connections)


# Deadlines.


def test_time_in_which_the_client_is_slow_does_not_count(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read(), request_timeout_seconds=0.3)
    client = connect(uploads.server)
    client.send(head(length(8)))
    for letter in "abcdefgh":
        gevent.sleep(0.05)
        client.send(letter)
    assert client.reply("POST").body == b"abcdefgh"


def test_but_never_beyond_what_a_handler_may_ask_for(uploads, connect) -> None:
    limits = {"request_timeout_seconds": 0.05, "max_request_timeout_seconds": 0.1}
    uploads = uploads(lambda file: file.read(), **limits)
    client = connect(uploads.server)
    client.send(head(length(6)))
    assert client.reply("POST").status == 504
    assert uploads.server.balancer.snapshot().outcomes["timed_out"] == 1


def test_the_deadline_holds_for_the_rest_of_the_handler(uploads, connect) -> None:
    def read(file: Any) -> None:
        file.read()
        Event().wait()

    uploads = uploads(read, request_timeout_seconds=0.05)
    client = connect(uploads.server)
    client.send(head(length(1)))
    gevent.sleep(0.06)
    client.send("x")
    assert client.reply("POST").status == 504


def test_a_handler_that_is_cut_while_it_waits_leaves_the_connection_usable(uploads, connect) -> None:
    uploads = uploads(lambda file: (file.read(1), Event().wait()), request_timeout_seconds=0.05)
    client = connect(uploads.server)
    client.send(head(length(6)) + "abc")
    assert client.reply("POST").status == 504
    client.send("def")
    assert client.get("/other").status == 504
    (kind,) = {type(error).__name__ for error in uploads.errors}
    assert kind == "DeadlineExceeded"


# Rejections, failures and the end of the server.


def test_what_has_no_place_is_refused_by_its_head(serve, connect, eventually) -> None:
    door = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        door.wait()
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    server = serve(application, routes=STREAMED, queue_size=0, **ONE_SLOT)
    busy, client = connect(server), connect(server)
    busy.send(head("X: y", "/", "GET"))
    eventually(lambda: server.balancer.snapshot().running)
    client.send(head(length(5)))
    assert client.reply("POST").status == 503
    client.send("hello")
    door.set()
    assert busy.reply().status == 200
    eventually(lambda: not server.balancer.snapshot().running)
    client.send(head(length(5)) + "hello")
    assert client.reply("POST").body == b"hello"


def test_one_that_waits_in_the_queue_has_its_body_kept_within_bounds(serve, connect, eventually) -> None:
    door = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            door.wait()
        start_response("200 OK", TEXT)
        return [str(len(environ["wsgi.input"].read())).encode()]

    server = serve(application, routes=STREAMED, queue_size=1, max_wait_seconds=10, **ONE_SLOT)
    busy, client = connect(server), connect(server)
    busy.send(head("X: y", "/", "GET"))
    eventually(lambda: server.balancer.snapshot().running)
    client.send(head(length(5 * MEGABYTE)))
    eventually(lambda: server.balancer.snapshot().queued)
    gevent.spawn(client.send, b"x" * 5 * MEGABYTE)
    (uploading,) = [each for each in server.connections if each.input.parser.in_body]
    eventually(lambda: not uploading.input.reader.active)
    assert uploading.input.parser._body.unread <= 2 * RECEIVE_BYTES
    door.set()
    assert client.reply("POST").body == str(5 * MEGABYTE).encode()


def test_an_application_that_fails_is_answered_500_and_the_rest_is_skipped(uploads, connect) -> None:
    def read(file: Any) -> None:
        raise ValueError("on purpose")

    uploads = uploads(read)
    client = connect(uploads.server)
    client.send(head(length(6)) + "abc")
    assert client.reply("POST").status == 500
    client.send("def")
    client.send(head(length(1)) + "x")
    assert client.reply("POST").status == 500


def test_the_input_cannot_be_read_after_the_request(uploads, connect) -> None:
    kept: list[Any] = []
    uploads = uploads(lambda file: kept.append(file) or b"")
    client = connect(uploads.server)
    client.send(head(length(6)) + "abc")
    assert client.reply("POST").status == 200
    with pytest.raises(RequestBodyError):
        kept[0].read()


def test_a_server_that_stops_lets_an_upload_finish(uploads, connect, eventually) -> None:
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    client.send(head(length(6)) + "abc")
    uploads.begun.wait()
    stopping = gevent.spawn(uploads.server.stop, 5)
    eventually(lambda: uploads.server.closing)
    client.send("def")
    assert client.reply("POST").body == b"abcdef"
    stopping.join(5)
    assert stopping.dead


# Other cases.


def test_it_echoes_while_it_reads(serve, connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        return iter(environ["wsgi.input"].read1, b"")

    client = connect(serve(application, routes=STREAMED))
    client.send(head(CHUNKED))
    answer = b""
    for piece in (b"abc", b"def"):
        client.send(b"3\r\n%b\r\n" % piece)
        while piece not in answer:
            answer += client.socket.recv(1000)
    client.send(b"0\r\n\r\n")
    while not answer.endswith(b"0\r\n\r\n"):
        answer += client.socket.recv(1000)


def test_behind_middleware(echo, connect, eventually, the_connection) -> None:
    balancer = LoadBalancer(echo, Options(routes=STREAMED))

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        environ["CONTENT_LENGTH"] = "6"
        return balancer(environ, start_response)

    server = WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer)
    server.start()
    try:
        client = connect(server)
        client.send(head(CHUNKED))
        client.send(b"3\r\nabc\r\n")
        eventually(lambda: the_connection(server).input.parser.body_size == 3)
        client.send(b"3\r\ndef\r\n0\r\n\r\n")
        assert client.reply("POST").body == b"abcdef"
    finally:
        server.stop(0)


def test_http_1_0(uploads, connect) -> None:
    uploads = uploads(lambda file: file.read())
    client = connect(uploads.server)
    client.send(head(length(6), version="1.0"))
    uploads.begun.wait()
    client.send("abcdef")
    assert client.reply("POST").body == b"abcdef"
    assert client.closed_by_server


def tls_client(server: WSGIServer) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.server_port), timeout=10))


def test_over_http_1_0_a_client_that_is_still_sending_receives_the_whole_answer(serve, connect) -> None:
    size = 2 * MEGABYTE

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return iter([b"x" * size, b"the end"])

    client = connect(serve(application, routes=STREAMED))
    client.send(head(length(MEGABYTE), version="1.0"))
    answer = bytearray()
    while part := client.socket.recv(65536):
        answer += part
        client.send(b"u" * 1000)
    assert answer.endswith(b"x" * size + b"the end")


def test_over_tls(tmp_path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    size, most = 5 * MEGABYTE, 0

    def read(file: Any) -> int:
        nonlocal most
        total = 0
        while piece := file.read(50_000):
            total += len(piece)
            most = max(most, file.raw.unread)
        return total

    balancer = LoadBalancer(Uploads(read), Options(routes=STREAMED))
    server = WSGIServer(("127.0.0.1", 0), balancer, certfile=str(chain), keyfile=str(key))
    server.start()
    try:
        with tls_client(server) as client:
            client.sendall(head(length(size) + "\r\nConnection: close").encode())
            client.sendall(b"x" * size)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.endswith(b"\r\n\r\n%d" % size)
        assert most <= 2 * STREAMED_BODY_BYTES
    finally:
        server.stop(0)


def test_the_option_is_checked_and_can_be_written_as_text() -> None:
    assert Route("/a").stream_request_bodies is None
    with pytest.raises(OptionError, match="routes: '/a': stream_request_bodies: 1 is not allowed"):
        Route("/a", stream_request_bodies=1)  # type: ignore[arg-type]
    written = route_list().read("routes", "/a stream_request_bodies=true; /b stream_request_bodies=no")
    assert written == (Route("/a", stream_request_bodies=True), Route("/b", stream_request_bodies=False))


def test_the_first_route_that_matches_counts(serve, connect, eventually, the_connection) -> None:
    begun: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        begun.append(environ["PATH_INFO"])
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    routes = [Route("/shop/whole"), Route("/shop/*", stream_request_bodies=True)]
    server = serve({"/shop": application}, routes=routes)
    client = connect(server)
    client.send(head(length(5), "/shop/up"))
    eventually(lambda: begun == ["/up"])
    client.send("hello")
    assert client.reply("POST").body == b"hello"
    client.send(head(length(5), "/shop/whole"))
    eventually(lambda: the_connection(server).input.parser.in_body)
    # When a later request has been answered, this one would have begun.
    assert connect(server).get("/shop/later").status == 200
    assert begun == ["/up", "/later"]
    client.send("hello")
    assert client.reply("POST").body == b"hello"


def test_middleware_that_reads_itself_is_no_failure_when_the_client_leaves(echo, connect, caplog) -> None:
    balancer = LoadBalancer(echo, Options(routes=STREAMED))

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read())
        return balancer(environ, start_response)

    server = WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer)
    server.start()
    try:
        client = connect(server)
        client.send(head(length(6)))
        client.send("abc")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.reply("POST").status == 400
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    finally:
        server.stop(0)


# Frameworks.


def flask_uploads() -> Any:
    import flask

    app = flask.Flask(__name__)

    @app.post("/up/form")
    def form() -> str:
        file = flask.request.files["file"]
        return f"{file.filename} {len(file.read())} {flask.request.form['name']}"

    @app.post("/up/stream")
    def stream() -> str:
        return str(sum(len(piece) for piece in iter(lambda: flask.request.stream.read(10_000), b"")))

    return app


def django_uploads() -> Any:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    if not settings.configured:
        settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
    django.setup()
    from django.core.handlers.wsgi import WSGIHandler

    def form(request: Any) -> Any:
        file = request.FILES["file"]
        return HttpResponse(f"{file.name} {file.size} {request.POST['name']}")

    def stream(request: Any) -> Any:
        return HttpResponse(str(sum(len(piece) for piece in iter(lambda: request.read(10_000), b""))))

    urls = type(io)("urls_of_uploads")
    urls.urlpatterns = [path("up/form", form), path("up/stream", stream)]  # type: ignore[attr-defined]
    handler = WSGIHandler()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        settings.ROOT_URLCONF = urls
        return handler(environ, start_response)

    return application


def bottle_uploads() -> Any:
    import bottle

    app = bottle.Bottle()

    @app.post("/up/form")  # type: ignore[untyped-decorator]
    def form() -> str:
        file = bottle.request.files["file"]
        return f"{file.filename} {len(file.file.read())} {bottle.request.forms['name']}"

    @app.post("/up/stream")  # type: ignore[untyped-decorator]
    def stream() -> str:
        return str(len(bottle.request.body.read()))

    return app


MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nours\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + b"x\r\n" * 20_000 + b"\r\n--b--\r\n"
)
MULTIPART_TYPE = "Content-Type: multipart/form-data; boundary=b\r\n"


# Under any server, Django reads CONTENT_LENGTH bytes, and Bottle parses chunks itself.
@pytest.mark.parametrize(
    ("make", "framing"),
    [(flask_uploads, "length"), (flask_uploads, "chunked"), (django_uploads, "length"), (bottle_uploads, "length")],
)
def test_frameworks_read_it(serve, connect, make, framing) -> None:
    client = connect(serve(make(), routes=STREAMED))
    client.send(head(MULTIPART_TYPE + (length(len(MULTIPART)) if framing == "length" else CHUNKED), "/up/form"))
    said = MULTIPART if framing == "length" else in_chunks(MULTIPART)
    for start in range(0, len(said), 20_000):
        client.send(said[start : start + 20_000])
        gevent.sleep(0)
    assert client.reply("POST").body == b"a.bin 60000 ours"
    body = b"x" * 300_000
    client.send(head(length(len(body)) if framing == "length" else CHUNKED, "/up/stream"))
    client.send(body if framing == "length" else in_chunks(body))
    assert client.reply("POST").body == b"300000"


@pytest.mark.parametrize("make", [flask_uploads, django_uploads])
def test_frameworks_answer_a_client_that_stops_sending(serve, connect, make) -> None:
    server = serve(make(), routes=STREAMED, body_timeout_seconds=0.1)
    client = connect(server)
    client.send(head(length(100_000), "/up/stream"))
    client.send("x" * 1000)
    # The frameworks treat the error as a failure of the view, as they treat any OSError of a server's input.
    assert client.reply("POST").status == 500
    assert client.closed_by_server
