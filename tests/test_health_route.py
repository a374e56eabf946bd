"""Requests to a route with a lane are answered while all other routes are flooded with CPU-bound requests."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import time
from intralb_gevent import LoadBalancer, Options, Route, WSGIServer

def application(environ, start_response):
    if environ["PATH_INFO"] != "/health":
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"fine"]

routes = [Route("/health", max_workers=1, max_concurrent_per_router=2)]
options = Options(max_workers=1, max_concurrent_per_router=2, queue_size=2, routes=routes)
server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application, options))
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""
CLIENTS = 20
CHECKS = 30


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.terminate()


def test_health_is_answered_while_everything_else_is_flooded(port: int) -> None:
    enough = threading.Event()

    def flood() -> list[int]:
        statuses = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not enough.is_set():
            statuses.append(status(connection, "/work"))
        connection.close()
        return statuses

    with ThreadPoolExecutor(CLIENTS) as crowd:
        floods = [crowd.submit(flood) for _ in range(CLIENTS)]
        probe = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        health = [status(probe, "/health") for _ in range(CHECKS)]
        probe.close()
        enough.set()
    answered = [each for submitted in floods for each in submitted.result()]
    assert health == [200] * CHECKS
    # Check that the load was a flood: some requests were rejected, and some were served.
    assert set(answered) == {200, 503}
    assert answered.count(503) > answered.count(200)


def status(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status
