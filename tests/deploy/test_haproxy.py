"""HAProxy with two servers: weights by saturation, and a shutdown of a server that no client notices."""

from __future__ import annotations

import csv
import http.client
import pathlib
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

PATIENCE = 60.0


@dataclass
class Place:
    """The ports of one server."""

    clients: int
    admin: int
    agent: int

    @property
    def flags(self) -> tuple[str, ...]:
        pairs = (("--bind", self.clients), ("--admin-bind", self.admin), ("--agent-bind", self.agent))
        return tuple(text for flag, port in pairs for text in (flag, f"127.0.0.1:{port}"))


class Pair:
    """HAProxy and two servers."""

    def __init__(self, directory: pathlib.Path, places: list[Place], port: int) -> None:
        self._control = directory / "control"
        self.places, self.port = places, port

    def state(self, name: str) -> dict[str, str]:
        """Return HAProxy's view of a server."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._control))
            client.sendall(b"show stat\n")
            text = b""
            while part := client.recv(65536):
                text += part
        rows = csv.DictReader(text.decode().removeprefix("# ").splitlines())
        return next(row for row in rows if (row["pxname"], row["svname"]) == ("myapp", name))

    def get(self, path: str = "/", method: str = "GET") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status


@pytest.fixture
def pair(
    tmp_path: pathlib.Path,
    program: Callable[[str], str],
    ports: Callable[[], int],
    run: Callable[..., Any],
    configured: Callable[..., str],
) -> Pair:
    """Start HAProxy with its file of deploy/, in which only addresses and intervals are changed."""
    path, port = program("haproxy"), ports()
    places = [Place(ports(), ports(), ports()) for _ in range(2)]
    changes = {r"bind :80$": f"bind 127.0.0.1:{port}", r"inter 2s": "inter 100ms"}
    for address, place in zip((r"10\.0\.0\.7", r"10\.0\.0\.8"), places, strict=True):
        known = rf"{address}:8000 check port 9000 agent-check agent-port 9001$"
        changes[known] = f"127.0.0.1:{place.clients} check port {place.admin} agent-check agent-port {place.agent}"
    text = configured("haproxy.cfg", changes)
    (tmp_path / "haproxy.cfg").write_text(f"global\n    stats socket {tmp_path}/control\n{text}")
    run(path, "-db", "-f", "haproxy.cfg", port=port)
    return Pair(tmp_path, places, port)


def test_the_weight_follows_the_saturation(pair: Pair, server: Callable[..., Any], until: Callable[..., Any]) -> None:
    small = ("--max-workers", "1", "--max-concurrent-per-router", "1", "--queue-size", "4", "--limiter", "fixed")
    saturated = server(*pair.places[0].flags, *small)
    until(lambda: pair.state("one")["status"] == "UP")
    assert pair.state("one")["weight"] == "100"
    held = [threading.Thread(target=pair.get, args=("/hold",)) for _ in range(3)]
    for thread in held:
        thread.start()
    until(lambda: int(pair.state("one")["weight"]) < 50)
    assert pair.state("one")["status"] == "UP"
    (saturated.directory / "go").touch()
    for thread in held:
        thread.join(PATIENCE)
    until(lambda: pair.state("one")["weight"] == "100")


def test_nobody_notices_the_shutdown_of_a_server(
    pair: Pair, server: Callable[..., Any], until: Callable[..., Any]
) -> None:
    delay = ("--drain-delay-seconds", "2")
    first, _ = (server(*place.flags, *delay) for place in pair.places)
    until(lambda: {pair.state(name)["status"] for name in ("one", "two")} == {"UP"})
    statuses: list[int] = []
    stopping = threading.Event()

    def client() -> None:
        while not stopping.is_set():
            statuses.append(pair.get(method="POST"))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    first.signal(signal.SIGTERM)
    until(lambda: "DRAIN" in pair.state("one")["status"])
    assert first.ended() == 0
    server(*pair.places[0].flags, *delay)
    until(lambda: pair.state("one")["status"] == "UP")
    before = int(pair.state("one")["stot"])
    until(lambda: int(pair.state("one")["stot"]) > before)
    stopping.set()
    for thread in clients:
        thread.join(PATIENCE)
    assert statuses
    assert set(statuses) == {200}


def test_the_address_passes_through_the_proxy_protocol(
    tmp_path: pathlib.Path,
    program: Callable[[str], str],
    ports: Callable[[], int],
    server: Callable[..., Any],
    run: Callable[..., Any],
    configured: Callable[..., str],
) -> None:
    path, clients, port = program("haproxy"), ports(), ports()
    server("--bind", f"127.0.0.1:{port}", "--proxy-protocol", "--trusted-proxies", "127.0.0.1")
    changes = {r"bind :443$": f"bind 127.0.0.1:{clients}", r"10\.0\.0\.7:8000": f"127.0.0.1:{port}"}
    (tmp_path / "haproxy.cfg").write_text(configured("haproxy-tcp.cfg", changes))
    run(path, "-db", "-f", "haproxy.cfg", port=clients)
    # HAProxy connects from a trusted address; the client's own address is another one, which is not trusted.
    with socket.create_connection(("127.0.0.1", clients), PATIENCE, source_address=("127.0.0.9", 0)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n")
        text = b""
        while part := client.recv(1000):
            text += part
    assert b'"REMOTE_ADDR": "127.0.0.9"' in text
