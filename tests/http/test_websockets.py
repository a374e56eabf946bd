"""Tests with the WebSocket libraries that legacy applications use, over our connections and with a handler class."""

from __future__ import annotations

import time
import warnings

import pytest
from gevent import selectors
from gevent.event import Event
from gevent.pywsgi import WSGIHandler
from wsproto import events

from intralb_gevent import LoadBalancer, Options, WSGIServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import simple_websocket
    from engineio.async_drivers.gevent import Thread
    from flask import Flask
    from flask_sock import Sock
    from geventwebsocket.handler import WebSocketHandler
    from geventwebsocket.resource import Resource, WebSocketApplication

UNPATCHED = {"thread_class": Thread, "event_class": Event, "selector_class": selectors.DefaultSelector}
"""Arguments that simple-websocket needs in an unpatched process, such as this one."""


def with_simple_websocket(environ, start_response):
    ws = simple_websocket.Server.accept(environ, **UNPATCHED)
    try:
        while True:
            ws.send(ws.receive())
    except simple_websocket.ConnectionClosed:
        return []


def with_flask_sock():
    app = Flask(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = UNPATCHED
    sock = Sock(app)

    @sock.route("/")
    def echo(ws):
        while True:
            ws.send(ws.receive())

    return app


def with_gevent_websocket(environ, start_response):
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message if isinstance(message, str) else bytes(message))
    return []


def with_a_resource():
    class Echo(WebSocketApplication):
        def on_message(self, message, *args, **kwargs):
            if message is not None:
                self.ws.send(message if isinstance(message, str) else bytes(message))

    return Resource([("/", Echo)])


APPLICATIONS = {
    "simple-websocket": lambda: with_simple_websocket,
    "flask-sock": with_flask_sock,
    "gevent-websocket": lambda: with_gevent_websocket,
    "a resource of gevent-websocket": with_a_resource,
}


def errors_in(caplog):
    """Return the logged errors; warnings are ignored, because a slow machine can cause them."""
    return [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


ONE_SLOT = Options(max_concurrent_per_router=1, max_workers=1, queue_size=0, client_key="off")


@pytest.fixture(params=[(name, way) for name in APPLICATIONS for way in ("own", "handler_class")], ids="-".join)
def server(request):
    name, way = request.param
    handler_class = None
    if way == "handler_class":
        handler_class = WebSocketHandler if "gevent" in name else WSGIHandler
    balancer = LoadBalancer(APPLICATIONS[name](), ONE_SLOT)
    made = WSGIServer(("127.0.0.1", 0), balancer, handler_class=handler_class)
    made.start()
    yield made
    made.stop(0)


def test_messages_come_back_whole_and_in_order(server, open_websocket, caplog, eventually) -> None:
    client = open_websocket(server.server_port)
    assert isinstance(client.accepted, events.AcceptConnection)
    for start in range(0, 1000, 100):
        texts = [f"{number} é" * 10 for number in range(start, start + 100)]
        client.send(*map(events.TextMessage, texts))
        assert [client.receive() for _ in texts] == texts
    for data in (b"\0\xff" * 10, b"x" * 70_000):
        client.send(events.BytesMessage(data))
        assert client.receive() == data
    assert server.balancer.snapshot().upgraded == 1
    client.send(events.CloseConnection(1001, "bye"))
    assert isinstance(client.event(), events.CloseConnection)
    assert client.event() is None
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert not errors_in(caplog)


def test_fragments_and_pings(server, open_websocket) -> None:
    client = open_websocket(server.server_port)
    client.send(events.TextMessage("one ", message_finished=False))
    client.send(events.Ping(b"there?"))
    client.send(events.TextMessage("two ", message_finished=False), events.TextMessage("three"))
    pong = client.event()
    assert (type(pong), bytes(pong.payload)) == (events.Pong, b"there?")
    assert client.receive() == "one two three"


def test_a_client_that_vanishes_ends_the_application(server, open_websocket, caplog, eventually) -> None:
    client = open_websocket(server.server_port)
    assert client.ask("hello") == "hello"
    client.socket.close()
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert not errors_in(caplog)


def test_a_shutdown_closes_it_and_cuts_nothing(server, open_websocket) -> None:
    client = open_websocket(server.server_port)
    assert client.ask("hello") == "hello"
    assert server.finish(time.monotonic()) == 0
    while client.event() is not None:
        pass
    assert server.balancer.snapshot().upgraded == 0


@pytest.mark.parametrize("name", APPLICATIONS)
def test_500_are_held_with_one_slot(open_websocket, name, eventually) -> None:
    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(APPLICATIONS[name](), ONE_SLOT))
    server.start()
    try:
        clients = [open_websocket(server.server_port) for _ in range(500)]
        for client in clients:
            client.send(events.TextMessage("hello"))
        assert [client.receive() for client in clients] == ["hello"] * 500
        snapshot = server.balancer.snapshot()
        assert (snapshot.upgraded, snapshot.running) == (500, 0)
        for client in clients:
            client.socket.close()
        eventually(lambda: server.balancer.snapshot().upgraded == 0)
        assert server.balancer.snapshot().workers[0].slots <= 1
    finally:
        server.stop(0)


def test_close_codes_of_the_application_arrive(serve, open_websocket) -> None:
    def application(environ, start_response):
        simple_websocket.Server.accept(environ, **UNPATCHED).close(4001, "no more")
        return []

    event = open_websocket(serve(application).server_port).event()
    assert (event.code, event.reason) == (4001, "no more")


def test_a_handshake_that_gevent_websocket_refuses_is_answered_by_it(serve, connect, caplog) -> None:
    client = connect(serve(with_gevent_websocket))
    client.send(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\n\r\n"
    )
    assert client.reply().status == 400
    assert client.closed_by_server
    assert not errors_in(caplog)


def test_clients_of_gevent_websocket_can_be_told_all_at_once(serve, open_websocket, eventually) -> None:
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        while ws.receive() is not None:
            for client in list(ws.handler.server.clients.values()):
                client.ws.send("to all")
        return []

    server = serve(application)
    first, second = open_websocket(server.server_port), open_websocket(server.server_port)
    eventually(lambda: server.balancer.snapshot().upgraded == 2)
    first.send(events.TextMessage("hello"))
    assert (first.receive(), second.receive()) == ("to all", "to all")


def test_sending_to_a_websocket_that_is_closed_is_silent(serve, open_websocket, caplog, eventually) -> None:
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        while True:
            ws.send(ws.receive() or "")

    server = serve(application)
    client = open_websocket(server.server_port)
    assert client.ask("hello") == "hello"
    client.send(events.CloseConnection(1000))
    eventually(lambda: server.balancer.snapshot().upgraded == 0)
    assert not errors_in(caplog)


def test_requests_beside_it_are_served(serve, connect, open_websocket) -> None:
    app = with_flask_sock()
    app.add_url_rule("/page", view_func=lambda: "a page")
    server = serve(app, max_concurrent_per_router=1, max_workers=1, queue_size=0)
    client, page = open_websocket(server.server_port), connect(server)
    for _ in range(3):
        assert client.ask("hello") == "hello"
        assert page.get("/page").body == b"a page"
