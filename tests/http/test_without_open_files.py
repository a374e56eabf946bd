"""Tests of connections that applications take over, and of files that they send, while no more files can be opened."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile

import gevent.pywsgi
import pytest
from gevent.pywsgi import WSGIHandler

from intralb_gevent import WSGIServer
from intralb_gevent.http import server as server_module
from intralb_gevent.hub import reserved
from intralb_gevent.pool import upgrades

OFFER = b"GET /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TEXT = [("Content-Type", "text/plain")]


class OpenFiles:
    """The limit of open files, which a test exhausts and restores."""

    def __init__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def exhaust(self) -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, self._limits[1]))

    def restore(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)

    @contextlib.contextmanager
    def exhausted(self):
        self.exhaust()
        try:
            yield
        finally:
            self.restore()


@pytest.fixture
def open_files():
    files = OpenFiles()
    yield files
    files.restore()


def own(application):
    return WSGIServer(("127.0.0.1", 0), application)


def pywsgi(application):
    return gevent.pywsgi.WSGIServer(("127.0.0.1", 0), application, log=None)


def with_handler_class(application):
    return WSGIServer(("127.0.0.1", 0), application, handler_class=WSGIHandler, log=None)


@pytest.fixture
def started(balance):
    """Return a function that starts a server of a kind for an application, and returns it and its balancer."""
    made = []

    def start(begin, application):
        balancer = balance(application, max_concurrent_per_router=1, max_workers=1)
        made.append(begin(balancer))
        made[-1].start()
        return made[-1], balancer

    yield start
    for server in made:
        server.stop(1)


@pytest.mark.parametrize("begin", [pywsgi, with_handler_class])
def test_a_takeover_for_which_no_file_can_be_opened_fails_with_500(
    started, connect, open_files, caplog, eventually, begin
) -> None:
    def application(environ, start_response):
        if "gunicorn.socket" in environ:
            with open_files.exhausted():
                environ["gunicorn.socket"].sendall(b"never")
        start_response("200 OK", TEXT)
        return [b"done"]

    server, balancer = started(begin, application)
    client = connect(server)
    client.send(OFFER + GET)
    assert client.reply().status == 500
    assert client.reply().body == b"done"
    (record,) = [each for each in caplog.records if each.getMessage().startswith("GET /raw failed: OSError")]
    assert "Too many open files" in str(record.exc_info[1])
    eventually(lambda: balancer.snapshot().outcomes["completed"] == 1)
    snapshot = balancer.snapshot()
    assert (snapshot.upgraded, snapshot.running, snapshot.outcomes["failed"]) == (0, 0, 1)


@pytest.mark.parametrize("begin", [pywsgi, with_handler_class])
def test_an_application_may_try_again_to_take_over(started, connect, open_files, begin) -> None:
    def application(environ, start_response):
        with open_files.exhausted(), pytest.raises(OSError, match="Too many open files"):
            environ["gunicorn.socket"].recv(1)
        environ["gunicorn.socket"].sendall(b"taken " + environ["gunicorn.socket"].recv(5))
        return []

    server, _ = started(begin, application)
    client = connect(server)
    client.send(OFFER + b"first")
    assert client.rest() == b"taken first"


@pytest.mark.parametrize("begin", [own, pywsgi, with_handler_class])
def test_a_connection_ends_with_its_application_although_no_file_can_be_opened(
    started, connect, open_files, monkeypatch, eventually, begin
) -> None:
    monkeypatch.setattr(reserved, "_pipe", [])
    monkeypatch.setattr(upgrades, "LINGER_SECONDS", 0.1)

    def application(environ, start_response):
        environ["gunicorn.socket"].sendall(b"taken ")
        environ["gunicorn.socket"].fileno()
        environ["gunicorn.socket"].recv(1)
        open_files.exhaust()
        return []

    server, balancer = started(begin, application)
    client = connect(server)
    client.send(OFFER)
    assert client.socket.recv(6) == b"taken "
    before = len(os.listdir("/dev/fd"))
    client.send(b"x")
    assert client.rest() == b""
    eventually(lambda: balancer.snapshot().upgraded == 0)
    open_files.restore()
    eventually(lambda: len(os.listdir("/dev/fd")) < before)


def test_a_file_is_sent_although_no_more_files_can_be_opened(started, connect, open_files, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 300_000)

    def application(environ, start_response):
        file = path.open("rb")
        file.read(1)
        open_files.exhaust()
        start_response("200 OK", [("Content-Length", "299999")])
        return environ["wsgi.file_wrapper"](file)

    server, _ = started(own, application)
    client = connect(server)
    for _ in range(2):
        client.send(GET)
        reply = client.reply()
        open_files.restore()
        assert (reply.status, reply.body) == (200, b"x" * 299_999)


def test_the_log_states_that_no_file_can_be_opened_for_the_rest_of_a_response(
    started, connect, open_files, monkeypatch, caplog, eventually
) -> None:
    # As in a process that has not created a temporary file yet.
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(server_module, "UNSENT_IN_MEMORY_BYTES", 1_000_000)

    def application(environ, start_response):
        open_files.exhaust()
        start_response("200 OK", TEXT)
        return [bytes(20_000_000)]

    server, _ = started(own, application)
    client = connect(server)
    client.send(GET)
    eventually(lambda: any("was cut" in message for message in caplog.messages))
    open_files.restore()
    (line,) = caplog.messages
    assert f" and {len(client.rest())} bytes: its temporary file cannot be written: [Errno 24] Too many open" in line
