"""A request that cannot be served is rejected after its head; its body is not needed, and is discarded."""

import logging
import struct
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, Priority, Route, WSGIServer, current_session
from intralb_gevent.http.body import SKIPPED_BODY_BYTES

ONE = {"max_concurrent_per_router": 1, "queue_size": 0, "max_workers": 1}
TEXT = [("Content-Type", "text/plain")]
KILOBYTES = 100 * 1024


def head(framing: str, method: str = "POST", path: str = "/refused", version: str = "1.1") -> str:
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{framing}\r\n\r\n"


def in_chunks(body: bytes, size: int = 4096) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def length(size: int) -> str:
    return f"Content-Length: {size}"


CHUNKED = "Transfer-Encoding: chunked"
BODY = b"b" * KILOBYTES
FRAMINGS = [(length(KILOBYTES), BODY), (CHUNKED, in_chunks(BODY))]


class Full:
    """An application that responds once `door` is set; responses contain the path and the size of the body."""

    def __init__(self, begin=lambda: None) -> None:
        self.begin = begin
        self.door = Event()
        self.seen: list[str] = []

    def __call__(self, environ, start_response):
        self.seen.append(environ["PATH_INFO"])
        self.begin()
        self.door.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [f"{environ['PATH_INFO']} {len(body)}".encode()]

    @property
    def figures(self):
        return self.server.balancer.snapshot()


@pytest.fixture
def full(serve, connect, eventually):
    def make(begin=lambda: None, **options):
        full = Full(begin)
        full.server = serve(full, **{**ONE, **options})
        full.busy = connect(full.server)
        full.busy.send(head("X: y", "GET", "/busy"))
        eventually(lambda: full.seen)
        return full

    return make


def open_door(full) -> None:
    full.door.set()
    assert full.busy.reply().body == b"/busy 0"
    # Let the slot finish its clean-up; then it is free.
    gevent.sleep(0)


def receiving(server):
    """Return the server's connections that have received a head, but not all of its body."""
    return [connection for connection in server.connections if connection.input.parser.in_body]


def assert_refused(reply, *, stays: bool) -> None:
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "queue_full")
    assert reply.headers["x-intralb-executed"] == "0"
    assert reply.headers.get("connection") == (None if stays else "close")


def test_a_gigabyte_is_refused_before_it_is_sent(full, connect) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(1_000_000_000)))
    assert_refused(client.reply("POST"), stays=False)
    assert client.closed_by_server
    assert (full.figures.submitted, full.figures.ended, full.figures.shed_reasons) == (2, 1, {"queue_full": 1})


def test_a_client_that_sends_all_of_a_large_body_first_can_read_the_answer(full, connect) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(2_000_000)))
    client.send(b"b" * 2_000_000)
    assert_refused(client.reply("POST"), stays=False)
    assert client.closed_by_server


@pytest.mark.parametrize(("framing", "body"), FRAMINGS, ids=["length", "chunked"])
@pytest.mark.parametrize("step", [100, 5000, 1_000_000])
def test_a_smaller_one_is_skipped_and_the_connection_stays_usable(full, connect, framing, body, step) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(framing))
    assert_refused(client.reply("POST"), stays=True)
    open_door(full)
    for start in range(0, len(body), step):
        client.send(body[start : start + step])
    assert client.get("/next").body == b"/next 0"
    client.send(head(framing, path="/taken").encode() + body)
    assert client.reply("POST").body == f"/taken {KILOBYTES}".encode()
    assert full.seen == ["/busy", "/next", "/taken"]
    assert (full.figures.submitted, full.figures.outcomes["completed"], full.figures.outcomes["shed"]) == (4, 3, 1)


@pytest.mark.parametrize(("framing", "body"), FRAMINGS, ids=["length", "chunked"])
def test_requests_behind_the_body_are_answered_in_order(full, connect, framing, body) -> None:
    full = full()
    client = connect(full.server)
    said = head(framing).encode() + body + head("X: y", "GET", "/2").encode() + head(framing, path="/3").encode() + body
    client.send(said)
    for _ in range(3):
        assert_refused(client.reply(), stays=True)
    open_door(full)
    client.send(said)
    assert [client.reply("POST").body.split()[0] for _ in range(3)] == [b"/refused", b"/2", b"/3"]


def test_nothing_of_the_body_is_kept(full, connect, eventually) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(1_000_000)).encode() + b"b" * 10_000)
    assert_refused(client.reply("POST"), stays=True)
    client.send(b"b" * 900_000)
    (connection,) = receiving(full.server)
    eventually(lambda: connection.input.parser.body_left == 90_000)
    assert full.server.shared.bodies.taken == 0
    client.send(b"b" * 90_000)
    open_door(full)
    assert client.get("/next").status == 200


def test_head_has_no_body_in_its_answer(full, connect) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(5), "HEAD"))
    reply = client.reply("HEAD")
    assert_refused(reply, stays=True)
    assert reply.body == b""
    client.send("hello")
    assert_refused(client.get("/next"), stays=True)


@pytest.mark.parametrize(
    ("framing", "version"), [(length(KILOBYTES), "1.0"), (length(KILOBYTES) + "\r\nConnection: close", "1.1")]
)
def test_a_connection_that_is_for_one_request_is_closed_after_the_answer(full, connect, framing, version) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(framing, version=version))
    assert_refused(client.reply("POST"), stays=False)
    # Continue to send: the server goes on reading for a while, because a reset could destroy the response.
    for start in range(0, len(BODY), 10_000):
        client.send(BODY[start : start + 10_000])
        gevent.sleep(0)
    assert client.socket.recv(1) == b""
    assert full.seen == ["/busy"]


def test_what_is_behind_a_body_that_closes_is_nothing_to_the_server(full, connect) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(KILOBYTES) + "\r\nConnection: close").encode() + BODY + head("X: y", "GET", "/2").encode())
    assert_refused(client.reply("POST"), stays=False)
    assert client.closed_by_server
    assert full.figures.submitted == 2


# Expect: 100-continue.


@pytest.mark.parametrize("begun", [b"", b"hel"])
def test_a_client_that_asks_first_is_refused_instead_of_told_to_go_on(full, connect, begun) -> None:
    full = full()
    client = connect(full.server)
    client.send(head("Expect: 100-continue\r\n" + length(5)).encode() + begun)
    # Read the raw bytes, because h11 would treat a 100 response before the 503 as an error or as the response.
    assert client.socket.recv(12) == b"HTTP/1.1 503"
    rest = client.rest().lower()
    assert b"connection: close\r\n" in rest
    assert rest.count(b"http/1.1") == 0


def test_it_is_told_to_go_on_if_there_is_room_when_its_turn_comes(full, eventually) -> None:
    full = full()
    full.busy.send(head("Expect: 100-continue\r\n" + length(5), path="/behind"))
    eventually(lambda: receiving(full.server))
    full.door.set()
    told = piece = full.busy.socket.recv(1)
    while piece and not told.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
        piece = full.busy.socket.recv(1)
        told += piece
    assert told.startswith(b"HTTP/1.1 200 OK\r\n")
    assert told.count(b"HTTP/1.1 ") == 2
    full.busy.send("hello")
    assert full.busy.reply("POST").body == b"/behind 5"


# In order.


def test_behind_a_request_that_is_being_answered_nothing_is_refused_early(full, eventually) -> None:
    full = full()
    full.busy.send(head(length(KILOBYTES), path="/behind"))
    eventually(lambda: receiving(full.server))
    assert full.figures.submitted == 1
    open_door(full)
    full.busy.send(BODY)
    assert full.busy.reply("POST").body == f"/behind {KILOBYTES}".encode()


def test_when_its_turn_comes_and_there_is_no_room_it_is_refused(full, eventually) -> None:
    cleaned_up = Event()
    full = full(current_session, db_init_func=lambda worker: object(), db_reset_func=lambda session: cleaned_up.wait())
    full.busy.send(head(length(KILOBYTES)))
    eventually(lambda: receiving(full.server))
    full.door.set()
    assert full.busy.reply().body == b"/busy 0"
    assert_refused(full.busy.reply("POST"), stays=True)
    cleaned_up.set()
    full.busy.send(BODY)
    assert full.busy.get("/next").body == b"/next 0"


def test_a_client_that_has_a_claim_to_a_place_may_send_its_body(full, connect, eventually) -> None:
    full = full(queue_size=2, client_key="X-Tenant")
    greedy = [connect(full.server) for _ in range(2)]
    for waiting, client in enumerate(greedy, 1):
        client.send(head("X: y", "GET", "/greedy"))
        eventually(lambda waiting=waiting: full.figures.queued == waiting)
    modest = connect(full.server)
    modest.send(head(f"X-Tenant: modest\r\n{length(KILOBYTES)}", path="/modest"))
    eventually(lambda: receiving(full.server))
    modest.send(BODY)
    assert greedy[1].reply().headers["x-intralb-reason"] == "evicted"
    open_door(full)
    assert modest.reply("POST").body == f"/modest {KILOBYTES}".encode()


def test_a_pool_that_may_grow_takes_the_body_first(serve, connect, eventually) -> None:
    full = Full()
    server = serve(full, **{**ONE, "max_workers": 2, "min_workers": 1})
    busy, client = connect(server), connect(server)
    busy.send(head("X: y", "GET", "/busy"))
    eventually(lambda: full.seen)
    client.send(head(length(5)))
    eventually(lambda: receiving(server))
    assert server.balancer.snapshot().submitted == 1
    full.door.set()


def test_middleware_in_front_of_the_balancer_sees_the_whole_request(connect, eventually) -> None:
    full, read = Full(), []

    def middleware(environ, start_response):
        if environ["PATH_INFO"] == "/read":
            read.append(environ["wsgi.input"].read())
            start_response("200 OK", TEXT)
            return [b"read"]
        return balancer(environ, start_response)

    balancer = LoadBalancer(full, Options(**ONE))
    with WSGIServer(("127.0.0.1", 0), middleware, balancer=balancer) as server:
        server.start()
        busy, client = connect(server), connect(server)
        busy.send(head("X: y", "GET", "/busy"))
        eventually(lambda: full.seen)
        client.send(head(length(5), path="/read"))
        eventually(lambda: receiving(server))
        client.send("hello")
        assert client.reply("POST").body == b"read"
        full.door.set()
        assert busy.reply().status == 200
    assert read == [b"hello"]


# Clients that disconnect while their pipelined requests are parsed.


def test_a_client_that_resets_with_many_heads_sent_is_no_bug(full, connect, eventually, caplog) -> None:
    full = full()
    client = connect(full.server)
    eventually(lambda: len(full.server.connections) == 2)
    client.send((head(length(5)) + "hello") * 100)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    eventually(lambda: len(full.server.connections) == 1)
    gevent.sleep(0)
    assert "bug in intralb_gevent" not in caplog.text
    open_door(full)


def test_nor_is_one_that_closes_while_more_waits_than_is_parsed(serve, connect, eventually, caplog) -> None:
    doors = {"/apart": Event(), "/first": Event()}

    def application(environ, start_response):
        doors[environ["PATH_INFO"]].wait()
        start_response("200 OK", TEXT)
        return [b"done"]

    apart = Route("/apart", max_workers=1, max_concurrent_per_router=1, queue_size=0)
    server = serve(application, routes=[apart], **{**ONE, "queue_size": 1})
    busy, refused, leaving = (connect(server) for _ in range(3))
    busy.send(head("X: y", "GET", "/apart"))
    eventually(lambda: server.balancer.snapshot().running == 1)
    assert refused.get("/apart").status == 503
    leaving.send(head("X: y", "GET", "/first") + head("X: y", "GET", "/apart") * 500)
    eventually(lambda: server.balancer.snapshot().running == 2)
    leaving.close()
    doors["/first"].set()
    eventually(lambda: len(server.connections) == 2)
    gevent.sleep(0)
    assert "bug in intralb_gevent" not in caplog.text
    doors["/apart"].set()
    assert busy.reply().body == b"done"


# Bodies that end differently.


def test_a_body_that_never_comes_ends_the_connection_without_another_answer(full, connect, monkeypatch) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)
    full = full(body_timeout_seconds=0.05)
    client = connect(full.server)
    client.send(head(length(KILOBYTES)).encode() + b"begun")
    assert_refused(client.reply("POST"), stays=True)
    assert client.closed_by_server


def test_after_the_body_the_connection_may_be_idle_for_as_long_as_any(full, connect, eventually) -> None:
    full = full(body_timeout_seconds=30, keep_alive_seconds=1000)
    client = connect(full.server)
    client.send(head(length(KILOBYTES)).encode() + BODY)
    assert_refused(client.reply("POST"), stays=True)
    (idle,) = eventually(lambda: [connection for connection in full.server.connections if connection.idle])
    assert idle.expires - time.monotonic() > 100


@pytest.mark.parametrize(
    "sent",
    [
        b"5\r\nhello\r\nno size\r\n",
        b"5;" + b"x" * 100_000,
        in_chunks(b"b" * (SKIPPED_BODY_BYTES + 1)),
        b"1\r\nb\r\n" * 100_000,
    ],
    ids=["malformed", "extensions", "too long", "small chunks"],
)
def test_a_body_beyond_the_bounds_ends_it_as_well(full, connect, sent) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(CHUNKED))
    assert_refused(client.reply("POST"), stays=True)
    client.send(sent + head("X: y", "GET", "/evil").encode())
    assert client.closed_by_server
    assert (full.seen, full.figures.submitted) == (["/busy"], 2)


def test_a_limit_for_bodies_holds_for_those_that_are_skipped(full, connect) -> None:
    full = full(max_body_bytes=1000)
    client = connect(full.server)
    client.send(head(CHUNKED))
    assert_refused(client.reply("POST"), stays=True)
    client.send(in_chunks(b"b" * 1001, 500))
    assert client.closed_by_server


def test_a_client_that_leaves_instead_is_forgotten(full, connect, eventually) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(KILOBYTES)).encode() + b"begun")
    assert_refused(client.reply("POST"), stays=True)
    client.close()
    eventually(lambda: len(full.server.connections) == 1)
    assert full.figures.outcomes["shed"] == 1


# Stopping.


def test_a_server_that_stops_does_not_wait_for_the_rest_of_a_body(full, connect) -> None:
    full = full()
    client = connect(full.server)
    client.send(head(length(KILOBYTES)).encode() + b"begun")
    assert_refused(client.reply("POST"), stays=True)
    stopping = gevent.spawn(full.server.stop, 20)
    assert client.closed_by_server
    client.close()
    full.door.set()
    assert full.busy.reply().headers["connection"] == "close"
    stopping.get(timeout=10)


def test_a_server_that_stops_says_so_to_whom_it_refuses(full, connect, eventually) -> None:
    full = full()
    client = connect(full.server)
    client.send("POST / HT")
    eventually(lambda: any(connection.input.parser.in_head for connection in full.server.connections))
    stopping = gevent.spawn(full.server.stop, 20)
    eventually(lambda: full.server.closing)
    client.send(f"TP/1.1\r\nHost: x\r\n{length(KILOBYTES)}\r\n\r\n")
    assert_refused(client.reply("POST"), stays=False)
    client.send(BODY)
    assert client.closed_by_server
    client.close()
    full.door.set()
    assert full.busy.reply().status == 200
    stopping.get(timeout=10)


def test_a_balancer_that_has_stopped_refuses_by_the_head(serve, connect, echo) -> None:
    server = serve(echo)
    server.balancer.drain(0)
    client = connect(server)
    client.send(head(length(KILOBYTES)))
    reply = client.reply("POST")
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "draining")


@pytest.mark.parametrize(("method", "framing"), [("POST", length(5)), ("GET", "X: y")])
def test_it_is_logged_like_any_other(connect, eventually, method, framing) -> None:
    full, lines = Full(), []

    class Log:
        write = staticmethod(lines.append)

    with WSGIServer(("127.0.0.1", 0), LoadBalancer(full, Options(**ONE)), log=Log()) as server:
        server.start()
        busy, client = connect(server), connect(server)
        busy.send(head("X: y", "GET", "/busy"))
        eventually(lambda: full.seen)
        client.send(head(framing, method))
        reply = client.reply(method)
        assert_refused(reply, stays=True)
        (line,) = eventually(lambda: lines)
        full.door.set()
        assert busy.reply().status == 200
    assert f'"{method} /refused HTTP/1.1" 503 {len(reply.body)}\n' in line


@pytest.mark.parametrize("client_key", ["address", "off"])
@pytest.mark.parametrize("enable_logging", [False, True])
def test_many_in_a_row_without_a_body_each_as_if_it_were_alone(
    full, connect, caplog, eventually, client_key, enable_logging
) -> None:
    asked = []

    def class_of(environ):
        asked.append(environ["PATH_INFO"])
        return Priority.CRITICAL

    full = full(client_key=client_key, enable_logging=enable_logging, priority_func=class_of)
    client = connect(full.server)
    with caplog.at_level(logging.INFO, "intralb_gevent.jobs"):
        refused = [client.get(f"/{n}") for n in range(6)]
        if enable_logging:
            eventually(lambda: caplog.text.count("503 shed reason=queue_full worker=-") == 6)
    assert [(reply.status, reply.headers["x-intralb-reason"]) for reply in refused] == [(503, "queue_full")] * 6
    assert sorted(int(reply.headers["retry-after"]) for reply in refused) == [1, 1, 2, 2, 3, 3]
    assert {reply.headers["x-intralb-executed"] for reply in refused} == {"0"}
    assert asked == ["/busy", "/0", "/1", "/2", "/3", "/4", "/5"]
    snapshot = full.figures
    assert (snapshot.submitted, snapshot.running, snapshot.shed_reasons) == (7, 1, {"queue_full": 6})
    open_door(full)
    assert client.get("/next").status == 200
    assert full.seen == ["/busy", "/next"]


@pytest.mark.parametrize(("method", "framing"), [("POST", length(0)), ("GET", "X: y")])
def test_what_is_asked_of_a_request_to_one_of_several_applications_is_asked_in_the_same_way(
    serve, connect, eventually, method, framing
) -> None:
    asked = []

    def class_of(environ):
        asked.append((environ["SCRIPT_NAME"], environ["PATH_INFO"]))
        return Priority.CRITICAL_PLUS if environ["PATH_INFO"] == "/shop/checkout" else None

    shop = Full()
    server = serve({"/shop": shop}, **{**ONE, "queue_size": 1}, client_key="off", priority_func=class_of)
    busy, waiting, refused, important = (connect(server) for _ in range(4))
    busy.send(head(framing, method, "/shop/busy"))
    eventually(lambda: shop.seen)
    waiting.send(head(framing, method, "/shop/waiting"))
    eventually(lambda: server.balancer.snapshot().queued)
    refused.send(head(framing, method, "/shop/refused"))
    assert refused.reply(method).status == 503
    important.send(head(framing, method, "/shop/checkout"))
    assert waiting.reply(method).headers["x-intralb-reason"] == "evicted"
    shop.door.set()
    assert important.reply(method).body == b"/checkout 0"
    assert asked == [("", f"/shop/{name}") for name in ("busy", "waiting", "refused", "checkout")]


def test_a_client_without_a_claim_is_refused_beside_one_that_has_one(full, connect, eventually) -> None:
    full = full(queue_size=4, client_key="X-Api-Key")
    one, other = connect(full.server), connect(full.server)
    waiting = [connect(full.server) for _ in range(4)]
    for number, client in enumerate(waiting):
        client.send(head("X-Api-Key: one", "GET"))
        eventually(lambda number=number: full.figures.queued == number + 1)
    other.send(head("X-Api-Key: other", "GET"))
    evicted = waiting[-1].reply()
    assert (evicted.status, evicted.headers["x-intralb-reason"]) == (503, "evicted")
    for _ in range(2):
        refused = one.get(headers="X-Api-Key: one\r\n")
        assert (refused.status, refused.headers["x-intralb-reason"]) == (429, "client")
    full.door.set()
    assert other.reply().status == 200


def test_pipelined_and_of_every_kind(full, connect) -> None:
    full = full()
    client = connect(full.server)
    methods = ("GET", "HEAD", "GET")
    client.send("".join(head("X: y", method) for method in methods) + head("X: y", "GET", version="1.0"))
    assert [client.reply(method).status for method in methods] == [503] * 3
    last = client.reply()
    assert (last.status, last.headers["connection"]) == (503, "close")
    assert client.closed_by_server
