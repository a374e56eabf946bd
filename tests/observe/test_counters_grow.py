"""No counter ever falls, whatever requests and clients do, and until the server has stopped."""

from __future__ import annotations

import random
from typing import Any

import gevent
from gevent import socket

from intralb_gevent import ClientDisconnected
from intralb_gevent.observe.metrics.catalogue import METRICS_BY_NAME
from intralb_gevent.observe.metrics.collection import Collection
from intralb_gevent.observe.metrics.readings import Readings

CLIENTS = 8
REQUESTS = 25
SEED = 19

SENT = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /wait/0.02 HTTP/1.1\r\nHost: x\r\nX-Priority: sheddable\r\n\r\n",
    b"GET /wait/9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe",
    b"GET / HTTP/1.1\r\nHo",
    b"nonsense\r\n\r\n",
]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/wait/"):
        gevent.sleep(float(path[6:]))
    if path == "/spin":
        while True:
            pass
    if path == "/fail":
        raise ValueError("on purpose")
    start_response("404 Not Found" if path == "/none" else "200 OK", [("Content-Type", "text/plain")])
    return [b"x" * (3_000_000 if path == "/large" else 5)]


def falls(before: Readings, after: Readings) -> list[str]:
    """Return the counters that have fallen or disappeared between two readings."""
    found = []
    for name, values in before.items():
        if METRICS_BY_NAME[name].kind != "gauge":
            for key, value in values.items():
                now = after[name].get(key, -1.0)
                old, new = (each if isinstance(each, list) else [each] for each in (value, now))
                if any(later < earlier for earlier, later in zip(old, new, strict=True)):
                    found.append(f"{name} {key}: {old} -> {new}")
    return found


def client(port: int, generator: random.Random) -> None:
    for _ in range(REQUESTS):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.settimeout(generator.choice([0.001, 0.05, 0.3]))
                connection.sendall(generator.choice(SENT))
                connection.recv(1000)
        except (OSError, ClientDisconnected):
            pass


def test_no_counter_falls(serve) -> None:
    server = serve(
        application,
        max_concurrent_per_router=2,
        queue_size=2,
        max_workers=2,
        request_timeout_seconds=0.1,
        header_timeout_seconds=0.1,
        body_timeout_seconds=0.1,
        keep_alive_seconds=0.1,
        cleanup_seconds=0.05,
        max_wait_seconds=0.05,
    )
    generator, collection = random.Random(SEED), Collection(server.balancer)
    clients = [gevent.spawn(client, server.server_port, random.Random(generator.random())) for _ in range(CLIENTS)]
    stopping = None
    last = collection.read()
    while stopping is None or not stopping.dead:
        gevent.sleep(0.003)
        found = collection.read()
        assert falls(last, found) == []
        last = found
        if stopping is None and all(each.dead for each in clients):
            stopping = gevent.spawn(server.stop, 0.05)
    outcomes = last["intralb_requests_total"]
    assert sum(outcomes.values()) == sum(last["intralb_requests_received_total"].values())
    # Which other outcomes there are depends on the machine.
    assert outcomes["general\ncompleted"] > 0
    assert outcomes["general\nfailed"] > 0
    closed = sum(last["intralb_connections_closed_total"].values())
    assert closed == last["intralb_connections_accepted_total"][""] > CLIENTS
