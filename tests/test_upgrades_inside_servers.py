"""Tests of raw connections that applications take over inside gunicorn and gevent.pywsgi, with and without TLS."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from gevent import subprocess

OFFER = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"

LARGE = 20_000_000
"""Number of bytes that exceeds the buffers of both ends, so that sending waits for the client."""

MODULE = """
from gevent import monkey; monkey.patch_all()
import selectors, socket, ssl, sys
import gevent, gevent.pywsgi
from intralb_gevent import LoadBalancer, WSGIServer

def application(environ, start_response):
    sock = environ["gunicorn.socket"]
    if environ["PATH_INFO"] == "/large":
        assert sock.send(b"x" * 20_000_000) == 20_000_000
        return []
    if environ["PATH_INFO"] == "/file":
        with sock.makefile("rb") as lines:
            sock.sendall(lines.readline())
            sock.sendall(lines.readline())
        return []
    if environ["PATH_INFO"] == "/watches":
        selector = selectors.DefaultSelector()
        selector.register(sock, selectors.EVENT_READ)
        selector.select(0.01)
    sock.sendall(b"taken ")
    buffer = bytearray(1000)
    while size := sock.recv_into(buffer):
        sock.sendall(buffer[:size])
    return []

app = LoadBalancer(application)

def serve(kind, descriptor, pem):
    sock = socket.socket(fileno=descriptor)
    tls = {}
    if pem:
        tls["ssl_context"] = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls["ssl_context"].load_cert_chain(pem)
    if kind == "pywsgi":
        gevent.pywsgi.WSGIServer(sock, app, log=None, **tls).serve_forever()
    WSGIServer(sock, app, log=None, handler_class=gevent.pywsgi.WSGIHandler, **tls).serve_forever()
"""

KINDS = ["gunicorn", "pywsgi", "handler_class"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=[(kind, tls) for kind in KINDS for tls in (False, True)], ids=str)
def connect(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], socket.socket]]:
    """Return a function that connects to a server process of a kind, with or without TLS."""
    kind, tls = request.param
    directory: Path = tmp_path_factory.mktemp("inside")
    (directory / "served.py").write_text(MODULE)
    pem = directory / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        command = ["-c", f"import served; served.serve({kind!r}, {listener.fileno()}, {str(pem) if tls else ''!r})"]
        if kind == "gunicorn":
            flags = [f"--certfile={pem}", f"--keyfile={pem}"] if tls else []
            bind = f"fd://{listener.fileno()}"
            command = ["-m", "gunicorn", "-k", "gevent", "--no-control-socket", "-b", bind, *flags, "served:app"]
        with (directory / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=directory, pass_fds=[listener.fileno()], stderr=log
            )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def connected() -> socket.socket:
        # The first connection waits until the server has started, which takes seconds on a busy machine.
        plain = socket.create_connection(address, timeout=25)
        return context.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain

    try:
        yield connected
    finally:
        process.terminate()
        process.wait()
    assert "Traceback" not in (directory / "log.txt").read_text()


def received(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


@pytest.mark.parametrize("size", [0, 1, 5000, 100_000])
def test_the_bytes_right_behind_the_request_come_first(connect, size: int) -> None:
    with connect() as client:
        client.sendall(OFFER % b"/" + b"x" * size)
        assert received(client, 6 + size) == b"taken " + b"x" * size
        client.sendall(b"more")
        assert received(client, 4) == b"more"


def test_the_bytes_right_behind_the_request_can_be_read_from_a_file(connect) -> None:
    with connect() as client:
        client.sendall(OFFER % b"/file" + b"first\nsec")
        assert received(client, 6) == b"first\n"
        client.sendall(b"ond\n")
        assert received(client, 8) == b"second\n"


def test_send_sends_all(connect) -> None:
    with connect() as client:
        client.sendall(OFFER % b"/large")
        assert len(received(client, LARGE)) == LARGE


def test_a_selector_that_the_application_forgets_does_not_end_the_process(connect) -> None:
    for _ in range(3):
        with connect() as client:
            client.sendall(OFFER % b"/watches")
            assert received(client, 6) == b"taken "
            client.sendall(b"x")
            assert received(client, 1) == b"x"
    with connect() as client:
        client.sendall(OFFER % b"/" + b"y")
        assert received(client, 7) == b"taken y"
