"""The server has the same constructor and life cycle as gevent's server."""

import math
import re
import ssl
from wsgiref.validate import validator

import gevent
import pytest
import trustme
from gevent import pywsgi, socket
from gevent import ssl as gevent_ssl
from gevent.event import Event

from intralb_gevent import LoadBalancer, OptionError, Options, WSGIServer, graceful_shutdown

TEXT = [("Content-Type", "text/plain")]


def hello(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"hello"]


def test_it_is_a_pywsgi_server_around_a_plain_application(connect) -> None:
    with WSGIServer(("127.0.0.1", 0), hello) as server:
        server.start()
        assert isinstance(server, pywsgi.WSGIServer)
        assert isinstance(server.balancer, LoadBalancer)
        assert server.application is server.balancer
        assert connect(server).get().body == b"hello"


def test_it_needs_an_application() -> None:
    with pytest.raises(OptionError, match="application"):
        WSGIServer(("127.0.0.1", 0))


def test_an_application_may_count_as_false(connect) -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

        def __call__(self, environ, start_response):
            return hello(environ, start_response)

    with WSGIServer(("127.0.0.1", 0), Empty()) as server:
        server.start()
        assert connect(server).get().body == b"hello"


@pytest.mark.parametrize(
    ("application", "balancer", "complaint"),
    [
        (hello, hello, "balancer: .* it must be the LoadBalancer behind the middleware"),
        (LoadBalancer(hello), LoadBalancer(hello), "balancer: .* because the application is another LoadBalancer"),
    ],
)
def test_a_balancer_that_cannot_be_the_one_is_refused(application, balancer, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        WSGIServer(("127.0.0.1", 0), application, balancer=balancer)


@pytest.mark.parametrize("timeout", ["10", -1, math.nan, math.inf, True, [1]])
def test_a_timeout_that_is_none_is_refused_before_a_signal_needs_it(timeout: object) -> None:
    server = WSGIServer(("127.0.0.1", 0), hello)
    with pytest.raises(OptionError, match=r"timeout: .* must be a number of seconds, 0 or more"):
        graceful_shutdown(server, timeout=timeout)
    assert server.shutdown is None


@pytest.mark.parametrize("more", [10, pywsgi.WSGIServer(("127.0.0.1", 0), hello), LoadBalancer(hello)])
def test_only_servers_of_ours_can_be_shut_down(more: object) -> None:
    server = WSGIServer(("127.0.0.1", 0), hello)
    with pytest.raises(OptionError, match=r"server: .* must be an intralb_gevent\.WSGIServer"):
        graceful_shutdown(server, more)
    assert server.shutdown is None


def test_a_subclass_may_hold_the_application(connect) -> None:
    class Server(WSGIServer):
        def application(self, environ, start_response):
            return hello(environ, start_response)

    with Server(("127.0.0.1", 0)) as server:
        server.start()
        assert connect(server).get().body == b"hello"


def test_it_takes_a_listening_socket(connect) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with WSGIServer(listener, hello) as server:
        server.start()
        assert server.server_port == listener.getsockname()[1]
        assert connect(server).get().body == b"hello"


def test_it_serves_a_unix_socket(tmp_path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with WSGIServer(listener, hello) as server:
        server.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(1000).endswith(b"hello")


def test_environ_and_error_log_reach_the_application(connect) -> None:
    class Log:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def writelines(self, lines):
            self.text += "".join(lines)

        def flush(self):
            pass

    def application(environ, start_response):
        environ["wsgi.errors"].write("logged")
        start_response("200 OK", TEXT)
        return [environ["my.key"].encode()]

    log = Log()
    with WSGIServer(("127.0.0.1", 0), application, error_log=log, environ={"my.key": "mine"}) as server:
        server.start()
        assert connect(server).get().body == b"mine"
    assert log.text == "logged"


class Lines:
    def __init__(self):
        self.lines = []

    def write(self, line):
        self.lines.append(line)


def test_a_given_log_has_a_line_for_each_request(connect, eventually) -> None:
    log = Lines()
    with WSGIServer(("127.0.0.1", 0), hello, log=log) as server:
        server.start()
        connect(server).get("/a?b")
        eventually(lambda: log.lines)
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w+/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b HTTP/1\.1" 200 -\n', log.lines[0]
    )


def test_without_one_there_are_no_lines(connect, capsys) -> None:
    with WSGIServer(("127.0.0.1", 0), hello) as server:
        server.start()
        connect(server).get("/a?b")
    assert capsys.readouterr() == ("", "")


def test_stop_waits_for_running_requests_cuts_what_is_late_and_it_can_start_again(connect, eventually) -> None:
    door = Event()

    def application(environ, start_response):
        door.wait()
        start_response("200 OK", TEXT)
        return [b"done"]

    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(validator(application), Options(keep_alive_seconds=60)))
    server.start()
    idle, busy = connect(server), connect(server)
    busy.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    stopping = gevent.spawn(server.stop, 5)
    assert idle.closed_by_server
    door.set()
    reply = busy.reply()
    assert (reply.body, reply.headers["connection"]) == (b"done", "close")
    stopping.get()
    assert server.closed
    server.start()
    assert connect(server).get().body == b"done"
    door.clear()
    late = connect(server)
    late.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    server.stop(0.01)
    reply = late.reply()
    assert (reply.status, reply.headers["x-intralb-reason"]) == (503, "killed")


def test_serve_forever_ends_with_stop(connect) -> None:
    server = WSGIServer(("127.0.0.1", 0), hello)
    serving = gevent.spawn(server.serve_forever)
    gevent.sleep(0)
    assert connect(server).get().body == b"hello"
    server.stop()
    serving.get(timeout=5)


def test_clients_that_had_connected_before_the_listener_closed_are_served(connect) -> None:
    server = WSGIServer(("127.0.0.1", 0), hello)
    server.start()
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.stop(5)
    assert [client.reply().body for client in clients] == [b"hello"] * 20


def test_two_servers_share_a_balancer_until_the_last_one_stops(connect) -> None:
    balancer = LoadBalancer(hello)
    first, second = (WSGIServer(("127.0.0.1", 0), balancer) for _ in range(2))
    first.start()
    second.start()
    assert [connect(server).get().body for server in (first, second)] == [b"hello"] * 2
    first.stop()
    assert connect(second).get().body == b"hello"
    second.stop()
    assert balancer.snapshot().condition == "stopped"


def test_a_handler_class_takes_gevents_own_way_with_the_balancer_behind_it(connect) -> None:
    handled = []

    class Handler(pywsgi.WSGIHandler):
        def handle_one_response(self):
            handled.append(True)
            super().handle_one_response()

    with WSGIServer(("127.0.0.1", 0), validator(hello), handler_class=Handler, log=None) as server:
        server.start()
        assert connect(server).get().body == b"hello"
        assert handled
        assert server.balancer.snapshot().outcomes["completed"] == 1


def test_tls() -> None:
    authority = trustme.CA()
    own, theirs = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(own)
    authority.configure_trust(theirs)
    with WSGIServer(("127.0.0.1", 0), validator(hello), ssl_context=own, log=None) as server:
        server.start()
        plain = socket.create_connection(("127.0.0.1", server.server_port))
        with theirs.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while part := client.recv(1000):
                data += part
            assert data.endswith(b"hello")


def test_repr_shows_live_state(connect) -> None:
    with WSGIServer(("127.0.0.1", 0), hello) as server:
        server.start()
        connect(server).get()
        assert "1 connections" in repr(server)
        assert "submitted=1 ended=1" in repr(server)


@pytest.mark.parametrize("noticed", ["by the hub", "by stop"])
def test_a_listener_that_fails_closes_its_server_and_is_told_of_once(
    serve, connect, echo, eventually, capfd, noticed
) -> None:
    server = serve(echo)
    client = connect(server)
    assert client.get().status == 200
    # Shut the listener down; another process that shares the listener could do so, too.
    server.socket.shutdown(socket.SHUT_RDWR)
    if noticed == "by the hub":
        eventually(lambda: not server.started)
        assert client.get().status == 200
    server.stop(1)
    assert client.closed_by_server
    assert capfd.readouterr().err.count("Traceback") == 1
