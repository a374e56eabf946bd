"""Storm scenario with a thread-local http.client connection to a server that responds after some milliseconds."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer

__all__ = ["APPLICATION", "STAGES", "clean", "left", "prepare"]

APPLICATION = "legacy.with_http_client:application"
STAGES = ("connect", "look", "half", "commit")
OPEN: set[Any] = set()


def prepare(run: str) -> dict[str, str]:
    backend = StreamServer(("127.0.0.1", 0), serve)
    backend.start()
    return {"LEGACY_BACKEND": f"127.0.0.1:{backend.server_port}"}


def serve(connection: Any, address: object) -> None:
    OPEN.add(connection)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as lines, suppress(OSError):
        while line := lines.readline():
            while lines.readline().strip():
                pass
            answer(connection, *line.split()[1].decode().split("/")[1:])
    OPEN.discard(connection)


def answer(connection: Any, page: str, owner: str, number: str) -> None:
    gevent.sleep(0.02 if page == "slow" else random.uniform(0.0, 0.004))
    text = "x" * (20_000 if page == "large" else 10)
    body = json.dumps({"owner": int(owner), "number": int(number), "text": text}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body[:10])
    gevent.sleep(0.001)
    connection.sendall(body[10:])


def clean(run: str) -> None:
    """Do nothing, because the other server ends with this process."""


def left(server: Any) -> list[str]:
    return ["one connection more than slots"] * (len(OPEN) - server.slots)
