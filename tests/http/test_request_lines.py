"""Unusual request lines are accepted, however they are split: any method, later versions, raw bytes in a target."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from intralb_gevent import LoadBalancer, Options
from intralb_gevent.http.body import BodyBudget
from intralb_gevent.http.parser import RequestParser
from intralb_gevent.http.request import Request

METHODS = [
    *("CHECKIN", "LABEL", "UPDATE", "VERSION-CONTROL", "BASELINE-CONTROL", "UNCHECKOUT", "MKWORKSPACE", "ORDERPATCH"),
    *("BAN", "FOO", "X-MY", "get", "Get", "gET", "head", "GETX", "POSTED", "P", "1", "!#$%&'*+-.^_`|~", "A" * 64),
    *("DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "REDIRECT", "RECORD", "FLUSH"),
    *("PRI", "SOURCE", "M-SEARCH", "QUERY", "PURGE", "PROPFIND", "REPORT", "LINK", "TRACE", "MKCALENDAR"),
]


class Parsed:
    """The results of parsing bytes in pieces."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refusal: Any = None
        self.parser = RequestParser({}, Options(), lambda environ: None, self.requests.append, BodyBudget(1024**2))

    def feed(self, data: bytes, step: int) -> Parsed:
        for start in range(0, len(data), step):
            self.refusal = self.refusal or self.parser.feed(data[start : start + step])
        return self

    @property
    def summary(self) -> list[tuple[str, str, bytes, bool]]:
        return [
            (r.environ["REQUEST_METHOD"], r.environ["RAW_URI"], r.environ["wsgi.input"].read(), r.keep_alive)
            for r in self.requests
        ]


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def application(seen):
    def application(environ, start_response):
        seen.append({**environ, "body": environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))})
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["REQUEST_METHOD"].encode() + b":" + seen[-1]["body"]]

    return application


@pytest.fixture
def server(serve, application):
    return serve(application)


@pytest.mark.parametrize("method", METHODS)
def test_any_token_is_a_method_and_its_connection_is_kept(server, connect, method) -> None:
    client = connect(server)
    for body in (b"", b"hello"):
        client.send(f"{method} /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        reply = client.reply()
        assert (reply.status, reply.body) == (200, f"{method}:".encode() + body)
    assert client.get().body == b"GET:"


@pytest.mark.parametrize("method", ["POST", "BAN", "VERSION-CONTROL", "PLAY"])
def test_bodies_by_length_and_in_chunks(server, connect, seen, method) -> None:
    client = connect(server)
    body = bytes(range(256)) * 300
    client.send(f"{method} /a HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert client.reply().body == method.encode() + b":" + body
    client.send(f"{method} /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"5\r\nhello\r\n0\r\nX: trailer\r\n\r\n")
    assert client.reply().body == method.encode() + b":hello"
    assert seen[-1]["CONTENT_LENGTH"] == "5"


MIXED = (
    b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"BAN /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nFOO /"
    b"LABEL /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
    b"PLAY /5 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\r\n\r\nBA\r\n0\r\nT: u\r\n\r\n"
    b"\r\nversion-control /6 HTTP/1.2\r\nHost: a\r\n\r\n"
    b"PUT /7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /8\xc3\xa9?\xe9 HTTP/1.9\r\nHost: a\r\n\r\n"
    b"PRI /9 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"UPDATE /10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    b"UPDATE /11 HTTP/1.0\r\n\r\n"
)
REQUESTS = [
    ("GET", "/1", b"", True),
    ("BAN", "/2", b"", True),
    ("POST", "/3", b"FOO /", True),
    ("LABEL", "/4", b"\r\n\r\n", True),
    ("PLAY", "/5", b"\r\n\r\nBA", True),
    ("version-control", "/6", b"", True),
    ("PUT", "/7", b"", True),
    ("GET", "/8%C3%A9?%E9", b"", True),
    ("PRI", "/9", b"", True),
    ("UPDATE", "/10", b"", True),
    ("UPDATE", "/11", b"", False),
]


@pytest.mark.parametrize("step", [*range(1, 40), len(MIXED)])
def test_pipelined_in_any_pieces_they_are_the_same_requests(step) -> None:
    parsed = Parsed().feed(MIXED, step)
    assert parsed.refusal is None
    assert parsed.summary == REQUESTS


@pytest.mark.parametrize("cut", range(1, len(MIXED)))
def test_cut_anywhere_they_are_the_same_requests(cut) -> None:
    parsed = Parsed().feed(MIXED[:cut], cut).feed(MIXED[cut:], len(MIXED))
    assert parsed.refusal is None
    assert parsed.summary == REQUESTS


def test_many_pipelined_requests_with_such_methods_are_answered_in_order(server, connect) -> None:
    client = connect(server)
    methods = [f"M{n}" if n % 3 else "GET" for n in range(300)]
    sender = gevent.spawn(client.send, "".join(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n" for method in methods))
    assert [client.reply().body.decode() for _ in methods] == [f"{method}:" for method in methods]
    sender.get()


@pytest.mark.parametrize("version", ["1.2", "1.5", "1.9"])
def test_a_later_minor_version_is_read_as_1_1(server, connect, seen, version) -> None:
    client = connect(server)
    for _ in range(2):
        client.send(f"GET /x HTTP/{version}\r\nHost: a\r\n\r\n")
        assert client.reply().status == 200
    assert seen[0]["SERVER_PROTOCOL"] == "HTTP/1.1"


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"/caf\xc3\xa9?q=\xc3\xa9", "/caf\xc3\xa9", "q=%C3%A9"),
        (b"/\xff%20x", "/\xff x", ""),
        (b"http://a/\xc3\xa9", "/\xc3\xa9", ""),
    ],
)
def test_raw_bytes_in_a_target_reach_the_application(server, connect, seen, raw, path, query) -> None:
    client = connect(server)
    client.send(b"GET " + raw + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.reply().status == 200
    assert (seen[0]["PATH_INFO"], seen[0]["QUERY_STRING"]) == (path, query)
    assert seen[0]["RAW_URI"].isascii()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("A" * 65 + " / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("A" * 65, 501),
        ("CONNECT a:1 HTTP/1.2\r\nHost: a\r\n\r\n", 501),
        ("B@N / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("BAN\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("BAN\r\n\r\n", 400),
        ("\x16\x03\x01\x02", 400),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("BAN / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("BAN /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("BAN / HTTP/1.1\r\n\r\n", 400),
        ("BAN / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", 400),
        ("BAN / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 400),
        ("BAN / FOO/1.1\r\nHost: a\r\n\r\n", 400),
        ("BAN / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("BAN /" + "x" * 9000, 414),
        ("BAN /" + "x" * 9000 + " HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        ("BAN / HTTP/1.1\r\nX: " + "x" * 60_000, 431),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \t\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_what_is_no_request_is_still_refused(data, status, step) -> None:
    parsed = Parsed().feed(data.encode("latin-1"), step)
    assert parsed.refusal is not None
    assert int(parsed.refusal.status[:3]) == status
    assert not parsed.requests


def test_an_empty_host_after_one_of_http_1_0_is_refused_too() -> None:
    data = b"GET / HTTP/1.0\r\nHost:\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n"
    parsed = Parsed().feed(data, len(data))
    assert len(parsed.requests) == 1
    assert parsed.refusal is not None


def test_a_method_that_looks_like_a_body_is_part_of_it(server, connect) -> None:
    client = connect(server)
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nBAN / HTTP/1.1\r\nHost: a\r\n\r\n...")
    assert client.reply("POST").body == b"POST:BAN / HTTP/1.1\r\nHost: a\r\n\r\n..."
    assert client.get().body == b"GET:"


def test_a_slow_line_of_such_a_request_is_given_up_in_time(serve, connect, application) -> None:
    client = connect(serve(application, header_timeout_seconds=0.01))
    client.send("BAN /half")
    assert client.reply().status == 408


@pytest.mark.parametrize("method", ["BAN", "PLAY", "get"])
def test_with_a_handler_class_too(application, connect, method) -> None:
    from gevent.pywsgi import WSGIHandler

    from intralb_gevent import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application), log=None, handler_class=WSGIHandler)
    server.start()
    try:
        assert connect(server).get(method=method).body == f"{method}:".encode()
    finally:
        server.stop(0)
