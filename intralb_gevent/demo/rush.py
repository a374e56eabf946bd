"""Send more requests to the demo's own server than the server can answer.

A visitor can then see how the queue fills, the pool grows, and requests are rejected. The requests come from several
loopback addresses, so the balancer treats them as several clients, and the visitor's own requests keep their share.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import itertools
import socket
import threading
import time
from typing import NamedTuple

__all__ = ["PHASES", "SECONDS", "Progress", "Rush"]

PATH = "/slow?seconds=0.5"
PHASES = ((10.0, 15.0), (20.0, 70.0), (5.0, 10.0))
"""Seconds and requests per second of each phase: a load that makes the pool grow, an overload, and a low load at the
end."""
SECONDS = sum(seconds for seconds, _ in PHASES)
PATIENCE = 10.0
MOST_AT_ONCE = 200
CLIENTS = tuple(f"127.0.0.{number}" for number in range(2, 18))


class Progress(NamedTuple):
    """The progress of the latest rush; `seconds` is the time since its start."""

    seconds: float
    running: bool
    sent: int
    answered: int
    refused: int


class Rush:
    """Sends a rush in separate threads; at most one rush runs at a time."""

    def __init__(self) -> None:
        """Create an idle sender; `begin` starts a rush."""
        self._lock = threading.Lock()
        self._began: float | None = None
        self._running = False
        self._sent = self._answered = self._refused = self._open = 0
        self._clients = itertools.cycle(CLIENTS)

    @property
    def progress(self) -> Progress | None:
        """The progress of the latest rush; None if there was none."""
        with self._lock:
            if self._began is None:
                return None
            seconds = time.monotonic() - self._began
            return Progress(seconds, self._running, self._sent, self._answered, self._refused)

    def begin(self, host: str, port: int, root: str) -> bool:
        """Start a rush against this address; return False if a rush is already running."""
        with self._lock:
            if self._running:
                return False
            self._running, self._began = True, time.monotonic()
            self._sent = self._answered = self._refused = 0
        threading.Thread(target=self._run, args=(_address(host), port, root), daemon=True).start()
        return True

    def _run(self, host: str, port: int, root: str) -> None:
        due = time.monotonic()
        try:
            for seconds, rate in PHASES:
                for _ in range(int(seconds * rate)):
                    due += 1 / rate
                    time.sleep(max(0.0, due - time.monotonic()))
                    self._send(host, port, root)
        finally:
            with self._lock:
                self._running = False

    def _send(self, host: str, port: int, root: str) -> None:
        with self._lock:
            if self._open >= MOST_AT_ONCE:
                return
            self._open += 1
            self._sent += 1
            client = next(self._clients)
        threading.Thread(target=self._request, args=(host, port, root, client), daemon=True).start()

    def _request(self, host: str, port: int, root: str, client: str) -> None:
        status = 0
        try:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = _status(host, port, root, client)
        finally:
            with self._lock:
                self._open -= 1
                self._answered += status == 200
                self._refused += status in (429, 503)


def _status(host: str, port: int, root: str, client: str) -> int:
    # Try the address first, because only Linux configures all addresses of 127.0.0.0/8 by default.
    source = (client, 0) if host == "127.0.0.1" and _can_bind(client) else None
    connection = http.client.HTTPConnection(host, port, PATIENCE, source)
    with contextlib.closing(connection):
        connection.request("GET", root + PATH)
        response = connection.getresponse()
        response.read()
        return response.status


def _can_bind(client: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((client, 0))
        except OSError:
            return False
    return True


def _address(host: str) -> str:
    """Return the address at which this machine reaches a server that is bound to `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1"
    return "127.0.0.1" if address.is_unspecified or address.is_loopback else host
