"""Clients in threads: each asks, waits for the answer, and asks again.

Decides how they ask, and what is noted of an answer. It must not know which server answers.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from .crowds import BROWSER_CONNECTIONS, Crowd

__all__ = ["Client", "Seen", "all_at_once", "run"]

_PATIENCE_SECONDS: Final = 60.0


@dataclass
class Seen:
    """What became of the requests of a crowd."""

    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    """How many there were, by status and reason."""
    waits: list[float] = field(default_factory=list)
    """How long each took that was answered 200, in seconds."""
    served: list[int] = field(default_factory=list)
    """How many of these each client had."""

    @property
    def refused(self) -> int:
        """How many were answered something else than 200."""
        return sum(count for answer, count in self.answers.items() if answer != "200")

    @property
    def per_second(self) -> float:
        """Answers with status 200."""
        return len(self.waits) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Return what `share` of all answered waited at most, in seconds; 0 if there were none."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Client:
    """One connection, which is opened when it is needed."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._connection: http.client.HTTPConnection | None = None
        self.answers: list[tuple[float, str]] = []
        """What came, and when, in seconds of `time.monotonic()`."""
        self.waits: list[float] = []

    def ask(self) -> None:
        """Ask once, and note what came."""
        began = time.monotonic()
        answer = self._answer()
        now = time.monotonic()
        self.answers.append((now, answer))
        if answer == "200":
            self.waits.append(now - began)

    def _answer(self) -> str:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE_SECONDS)
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            response.read()
            return f"{response.status} {response.getheader('X-Intralb-Reason') or ''}".strip()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return type(error).__name__

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def run(crowd: Crowd, port: int, seconds: float) -> Seen:
    """Let a crowd ask for so many seconds, or browsers load their pages once."""
    each = BROWSER_CONNECTIONS if crowd.assets else 1
    clients = [[Client(port, crowd.path) for _ in range(each)] for _ in range(crowd.clients)]
    began = time.monotonic()
    if crowd.assets:
        all_at_once([partial(_load_page, own, crowd.assets) for own in clients])
    else:
        all_at_once([partial(_ask_until, own[0], began + seconds) for own in clients])
    return _seen(clients, time.monotonic() - began)


def _seen(clients: list[list[Client]], seconds: float) -> Seen:
    seen = Seen(seconds)
    for own in clients:
        for client in own:
            client.close()
            seen.answers.update(answer for _, answer in client.answers)
            seen.waits += client.waits
        seen.served.append(sum(len(client.waits) for client in own))
    return seen


def _ask_until(client: Client, end: float) -> None:
    while time.monotonic() < end:
        client.ask()


def _load_page(connections: list[Client], assets: int) -> None:
    """Load a page, then its assets over all connections; nothing is asked for twice."""
    connections[0].ask()
    left = threading.Semaphore(assets)

    def load(client: Client) -> None:
        while left.acquire(blocking=False):
            client.ask()

    all_at_once([partial(load, client) for client in connections])


def all_at_once(functions: Iterable[Callable[[], None]]) -> None:
    """Call each function in a thread of its own, and wait for all."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
