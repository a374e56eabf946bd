"""Tests of the balancer inside gunicorn, gevent.pywsgi, and our server with a `handler_class`.

The outer server must treat responses, errors and request bodies the same with and without the balancer.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

APPLICATION = """
import json, sys, time
import gevent
from intralb_gevent import LoadBalancer, Options

TEXT = [("Content-Type", "text/plain")]
closed = []

class Closing:
    def __init__(self, name, parts):
        self.name, self.parts = name, parts
    def __iter__(self):
        return iter(self.parts)
    def close(self):
        closed.append(self.name)

class Lines(list):
    def close(self):
        closed.append("lines")

def started(parts, status="200 OK", headers=TEXT):
    def answer(environ, start_response):
        start_response(status, headers)
        return parts() if callable(parts) else parts
    return answer

def written(*parts, rest=()):
    def answer(environ, start_response):
        write = start_response("200 OK", TEXT)
        for part in parts:
            write(part)
        return list(rest)
    return answer

def late_start(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"hello"

def catching(status, headers):
    def answer(environ, start_response):
        try:
            start_response(status, headers)
        except Exception as error:
            start_response("500 Caught", TEXT, sys.exc_info())
            return [type(error).__name__.encode()]
        return [b"taken"]
    return answer

def corrected(environ, start_response):
    start_response("200 OK", [("X-First", "1")])
    try:
        raise ValueError
    except ValueError:
        start_response("503 Corrected", TEXT, sys.exc_info())
    return [b"corrected"]

def twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("201 Created", TEXT)
    return [b"twice"]

def reading(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [body]

def reading_late(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"begun ")
    yield environ["wsgi.input"].read()

def misreading(environ, start_response):
    environ["wsgi.input"].read("all")

def endless(environ, start_response):
    start_response("200 OK", TEXT)
    try:
        while True:
            yield b"x" * 100_000
    finally:
        closed.append("endless")

PATHS = {
    "/one": started([b"hello"]),
    "/several": started([b"a", b"", b"b", b"c"]),
    "/tuple": started((b"a", b"b")),
    "/empty": started([]),
    "/empty-part": started([b""]),
    "/lines": started(lambda: Lines([b"a", b"b"])),
    "/length": started([b"hello"], headers=[*TEXT, ("Content-Length", "5")]),
    "/parts-with-length": started(lambda: iter([b"he", b"llo"]), headers=[*TEXT, ("Content-Length", "5")]),
    "/iterator": started(lambda: iter([b"a", b"", b"b"])),
    "/no-part": started(lambda: iter([])),
    "/closing": started(lambda: Closing("closing", [b"a"])),
    "/late-start": late_start,
    "/written": written(b"a", b"b", rest=[b"c"]),
    "/written-alone": written(b"a"),
    "/no-content": started([], "204 No Content", []),
    "/not-modified": started([], "304 Not Modified", []),
    "/bad-header": started([b"x"], headers=[("X-A", "a\\nb")]),
    "/bad-status": started([b"x"], "nonsense"),
    "/bad-type": started([b"x"], headers=[("X-A", 5)]),
    "/caught-header": catching("200 OK", [("X-A", "a\\nb")]),
    "/caught-status": catching("nonsense", TEXT),
    "/corrected": corrected,
    "/twice": twice,
    "/read": reading,
    "/read-late": reading_late,
    "/misread": misreading,
    "/endless": endless,
}

def begin_and_wait(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "1000"), ("X-First", "1")])
    gevent.sleep(60)
    return [b"never"]

def begin_and_fail(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "1000"), ("X-First", "1")])
    raise ValueError("on purpose")

def wait(environ, start_response):
    gevent.sleep(60)

def mutable(environ, start_response):
    start_response("200 OK", TEXT)
    return iter([bytearray(b"a"), memoryview(b"b")])

def mutable_list(environ, start_response):
    start_response("200 OK", TEXT)
    return [bytearray(b"a"), memoryview(b"b")]

def application(environ, start_response):
    return {**PATHS, **OURS}[environ["PATH_INFO"]](environ, start_response)

OURS = {
    "/begin-and-wait": begin_and_wait, "/begin-and-fail": begin_and_fail, "/wait": wait,
    "/mutable": mutable, "/mutable-list": mutable_list,
}
balancer = LoadBalancer(application, Options(
    max_workers=1, max_concurrent_per_router=2, queue_size=2, request_timeout_seconds=1,
))

def app(environ, start_response):
    which, _, path = environ["PATH_INFO"].removeprefix("/").partition("/")
    environ["PATH_INFO"] = "/" + path
    if which == "alone":
        return application(environ, start_response)
    if which == "balanced":
        return balancer(environ, start_response)
    snapshot = balancer.snapshot()
    told = {"outcomes": dict(snapshot.outcomes), "running": snapshot.running, "closed": closed}
    body = json.dumps(told).encode()
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]
"""

SERVED = """
from gevent import monkey
monkey.patch_all()
import socket, sys
from gevent import pywsgi
from intralb_gevent import WSGIServer
from behind import app, balancer
listener = socket.socket(fileno=int(sys.argv[1]))
if sys.argv[2] == "pywsgi":
    server = pywsgi.WSGIServer(listener, app, log=None)
else:
    server = WSGIServer(listener, app, log=None, handler_class=pywsgi.WSGIHandler, balancer=balancer)
server.serve_forever()
"""

GUNICORN = ["-m", "gunicorn", "-k", "gevent", "--no-control-socket", "behind:app", "-b"]


class Outer:
    """An outer server process."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._log = directory / "log.txt"
        (directory / "behind.py").write_text(APPLICATION)
        (directory / "served.py").write_text(SERVED)
        # Listen before the server starts, so that clients can connect without waiting for the server.
        with socket.create_server(("127.0.0.1", 0)) as listener, self._log.open("w") as log:
            self.port = listener.getsockname()[1]
            number = listener.fileno()
            arguments = [*GUNICORN, f"fd://{number}"] if kind == "gunicorn" else ["served.py", str(number), kind]
            self.process = subprocess.Popen(
                [sys.executable, *arguments], cwd=directory, pass_fds=[number], stderr=log, stdout=log
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def ask(self, path: str, rest: str = "", method: str = "GET") -> bytes:
        """Send a request, and return the whole response without its Date header."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{rest or chr(13) + chr(10)}".encode()
            )
            data = b"".join(iter(lambda: client.recv(65536), b""))
        return re.sub(rb"\r\nDate: [^\r]*", b"", data)

    @property
    def figures(self) -> Any:
        return json.loads(self.ask("/figures").partition(b"\r\n\r\n")[2])

    def until(self, condition: Any) -> None:
        end = time.monotonic() + 10
        while not condition(self.figures):
            assert time.monotonic() < end, (self.figures, self.said[-2000:])
            time.sleep(0.01)


@pytest.fixture(params=["gunicorn", "pywsgi", "handler_class"], scope="module")
def outer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outer]:
    server = Outer(request.param, tmp_path_factory.mktemp(request.param))
    yield server
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)


ALIKE = [
    *("one", "several", "tuple", "empty", "empty-part", "lines", "length", "parts-with-length", "iterator", "no-part"),
    *("closing", "late-start", "written", "written-alone", "no-content", "not-modified"),
    *("bad-header", "bad-status", "bad-type", "caught-header", "caught-status", "corrected", "twice"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ALIKE)
def test_the_answer_is_the_same_byte_for_byte(outer: Outer, path: str, method: str) -> None:
    alone, balanced = (outer.ask(f"/{which}/{path}", method=method) for which in ("alone", "balanced"))
    assert balanced == alone
    assert alone.startswith(b"HTTP/1.1 ")


BODIES = {
    "whole": "Content-Length: 5\r\n\r\nhello",
    "chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "no size of a chunk": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "no end of a chunk": "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloWRONG",
}


@pytest.mark.parametrize("path", ["read", "read-late"])
@pytest.mark.parametrize("body", BODIES)
def test_bodies_and_bad_ones_are_judged_by_the_outer_server(outer: Outer, body: str, path: str) -> None:
    before = outer.figures["outcomes"]
    alone, balanced = (outer.ask(f"/{which}/{path}", BODIES[body], "POST") for which in ("alone", "balanced"))
    assert balanced == alone
    if body.startswith("no") and path == "read":
        assert alone.startswith(b"HTTP/1.1 400 ")
    ended = "disconnected" if body.startswith("no") else "completed"
    outer.until(lambda figures: figures["outcomes"][ended] == before[ended] + 1)
    assert outer.figures["outcomes"]["failed"] == before["failed"]
    assert f"POST /{path} failed" not in outer.said


def test_a_wrong_call_of_the_input_is_the_applications_failure(outer: Outer) -> None:
    before = outer.figures["outcomes"]["failed"]
    assert outer.ask("/balanced/misread", "Content-Length: 5\r\n\r\nhello", "POST").startswith(b"HTTP/1.1 500 ")
    assert outer.figures["outcomes"]["failed"] == before + 1
    assert "GET /misread failed" in outer.said or "POST /misread failed" in outer.said


def test_an_iterable_is_closed_once(outer: Outer) -> None:
    before = outer.figures["closed"].count("closing")
    outer.ask("/balanced/closing")
    assert outer.figures["closed"].count("closing") == before + 1


def test_a_generator_is_closed_and_its_slot_free_when_the_client_leaves(outer: Outer) -> None:
    before = outer.figures
    closed = before["closed"].count("endless")
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", outer.port), timeout=10) as client:
            client.sendall(b"GET /balanced/endless HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    outer.until(lambda figures: figures["closed"].count("endless") == closed + 4 and not figures["running"])
    assert outer.figures["outcomes"]["disconnected"] == before["outcomes"]["disconnected"] + 4


@pytest.mark.parametrize(
    ("path", "status", "word"), [("begin-and-wait", 504, b"deadline"), ("begin-and-fail", 500, b"failed")]
)
def test_an_answer_of_ours_replaces_a_response_that_has_not_begun(
    outer: Outer, path: str, status: int, word: bytes
) -> None:
    head, _, body = outer.ask(f"/balanced/{path}").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"X-First" not in head
    assert re.findall(rb"\r\nContent-Length: (\d+)", head) == [b"%d" % len(body)]
    assert re.findall(rb"\r\nContent-Type: ([^\r]*)", head) == [b"text/plain; charset=utf-8"]
    assert word in body


@pytest.mark.parametrize(("path", "length"), [("mutable", None), ("mutable-list", b"2")])
def test_parts_may_be_other_bytes_than_bytes(outer: Outer, path: str, length: bytes | None) -> None:
    head, _, body = outer.ask(f"/balanced/{path}").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    if outer.kind != "gunicorn" and length is not None:
        assert b"\r\nContent-Length: 2" in head
        assert body == b"ab"
    else:
        assert body == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
