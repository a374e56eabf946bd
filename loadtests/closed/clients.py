"""Runs clients in threads, with or without a flood. Each client waits for a response before its next request."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..common.client import WaitingClient, all_at_once
from ..common.report import percentile
from ..overload.applications import CONNECTIONS

ASSETS: Final = 40
"""Number of assets per page: scripts, style sheets and pictures."""
BROWSER_CONNECTIONS: Final = 6
"""Number of HTTP/1.1 connections that a browser opens to one server. Chromium and Firefox open six; RFC 9112, 9.4,
sets no limit."""


@dataclass(frozen=True)
class Crowd:
    """A group of clients, and the request that they send. Each client waits for a response before its next request."""

    kind: str
    """The kind of request: "cpu" is CPU-bound, "db" waits while it holds one of ten connections."""
    milliseconds: int
    clients: int
    """Number of concurrent clients, which are browsers if `assets` is set."""
    assets: int = 0
    """Number of requests that each browser sends after its first; 0 means that the clients are not browsers."""

    @property
    def name(self) -> str:
        """The crowd's name in a table."""
        if self.assets:
            return f"{self.clients} browsers, {self.assets} assets of {self.milliseconds} ms"
        return f"{self.clients} x {self.milliseconds} ms"

    @property
    def path(self) -> str:
        """The path of the requests."""
        return f"/{self.kind}/{self.milliseconds}"

    @property
    def at_once(self) -> int:
        """The maximum number of concurrent requests from this crowd."""
        return self.clients * (BROWSER_CONNECTIONS if self.assets else 1)

    @property
    def longest_wait(self) -> float:
        """The longest wait for a response, in seconds, if the server serves the clients in rotation."""
        return self.at_once * self.milliseconds / 1000 / (CONNECTIONS if self.kind == "db" else 1)


CROWDS: Final = [
    *(Crowd("cpu", milliseconds, clients) for milliseconds in (5, 20, 50) for clients in (6, 14, 20, 64)),
    *(Crowd("db", milliseconds, clients) for milliseconds in (5, 20, 50) for clients in (6, 14, 20, 64)),
    *(Crowd("cpu", 20, users, ASSETS) for users in (1, 2, 4, 8)),
]
"""All crowds, in the order of measurement."""


_PATIENCE_SECONDS: Final = 60.0


@dataclass
class Seen:
    """The results of a crowd's requests."""

    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    """Number of responses, by status and reason."""
    waits: list[float] = field(default_factory=list)
    """Duration of each request with a 200 response, in seconds."""
    served: list[int] = field(default_factory=list)
    """Number of 200 responses for each client."""

    @property
    def refused(self) -> int:
        """The number of requests without a 200 response."""
        return sum(count for answer, count in self.answers.items() if answer != "200")

    @property
    def per_second(self) -> float:
        """The number of 200 responses per second."""
        return len(self.waits) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the waits for 200 responses, in seconds; 0 if there were no such responses."""
        return percentile(sorted(self.waits), percent) or 0.0


class Client:
    """One connection of a client, with the responses received on it."""

    def __init__(self, port: int, path: str) -> None:
        self._path = path
        self._client = WaitingClient(port, _PATIENCE_SECONDS)
        self.close = self._client.close
        self.answers: list[tuple[float, str]] = []
        """The arrival time of each response, on the monotonic clock, with its status and reason."""
        self.waits: list[float] = []

    def ask(self) -> None:
        """Send one request; record the response."""
        began = time.monotonic()
        answer = self._client.ask(self._path)
        now = time.monotonic()
        self.answers.append((now, answer))
        if answer == "200":
            self.waits.append(now - began)

    def ask_until(self, end: float) -> None:
        """Send requests until the time `end` on the monotonic clock."""
        while time.monotonic() < end:
            self.ask()


def run(crowd: Crowd, port: int, seconds: float) -> Seen:
    """Let a crowd send requests for `seconds`. In a crowd of browsers, each browser instead loads one page."""
    each = BROWSER_CONNECTIONS if crowd.assets else 1
    clients = [[Client(port, crowd.path) for _ in range(each)] for _ in range(crowd.clients)]
    began = time.monotonic()
    if crowd.assets:
        all_at_once([partial(_load_page, own, crowd.assets) for own in clients])
    else:
        all_at_once([partial(own[0].ask_until, began + seconds) for own in clients])
    seen = Seen(time.monotonic() - began)
    for own in clients:
        for client in own:
            client.close()
            seen.answers.update(answer for _, answer in client.answers)
            seen.waits += client.waits
        seen.served.append(sum(len(client.waits) for client in own))
    return seen


def _load_page(connections: list[Client], assets: int) -> None:
    """Load a page, then each of its assets once, over all connections."""
    connections[0].ask()
    left = threading.Semaphore(assets)

    def load(client: Client) -> None:
        while left.acquire(blocking=False):
            client.ask()

    all_at_once([partial(load, client) for client in connections])


SHEDDABLE: Final = "sheddable, the clients critical"
FLOODS: Final = {"as critical as the clients": (), SHEDDABLE: ("--routes", "/flood/* priority=sheddable")}
"""Flags for our server during each flood, by the flood's description."""

_CLIENTS: Final = 20
_OTHERS: Final = 200
_PAUSE_SECONDS: Final = 0.8
"""Interval between the requests of a flooding client, in seconds. The 200 clients together send 250 requests a second,
five times the capacity."""
_BEFORE, _FLOOD, _AFTER = 5.0, 20.0, 12.0


@dataclass(frozen=True)
class Flooded:
    """The results of the 20 ordinary clients before, during and after the flood."""

    rates: Sequence[float]
    """Responses per second in each phase."""
    refused: Sequence[int]
    refused_until: float
    """Seconds from the end of the flood to the last rejection; 0 if there was none."""


def play(port: int) -> Flooded:
    """Run the 20 ordinary clients in all three phases, and the flooding clients in the middle phase only."""
    clients = [Client(port, "/cpu/20") for _ in range(_CLIENTS)]
    others = [Client(port, "/flood/20") for _ in range(_OTHERS)]
    began = time.monotonic()
    floods, ends = began + _BEFORE, began + _BEFORE + _FLOOD
    until = ends + _AFTER
    asking = [partial(client.ask_until, until) for client in clients]
    flooding = [
        partial(_flood, other, floods + number * _PAUSE_SECONDS / _OTHERS, ends) for number, other in enumerate(others)
    ]
    all_at_once([*asking, *flooding])
    for client in (*clients, *others):
        client.close()
    answers = [answer for client in clients for answer in client.answers]
    phases = [(began, floods), (floods, ends), (ends, until)]
    served = [sum(since <= at < end and answer == "200" for at, answer in answers) for since, end in phases]
    refused = [sum(since <= at < end and answer != "200" for at, answer in answers) for since, end in phases]
    rates = [count / (end - since) for count, (since, end) in zip(served, phases, strict=True)]
    last = max((at for at, answer in answers if answer != "200"), default=0.0)
    return Flooded(rates, refused, max(0.0, last - ends))


def _flood(client: Client, begins: float, ends: float) -> None:
    never = threading.Event()
    for number in itertools.count():
        at = begins + number * _PAUSE_SECONDS
        if at >= ends:
            return
        never.wait(max(0.0, at - time.monotonic()))
        client.ask()
