"""The way down, as a process manager sees it: signals in, answers and an exit code out."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
from wsgiref.validate import validator
from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

def application(environ, start_response):
    print("begun", environ["PATH_INFO"], flush=True)
    try:
        time.sleep(float(environ["PATH_INFO"][1:]))
    finally:
        print("ran", environ["PATH_INFO"], flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

options = {options}
server = WSGIServer(("127.0.0.1", 0), LoadBalancer(validator(application), Options(**options)))
server.start()
graceful_shutdown(server)
print(server.server_port, flush=True)
server.serve_forever()
print("after", flush=True)
"""


class Served:
    """A server in a process of its own."""

    def __init__(self, directory: Path, **options: object) -> None:
        file = directory / "program.py"
        file.write_text(PROGRAM.replace("{options}", repr(options)))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def get(self, path: str) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status, response.getheader("Connection")
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def wait_for_line(self, text: str) -> None:
        assert self.process.stdout is not None
        line = "nothing yet"
        while line:
            line = self.process.stdout.readline()
            if text in line:
                return
        pytest.fail(f"the server never said {text!r}")

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Served]]:
    made: list[Served] = []

    def make(**options: object) -> Served:
        made.append(Served(tmp_path, **options))
        return made[-1]

    yield make  # type: ignore[misc]
    for served in made:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()


def test_20_running_requests_finish_50_idle_connections_close_and_it_exits_0(start) -> None:
    served = start()
    idle = [served.connect() for _ in range(50)]
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(served.get, "/3") for _ in range(20)]
        for _ in asked:
            served.wait_for_line("begun /3")
        time_of_signal = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in asked]
    code, out, err = served.ended()
    assert time.monotonic() - time_of_signal < 4.5
    assert answers == [(200, "close")] * 20
    assert [connection.recv(1) for connection in idle] == [b""] * 50
    assert (code, err) == (0, "")
    assert out.endswith("after\n")
    for connection in idle:
        connection.close()


def asked_in_background(served: Served, path: str) -> tuple[threading.Thread, list[tuple[int, str | None]]]:
    answers: list[tuple[int, str | None]] = []
    thread = threading.Thread(target=lambda: answers.append(served.get(path)))
    thread.start()
    served.wait_for_line(f"begun {path}")
    return thread, answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_outlives_the_grace_is_cut_its_finally_blocks_run_and_it_exits_1(start, number) -> None:
    served = start(graceful_timeout_seconds=0.3, request_timeout_seconds=60)
    thread, answers = asked_in_background(served, "/60")
    began = time.monotonic()
    served.process.send_signal(number)
    code, out, err = served.ended()
    thread.join()
    assert 0.25 < time.monotonic() - began < 5
    assert (code, err) == (1, "")
    assert answers == [(503, "close")]
    assert "ran /60" in out


def test_a_second_signal_forces(start) -> None:
    served = start(graceful_timeout_seconds=60, request_timeout_seconds=60)
    thread, answers = asked_in_background(served, "/50")
    with served.connect() as idle:
        served.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.ended()
    thread.join()
    assert (code, err, answers) == (1, "", [(503, "close")])


def test_during_the_drain_delay_it_goes_on_accepting(start) -> None:
    served = start(drain_delay_seconds=1.0)
    began = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    statuses = [served.get("/0") for _ in range(5)]
    assert statuses == [(200, None)] * 5
    assert served.ended()[0] == 0
    assert time.monotonic() - began > 0.9


def test_a_drain_under_load_loses_no_request(start) -> None:
    served = start()
    stop = threading.Event()
    lost: list[object] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        while not stop.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("GET", "/0.01")
                if connection.getresponse().read() != b"done":
                    lost.append("body")
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # Sent on a kept connection in the very moment of its closing: HTTP lets that be tried again.
                connection.close()
            except Exception as error:
                lost.append(error)

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for _ in range(20):
        served.get("/0")
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.ended()
    stop.set()
    for thread in clients:
        thread.join()
    assert (code, err, lost) == (0, "", [])
