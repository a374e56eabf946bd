"""Tests of the responses of applications, and of the framing of these responses."""

import io
import json
import os
import re
import tempfile
from wsgiref.validate import validator

import gevent
import pytest

from intralb_gevent.logformats import JSONFormatter

TEXT = [("Content-Type", "text/plain")]


def serving(serve, application):
    """Serve an application, with wsgiref.validate between the server and the application."""
    return serve(validator(application))


def test_one_part_goes_out_with_its_length(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("X-Own", "1")])
        return [b"hello"]

    for served in (serve(application), serving(serve, application)):
        reply = connect(served).get()
        assert (reply.status, reply.body, reply.headers["x-own"]) == (200, b"hello", "1")
        assert reply.headers["server"] == "intralb-gevent"
        assert "date" in reply.headers
    assert connect(serve(application)).get().headers["content-length"] == "5"


def test_several_parts_go_out_in_chunks_and_empty_ones_do_not_end_it(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return iter([b"", b"a", b"", b"bc", b""])

    client = connect(serving(serve, application))
    reply = client.get()
    assert (reply.body, reply.headers["transfer-encoding"]) == (b"abc", "chunked")
    assert client.get().body == b"abc"


def test_http_1_0_gets_no_chunks_and_the_end_is_the_close(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return iter([b"a", b"b"])

    client = connect(serving(serve, application))
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    data = client.rest()
    assert data.endswith(b"\r\n\r\nab")
    assert b"chunked" not in data


def test_the_first_part_is_sent_before_the_second_is_made(serve, connect) -> None:
    door = gevent.event.Event()

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"first"
        door.wait()
        yield b"second"

    client = connect(serving(serve, application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while b"first" not in data:
        data += client.socket.recv(1000)
    assert b"second" not in data
    door.set()


@pytest.mark.parametrize(
    ("method", "status", "headers", "parts", "expected_length"),
    [
        ("HEAD", "200 OK", TEXT, [b"hello"], "5"),
        ("HEAD", "200 OK", TEXT, [], None),
        ("HEAD", "200 OK", [*TEXT, ("Content-Length", "5")], [], "5"),
        ("HEAD", "200 OK", TEXT, [b"a", b"b"], None),
        ("GET", "204 No Content", [], [], None),
        ("GET", "204 No Content", [("Content-Length", "0")], [b"nothing"], None),
        ("GET", "304 Not Modified", [("ETag", "x"), ("Content-Length", "7")], [b"ignored"], "7"),
    ],
)
def test_responses_without_a_body_have_none(serve, connect, method, status, headers, parts, expected_length) -> None:
    def application(environ, start_response):
        start_response(status, headers)
        return parts

    client = connect(serve(application))
    for _ in range(2):
        reply = client.get(method=method)
        assert reply.status == int(status[:3])
        assert reply.body == b""
        assert reply.headers.get("content-length") == expected_length
        assert "transfer-encoding" not in reply.headers


def test_an_empty_response_has_length_0(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return []

    client = connect(serving(serve, application))
    assert client.get().headers["content-length"] == "0"
    assert client.get().status == 200


def test_write(serve, connect) -> None:
    def application(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"a")
        write(b"b")
        return [b"c"]

    client = connect(serving(serve, application))
    assert client.get().body == b"abc"
    assert client.get().body == b"abc"


def test_a_longer_body_than_promised_is_cut_to_its_length_and_the_next_is_whole(serve, connect, caplog) -> None:
    ids = []

    def application(environ, start_response):
        ids.append(environ["intralb.request_id"])
        start_response("200 OK", [*TEXT, ("Content-Length", "3")])
        return [b"abcHTTP/1.1 200 evil", b"more"] if environ["PATH_INFO"] == "/long" else [b"abc"]

    client = connect(serve(application))
    assert client.get("/long").body == b"abc"
    assert client.get("/").body == b"abc"
    said = "GET /long: the body's size differs from its Content-Length: the last 21 bytes were not sent, request "
    assert caplog.messages == [said + ids[0]]


@pytest.mark.parametrize("many", [True, False])
def test_a_length_in_characters_loses_bytes_and_is_logged(serve, connect, caplog, many) -> None:
    text, ids = "Grüße", []

    def application(environ, start_response):
        ids.append(environ["intralb.request_id"])
        start_response("200 OK", [*TEXT, ("Content-Length", str(len(text)))])
        parts = [character.encode() for character in text]
        return parts if many else [b"".join(parts)]

    client = connect(serve(application))
    assert client.get().body == text.encode()[: len(text)]
    said = "GET /: the body's size differs from its Content-Length: the last 2 bytes were not sent, request "
    assert caplog.messages == [said + ids[0]]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_length_may_limit_how_much_of_a_file_is_sent(serve, connect, caplog, tmp_path, on_disk) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("Content-Length", "3")])
        file = (tmp_path / "file").open("rb") if on_disk else io.BytesIO(b"0123456789")
        return environ["wsgi.file_wrapper"](file)

    client = connect(serve(application))
    assert [client.get().body for _ in range(2)] == [b"012", b"012"]
    assert caplog.messages == []


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No")])
def test_a_body_that_http_forbids_is_dropped_without_a_warning(serve, connect, caplog, method, status, many) -> None:
    def application(environ, start_response):
        start_response(status, [*TEXT, *([] if status[:3] == "204" else [("Content-Length", "3")])])
        return [b"ab", b"c"] if many else [b"abc"]

    client = connect(serve(application))
    for _ in range(2):
        client.send(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.reply(method).body == b""
    assert caplog.messages == []


def test_a_shorter_body_than_promised_is_followed_by_a_close(serve, connect, caplog) -> None:
    ids = []

    def application(environ, start_response):
        ids.append(environ["intralb.request_id"])
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        return [b"abc"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.rest().endswith(b"\r\n\r\nabc")
    said = "GET /: the body's size differs from its Content-Length: 2 bytes are missing, request "
    assert caplog.messages == [said + ids[0]]
    line = json.loads(JSONFormatter().format(caplog.records[0]))
    assert (line["message"], line["request_id"]) == (said.removesuffix(", request "), ids[0])


def test_exc_info_before_headers_replaces_them(serve, connect) -> None:
    def application(environ, start_response):
        import sys

        start_response("200 OK", TEXT)
        try:
            raise ValueError
        except ValueError:
            start_response("500 Sorry", TEXT, sys.exc_info())
        return [b"sorry"]

    reply = connect(serving(serve, application)).get()
    assert (reply.status, reply.body) == (500, b"sorry")


def test_exc_info_after_headers_is_raised_and_the_response_cut(serve, connect, caplog) -> None:
    def application(environ, start_response):
        import sys

        start_response("200 OK", TEXT)
        yield b"begun"
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Sorry", TEXT, sys.exc_info())

    client = connect(serving(serve, application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.rest().endswith(b"5\r\nbegun\r\n")
    assert "too late" in caplog.text


MANY = [(f"X-{number}", "many") for number in range(9)]


def test_tabs_and_what_is_no_ascii_may_stand_in_a_value(serve, connect) -> None:
    values = ["a\tb", "".join(map(chr, range(32, 127))), "".join(map(chr, range(128, 256)))]

    def application(environ, start_response):
        start_response("200 OK", [(f"X-{number}", value) for number, value in enumerate(values)])
        return [b"body"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = client.rest().partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    assert {f"X-{number}: {value}" for number, value in enumerate(values)} <= set(head)


@pytest.mark.parametrize(
    "call",
    [
        lambda start_response: start_response("200 OK\r\nX: y", TEXT),
        lambda start_response: start_response("101 Switching Protocols", []),
        lambda start_response: start_response("OK", TEXT),
        lambda start_response: start_response("200 OK", [("X", "a\r\nSet-Cookie: evil=1")]),
        lambda start_response: start_response("200 OK", [("X", "a\0b")]),
        lambda start_response: start_response("200 OK", [("X", "a\x1b[31m")]),
        lambda start_response: start_response("200 OK", [("X", "a\x0b")]),
        lambda start_response: start_response("200 OK", [*MANY, ("X", "a\x7f")]),
        lambda start_response: start_response("200 OK", [*MANY, ("X", "a\n")]),
        lambda start_response: start_response("200 OK", [*MANY, ("X", "\r")]),
        lambda start_response: start_response("200 OK", [("X\r\nY", "a")]),
        lambda start_response: start_response("200 OK", [("X Y", "a")]),
        lambda start_response: start_response("200 OK", [("", "a")]),
        lambda start_response: start_response("200 OK", [("X", 1)]),
        lambda start_response: start_response("200 OK", [("X", "\u20ac")]),
        lambda start_response: start_response("200 OK", [("Content-Length", "-1")]),
        lambda start_response: start_response("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
        lambda start_response: (start_response("200 OK", TEXT), start_response("200 OK", TEXT)),
        lambda start_response: None,
    ],
)
def test_what_an_application_may_not_send_is_an_error_of_its_own(serve, connect, call, caplog) -> None:
    def application(environ, start_response):
        call(start_response)
        return [b"body"]

    client = connect(serve(application))
    assert client.get().status == 500
    assert client.get().status == 500
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "header",
    [
        ("Connection", "keep-alive"),
        ("connection", "Upgrade"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "trailers"),
        ("Upgrade", "h2,h2c"),
        ("Proxy-Authenticate", "Basic"),
    ],
    ids=lambda header: header[0],
)
def test_headers_of_the_connection_are_dropped_and_reported_once(serve, connect, caplog, eventually, header) -> None:
    def application(environ, start_response):
        start_response("200 OK", [*TEXT, header, ("X-Own", "1")])
        return [b"a page"] if environ["PATH_INFO"] == "/page" else iter([b"a ", b"stream"])

    client = connect(serve(application))
    for path, body in [("/page", b"a page"), ("/stream", b"a stream")] * 2:
        reply = client.get(path)
        assert (reply.status, reply.body, reply.headers["x-own"]) == (200, body, "1")
        assert reply.headers.get(header[0].lower()) in (None, "chunked")
    eventually(lambda: caplog.records)
    (record,) = caplog.records
    assert (record.levelname, repr(header[0].lower()) in record.getMessage()) == ("WARNING", True)


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close"])
def test_an_application_may_have_the_connection_closed(serve, connect, value) -> None:
    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("Connection", value)])
        return [b"the last"]

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    data = client.rest()
    assert data.endswith(b"the last")
    assert data.count(b"HTTP/1.1 200 OK") == data.count(b"Connection: close") == 1


def test_trailer_and_spaces_around_a_length_are_passed_on(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("Trailer", "X-Sum"), ("Content-Length", " 5 ")])
        return [b"hello"]

    client = connect(serve(application))
    for _ in range(2):
        reply = client.get()
        assert (reply.body, reply.headers["trailer"], reply.headers["content-length"]) == (b"hello", "X-Sum", "5")


def test_the_iterable_is_closed_once_whatever_happens(serve, connect, eventually) -> None:
    closed = []

    class Parts:
        def __init__(self, parts):
            self.parts = iter(parts)

        def __iter__(self):
            return self

        def __next__(self):
            part = next(self.parts)
            if part is None:
                raise ValueError("on purpose")
            return part

        def close(self):
            closed.append(True)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return Parts([b"a", None] if environ["PATH_INFO"] == "/bad" else [b"a"])

    server = serving(serve, application)
    assert connect(server).get("/good").body == b"a"
    eventually(lambda: len(closed) == 1)
    client = connect(server)
    client.send("GET /bad HTTP/1.1\r\nHost: x\r\n\r\n")
    client.rest()
    eventually(lambda: len(closed) == 2)


def test_file_wrapper(serve, connect, tmp_path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789" * 100_000)
    opened = []

    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("Content-Length", "1000000")])
        opened.append(file.open("rb"))
        return environ["wsgi.file_wrapper"](opened[-1])

    assert connect(serving(serve, application)).get().body == file.read_bytes()
    assert opened[0].closed


@pytest.mark.parametrize(
    ("method", "start", "headers", "expected"),
    [
        ("GET", 0, TEXT, b"0123456789"),
        ("GET", 4, TEXT, b"456789"),
        ("GET", 2, [*TEXT, ("Content-Length", "3")], b"234"),
        ("GET", 10, TEXT, b""),
        ("HEAD", 0, TEXT, b""),
    ],
)
def test_file_wrapper_sends_a_file_from_where_it_stands(
    serve, connect, tmp_path, method, start, headers, expected
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    files = []

    def application(environ, start_response):
        start_response("200 OK", headers)
        files.append((tmp_path / "file").open("rb"))
        files[-1].seek(start)
        return environ["wsgi.file_wrapper"](files[-1])

    client = connect(serve(application))
    for _ in range(2):
        assert client.get(method=method).body == expected
    assert all(file.closed for file in files)


def test_file_wrapper_around_what_the_system_cannot_send(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 200_000))

    assert connect(serve(application)).get().body == b"x" * 200_000


@pytest.mark.parametrize("end", [b"", "", None, bytearray()], ids=repr)
def test_file_wrapper_around_what_only_looks_like_a_file_ends_with_any_empty_read(serve, connect, end) -> None:
    class Document:
        def __init__(self):
            self.parts = [b"first ", bytearray(b"second"), *[end] * 3]

        def read(self, size):
            return self.parts.pop(0)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](Document())

    assert connect(serve(application)).get().body == b"first second"


class Limited:
    """A file-like object that delegates attribute lookups to a file, but reads only ten bytes of it."""

    def __init__(self, file):
        self.file, self.left = file, 10

    def read(self, size=-1):
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        return data

    def __getattr__(self, name):
        return getattr(self.file, name)


class Deciphering(io.FileIO):
    def read(self, size=-1):
        return super().read(size).lower()

    def readinto(self, buffer):
        size = super().readinto(buffer)
        buffer[:size] = bytes(buffer[:size]).lower()
        return size


class DecipheringReader(io.BufferedReader):
    def read(self, size=-1):
        return super().read(size).lower()


def patched(path):
    file = path.open("rb")
    file.read = lambda size=-1, read=file.read: read(size).lower()
    return file


def patched_below(path):
    raw = io.FileIO(path)

    def readinto(buffer, original=raw.readinto):
        size = original(buffer)
        buffer[:size] = bytes(buffer[:size]).lower()
        return size

    raw.readinto = readinto
    return io.BufferedReader(raw)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: Limited(path.open("rb")), b"A CIPHERED"),
        (lambda path: Limited(path.open("rb", buffering=0)), b"A CIPHERED"),
        (Deciphering, b"a ciphered text"),
        (lambda path: io.BufferedReader(Deciphering(path)), b"a ciphered text"),
        (lambda path: DecipheringReader(io.FileIO(path)), b"a ciphered text"),
        (patched, b"a ciphered text"),
        (patched_below, b"a ciphered text"),
    ],
    ids=["limited", "limited-raw", "raw", "buffer-over-raw", "buffer", "patched", "patched-below"],
)
def test_file_wrapper_sends_what_read_returns_and_not_what_is_in_the_file(
    serve, connect, tmp_path, make, expected
) -> None:
    (tmp_path / "file").write_bytes(b"A CIPHERED TEXT")

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](make(tmp_path / "file"))

    assert connect(serve(application)).get().body == expected


def written(file):
    file.write(b"0123456789")
    file.seek(4)
    return file


def unflushed(path):
    file = path.open("w+b")
    file.write(b"0123456789")
    file.flush()
    file.seek(4)
    file.write(b"4")
    return file


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: written(tempfile.TemporaryFile()), b"456789"),  # noqa: SIM115  # the server closes it
        (lambda path: written(tempfile.NamedTemporaryFile()), b"456789"),  # noqa: SIM115
        (lambda path: written(tempfile.SpooledTemporaryFile()), b"456789"),  # noqa: SIM115
        (lambda path: written(tempfile.SpooledTemporaryFile(max_size=2)), b"456789"),  # noqa: SIM115
        (unflushed, b"56789"),
    ],
    ids=["temporary", "named", "spooled", "rolled-over", "unflushed"],
)
def test_file_wrapper_sends_temporary_files(serve, connect, tmp_path, make, expected) -> None:
    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](make(tmp_path / "file"))

    assert connect(serve(application)).get().body == expected


def test_a_file_that_becomes_shorter_than_promised_is_followed_by_a_close(serve, connect, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    def application(environ, start_response):
        start_response("200 OK", [*TEXT, ("Content-Length", "20")])
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    client = connect(serve(application))
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.rest().endswith(b"\r\n\r\n0123456789")


def test_a_file_that_is_truncated_while_it_is_sent_is_logged_as_cut(
    serve, connect, tmp_path, eventually, caplog
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(100_000_000)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    server = serve(application)
    client = connect(server)
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["completed"] == 1)
    os.truncate(tmp_path / "file", 0)
    assert len(client.rest()) < 100_000_000
    (line,) = eventually(lambda: caplog.messages)
    assert re.fullmatch(
        r"GET / was cut after .* s and \d+ bytes: its file became shorter while it was sent, request \w+", line
    )


def test_a_slow_reader_of_a_file_holds_no_slot_and_no_memory(serve, connect, tmp_path, eventually) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(100_000_000)

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    server = serve(application)
    client = connect(server)
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["completed"] == 1)
    (connection,) = server.connections
    assert connection.unsent > 50_000_000
    assert (server.shared.budget.in_memory, server.shared.budget.in_files) == (0, 0)
    assert len(client.reply().body) == 100_000_000


def test_a_slow_reader_holds_no_slot(serve, connect, eventually) -> None:
    big = b"x" * 20_000_000

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return [big if environ["PATH_INFO"] == "/big" else b"small"]

    server = serve(application, max_concurrent_per_router=1, queue_size=1, max_workers=1)
    slow = connect(server)
    slow.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["completed"] == 1)
    assert connect(server).get("/").body == b"small"
    assert slow.reply().body == big
    assert slow.get("/").body == b"small"


def test_a_stream_waits_for_a_client_that_is_far_behind(serve, connect, eventually) -> None:
    made = []

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        for _ in range(300):
            made.append(True)
            yield b"x" * 100_000

    server = serve(application)
    client = connect(server)
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    (connection,) = eventually(lambda: server.connections)
    eventually(lambda: connection.unsent > 16 * 1024 * 1024)
    assert len(made) < 250
    assert len(client.reply().body) == 30_000_000


def test_a_failing_application_gets_500_and_the_connection_goes_on(serve, connect, caplog) -> None:
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/bad":
            raise ValueError("on purpose")
        start_response("200 OK", TEXT)
        return [b"good"]

    client = connect(serving(serve, application))
    reply = client.get("/bad")
    assert reply.status == 500
    assert b"on purpose" not in reply.body
    assert re.search(r"GET /bad failed: ValueError \(request \w+\)\n", caplog.text)
    assert client.get("/").body == b"good"
