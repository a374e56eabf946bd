"""A request with an upgrade offer is an ordinary request if the application does not accept the offer."""

from __future__ import annotations

from itertools import product
from socket import SHUT_WR

import gevent
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIHandler

from intralb_gevent import WSGIServer

BODY = b"x" * 5
FRAMINGS = {
    "length": (b"Content-Length: 5\r\n", BODY),
    "one chunk": (b"Transfer-Encoding: chunked\r\n", b"5\r\nxxxxx\r\n0\r\n\r\n"),
    "chunks and a trailer": (b"Transfer-Encoding: chunked\r\n", b"1;a=b\r\nx\r\n4\r\nxxxx\r\n0\r\nX-Sum: 5\r\n\r\n"),
}
METHODS = (b"POST", b"PUT", b"PATCH", b"DELETE", b"GET", b"OPTIONS", b"PROPFIND")
UPGRADES = (b"h2c", b"websocket", b"TLS/1.0", b"HTTP/2.0, IRC/6.9", b"")
WAYS = (b"Connection: Upgrade\r\n", b"connection: keep-alive, Upgrade, HTTP2-Settings\r\n", b"")
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def sizes():
    """Return an application that responds with the path and the size of the body."""

    def application(environ, start_response):
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['PATH_INFO']} {size}".encode()]

    return application


def test_every_body_is_delivered_and_the_connection_goes_on(serve, connect, sizes) -> None:
    client = connect(serve(sizes))
    for method, upgrade, way, (head, body) in product(METHODS, UPGRADES, WAYS, FRAMINGS.values()):
        fields = b"Host: x\r\nUpgrade: %b\r\n%b%b" % (upgrade, way, head)
        client.send(b"%b /body HTTP/1.1\r\n%b\r\n%b" % (method, fields, body))
        assert client.reply(method.decode()).body == b"/body 5", fields


def test_with_a_handler_class_every_body_is_delivered_too(connect, sizes) -> None:
    server = WSGIServer(("127.0.0.1", 0), sizes, handler_class=WSGIHandler, log=None)
    server.start()
    client = connect(server)
    try:
        for upgrade, way, (head, body) in product(UPGRADES, WAYS, FRAMINGS.values()):
            fields = b"Host: x\r\nUpgrade: %b\r\n%b%b" % (upgrade, way, head)
            client.send(b"POST /body HTTP/1.1\r\n%b\r\n%b" % (fields, body))
            assert client.reply("POST").body == b"/body 5", fields
    finally:
        server.stop(0)


def test_http_1_0_delivers_the_body_too(serve, connect, sizes) -> None:
    head, body = FRAMINGS["length"]
    server = serve(sizes)
    for method, upgrade in product(METHODS, UPGRADES):
        client = connect(server)
        client.send(
            b"%b /body HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: %b\r\n%b\r\n%b" % (method, upgrade, head, body)
        )
        assert client.rest().endswith(b"\r\n\r\n/body 5")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_request_that_comes_byte_by_byte_is_whole(serve, connect, sizes, framing) -> None:
    head, body = FRAMINGS[framing]
    client = connect(serve(sizes))
    for byte in b"POST /body HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b" % (OFFER, head, body):
        client.send(bytes([byte]))
    assert client.reply("POST").body == b"/body 5"
    assert client.get("/next").body == b"/next 0"


def test_requests_that_are_pipelined_behind_offers_are_answered_in_order(serve, connect, sizes) -> None:
    client = connect(serve(sizes))
    head, body = FRAMINGS["length"]
    with_body = b"POST /body HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b" % (OFFER, head, body)
    without = b"GET /without HTTP/1.1\r\nHost: x\r\n%b\r\n" % OFFER
    client.send((with_body + without + GET) * 40)
    for _ in range(40):
        assert client.reply("POST").body == b"/body 5"
        assert client.reply().body == b"/without 0"
        assert client.reply().body == b"/next 0"


def test_what_expects_100_gets_it_and_the_body_is_read(serve, connect, sizes) -> None:
    client = connect(serve(sizes))
    client.send(b"POST /body HTTP/1.1\r\nHost: x\r\n%bExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" % OFFER)
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    assert client.reply("POST").body == b"/body 5"


def test_a_body_that_is_too_large_is_refused(serve, connect, sizes) -> None:
    server = serve(sizes, max_body_bytes=4)
    for head, body in FRAMINGS.values():
        client = connect(server)
        client.send(b"POST /body HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b" % (OFFER, head, body))
        assert client.reply("POST").status == 413


def test_a_large_body_arrives_whole(serve, connect, sizes) -> None:
    client = connect(serve(sizes))
    client.send(b"POST /body HTTP/1.1\r\nHost: x\r\n%bContent-Length: 3000000\r\n\r\n" % OFFER)
    client.send(b"x" * 3_000_000 + GET)
    assert client.reply("POST").body == b"/body 3000000"
    assert client.reply().body == b"/next 0"


def test_a_client_that_wants_the_connection_closed_gets_that(serve, connect, sizes) -> None:
    server = serve(sizes)
    for head, body in ((b"", b""), *FRAMINGS.values()):
        client = connect(server)
        client.send(
            b"POST /body HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n%b\r\n%b" % (head, body)
        )
        assert client.reply("POST").headers["connection"] == "close"
        assert client.closed_by_server


def test_an_offer_that_is_refused_by_its_head_leaves_the_connection_usable(serve, connect, gate_application) -> None:
    application, gate = gate_application
    server = serve(
        application, max_concurrent_per_router=1, max_workers=1, queue_size=0, client_key="off", limiter="fixed"
    )
    running, refused = connect(server), connect(server)
    running.send(GET)
    application.began.wait()
    for head, body in FRAMINGS.values():
        refused.send(b"POST /body HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b" % (OFFER, head, body))
        assert refused.reply("POST").status == 503
    gate.set()
    assert running.reply().status == 200
    assert refused.get("/next").status == 200


@pytest.fixture
def gate_application():
    gate = Event()

    class Waits:
        def __init__(self):
            self.began = Event()
            self.paths = []

        def __call__(self, environ, start_response):
            self.paths.append(environ["PATH_INFO"])
            self.began.set()
            gate.wait()
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"done"]

    return Waits(), gate


def test_what_comes_behind_an_offer_waits_for_its_answer(serve, connect, gate_application, eventually) -> None:
    application, gate = gate_application
    server = serve(application)
    client = connect(server)
    client.send(b"GET /offer HTTP/1.1\r\nHost: x\r\n%b\r\n" % OFFER)
    application.began.wait()
    client.send(GET)
    connect(server).send(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: application.paths == ["/offer", "/other"])
    gate.set()
    assert client.reply().body == b"done"
    assert client.reply().body == b"done"


def test_a_client_that_leaves_after_an_offer_is_noticed(serve, connect, gate_application, eventually) -> None:
    application, gate = gate_application
    server = serve(application, cancel_on_disconnect=True)
    client = connect(server)
    client.send(b"GET /offer HTTP/1.1\r\nHost: x\r\n%b\r\n" % OFFER)
    application.began.wait()
    client.close()
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)
    gate.set()


@pytest.mark.parametrize(
    "sizes", [(3000, 3000), (3000, 100), (10_000, 20, 10_000, 20), (100, 3000), (2048, 2049, 2048)], ids=str
)
def test_whatever_comes_behind_an_offer_in_whatever_pieces_is_taken_whole(serve, connect, eventually, sizes) -> None:
    door, received = Event(), []

    def application(environ, start_response):
        door.wait()
        sock = environ["gunicorn.socket"]
        while sum(map(len, received)) < sum(sizes):
            received.append(sock.recv(65536))
        return []

    server = serve(application)
    client = connect(server)
    client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{OFFER.decode()}\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    sent = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    for piece in sent:
        client.socket.sendall(piece)
        gevent.idle()
    door.set()
    assert eventually(lambda: sum(map(len, received)) == sum(sizes))
    assert b"".join(received) == b"".join(sent)


@pytest.mark.parametrize("counts", [(120, 120), (120, 5), (5, 120)], ids=str)
@pytest.mark.parametrize("half_closes", [False, True], ids=["open", "half-closed"])
def test_many_requests_behind_an_offer_are_answered_in_order(serve, connect, eventually, counts, half_closes) -> None:
    door = Event()

    def application(environ, start_response):
        if "HTTP_UPGRADE" in environ:
            door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["QUERY_STRING"].encode()]

    server = serve(application)
    client = connect(server)
    client.send(f"GET /?offer HTTP/1.1\r\nHost: x\r\n{OFFER.decode()}\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    numbers = iter(range(sum(counts)))
    for count in counts:
        client.send("".join(f"GET /?{next(numbers)} HTTP/1.1\r\nHost: x\r\n\r\n" for _ in range(count)))
        gevent.idle()
    if half_closes:
        client.socket.shutdown(SHUT_WR)
    door.set()
    expected = ["offer", *map(str, range(sum(counts)))]
    assert [client.reply().body.decode() for _ in expected] == expected


def test_with_a_handler_class_what_is_left_of_a_connection_that_was_taken_over_is_no_request(connect) -> None:
    asked = []

    def application(environ, start_response):
        asked.append(environ["PATH_INFO"])
        if "HTTP_UPGRADE" in environ:
            environ["gunicorn.socket"].sendall(b"taken")
            return []
        start_response("200 OK", [])
        return [b""]

    server = WSGIServer(("127.0.0.1", 0), application, handler_class=WSGIHandler, log=None)
    server.start()
    try:
        client = connect(server)
        client.send(f"GET /offer HTTP/1.1\r\nHost: x\r\n{OFFER.decode()}\r\nGET /left HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.rest() == b"taken"
        client.close()
    finally:
        server.stop(1)
    assert asked == ["/offer"]


def test_with_a_handler_class_the_input_of_an_offer_without_a_body_is_empty(connect, sizes) -> None:
    server = WSGIServer(("127.0.0.1", 0), sizes, handler_class=WSGIHandler, log=None)
    server.start()
    try:
        client = connect(server)
        for _ in range(2):
            client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{OFFER.decode()}\r\n")
            assert client.reply().body == b"/ 0"
    finally:
        server.stop(1)
