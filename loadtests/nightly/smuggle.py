"""Ambiguous requests sent to our server, alone and through proxies, with canaries of other clients behind each.

Decides in which order they are sent, and what must not happen. It must not know what is ambiguous about them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import pathlib
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Final

from .client import Line
from .corpus import Ambiguous, corpus, mutated
from .faults import Faults
from .fronts import Front, fronts
from .reading import CutError, MalformedError
from .runs import LongTest, run
from .serving import WatchedServer

__all__ = ["main"]

_ABOUT: Final = """\
Send requests that two readers may understand differently to our server, alone and through
nginx and HAProxy, and see whether canaries of other clients behind them get their own answers,
and whether a request within a body is ever run. First the whole corpus, then mutations of it."""
_WAIT_SECONDS: Final = 0.25
"""How long the answer to an ambiguous request is awaited: its end may be a matter of opinion."""
_CANARY_SECONDS: Final = 20.0
_TITLES_BYTES: Final = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit code."""
    clients = (3, "other clients that ask behind each ambiguous request")
    return run(LongTest("smuggling", _ABOUT, 300, clients, "witness", (), _play), arguments)


def _play(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    chance = random.Random(parsed.seed)
    secret = f"{chance.getrandbits(64):016x}"
    end = time.monotonic() + parsed.seconds
    with (
        tempfile.TemporaryDirectory(prefix="intralb-fronts-") as name,
        fronts(pathlib.Path(name), server.port, secret) as found,
    ):
        lanes = [_Lane(front, parsed.clients, secret, server.port, faults) for front in found]
        sent = _send_all(lanes, chance, end)
    print(f"{sent} ambiguous requests sent, each " + ", ".join(front.title for front in found))


def _send_all(lanes: Sequence[_Lane], chance: random.Random, end: float) -> int:
    sent = 0
    for ambiguous in _in_order(chance):
        if time.monotonic() > end:
            break
        for lane in lanes:
            lane.try_out(ambiguous)
        sent += 1
    for lane in lanes:
        lane.close()
    return sent


def _in_order(chance: random.Random) -> Iterator[Ambiguous]:
    """Return all of the corpus in an order by chance, then mutations of it without end."""
    known = [*corpus("name")]
    chance.shuffle(known)
    yield from known
    while True:
        yield mutated(chance.choice(known), chance)


class _Lane:
    """One front, with the other clients that use it."""

    def __init__(self, front: Front, clients: int, secret: str, server: int, faults: Faults) -> None:
        self._front = front
        self._secret = secret
        self._faults = faults
        self._kept = [
            http.client.HTTPConnection("127.0.0.1", front.port, timeout=_CANARY_SECONDS) for _ in range(clients)
        ]
        self._server = http.client.HTTPConnection("127.0.0.1", server, timeout=_CANARY_SECONDS)
        self._number = 0

    def try_out(self, ambiguous: Ambiguous) -> None:
        """Send one, and canaries behind it, on its own connection and on those of others."""
        self._number += 1
        own = f"own-{self._number}"
        before = self._faults.total
        self._send(ambiguous, own)
        for connection in self._kept:
            self._ask(connection, ambiguous)
        self._look_at_runs(ambiguous)
        if self._faults.total > before:
            self._faults.add(f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}: sent was {ambiguous.data!r}")

    def close(self) -> None:
        """Close the connections."""
        for connection in (*self._kept, self._server):
            connection.close()

    def _send(self, ambiguous: Ambiguous, own: str) -> None:
        canary = f"GET /canary/{own} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with contextlib.suppress(OSError, CutError, MalformedError), contextlib.closing(Line(self._front.port)) as line:
            line.socket.settimeout(_WAIT_SECONDS)
            line.socket.sendall(ambiguous.data + canary)
            method = ambiguous.method
            while (answer := line.reader.answer(method)) is not None:
                method = "GET"
                if answer.status == 200:
                    self._require_own(ambiguous, answer.body, own)
                if answer.closes or answer.body == own.encode():
                    break

    def _require_own(self, ambiguous: Ambiguous, body: bytes, own: str) -> None:
        # Its own name, or that of the canary on its own connection; nothing was ever asked of others' names.
        is_own = body in (b"name", own.encode(), b"") or not ambiguous.is_body
        self._faults.require(is_own, f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}: answered {body[:80]!r}")

    def _ask(self, connection: http.client.HTTPConnection, ambiguous: Ambiguous) -> None:
        self._number += 1
        name = f"other-{self._number}"
        try:
            connection.request("GET", f"/canary/{name}")
            answer = connection.getresponse()
            said = f"{answer.status} {answer.read().decode('latin-1')}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = f"{type(error).__name__}: {error}"
        title = f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}"
        self._faults.require(said == f"200 {name}", f"{title}: another client was answered {said!r}, not 200 {name!r}")

    def _look_at_runs(self, ambiguous: Ambiguous) -> None:
        self._server.request("GET", "/run")
        for path, mark in json.loads(self._server.getresponse().read()):
            title = f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}"
            if self._front.marks:
                self._faults.require(mark == self._secret, f"{title}: {path} was smuggled past the proxy, and run")
            elif ambiguous.is_body:
                self._faults.require("/inner/" not in path, f"{title}: {path} was run, which is in a body")
