"""Limit the time spent on parsing data that is unusually costly for its size, such as chunks of one byte.

The server pauses a client that sends costly data. Paused clients are resumed one at a time.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

__all__ = ["PARSING_SECONDS", "ParsingTurns", "is_costly"]

PARSING_SECONDS: Final = 0.001
"""Seconds of parsing after which the rest of a client's received data must wait."""

COSTLY_SECONDS: Final = 0.0003
"""Seconds of parsing above which a client with costly data is paused even if all its received data is parsed."""

PAUSE_SECONDS: Final = 0.008
"""Seconds between resuming one paused client and the next; together, paused clients use an eighth of the time."""


COSTLY_SECONDS_PER_BYTE: Final = 50e-9
"""Seconds of parsing per byte above which data is costly.

Parsing chunks of one byte takes several times as long. Parsing a large body takes a thirtieth of this time per byte,
even if the body is written to a file.
"""


def is_costly(seconds: float, count: int) -> bool:
    """Return whether parsing `count` bytes in `seconds` was so costly that the client must be paused."""
    return seconds > COSTLY_SECONDS and seconds > count * COSTLY_SECONDS_PER_BYTE


class Paused(Protocol):
    """An input that does not read its socket while it is paused."""

    def resume_parsing(self) -> None:
        """Resume parsing. Never waits or raises."""


class ParsingTurns:
    """The paused connections of a server, which are resumed one at a time at intervals."""

    __slots__ = ("_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Paused] = deque()
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<ParsingTurns {len(self._waiting)} waiting>"

    def pause(self, connection: Paused, loop: Any) -> None:
        """Pause a connection, and resume it after all connections that were paused earlier."""
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
