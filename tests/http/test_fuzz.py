"""Fuzz tests with valid and invalid requests that are split into arbitrary pieces.

The fuzzers are derandomized, so that failures are reproducible. To search longer, increase `max_examples`.
"""

from __future__ import annotations

import functools
import logging
import re
import tracemalloc
from collections.abc import Callable, Collection
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple

import gevent
import h11
import pytest
from gevent import socket
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from intralb_gevent import Options
from intralb_gevent.http.body import BodyBudget
from intralb_gevent.http.parser import RequestParser
from intralb_gevent.http.request import Request
from intralb_gevent.policy.cannedresponses import CannedResponse

FUZZ = settings(max_examples=200, deadline=None, derandomize=True, database=None)
OUTSIDE = "code outside of requests kept the event loop"
HOST = b"Host: x\r\n"
GOOD = b"GET /good HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"POST /chunked HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def known(names: Collection[str], reasons: dict[str, str]) -> list[Any]:
    """Return every name as a test parameter; a test is expected to fail if `reasons` has its name."""
    marks = {name: pytest.mark.xfail(strict=True, reason=reason) for name, reason in reasons.items()}
    return [pytest.param(name, marks=marks[name]) if name in marks else name for name in names]


Draw = Callable[..., Any]
Understood = tuple[str, str, str, dict[str, str], bytes]
"""A parsed request: method, path, query, header fields and body."""


# Well-formed requests.


class Sent(NamedTuple):
    """The bytes of a request, and the parsed request that an application must receive."""

    written: bytes
    understood: Understood

    def __repr__(self) -> str:
        return f"<Sent {self.written[:80]!r} ({len(self.written)} bytes)>"


METHOD = st.sampled_from(
    [
        *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH"),
        *("BAN", "VERSION-CONTROL", "get", "GETS", "PLAY", "PRI"),
    ]
)
PATH = st.lists(st.sampled_from(["a", "B", "%41", "%C3%A9", "%2F", "%00", ".", "..", ";x=1", "@:", "%zz", "+", ""]))
QUERY = st.text("abc=&?/%20+;", max_size=8)
NAME = st.text("abcxyzABCXYZ0123456789-!#$%&'*+.^`|~", min_size=1, max_size=8).map("X-{}".format)
VALUE = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(
    lambda text: text.strip(" ")
)
LONG_VALUE = st.sampled_from([0, 1, 1000, 9000]).map(lambda size: "v" * size)
BODY = st.sampled_from([0, 1, 2, 255, 65_535, 65_536, 65_537]).map(lambda size: (bytes(range(256)) * 257)[:size])
EXTENSION = st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a=b;c=d"])
TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"X-Sum: 1\r\nX-Sum: 2\r\n"])


@st.composite
def pieces(draw: Draw, data: bytes) -> list[bytes]:
    """Draw pieces of `data`, split at a few positions, or at each of the first 200 positions."""
    places = st.sets(st.integers(0, len(data)), max_size=8) | st.just(set(range(min(200, len(data)))))
    ends = [0, *sorted(draw(places)), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if start < end]


@st.composite
def in_chunks(draw: Draw, body: bytes) -> bytes:
    """Draw a chunked encoding of a body, with random sizes, extensions, leading zeros and trailers."""
    written = b""
    for piece in draw(pieces(body)):
        size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
        written += size + draw(EXTENSION) + b"\r\n" + piece + b"\r\n"
    return written + draw(st.sampled_from([b"0", b"000"])) + draw(EXTENSION) + b"\r\n" + draw(TRAILERS) + b"\r\n"


@st.composite
def framed_bodies(draw: Draw) -> tuple[str, bytes, bytes]:
    """Draw a body; return the header line that declares it, its encoded form, and the body itself."""
    body = draw(BODY)
    return draw(
        st.just(("", b"", b""))
        | st.just((f"Content-Length: {len(body)}\r\n", body, body))
        | in_chunks(body).map(lambda written: ("Transfer-Encoding: chunked\r\n", written, body))
    )


def decoded(path: str) -> str:
    return re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), path)


def as_environ(fields: dict[str, str]) -> dict[str, str]:
    """Convert the names of header fields to CGI names; fields that differ only in case get the same name."""
    named = {"HTTP_HOST": "x"}
    for name, value in fields.items():
        key = "HTTP_" + name.upper().replace("-", "_")
        named[key] = f"{named[key]},{value}" if key in named else value
    return named


@st.composite
def requests(draw: Draw) -> Sent:
    method, query = draw(METHOD), draw(QUERY)
    path = "/" + "/".join(draw(PATH))
    fields = draw(st.dictionaries(NAME, VALUE | LONG_VALUE, max_size=4))
    space = draw(st.sampled_from(["", " ", "  ", "\t"]))
    announced, written, body = draw(framed_bodies())
    lines = "".join(f"{name}:{space}{value}{space}\r\n" for name, value in fields.items())
    head = f"{method} {path}?{query} HTTP/1.1\r\nHost: x\r\n{announced}{lines}\r\n".encode("latin-1")
    return Sent(head + written, (method, decoded(path), query, as_environ(fields), body))


class Reading:
    """The results of parsing a sequence of bytes."""

    def __init__(self, room: int = 32 * 1024**2, skips: Callable[[], bool] = lambda: False, **options: Any) -> None:
        self.requests: list[Understood] = []
        self.skipped: set[int] = set()
        """Indices of the requests that were delivered without their bodies."""
        self._skips = skips
        self.refused: CannedResponse | None = None
        self._budget = BodyBudget(room)
        self._parser = RequestParser({}, Options(**options), lambda environ: None, self._on_request, self._budget)

    def _on_request(self, request: Request) -> None:
        environ = request.environ
        fields = {name: value for name, value in environ.items() if name.startswith("HTTP_") and name != "HTTP_X_SUM"}
        body = environ["wsgi.input"].read()
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], fields, body))
        request.release()

    def feed(self, part: bytes) -> None:
        """Feed bytes to the parser as a connection does: none after a rejection; upgrade offers are declined."""
        if self.refused is None:
            self.refused = self._parser.feed(part)
        while self.refused is None and self._parser.holds_back:
            self._parser.go_on()
            held, self._parser.held = self._parser.held, b""
            self.refused = self._parser.feed(held)
        if self.refused is None and self._parser.head_pending and self._skips():
            self.skipped.add(len(self.requests))
            self._on_request(self._parser.skip_body())

    def end(self) -> None:
        """Close the parser as a connection does; this frees all data that was read."""
        self._parser.close()
        assert self._budget.taken == 0


def read(parts: list[bytes], **options: Any) -> Reading:
    reading = Reading(**options)
    for part in parts:
        reading.feed(part)
    reading.end()
    return reading


@FUZZ
@given(st.data())
def test_the_same_bytes_in_any_pieces_are_the_same_requests(data: st.DataObject) -> None:
    sent = data.draw(st.lists(requests(), min_size=1, max_size=3))
    parts = data.draw(pieces(b"".join(request.written for request in sent)))
    reading = read(parts, room=data.draw(st.sampled_from([0, 65_536, 1024**2])), max_header_bytes=1024**2)
    assert reading.refused is None
    assert reading.requests == [request.understood for request in sent]


@FUZZ
@given(st.data())
def test_bodies_that_are_skipped_change_nothing_for_other_requests(data: st.DataObject) -> None:
    sent = data.draw(st.lists(requests(), min_size=1, max_size=3))
    parts = data.draw(pieces(b"".join(request.written for request in sent)))
    reading = read(parts, skips=lambda: data.draw(st.booleans()), max_header_bytes=1024**2)
    assert reading.refused is None
    assert reading.requests == [
        (*request.understood[:4], b"" if number in reading.skipped else request.understood[4])
        for number, request in enumerate(sent)
    ]


LARGE_HEAD = GOOD[:-2] + b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(25)) + b"\r\n"
LARGE_BODY = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000


@pytest.mark.parametrize("size", [1, 100, 1000, 20_000, 65_536])
def test_a_head_below_the_limits_is_taken_in_any_pieces(size: int) -> None:
    reading = read([LARGE_HEAD[start : start + size] for start in range(0, len(LARGE_HEAD), size)])
    assert (reading.refused, len(reading.requests)) == (None, 1)


def test_a_body_may_come_behind_a_head_that_is_as_large_as_allowed() -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 9000) for number in range(20))
    head = b"POST / HTTP/1.1\r\n" + HOST + fields + b"Content-Length: 5\r\n\r\n"
    reading = read([head[:60_000], head[60_000:], b"he", b"llo"], max_header_bytes=1024**2)
    assert (reading.refused, len(reading.requests)) == (None, 1)


def test_a_body_does_not_count_for_the_head_that_begins_in_the_same_piece() -> None:
    reading = read([LARGE_BODY + GOOD[:10], GOOD[10:]])
    assert (reading.refused, len(reading.requests)) == (None, 2)


# Malformed requests.

SEEDS = [
    GOOD,
    b"GET /kept HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /head HTTP/1.1\r\n" + HOST + b"Cookie: a=1\r\nCookie: b=2\r\n\r\n",
    b"POST /length HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"PUT /expecting HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    CHUNKED + b"2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"GET http://other/absolute HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /upgrade HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
]
FRAGMENTS = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"-1",
        b"+",
        b"%",
        b"\xff",
        b"\x80",
    ),
    *(
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
    ),
    *(
        b"Host: y\r\n",
        b"Expect: 100-continue\r\n",
        b"chunked",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"/../",
        b"0\r\n\r\n",
        b"ffffffff",
    ),
]


@st.composite
def mutated(draw: Draw) -> bytes:
    """Draw either random bytes, or several requests with some bytes replaced, doubled or removed."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 10, 1000]))
        put = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=3) | st.just(data[start:end] * 2))
        data = data[:start] + put + data[end:]
    return data


HOSTILE = st.one_of(mutated(), mutated(), mutated(), st.binary(max_size=200))


@FUZZ
@given(st.data())
def test_the_parser_takes_or_refuses_any_bytes_whatever_the_pieces(data: st.DataObject) -> None:
    sent = data.draw(HOSTILE)
    whole, cut = read([sent]), read(data.draw(pieces(sent)))
    assert whole.refused is None or re.fullmatch(r"[45]\d\d [A-Z][ -~]+", whole.refused.status)
    assert (cut.refused, cut.requests) == (whole.refused, whole.requests)


ENDLESS = {
    "empty lines": (b"", b"\r\n"),
    "method": (b"", b"G"),
    "spaces": (b"GET ", b" "),
    "target": (b"GET /", b"a"),
    "version": (b"GET / HTTP/1.1", b"1"),
    "name": (GOOD[:-2], b"X"),
    "value": (GOOD[:-2] + b"X: ", b"v"),
    "space before a value": (GOOD[:-2] + b"X:", b" "),
    "fields": (GOOD[:-2], b"X: y\r\n"),
    "fields left out": (GOOD[:-2], b"X_Y: z\r\n"),
    "cookies": (GOOD[:-2], b"Cookie: a=b\r\n"),
    "length": (GOOD[:-2] + b"Content-Length: ", b"0"),
    "body": (GOOD[:-2] + b"Content-Length: 99999999\r\n\r\n", b"x"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"2;", b"x"),
    "quoted chunk extension": (CHUNKED + b'2;x="', b"y"),
    "chunks": (CHUNKED, b"4000\r\n" + bytes(0x4000) + b"\r\n"),
    "small chunks": (CHUNKED, b"2\r\nab\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "name of a trailer": (CHUNKED + b"0\r\n", b"X"),
    "value of a trailer": (CHUNKED + b"0\r\nX: ", b"v"),
    "value of a trailer behind a body": (CHUNKED + b"40000\r\n" + bytes(0x40000) + b"\r\n0\r\nX: ", b"v"),
}


@pytest.mark.parametrize("name", [*ENDLESS])
@pytest.mark.parametrize("skips", [False, True], ids=["kept", "skipped"])
def test_what_never_ends_is_refused_or_takes_little_memory(name: str, skips: bool) -> None:
    """From 4 MB, the parser keeps at most a head below its limit, or 2 MB while it copies 1 MB of a body to a file."""
    begun, repeated = ENDLESS[name]
    reading, piece = Reading(skips=lambda: skips), repeated * (16_384 // len(repeated) or 1)
    tracemalloc.start()
    reading.feed(begun)
    for _ in range(4 * 1024**2 // len(piece)):
        reading.feed(piece)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    reading.end()
    assert most < (3 * 1024**2 if reading.refused is None and not reading.skipped else 1024**2)


# A whole server.


class Witness:
    """A server whose application records every request that reaches it."""

    def __init__(self, serve: Callable[..., Any]) -> None:
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.door = Event()
        """Event that the application waits for before it responds."""
        self.door.set()
        self.server = serve(self._application)

    def _application(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        self.door.wait()
        body = environ["wsgi.input"].read()
        self.bodies.append(body)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    def say(self, parts: list[bytes], methods: list[str] | None = None) -> tuple[list[int], list[str]]:
        """Send the parts; return the statuses of all responses, and the paths of requests that reached the handler.

        If some answered requests do not reach the application, pass the methods of all requests.
        """
        self.seen.clear()
        self.bodies.clear()
        with socket.create_connection(("127.0.0.1", self.server.server_port), timeout=5) as client:
            answers = gevent.spawn(self._all_from, client)
            self._say_to(client, parts)
            # Remove a 100 response: a client that receives one, but sends no body, gets no other response.
            data = answers.get(timeout=5).removesuffix(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked = [method for method, _ in self.seen] if methods is None else methods
        return statuses(data, asked), [path for _, path in self.seen]

    def _say_to(self, client: Any, parts: list[bytes]) -> None:
        try:
            for part in parts:
                client.sendall(part)
                gevent.sleep(0)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # The connection was closed, because the request has already been rejected.
            pass

    def _all_from(self, client: Any) -> bytes:
        data = b""
        try:
            while part := client.recv(65_536):
                data += part
        except ConnectionResetError:
            pass
        return data


@pytest.fixture
def witness(serve: Callable[..., Any]) -> Witness:
    return Witness(serve)


def statuses(data: bytes, methods: list[str]) -> list[int]:
    """Parse all responses on a connection with h11, and return their statuses; any remaining data is an error."""
    judge, found = h11.Connection(h11.CLIENT), []
    judge.receive_data(data)
    judge.receive_data(b"")
    for method in [*methods, "GET"]:
        if judge.our_state is not h11.IDLE or judge.trailing_data == (b"", True):
            break
        judge.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        judge.send(h11.EndOfMessage())
        while not isinstance(event := judge.next_event(), h11.EndOfMessage):
            assert event not in (h11.NEED_DATA, h11.PAUSED)
            if isinstance(event, h11.Response):
                found.append(event.status_code)
        if (judge.our_state, judge.their_state) == (h11.DONE, h11.DONE):
            judge.start_next_cycle()
    assert judge.trailing_data == (b"", True)
    return found


def trouble(caplog) -> list[str]:
    """Return the warnings and errors in the log, except reports about delays that the tests themselves cause."""
    records = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    return [text for text in map(logging.LogRecord.getMessage, records) if not text.startswith(OUTSIDE)]


def test_a_server_answers_every_request_of_any_bytes_and_closes(witness, caplog, eventually) -> None:
    @FUZZ
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        answers, seen = witness.say(data.draw(HOSTILE.flatmap(pieces)))
        assert answers[: len(seen)] == [200] * len(seen)
        assert len(answers) <= len(seen) + 1
        assert all(status >= 400 for status in answers[len(seen) :])

    fuzz()
    assert witness.say([GOOD]) == ([200], ["/good"])
    eventually(lambda: not witness.server.connections)
    assert trouble(caplog) == []


def numbered(number: int, size: int, framing: str) -> bytes:
    """Return the bytes of a request with `number` as its path, and a body of `size` bytes."""
    body = b"%d" % (number % 10) * size
    chunk_size = {"large chunks": 4000, "small chunks": 3}.get(framing)
    if chunk_size is None:
        return b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (number, size) + body
    parts = (body[start : start + chunk_size] for start in range(0, size, chunk_size))
    written = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % number + written + b"0\r\n\r\n"


KIND = st.tuples(
    st.sampled_from([0, 1, 100, 3000, 20_000]), st.sampled_from(["length", "large chunks", "small chunks"])
)


def test_a_server_answers_any_number_of_requests_in_order_whatever_the_pieces(witness) -> None:
    @settings(FUZZ, max_examples=50)
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        kinds = data.draw(st.lists(KIND, min_size=1, max_size=60) | st.lists(KIND, min_size=30, max_size=60))
        said = b"".join(numbered(number, size, framing) for number, (size, framing) in enumerate(kinds))
        answers, seen = witness.say(data.draw(pieces(said)))
        assert answers == [200] * len(kinds)
        assert seen == [f"/{number}" for number in range(len(kinds))]
        assert witness.bodies == [b"%d" % (number % 10) * size for number, (size, _) in enumerate(kinds)]

    fuzz()


def test_a_full_server_refuses_any_number_of_requests_in_order_whatever_the_pieces(serve, eventually) -> None:
    witness = Witness(functools.partial(serve, max_workers=1, max_concurrent_per_router=1, queue_size=0))
    figures = witness.server.balancer.snapshot
    witness.door.clear()
    with socket.create_connection(("127.0.0.1", witness.server.server_port), timeout=5) as busy:
        busy.sendall(GOOD)
        eventually(lambda: figures().running)

        @settings(FUZZ, max_examples=50)
        @given(st.data())
        def fuzz(data: st.DataObject) -> None:
            before = figures().submitted
            kinds = data.draw(st.lists(KIND, min_size=1, max_size=60))
            said = b"".join(numbered(number, size, framing) for number, (size, framing) in enumerate(kinds))
            answers, seen = witness.say(data.draw(pieces(said)), ["POST"] * len(kinds))
            assert (answers, seen) == ([503] * len(kinds), [])
            assert figures().submitted == before + len(kinds) == figures().ended + 1

        fuzz()
        witness.door.set()
        assert busy.recv(12) == b"HTTP/1.1 200"


def test_a_full_server_never_says_more_than_one_answer_to_a_request(serve, caplog, eventually) -> None:
    witness = Witness(functools.partial(serve, max_workers=1, max_concurrent_per_router=1, queue_size=0))
    witness.door.clear()
    with socket.create_connection(("127.0.0.1", witness.server.server_port), timeout=5) as busy:
        busy.sendall(GOOD)
        eventually(lambda: witness.server.balancer.snapshot().running)

        @FUZZ
        @given(st.data())
        def fuzz(data: st.DataObject) -> None:
            sent = data.draw(HOSTILE)
            reading = read([sent])
            parts = data.draw(pieces(sent))
            # Allow one more response: the server can answer a further request after its head, before its body arrives.
            methods = [method for method, *_ in reading.requests]
            answers, seen = witness.say(parts, [*methods, "POST"])
            assert seen == []
            assert len(answers) <= len(methods) + 1
            assert answers[:-1] == [503] * len(answers[:-1])
            assert all(status >= 400 for status in answers)

        fuzz()
        witness.door.set()
        assert busy.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: not witness.server.connections)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


EVIL = b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /post HTTP/1.1\r\nHost: x\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def get(*fields: bytes, target: bytes = b"/get") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


LENGTH, CODING = b"Content-Length: %d", b"Transfer-Encoding: "

SMUGGLED = {
    "both, length first": (post(b"Content-Length: 6", CODING + b"chunked", body=b"0\r\n\r\nG" + EVIL), [], 400),
    "both, coding first": (post(CODING + b"chunked", b"Content-Length: 4", body=b"0\r\n\r\n" + EVIL), [], 400),
    "both, coding of HTTP/1.0": (
        b"POST / HTTP/1.0\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
        [],
        400,
    ),
    "coding of HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL, [], 400),
    "two codings": (post(CODING + b"chunked", CODING + b"identity", body=b"0\r\n\r\n" + EVIL), [], 400),
    "two codings in one field": (post(CODING + b"identity, chunked", body=b"0\r\n\r\n" + EVIL), [], 501),
    "chunked twice": (post(CODING + b"chunked, chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "chunked not last": (post(CODING + b"chunked, gzip", body=b"0\r\n\r\n" + EVIL), [], 400),
    "unknown coding": (post(CODING + b"xchunked", body=b"0\r\n\r\n" + EVIL), [], 501),
    "unknown coding with a length": (
        post(CODING + b"xchunked", b"Content-Length: 5", body=b"0\r\n\r\n" + EVIL),
        [],
        400,
    ),
    "quoted coding": (post(CODING + b'"chunked"', body=b"0\r\n\r\n" + EVIL), [], 501),
    "coding behind a vertical tab": (post(CODING + b"\x0bchunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding behind a line feed": (post(CODING + b"\n chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding on a folded line": (post(CODING + b"\r\n chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding with a space before the colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding after a space": (post(b" Transfer-Encoding: chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding hidden by a line feed": (post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n" + EVIL), [], 400),
    "coding hidden by a carriage return": (
        post(b"X: y\rTransfer-Encoding: chunked", body=b"0\r\n\r\n" + EVIL),
        [],
        400,
    ),
    "coding with an underscore": (post(b"Transfer_Encoding: chunked", body=b"0\r\n\r\n" + EVIL), ["/post"], 400),
    "coding empty": (post(CODING, body=b"0\r\n\r\n" + EVIL), [], 400),
    "lengths that differ": (post(b"Content-Length: 0", b"Content-Length: 5", body=EVIL), [], 400),
    "lengths that agree": (post(b"Content-Length: 0", b"Content-Length: 0", body=EVIL), [], 400),
    "lengths in a list": (post(b"Content-Length: 0, 5", body=EVIL), [], 400),
    "length with a plus": (post(b"Content-Length: +0", body=EVIL), [], 400),
    "length negative": (post(b"Content-Length: -1", body=EVIL), [], 400),
    "length in hexadecimal": (post(b"Content-Length: 0x0", body=EVIL), [], 400),
    "length with an underscore": (post(b"Content-Length: 0_0", body=EVIL), [], 400),
    "length with a space within": (post(b"Content-Length: 0 5", body=EVIL), [], 400),
    "length empty": (post(b"Content-Length:", body=EVIL), [], 400),
    "length with a fraction": (post(b"Content-Length: 0.0", body=EVIL), [], 400),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551616", body=EVIL), [], 400),
    "length of thousands of digits": (post(b"Content-Length: " + b"9" * 5000, body=EVIL), [], 400),
    "length of thousands of zeros": (post(b"Content-Length: " + b"0" * 5000, body=EVIL), [], 400),
    "length behind thousands of zeros": (post(b"Content-Length: " + b"0" * 5000 + b"2", body=b"ab" + EVIL), [], 400),
    "length of twenty digits": (post(b"Content-Length: 00000000000000000002", body=b"ab"), ["/post"], None),
    "length above the limit": (post(b"Content-Length: 9999999999", body=EVIL), [], 413),
    "length with leading zeros": (post(b"Content-Length: 0002", body=b"ab"), ["/post"], None),
    "length with spaces around": (post(b"Content-Length: \t2 \t", body=b"ab"), ["/post"], None),
    "length with a space before the colon": (post(b"Content-Length : 2", body=b"ab"), [], 400),
    "length of a GET": (get(b"Host: x", b"Content-Length: %d" % len(EVIL)) + EVIL, ["/get"], None),
    "chunk size with a plus": (chunked(b"+2\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size negative": (chunked(b"-2\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size with 0x": (chunked(b"0x2\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size with an underscore": (chunked(b"0_2\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size with leading zeros": (chunked(b"0002\r\nab\r\n0\r\n\r\n"), ["/post"], None),
    "chunk size with a space before": (chunked(b" 2\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size with a space behind": (chunked(b"2 \r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size empty": (chunked(b"\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk size beyond 64 bits": (chunked(b"10000000000000000\r\n" + EVIL), [], 400),
    "chunk size of thousands of digits": (chunked(b"f" * 5000 + b"\r\n" + EVIL), [], 400),
    "chunk size behind thousands of zeros": (chunked(b"0" * 5000 + b"2\r\nab\r\n0\r\n\r\n"), ["/post"], None),
    "chunk shorter than its size": (chunked(b"3\r\nab\r\n0\r\n\r\n" + EVIL), [], 400),
    "chunk longer than its size": (chunked(b"1\r\nab\r\n0\r\n\r\n" + EVIL), [], 400),
    "chunk without its end": (chunked(b"2\r\nab0\r\n\r\n" + EVIL), [], 400),
    "chunk ended by a line feed": (chunked(b"2\r\nab\n0\r\n\r\n" + EVIL), [], 400),
    "chunk size ended by a line feed": (chunked(b"2\nab\r\n0\r\n\r\n" + EVIL), [], 400),
    "chunk size ended by two carriage returns": (chunked(b"2\r\r\nab\r\n0\r\n\r\n" + EVIL), [], 400),
    "chunk extension": (chunked(b'2;a;b=c;d="e f"\r\nab\r\n0\r\n\r\n'), ["/post"], None),
    "chunk extension with a line feed": (chunked(b"2;\n" + EVIL + b"\r\nab\r\n0\r\n\r\n"), [], 400),
    "chunk extension ended by a line feed": (chunked(b"2;a\nab\r\n0\r\n\r\n" + EVIL), [], 400),
    "chunk extension with a quoted line break": (chunked(b'2;a="\r\n' + EVIL + b'"\r\nab\r\n0\r\n\r\n'), [], 400),
    "chunk extension with NUL": (chunked(b"2;a=\0\r\nab\r\n0\r\n\r\n"), [], 400),
    "last chunk ended by line feeds": (chunked(b"0\n\n" + EVIL), [], 400),
    "trailers ended by a line feed": (chunked(b"0\r\n\n" + EVIL), [], 400),
    "trailer that is a request": (chunked(b"0\r\n" + EVIL), [], 400),
    "trailer that is folded": (chunked(b"0\r\nX: y\r\n z\r\n\r\n"), [], 400),
    "trailer with a length": (chunked(b"0\r\nContent-Length: 5\r\n\r\n" + EVIL), [], 400),
    "trailer with a coding": (chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + EVIL), [], 400),
    "no host": (get() + EVIL, [], 400),
    "two hosts": (get(b"Host: x", b"Host: y"), [], 400),
    "two hosts that agree": (get(b"Host: x", b"host: x"), [], 400),
    "host with a path": (get(b"Host: x/evil"), [], 400),
    "host with a user": (get(b"Host: x@evil"), [], 400),
    "host with a list": (get(b"Host: x, y"), [], 400),
    "host with a space before the colon": (get(b"Host : x"), [], 400),
    "host that is not the target's": (get(b"Host: y", target=b"http://x/get"), ["/get"], None),
    "target with a user": (get(b"Host: x", target=b"http://evil@x/get"), [], 400),
    "target with an empty authority": (get(b"Host: x", target=b"http:///get"), [], 400),
    "target of another scheme": (get(b"Host: x", target=b"file://x/get"), [], 400),
    "target with a fragment": (get(b"Host: x", target=b"/get#/evil"), [], 400),
    "target with a space": (get(b"Host: x", target=b"/get /evil"), [], 400),
    "target with a tab": (get(b"Host: x", target=b"/get\t/evil"), [], 400),
    "target with NUL": (get(b"Host: x", target=b"/get\0"), [], 400),
    "target with a control character": (get(b"Host: x", target=b"/get\x01"), [], 400),
    "target with raw bytes": (get(b"Host: x", target=b"/\xc3\xa9"), ["/\xc3\xa9"], None),
    "target without a slash": (get(b"Host: x", target=b"get"), [], 400),
    "asterisk for GET": (get(b"Host: x", target=b"*"), [], 400),
    "name empty": (get(b"Host: x", b": y"), [], 400),
    "name without a colon": (get(b"Host: x", b"Y"), [], 400),
    "name with NUL": (get(b"Host: x", b"X\0Y: z"), [], 400),
    "name with raw bytes": (get(b"Host: x", b"\xc3\xa9: z"), [], 400),
    "name with a bracket": (get(b"Host: x", b"X(Y: z"), [], 400),
    "value with NUL": (get(b"Host: x", b"X: \0"), [], 400),
    "value with a carriage return": (get(b"Host: x", b"X: a\rb"), [], 400),
    "value with a control character": (get(b"Host: x", b"X: \x01"), [], 400),
    "value on a folded line": (get(b"Host: x", b"X: y", b" z"), [], 400),
    "first field folded": (get(b" X: y", b"Host: x"), [], 400),
    "head ended by line feeds": (b"GET / HTTP/1.1\nHost: x\n\n" + EVIL, [], 400),
    "head ended by carriage returns": (b"GET / HTTP/1.1\rHost: x\r\r" + EVIL, [], 400),
    "version 0.9": (b"GET /get\r\n" + EVIL, [], 400),
    "version 0.9, said": (b"GET /get HTTP/0.9\r\nHost: x\r\n\r\n" + EVIL, [], 505),
    "version 1.2": (b"GET /get HTTP/1.2\r\nHost: x\r\n\r\n" + GOOD, ["/get", "/good"], None),
    "version 2": (b"GET /get HTTP/2.0\r\nHost: x\r\n\r\n" + EVIL, [], 505),
    "version 1.10": (b"GET /get HTTP/1.10\r\nHost: x\r\n\r\n" + EVIL, [], 400),
    "version in small letters": (b"GET /get http/1.1\r\nHost: x\r\n\r\n" + EVIL, [], 400),
    "version with a space behind": (b"GET /get HTTP/1.1 \r\nHost: x\r\n\r\n" + EVIL, [], 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [], 505),
    "RTSP": (b"OPTIONS * RTSP/1.0\r\nHost: x\r\n\r\n", [], 400),
    "ICE": (b"SOURCE /get ICE/1.0\r\nHost: x\r\n\r\n", [], 400),
    "TLS": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", [], 400),
    "method in small letters": (b"get /get HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD, ["/get", "/good"], None),
    "method unknown": (b"BAN /get HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD, ["/get", "/good"], None),
    "method unknown, behind a body": (
        b"BAN /get HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL + GOOD,
        ["/get", "/good"],
        None,
    ),
    "method that is too long": (b"A" * 65 + b" / HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL, [], 501),
    "host that is empty": (get(b"Host:"), [], 400),
    "host that is a port": (get(b"Host: :80"), [], 400),
    "port of thousands of digits": (get(b"Host: x:" + b"9" * 5000) + EVIL, [], 400),
    "port of six digits": (get(b"Host: [::1]:000080") + EVIL, [], 400),
    "port of six digits in the target": (get(b"Host: x", target=b"http://x:000080/get") + EVIL, [], 400),
    "port of five digits": (get(b"Host: [::1]:00080"), ["/get"], None),
    "version of thousands of digits": (b"GET /get HTTP/1." + b"1" * 5000 + b"\r\nHost: x\r\n\r\n" + EVIL, [], 400),
    "method after a space": (b" GET / HTTP/1.1\r\nHost: x\r\n\r\n", [], 400),
    "method with a tab behind": (b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", [], 400),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + EVIL, [], 501),
    "CONNECT to a path": (b"CONNECT /get HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL, [], 501),
    "CONNECT to a URL": (b"CONNECT http://x/get HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL, [], 501),
    "behind a close": (get(b"Host: x", b"Connection: close") + EVIL, ["/get"], None),
    "behind an offer to upgrade": (
        get(b"Host: x", b"Connection: upgrade", b"Upgrade: h2c") + GOOD,
        ["/get", "/good"],
        None,
    ),
    "behind HTTP/1.0": (b"GET /get HTTP/1.0\r\n\r\n" + EVIL, ["/get"], None),
    "behind empty lines": (b"\r\n\r\n" + GOOD, ["/good"], None),
}


OTHER_PROTOCOL = "httptools takes RTSP/1.0 and ICE/1.0 for versions of HTTP; the application sees HTTP/1.0"
SMUGGLING_BUGS = {
    "RTSP": OTHER_PROTOCOL,
    "ICE": OTHER_PROTOCOL,
}


REFUSED_EARLIER = {"length with spaces around"}
"""Cases that httptools accepts from version 0.8 on, but not before."""


@pytest.mark.parametrize("in_one", [True, False], ids=["whole", "by byte"])
@pytest.mark.parametrize("name", known(SMUGGLED, SMUGGLING_BUGS))
def test_what_parsers_disagree_about_is_refused(witness, caplog, name: str, in_one: bool) -> None:
    data, reached, refused = SMUGGLED[name]
    if name in REFUSED_EARLIER and version("httptools") < "0.8":
        reached, refused = [], 400
    parts = [data] if in_one else [data[place : place + 1] for place in range(len(data))]
    answers, seen = witness.say(parts)
    assert seen == reached
    assert answers == [200] * len(reached) + ([] if refused is None else [refused])
    assert trouble(caplog) == []


def test_trailers_do_not_become_header_fields(serve, connect) -> None:
    """Trailers must not be used as header fields, because a proxy may filter header fields only (RFC 9110, 6.5.1)."""
    told: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        told.update(environ)
        start_response("200 OK", [])
        return []

    client = connect(serve(application))
    client.send(CHUNKED + b"0\r\nX-Forwarded-For: evil\r\nCookie: admin=1\r\nContent-Type: evil\r\n\r\n")
    assert client.reply("POST").status == 200
    assert {"HTTP_X_FORWARDED_FOR", "HTTP_COOKIE", "CONTENT_TYPE"} & told.keys() == set()


def test_bytes_behind_a_close_are_nothing_to_the_server(witness, caplog) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    witness.say([get(b"Host: x", b"Connection: close") + EVIL])
    with gevent.Timeout(1, AssertionError("the connection stays although both sides have closed it")):
        while witness.server.connections:
            gevent.sleep(0.001)
    assert caplog.messages == []
