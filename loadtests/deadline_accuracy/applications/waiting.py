"""Handlers that wait, with what the standard library has.

Decides what they wait for. It must not know of deadlines.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
import time

from . import ADDRESS_VARIABLE, LONG_SECONDS, handler

__all__ = ["lock", "process", "receive", "sleep", "take"]

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
    """Wait for the clock."""
    time.sleep(LONG_SECONDS)


@handler
def lock() -> None:
    """Wait for a lock that nobody releases."""
    with _LOCK:
        pass


@handler
def take() -> None:
    """Wait for a queue that nobody puts anything in."""
    _QUEUE.get()


@handler
def process() -> None:
    """Wait for another program."""
    subprocess.run(["sleep", str(LONG_SECONDS)], check=True)
