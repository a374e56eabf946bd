"""The crowds: how many clients there are, what they ask for, and when each of them asks again.

Decides the cases, and how long a wait nobody can avoid. It must not know how clients are driven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..open_loop.applications import CONNECTIONS

__all__ = ["CROWDS", "Crowd"]

ASSETS: Final = 40
"""Of a page: scripts, style sheets and pictures."""
BROWSER_CONNECTIONS: Final = 6
"""Of a browser to one server over HTTP/1.1 (RFC 9112, 9.4, leaves the number open; Chromium and Firefox have six)."""


@dataclass(frozen=True)
class Crowd:
    """Clients that wait for each answer, and what they ask for."""

    kind: str
    """What a request does: "cpu" computes, "db" waits with one of ten connections."""
    milliseconds: int
    clients: int
    """Those that ask at the same time; browsers, where `assets` are asked for."""
    assets: int = 0
    """How many requests each browser makes after its first; 0: clients ask until the time is over."""

    @property
    def name(self) -> str:
        """How it is called in a table."""
        if self.assets:
            return f"{self.clients} browsers, {self.assets} assets of {self.milliseconds} ms"
        return f"{self.clients} x {self.milliseconds} ms"

    @property
    def path(self) -> str:
        """What is asked for."""
        return f"/{self.kind}/{self.milliseconds}"

    @property
    def at_once(self) -> int:
        """How many requests there are at most at the same time."""
        return self.clients * (BROWSER_CONNECTIONS if self.assets else 1)

    @property
    def longest_wait(self) -> float:
        """For how long the last of them has to wait if they are served in turn, in seconds."""
        return self.at_once * self.milliseconds / 1000 / (CONNECTIONS if self.kind == "db" else 1)


CROWDS: Final = [
    *(Crowd("cpu", milliseconds, clients) for milliseconds in (5, 20, 50) for clients in (6, 14, 20, 64)),
    *(Crowd("db", milliseconds, clients) for milliseconds in (5, 20, 50) for clients in (6, 14, 20, 64)),
    *(Crowd("cpu", 20, users, ASSETS) for users in (1, 2, 4, 8)),
]
"""All cases, in the order in which they are measured."""
