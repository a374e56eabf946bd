"""Our server behaves like gevent's; each difference is listed in this file and in docs/reference/http.md.

Most tests send the same requests to both servers and compare the responses.
"""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import logging
import lzma
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import pywsgi, socket
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, WSGIServer

TEXT = [("Content-Type", "text/plain")]
GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GET_1_0 = "GET / HTTP/1.0\r\n\r\n"
GET_1_0_KEPT = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
CHUNKED = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def answering(parts: Any, status: str = "200 OK", headers: Any = TEXT) -> Callable[..., Any]:
    """Return an application that responds with these parts; if `parts` is a callable, it returns the parts."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return parts() if callable(parts) else parts

    return application


def by_method(calls: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return an application that responds with the data that the function `calls` reads from `wsgi.input`."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        told = repr(calls(environ["wsgi.input"])).encode()
        start_response("200 OK", [*TEXT, ("Content-Length", str(len(told)))])
        return [told]

    return application


def whole_bytes(server: pywsgi.WSGIServer, data: str | bytes) -> bytes:
    """Send exactly `data` to a server; return all data that it sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        client.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65_536):
            answer += part
    return answer


@pytest.fixture
def both() -> Iterator[Callable[..., list[Any]]]:
    """Return a function that sends the same data to gevent's server and ours, and returns both results."""
    made: list[pywsgi.WSGIServer] = []

    def ask(application: Any, data: str | bytes, **arguments: Any) -> list[bytes]:
        answers = []
        for kind in (pywsgi.WSGIServer, WSGIServer):
            server = kind(("127.0.0.1", 0), application, log=None, error_log=io.StringIO(), **arguments)
            made.append(server)
            server.start()
            answers.append(whole_bytes(server, data))
        return answers

    yield ask
    for server in made:
        server.stop(0)


def responses(data: bytes) -> list[tuple[int, bytes]]:
    """Split a server's output into responses; return the status and the body of each."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        fields = {name.lower(): value for name, value in re.findall(rb"\r\n([\w-]+): ([^\r]*)", head)}
        body = b""
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int(data[: data.index(b"\r\n")], 16):
                start = data.index(b"\r\n") + 2
                body += data[start : start + size]
                data = data[start + size + 2 :]
            data = data[5:]
        elif b"content-length" in fields:
            body, data = data[: int(fields[b"content-length"])], data[int(fields[b"content-length"]) :]
        elif head[9:12] not in (b"100", b"204", b"304"):
            body, data = data, b""
        found.append((int(head[9:12]), body))
    return found


def failing(environ: dict[str, Any], start_response: Any) -> Any:
    raise ValueError("on purpose")


def failing_late(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    raise ValueError("on purpose")


def started_by_the_iterable(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"hello"


def written(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"")
    write(b"hello ")
    write(b"")
    return [b"", b"world"]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode("latin-1"), b"|", body]


APPLICATIONS = {
    "a list of one": answering([b"hello"]),
    "a list": answering([b"hello ", b"world"]),
    "a tuple": answering((b"hello",)),
    "an iterator": answering(lambda: iter([b"hello ", b"world"])),
    "no parts": answering([]),
    "an empty iterator": answering(lambda: iter([])),
    "an empty part": answering([b""]),
    "empty parts": answering(lambda: iter([b"", b""])),
    "an empty part first": answering(lambda: iter([b"", b"hello"])),
    "an empty part last": answering(lambda: iter([b"hello", b""])),
    "its length": answering([b"hello"], headers=[*TEXT, ("Content-Length", "5")]),
    "its length in parts": answering([b"hel", b"lo"], headers=[*TEXT, ("Content-Length", "5")]),
    "large parts": answering(lambda: iter([b"x" * 100_000] * 3)),
    "write": written,
    "start_response in the iterable": started_by_the_iterable,
    "204": answering([], "204 No Content", []),
    "204 with empty parts": answering([b"", b""], "204 No Content", []),
    "304": answering([], "304 Not Modified", []),
    "304 with empty parts": answering(lambda: iter([b"", b""]), "304 Not Modified", []),
    "404": answering([b"not found"], "404 Not Found"),
    "a status without a phrase": answering([b"hello"], "200"),
    "an odd status": answering([b"hello"], "999 Odd"),
    "headers in a tuple": answering([b"hello"], headers=tuple(TEXT)),
    "a header in latin-1": answering([b"hello"], headers=[("X", "\xe9")]),
    "bytearrays": answering([bytearray(b"hello "), bytearray(b"world")]),
    "one bytearray": answering([bytearray(b"hello")]),
    "memoryviews": answering(lambda: iter([memoryview(b"hello "), memoryview(b"world")])),
}


@pytest.mark.parametrize("request_text", [GET + GET, GET_1_0], ids=["kept", "HTTP/1.0"])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_is_answered_for_as_by_gevent(both, name: str, request_text: str) -> None:
    theirs, ours = map(responses, both(APPLICATIONS[name], request_text))
    assert ours == theirs
    assert len(ours) == (2 if request_text == GET + GET else 1)


ERRORS = {
    "before start_response": failing,
    "after start_response": failing_late,
    "no start_response": lambda environ, start_response: [b"hello"],
    "nothing returned": answering(None),
    "a header beyond latin-1": answering([b"hello"], headers=[("X", "\u1f4a3")]),
    "a header of bytes": answering([b"hello"], headers=[("X", b"\xe1\xbd\x8a3")]),
    "a header that is a number": answering([b"hello"], headers=[("X", 1)]),
    "a status of bytes": answering([b"hello"], b"200 OK"),
    "a status without a number": answering([b"hello"], "OK"),
    "a line break in the status": answering([], "200 OK\r\nX: y"),
    "a line break in a value": answering([], headers=[("X", "y\r\nZ: z")]),
    "a line break in a name": answering([], headers=[("X\r\n", "y")]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_application_is_500_as_with_gevent(both, name: str, monkeypatch) -> None:
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", None)
    theirs, ours = map(responses, both(ERRORS[name], GET))
    assert [status for status, _ in ours] == [status for status, _ in theirs] == [500]


@pytest.mark.parametrize("parts", [["text"], ["te", "xt"], b"hello", [1, 2]], ids=repr)
def test_a_body_that_is_not_bytes_is_500(serve, connect, caplog, parts: Any) -> None:
    assert connect(serve(answering(parts))).get().status == 500
    assert len(caplog.records) == 1


def test_an_error_after_the_first_part_cuts_the_chunks(both, monkeypatch) -> None:
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", None)

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"hello"
        raise ValueError("on purpose")

    for answer in both(application, GET + GET):
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert answer.endswith(b"\r\n\r\n5\r\nhello\r\n")


REQUESTS = {
    "two in a row": GET + "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
    "close": "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET,
    "close in capitals": "GET / HTTP/1.1\r\nHost: x\r\nConnection: CLOSE\r\n\r\n" + GET,
    "keep-alive": "GET / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n" + GET,
    "a body": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + GET,
    "an empty body": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + GET,
    "no length": "POST / HTTP/1.1\r\nHost: x\r\n\r\n" + GET,
    "more than the body": "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\na=a0123456789",
    "chunks": CHUNKED + "2\r\noh\r\n4\r\n hai\r\n0\r\n\r\n" + GET,
    "no chunks": CHUNKED + "0\r\n\r\n" + GET,
    "large chunk sizes in hexadecimal": CHUNKED + f"1F\r\n{'x' * 31}\r\n0\r\n\r\n" + GET,
    "a chunk extension": CHUNKED + "2;token=oh_hi\r\noh\r\n0\r\n\r\n" + GET,
    "a quoted chunk extension": CHUNKED + '2;token="oh hi"\r\noh\r\n0\r\n\r\n' + GET,
    "trailers": CHUNKED + "2\r\noh\r\n0\r\nX: y\r\nZ: z\r\n\r\n" + GET,
    "chunked in capitals": CHUNKED.replace("chunked", "CHUNKED") + "2\r\noh\r\n0\r\n\r\n",
    "a path beyond ASCII": "GET /%D0%BF%D1%80%D0%B8?%D0%B2 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with slashes": "GET //a//b HTTP/1.1\r\nHost: x\r\n\r\n",
    "parameters": "GET /a;b=c HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length that is no number": "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
    "a negative length": "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -100\r\n\r\n",
    "a percent sign for a version": "GET / HTTP %\r\n\r\n",
    "no version": "GET\r\n\r\n",
    "a long target": f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_understood_as_by_gevent(both, name: str) -> None:
    theirs, ours = map(responses, both(echo, REQUESTS[name]))
    assert [status for status, _ in ours] == [status for status, _ in theirs]
    assert [body for status, body in ours if status == 200] == [body for status, body in theirs if status == 200]


@pytest.mark.parametrize("request_text", [GET, GET_1_0, GET_1_0_KEPT])
def test_the_connection_header_says_what_happens(both, request_text: str) -> None:
    for answer in both(answering([b"hello"]), request_text * 2):
        assert answer.count(b"HTTP/1.1 200 OK") == (1 if request_text == GET_1_0 else 2)
        assert (b"Connection: close" in answer) == (request_text == GET_1_0)
        assert (b"Connection: keep-alive" in answer) == (request_text == GET_1_0_KEPT)


BODY = "hello\n\nworld\n123"
READS = {
    "read()": lambda stream: [stream.read(), stream.read()],
    "read(-1)": lambda stream: stream.read(-1),
    "read(0)": lambda stream: [stream.read(0), stream.read()],
    "read(1)": lambda stream: list(iter(lambda: stream.read(1), b"")),
    "read(6)": lambda stream: list(iter(lambda: stream.read(6), b"")),
    "read(1000)": lambda stream: [stream.read(1000), stream.read(1000)],
    "readline()": lambda stream: list(iter(stream.readline, b"")),
    "readline(-1)": lambda stream: stream.readline(-1),
    "readline(3)": lambda stream: list(iter(lambda: stream.readline(3), b"")),
    "readline(1000)": lambda stream: list(iter(lambda: stream.readline(1000), b"")),
    "readlines()": lambda stream: stream.readlines(),
    "iteration": list,
    "read(), then by line": lambda stream: [stream.read(2), stream.readline(), stream.readlines()],
    "line, then read()": lambda stream: [stream.readline(), stream.read(), stream.readline()],
}
FRAMED = {
    "length": f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
    "chunks": CHUNKED + f"4\r\n{BODY[:4]}\r\n2\r\n{BODY[4:6]}\r\na\r\n{BODY[6:]}\r\n0\r\n\r\n",
    "no body": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "GET": GET,
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("name", READS)
def test_the_input_is_read_as_with_gevent(both, name: str, framing: str) -> None:
    theirs, ours = map(responses, both(by_method(READS[name]), FRAMED[framing] + GET))
    assert ours == theirs
    assert [status for status, _ in ours] == [200, 200]


@pytest.mark.parametrize("size", [100, 100_000, 3_000_000])
def test_a_body_that_is_not_read_is_not_the_next_request(serve, connect, size: int) -> None:
    client = connect(serve(answering([b"hello"])))
    client.send(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n" + "G" * size)
    assert client.reply("POST").body == b"hello"
    assert client.get().body == b"hello"


def test_the_environ_is_that_of_gevent(both) -> None:
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(dict(environ))
        start_response("200 OK", TEXT)
        return []

    both(
        application,
        "POST /%41//b;c?d=%20e?f HTTP/1.1\r\nHost: example:80\r\nContent-Type: text/x\r\nContent-Length: 2\r\n"
        "Cookie: a=1\r\nX-Empty:\r\nX-Twice: 1\r\nCookie: b=2\r\nx-twice: 2\r\nX-Auth_User: evil\r\n\r\nab",
        environ={"my.key": "mine", "wsgi.multiprocess": True},
    )
    theirs, ours = seen
    known_to_us = {"RAW_URI", "REQUEST_URI", "intralb.request_id"}
    known_to_us |= {"intralb.deadline", "intralb.client_disconnected", "intralb.worker"}
    assert ours.keys() - theirs.keys() == known_to_us | {"wsgi.file_wrapper", "wsgi.early_hints"}
    assert theirs.keys() - ours.keys() == set()
    different = {name for name in theirs if ours[name] != theirs[name]}
    their_own = {"SERVER_PORT", "REMOTE_PORT", "wsgi.input", "wsgi.errors"}
    assert different == their_own | {"SERVER_SOFTWARE", "wsgi.multithread"}
    assert type(ours) is dict


def test_a_request_without_a_body_has_no_length_or_type(serve, connect) -> None:
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", TEXT)
        return []

    connect(serve(application)).get()
    named = {name for name in seen if name.startswith("HTTP_") or name in ("CONTENT_LENGTH", "CONTENT_TYPE")}
    assert named == {"HTTP_HOST"}


def test_chunks_are_the_parts_of_the_application(both) -> None:
    parts = [b"this", b"is", b"chunked", b"a" * 8192]
    for answer in both(answering(lambda: iter(parts)), GET):
        sent = answer.partition(b"\r\n\r\n")[2]
        assert sent == b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_the_iterable_is_closed_once(both) -> None:
    class Parts:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield bytearray(b"Hello World")
            yield b"!"

        def close(self) -> None:
            self.closed += 1

    made: list[Parts] = []

    def application(environ: dict[str, Any], start_response: Any) -> Parts:
        start_response("200 OK", TEXT)
        made.append(Parts())
        return made[-1]

    theirs, ours = both(application, GET + GET)
    assert responses(ours) == responses(theirs) == [(200, b"Hello World!")] * 2
    assert [parts.closed for parts in made] == [1] * 4


class Text(str):
    """A subclass of `str`, like the type with which template languages mark text as safe."""


@pytest.mark.parametrize(
    "application",
    [
        answering([b"hello"], headers=[("X", Text("y"))]),
        answering([b"hello"], headers=[(Text("X"), "y")]),
        answering([b"hello"], Text("200 OK")),
    ],
)
def test_what_is_a_kind_of_str_is_taken_for_one(both, application) -> None:
    theirs, ours = map(responses, both(application, GET))
    assert ours == theirs == [(200, b"hello")]


# Behaviour of our own engine.


def test_a_line_break_in_headers_that_can_be_read_once_only_is_refused(serve, connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", iter([("X", "y\r\nSet-Cookie: evil=1")]))
        return [b"hello"]

    reply = connect(serve(application)).get()
    assert "set-cookie" not in reply.headers
    assert reply.status == 500


def test_a_length_that_is_said_twice_is_sent_once(serve, connect) -> None:
    client = connect(serve(answering([b"hello"], headers=[("Content-Length", "5"), ("content-length", "5")])))
    client.send(GET_1_0)
    assert client.rest().lower().count(b"content-length") == 1


def test_a_status_line_without_a_phrase_ends_with_a_space(serve, connect) -> None:
    client = connect(serve(answering([b"hello"], "200")))
    client.send(GET_1_0)
    assert client.rest().startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize(
    "opened",
    [
        gzip.open,
        bz2.open,
        lzma.open,
    ],
    ids=["gzip", "bz2", "xz"],
)
def test_a_file_wrapper_sends_what_reading_the_file_gives(serve, connect, tmp_path, opened) -> None:
    path = tmp_path / "file"
    with opened(path, "wb") as file:
        file.write(b"plain text")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](opened(path, "rb"))

    client = connect(serve(application))
    assert [client.get().body for _ in range(2)] == [b"plain text"] * 2


def by_name(path: Any) -> Any:
    return path.open("rb")


def unbuffered(path: Any) -> Any:
    return path.open("rb", buffering=0)


def read_in_part(path: Any) -> Any:
    file = path.open("rb")
    file.read(10)
    return file


def a_pipe(path: Any) -> Any:
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(path.read_bytes()[:1000])
    return open(reading, "rb")


def temporary(path: Any) -> Any:
    file = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # the server closes it
    file.write(path.read_bytes())
    file.seek(5)
    return file


def in_memory(path: Any) -> Any:
    return io.BytesIO(path.read_bytes())


@pytest.mark.parametrize("opened", [by_name, unbuffered, read_in_part, a_pipe, temporary, in_memory])
@pytest.mark.parametrize("length", [None, 100, 100_000])
def test_a_file_of_any_kind_is_sent_and_closed(serve, connect, tmp_path, opened, length: int | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    with opened(path) as file:
        expected = file.read()[:length]
    files: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT if length is None else [*TEXT, ("Content-Length", str(length))])
        files.append(opened(path))
        return environ["wsgi.file_wrapper"](files[-1])

    client = connect(serve(application))
    client.send(GET_1_0_KEPT)
    if length == 100_000:
        # Only the closed connection shows that the body is shorter than declared.
        assert client.rest().endswith(b"\r\n\r\n" + expected)
    else:
        assert client.reply().body == expected
    assert [file.closed for file in files] == [True]


def test_a_file_that_shrinks_while_it_is_sent_cuts_the_answer(serve, connect, tmp_path, eventually) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(40_000_000)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](path.open("rb"))

    server = serve(application)
    client = connect(server)
    client.send(GET)
    eventually(lambda: server.balancer.snapshot().outcomes["completed"])
    os.truncate(path, 1000)
    assert len(client.rest()) < 40_000_000
    eventually(lambda: not server.connections)


def test_an_error_when_the_iterable_is_closed_does_not_harm_the_connection(serve, connect, caplog) -> None:
    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            yield b"hello"

        def close(self) -> None:
            raise ValueError("on purpose")

    client = connect(serve(answering(Parts)))
    assert [client.get().body for _ in range(2)] == [b"hello"] * 2
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("change", [{"REQUEST_METHOD": "GET"}, {}], ids=["rewritten", "emptied"])
def test_no_body_answers_head_whatever_becomes_of_the_environ(serve, connect, change: dict[str, str]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        # Change the environ like middleware that presents HEAD as GET to an application that does not know HEAD.
        environ.clear()
        environ.update(change)
        start_response("200 OK", TEXT)
        return [b"hello"]

    client = connect(serve(application))
    for _ in range(2):
        reply = client.get(method="HEAD")
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, "5", b"")


def test_a_request_is_logged_whatever_becomes_of_the_environ(connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ.clear()
        start_response("200 OK", TEXT)
        return [b"hello"]

    log = io.StringIO()
    with WSGIServer(("127.0.0.1", 0), application, log=log) as server:
        server.start()
        client = connect(server)
        assert client.get("/a").body == b"hello"
        assert client.get("/b").body == b"hello"
    assert re.findall('"(.*?)" ([0-9]+)', log.getvalue()) == [("GET /a HTTP/1.1", "200"), ("GET /b HTTP/1.1", "200")]


def test_a_buffer_may_be_used_again_for_the_next_part(serve, connect) -> None:
    size, count = 200_000, 100

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytearray]:
        start_response("200 OK", [*TEXT, ("Content-Length", str(size * count))])
        buffer = bytearray(size)
        for number in range(count):
            buffer[:] = bytes([number]) * size
            yield buffer

    body = connect(serve(application)).get().body
    assert [body[place] for place in range(0, size * count, size)] == list(range(count))


def test_a_client_that_only_listens_any_more_is_left_when_a_large_answer_is_sent(serve, connect, eventually) -> None:
    server = serve(answering([b"x" * 20_000_000]))
    client = connect(server)
    client.send(GET)
    eventually(lambda: server.balancer.snapshot().outcomes["completed"] == 1)
    client.socket.shutdown(socket.SHUT_WR)
    with gevent.Timeout(2, AssertionError("the server does not close")):
        assert len(client.rest()) > 20_000_000


def test_nothing_but_the_balancer_ends_with_a_failing_application(serve, connect, caplog) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            sys.exit("on purpose")
        start_response("200 OK", TEXT)
        return [b"hello"]

    client = connect(serve(application))
    assert client.get("/").status == 500
    assert client.get("/good").body == b"hello"
    assert "SystemExit" in caplog.text


# Logs.


class Logger:
    """An object that gevent accepts as a logger."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, str]] = []

    def log(self, level: int, message: str) -> None:
        self.logged.append((level, message))

    def ask(self) -> list[tuple[int, str]]:
        return self.logged


def test_a_logger_as_log_gets_a_line_for_every_request(connect, eventually) -> None:
    logger = Logger()
    with WSGIServer(("127.0.0.1", 0), answering([b"hello"]), log=logger) as server:
        server.start()
        assert server.log.ask() == []
        client = connect(server)
        client.get("/a?c%0a")
        client.get("/b")
        eventually(lambda: len(logger.logged) == 2)
    assert [level for level, _ in logger.logged] == [logging.INFO] * 2
    assert '"GET /a?c%0a HTTP/1.1" 200 ' in logger.logged[0][1]
    assert "\n" not in "".join(message for _, message in logger.logged)


def test_the_error_log_is_what_the_application_writes_errors_to(connect) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("one\n")
        environ["wsgi.errors"].writelines(["two\n", "three\n"])
        environ["wsgi.errors"].flush()
        start_response("200 OK", TEXT)
        return []

    for log in (io.StringIO(), Logger()):
        with WSGIServer(("127.0.0.1", 0), application, error_log=log) as server:
            server.start()
            connect(server).get()
        written = log.getvalue() if isinstance(log, io.StringIO) else "\n".join(text for _, text in log.logged)
        assert re.findall(r"\w+", written) == ["one", "two", "three"]


# Differences, as docs/reference/http.md lists them.


@pytest.mark.parametrize(
    ("request_text", "theirs", "ours"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n z\r\n\r\n", 200, 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", 200, 400),
        ("GET / HTTP/1.1\nHost: x\n\n", 200, 400),
        ("GET / HTTP/1.1\r\n\r\n", 200, 400),
        ("GET /\r\n\r\n", 200, 505),
        ("GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 200, 200),
        ("EXOTIC / HTTP/1.1\r\nHost: x\r\n\r\n", 200, 200),
        ("\r\n" + GET, 400, 200),
        (CHUNKED.replace("\r\n\r\n", "\r\nContent-Length: 12\r\n\r\n") + "2\r\noh\r\n0\r\n\r\n", 200, 400),
        (CHUNKED + "2;dirt\0\r\noh\r\n0\r\n\r\n", 200, 400),
    ],
)
def test_what_parsers_disagree_about_is_refused(both, request_text: str, theirs: int, ours: int) -> None:
    assert [responses(answer)[0][0] for answer in both(echo, request_text)] == [theirs, ours]


@pytest.mark.parametrize(
    ("application", "request_text", "theirs", "ours"),
    [
        (answering([b"body"], "304 Not Modified", []), GET, [500], [304]),
        (answering([], "304 Not Modified", [("Content-Length", "100")]), GET, [500], [304]),
        (answering([b"body"], "204 No Content", []), GET, [500], [204]),
        (answering([], headers=[("Connection", "close")]), GET, [200], [200]),
        (answering([], headers=[("Transfer-Encoding", "identity")]), GET, [200], [200]),
        (failing, GET * 2, [500], [500, 500]),
    ],
)
def test_applications_that_break_the_rules(both, monkeypatch, application, request_text, theirs, ours) -> None:
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", None)

    def statuses(answer: bytes) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answer)]

    assert [statuses(answer) for answer in both(application, request_text)] == [theirs, ours]


def test_a_list_of_several_parts_is_sent_in_chunks(both) -> None:
    theirs, ours = both(answering([b"hello ", b"world"]), GET)
    assert b"Content-Length: 11" in theirs
    assert b"Transfer-Encoding: chunked" in ours


def test_the_application_is_not_called_for_a_body_that_does_not_arrive(serve, connect, eventually) -> None:
    called = []
    server = serve(lambda environ, start_response: called.append(True))
    client = connect(server)
    client.send(CHUNKED + "4\r\nthi")
    eventually(lambda: server.connections)
    client.close()
    eventually(lambda: not server.connections)
    assert called == []


def test_a_client_that_expects_it_is_told_to_continue_before_the_application_is_called(serve, connect) -> None:
    called = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(environ["wsgi.input"].read())
        start_response("200 OK", TEXT)
        return [b"hello"]

    client = connect(serve(application))
    for _ in range(2):
        client.send("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n")
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send("testing")
        assert client.reply("PUT").body == b"hello"
    assert called == [b"testing"] * 2


def test_what_looks_like_a_request_in_an_expected_body_is_none(serve, connect) -> None:
    inner = "PUT /evil HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    client = connect(serve(echo))
    client.send(f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\nExpect: 100-continue\r\n\r\n{inner}")
    assert client.reply("PUT").body == b"/|" + inner.encode()
    assert client.get("/next").body == b"/next|"


def test_chunk_extensions_are_bounded(serve, connect) -> None:
    client = connect(serve(echo, max_body_bytes=1000))
    sender = gevent.spawn(client.send, CHUNKED + f"1;{'x' * 65_000}\r\na\r\n" * 50 + "0\r\n\r\n")
    assert client.reply("POST").status in (400, 413)
    sender.kill()


# The life of a server.


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_starting_and_stopping_again_and_again_leaves_nothing_open(connect) -> None:
    server = WSGIServer(("127.0.0.1", 0), answering([b"hello"]))
    before = open_files()
    for _ in range(10):
        server.start()
        client = connect(server)
        assert client.get().body == b"hello"
        idle = connect(server)
        server.stop(1)
        assert client.closed_by_server
        assert idle.closed_by_server
        client.close()
        idle.close()
        assert not server.connections
        with pytest.raises(ConnectionRefusedError):
            connect(server)
    assert open_files() == before


def test_stop_accepting_lets_connections_wait_until_start_accepting(serve, connect) -> None:
    server = serve(answering([b"hello"]))
    first = connect(server)
    assert first.get().body == b"hello"
    server.stop_accepting()
    waiting = connect(server)
    waiting.send(GET)
    assert first.get().body == b"hello"
    assert len(server.connections) == 1
    server.start_accepting()
    assert waiting.reply().body == b"hello"


def test_connections_of_all_kinds_leave_nothing_open(serve, connect, eventually, caplog) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/file":
            return environ["wsgi.file_wrapper"](open(__file__, "rb"))  # the server closes it
        return iter([b"x" * 1_000_000] * 5)

    large = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + "x" * 2_000_000
    server = serve(application)
    connect(server).get("/")
    before = open_files()
    for data in (
        GET,
        GET[:-5],
        large,
        large + "x" * 1_000_000,
        "nonsense\r\n\r\n",
        "GET /file HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        for wait in (False, True):
            client = connect(server)
            client.send(data)
            if wait:
                gevent.sleep(0.01)
            client.close()
    eventually(lambda: len(server.connections) == 1)
    eventually(lambda: open_files() == before)
    assert server.balancer.snapshot().running == 0
    assert server.shared.budget.in_memory == server.shared.budget.in_files == server.shared.bodies.taken == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_application_that_keeps_its_environ_keeps_no_connection_open(serve, connect) -> None:
    kept: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append((environ, sys._getframe(), start_response))
        start_response("200 OK", TEXT)
        return [b"hello"]

    client = connect(serve(application))
    client.send(GET_1_0)
    assert client.rest().endswith(b"hello")
    kept.clear()


def test_a_stopped_balancer_serves_again_behind_another_server(connect) -> None:
    balancer = LoadBalancer(answering([b"hello"]), Options())
    for _ in range(3):
        with WSGIServer(("127.0.0.1", 0), balancer) as server:
            server.start()
            assert connect(server).get().body == b"hello"
            server.stop()
    assert balancer.snapshot().submitted == 3


def test_a_server_stopped_while_bodies_arrive_and_answers_leave_ends_in_time(connect, eventually) -> None:
    door = Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x" * 30_000_000
        door.wait()

    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application, Options(request_timeout_seconds=60)))
    server.start()
    before = open_files()
    clients = [connect(server) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(GET if number % 2 else "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf")
    eventually(lambda: server.balancer.snapshot().running == 10)
    with gevent.Timeout(3, AssertionError("stop takes longer than it was given")):
        server.stop(0.2)
    for client in clients:
        client.close()
    assert not server.connections
    # The listener is closed, so the process has one open file fewer.
    eventually(lambda: open_files() == before - 1)
