"""The states of a client connection and the legal transitions between them, as one table.

A connection never returns to an earlier state. The states are numbered in order, so `state >= LAST` means that no
further request is answered. (The states are plain integers because the connection compares them for every request.)
"""

from __future__ import annotations

from typing import Final

from ..errors import IllegalTransition

__all__ = ["CLOSED", "DISCARDING", "LAST", "LINGERING", "NAMES", "OPEN", "TRANSITIONS", "Course", "move"]

OPEN: Final = 0
"""State in which requests are read and answered."""

DISCARDING: Final = 1
"""State in which all further input is discarded, but pending responses are still sent."""

LAST: Final = 2
"""State in which the last response is being sent; once the response is sent, the connection closes."""

LINGERING: Final = 3
"""State like `LAST`, but input is discarded, and the client gets time to read the response before the connection
closes."""

CLOSED: Final = 4
"""State in which the socket is closed, or the application has taken it over."""

NAMES: Final = ("open", "discarding its input", "sending its last response", "lingering", "closed")

TRANSITIONS: Final[dict[int, frozenset[int]]] = {
    OPEN: frozenset({DISCARDING, LAST, LINGERING, CLOSED}),
    DISCARDING: frozenset({LAST, LINGERING, CLOSED}),
    LAST: frozenset({LINGERING, CLOSED}),
    LINGERING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


def move(present: int, following: int) -> int:
    """Return `following` if the transition from `present` to it is legal; otherwise raise `IllegalTransition`."""
    if following not in TRANSITIONS[present]:
        possible = ", ".join(NAMES[state] for state in sorted(TRANSITIONS[present])) or "nothing more"
        raise IllegalTransition(
            f"a connection that is {NAMES[present]} cannot become {NAMES[following]}; it can become {possible}"
        )
    return following


class Course:
    """The state of one connection, and the methods that change it; no change is reversed."""

    __slots__ = ("discards", "state")

    def __init__(self) -> None:
        self.state: int = OPEN
        self.discards = False
        """True if data from the client is discarded."""

    def __repr__(self) -> str:
        return f"<Course {NAMES[self.state]}>"

    @property
    def closed(self) -> bool:
        """True once the socket is closed, or the application has taken it over."""
        return self.state == CLOSED

    def discard(self) -> None:
        """Discard all further input."""
        if self.state == OPEN:
            self._move(DISCARDING)
        elif self.state == LAST:
            self._move(LINGERING)

    def end(self, lingers: bool) -> None:
        """Close the connection after the current response; `lingers` is true if the client may still be sending."""
        if self.state < LAST:
            self._move(LINGERING if lingers or self.state == DISCARDING else LAST)
        elif lingers:
            self.discard()

    def cut(self, lingers: bool) -> None:
        """Close the connection once all earlier responses are sent, without sending the rest of the current one."""
        if self.state < LAST:
            self._move(LINGERING if lingers else LAST)

    def close(self) -> None:
        """Record that the socket is closed; raises `IllegalTransition` if the socket was already closed."""
        self._move(CLOSED)

    def _move(self, following: int) -> None:
        self.state = move(self.state, following)
        self.discards = following != LAST
