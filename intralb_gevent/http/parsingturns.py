"""When bytes are parsed that cost much time for their number, such as chunks of one byte: later, one client at a time.

Decides how long a client waits whose bytes have kept the event loop. It must not know what they are.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

__all__ = ["PARSING_SECONDS", "ParsingTurns", "is_costly"]

PARSING_SECONDS: Final = 0.001
"""After so long the rest of what was read from a client waits."""

COSTLY_SECONDS: Final = 0.0003
"""After so long of parsing a client has to wait even if nothing is left of what was read."""

PAUSE_SECONDS: Final = 0.008
"""How long others have the event loop then. So all such clients together take about an eighth of the time."""


COSTLY_SECONDS_PER_BYTE: Final = 50e-9
"""Chunks of one byte cost several times as much; a large body a thirtieth, also where it goes to a file."""


def is_costly(seconds: float, count: int) -> bool:
    """Say whether so many bytes have cost so much that their client has to wait."""
    return seconds > COSTLY_SECONDS and seconds > count * COSTLY_SECONDS_PER_BYTE


class Paused(Protocol):
    """A connection that is not read while it waits."""

    def resume_parsing(self) -> None:
        """Go on with it. Never waits or raises."""


class ParsingTurns:
    """The connections of a server that have cost much time: one after the other goes on, with pauses."""

    __slots__ = ("_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Paused] = deque()
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<ParsingTurns {len(self._waiting)} waiting>"

    def pause(self, connection: Paused, loop: Any) -> None:
        """Have a connection go on when it is its turn."""
        self._waiting.append(connection)
        if self._timer is None:
            self._timer = loop.timer(PAUSE_SECONDS, PAUSE_SECONDS)
            self._timer.start(self._take_turn)

    def _take_turn(self) -> None:
        if self._waiting:
            self._waiting.popleft().resume_parsing()
        else:
            self._timer.stop()
            self._timer.close()
            self._timer = None
