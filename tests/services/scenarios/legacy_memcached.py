"""Storm scenario with python-memcached, through a proxy that delays responses, so that requests are cut meanwhile."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import Any

import gevent
import memcache
from gevent import socket
from gevent.server import StreamServer

from .ledger import USERS

__all__ = ["APPLICATION", "STAGES", "clean", "left", "prepare"]

APPLICATION = "legacy.with_memcached:application"
STAGES = ("connect", "look", "half", "commit")
STEP = 1_000_000_000
OPEN: set[Any] = set()


def prepare(run: str) -> dict[str, str]:
    host, _, port = os.environ["INTRALB_TEST_MEMCACHED"].partition(":")
    client = memcache.Client([f"{host}:{port}"])
    for user in USERS:
        for key in ("profile", "cart"):
            client.set(f"{key}-{user}", {"owner": user, "text": "x" * user * 100})
        client.set(f"visits-{user}", user * STEP)
    client.disconnect_all()
    slow = StreamServer(("127.0.0.1", 0), lambda connection, address: forward(connection, (host, int(port))))
    slow.start()
    return {"LEGACY_MEMCACHED": f"127.0.0.1:{slow.server_port}"}


def forward(connection: Any, server: tuple[str, int]) -> None:
    OPEN.add(connection)
    with connection, socket.create_connection(server) as upstream:
        there = gevent.spawn(copy, connection, upstream, 0.0)
        copy(upstream, connection, 0.003)
        there.join()
    OPEN.discard(connection)


def copy(source: Any, target: Any, longest: float) -> None:
    """Forward data until one side closes, each piece after a random delay; then close both sides."""
    with suppress(OSError):
        while data := source.recv(65536):
            if longest:
                gevent.sleep(random.uniform(0.0, longest))
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def clean(run: str) -> None:
    """Do nothing, because the fixture stops memcached at the end of the test."""


def left(server: Any) -> list[str]:
    return ["one connection more than slots"] * (len(OPEN) - server.slots)
