"""Tests of the environ on a unix socket, and below a path prefix that the proxy does not remove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gevent import pywsgi, socket

from intralb_gevent import LoadBalancer, Options, Route, WSGIServer
from intralb_gevent.errors import OptionError


def place(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "HTTP_HOST", "wsgi.url_scheme")
    return [" ".join(environ.get(name) or "-" for name in names).encode()]


@pytest.fixture
def serve_local(tmp_path) -> Iterator[Callable[..., str]]:
    """Return a function that starts a server on a unix socket, and returns the path of the socket.

    The servers are stopped at the end of the test.
    """
    made: list[WSGIServer] = []

    def start(handler_class: Any = None, **options: Any) -> str:
        path = str(tmp_path / f"{len(made)}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        balancer = LoadBalancer(place, Options(**options))
        made.append(WSGIServer(listener, balancer, handler_class=handler_class, log=None))
        made[-1].start()
        return path

    yield start
    for server in made:
        server.stop(0)


def ask(path: str, head: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(f"{head}Connection: close\r\n\r\n".encode())
        data = b""
        while part := client.recv(65536):
            data += part
    return data.rpartition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("GET / HTTP/1.1\r\nHost: example.com:8080\r\n", "example.com 8080"),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n", "example.com 80"),
        ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n", "[::1] 8080"),
        ("GET / HTTP/1.1\r\nHost: example.com:\r\n", "localhost 80"),
        ("GET / HTTP/1.1\r\nHost: a$b\r\n", "localhost 80"),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n", "localhost 80"),
        ("GET http://other:81/ HTTP/1.1\r\nHost: a\r\n", "other 81"),
        ("GET / HTTP/1.0\r\n", "localhost 80"),
        ("GET / HTTP/1.0\r\nHost:\r\n", "localhost 80"),
    ],
)
def test_on_a_unix_socket_name_and_port_are_those_of_the_host_field(serve_local, head, told) -> None:
    assert " ".join(ask(serve_local(), head).split(" ")[:2]) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("X-Forwarded-Proto: https\r\n", "example.com 443"),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: public:444\r\n", "public 444"),
        ("X-Forwarded-Port: 9000\r\n", "example.com 9000"),
    ],
)
def test_a_trusted_proxy_on_a_unix_socket_says_better(serve_local, fields, told) -> None:
    path = serve_local(trusted_proxies=("unix",))
    assert " ".join(ask(path, f"GET / HTTP/1.1\r\nHost: example.com\r\n{fields}").split(" ")[:2]) == told


def test_with_a_handler_class_they_are_not_empty_either(serve_local) -> None:
    told = ask(serve_local(pywsgi.WSGIHandler), "GET / HTTP/1.0\r\nHost: example.com\r\n")
    assert told.startswith("localhost 80 ")


def test_a_name_that_the_server_was_given_stays(connect, tmp_path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "app.sock"))
    listener.listen()
    server = WSGIServer(listener, place, environ={"SERVER_NAME": "given", "SERVER_PORT": "1"})
    server.start()
    try:
        assert ask(str(tmp_path / "app.sock"), "GET / HTTP/1.1\r\nHost: x\r\n").startswith("given 1 ")
    finally:
        server.stop(0)


# Below a path.


@pytest.mark.parametrize(
    ("path", "script", "rest"),
    [
        ("/app/x/y", "/app", "/x/y"),
        ("/app/", "/app", "/"),
        ("/app", "/app", "-"),
        ("/app?q", "/app", "-"),
        ("/%61pp/x", "/app", "/x"),
        ("/apple", "-", "/apple"),
        ("/healthz", "-", "/healthz"),
        ("/", "-", "/"),
        ("/app/app/x", "/app", "/app/x"),
        ("http://x/app/y", "/app", "/y"),
    ],
)
def test_the_path_that_a_proxy_leaves_on_becomes_script_name(serve, connect, path, script, rest) -> None:
    assert connect(serve(place, root_path="/app")).get(path).body.decode().split(" ")[2:4] == [script, rest]


@pytest.mark.parametrize(
    ("path", "prefix", "script", "rest"),
    [
        ("/app/x", "/outer", "/outer/app", "/x"),
        ("/app/x", "/app", "/app", "/x"),
        ("/x", "/app", "/app", "/x"),
    ],
)
def test_with_the_prefix_of_a_trusted_proxy(serve, connect, path, prefix, script, rest) -> None:
    client = connect(serve(place, root_path="/app", trusted_proxies=("127.0.0.1",)))
    reply = client.get(path, headers=f"X-Forwarded-Prefix: {prefix}\r\n")
    assert reply.body.decode().split(" ")[2:4] == [script, rest]


def test_routes_and_mounted_applications_are_below_it(serve, connect) -> None:
    server = serve({"/shop": place}, root_path="/app", routes=[Route("/shop/slow", request_timeout_seconds=120)])
    assert connect(server).get("/app/shop/slow").body.decode().split(" ")[2:4] == ["/app/shop", "/slow"]
    environ = {"PATH_INFO": "/shop/slow"}
    assert server.balancer.intake.mounts.find(environ) is not server.balancer.intake.mounts.find(
        {"PATH_INFO": "/shop/x"}
    )


@pytest.mark.parametrize("path", ["/app/x", "/app/app/x"])
def test_behind_middleware_it_is_entered_once(connect, path) -> None:
    balancer = LoadBalancer(place, Options(root_path="/app"))
    server = WSGIServer(("127.0.0.1", 0), lambda *call: balancer(*call), balancer=balancer)
    server.start()
    try:
        assert connect(server).get(path).body.decode().split(" ")[2:4] == ["/app", path[4:]]
    finally:
        server.stop(0)


@pytest.mark.parametrize("kind", ["handler_class", "pywsgi"])
def test_behind_other_servers_too(connect, balance, kind) -> None:
    balancer = balance(place, root_path="/app")
    if kind == "pywsgi":
        server = pywsgi.WSGIServer(("127.0.0.1", 0), balancer, log=None)
    else:
        server = WSGIServer(("127.0.0.1", 0), balancer, log=None, handler_class=pywsgi.WSGIHandler)
    server.start()
    try:
        assert connect(server).get("/app/x").body.decode().split(" ")[2:4] == ["/app", "/x"]
        assert connect(server).get("/x").body.decode().split(" ")[2:4] == ["-", "/x"]
    finally:
        server.stop(0)


@pytest.mark.parametrize("value", ["", "/", "app", "/app/", "//app", "/a b", "/a/../b", "/\xe9", "/a?b", 1])
def test_what_is_no_such_path(value) -> None:
    with pytest.raises(OptionError, match=r"root_path: .* is not allowed; it must be a path such as /app"):
        Options(root_path=value)
