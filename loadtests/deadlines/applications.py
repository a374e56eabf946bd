"""WSGI applications that never finish: handlers that wait, are CPU-bound, or return an endless body."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

ADDRESS_VARIABLE: Final = "DEADLINES_ADDRESS"
"""Name of the environment variable for the address of the server that an application waits for."""
LONG_SECONDS: Final = 300
"""Duration of a handler's finite waits, in seconds; longer than every measured deadline."""
REST: Final = "/rest"
"""Path that every application answers immediately."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def handler(function: Callable[[], object]) -> Application:
    """Return an application that calls `function` before it responds."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != REST:
            function()
        return _nothing(start_response)

    return application


def body(function: Callable[[], Iterable[bytes]]) -> Application:
    """Return an application that responds immediately; its body is the iterable that `function` returns."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == REST:
            return _nothing(start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return function()

    return application


def _nothing(start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []


_LOCK = threading.Lock()
_LOCK.acquire()
_QUEUE: queue.Queue[None] = queue.Queue()


@handler
def receive() -> None:
    """Wait for a peer that never sends anything."""
    host, _, port = os.environ[ADDRESS_VARIABLE].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.recv(1)


@handler
def sleep() -> None:
    """Wait for a timer."""
    time.sleep(LONG_SECONDS)


@handler
def lock() -> None:
    """Wait for a lock that is never released."""
    with _LOCK:
        pass


@handler
def take() -> None:
    """Wait for an item from a queue that stays empty."""
    _QUEUE.get()


@handler
def process() -> None:
    """Wait for a child process to end."""
    subprocess.run(["sleep", str(LONG_SECONDS)], check=True)


def _compute() -> None:
    count = 0
    while True:
        count += sum(range(10))


@handler
def loop() -> None:
    """Run an endless loop."""
    _compute()


@handler
def except_exception() -> None:
    """Run an endless loop that ignores every `Exception`."""
    while True:
        try:  # noqa: SIM105  # applications contain such code
            _compute()
        except Exception:
            pass


@handler
def swallow_twice() -> None:
    """Run an endless loop that swallows the first two exceptions of any kind."""
    for _ in range(2):
        try:  # noqa: SIM105
            _compute()
        except:  # noqa: E722
            pass
    _compute()


_PIECE = b"x" * 1024


@body
def stalled() -> Iterator[bytes]:
    """Yield one part of the body, then wait."""
    yield _PIECE
    time.sleep(LONG_SECONDS)


@body
def endless() -> Iterator[bytes]:
    """Yield parts of the body forever, as fast as the client receives them."""
    while True:
        yield _PIECE
