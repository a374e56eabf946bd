"""Whether whoever came last has the next turn, as so many wait that those in front will hardly be answered in time.

Decides from how full the queues are. It must not know jobs.

Adaptive LIFO, as in "Fail at Scale" by Maurer (ACM Queue 13:8, 2015): the first of a long line has waited so long that
its client may have given up, the last has all of its time left.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AdaptiveLifo"]


class AdaptiveLifo:
    """Turns the order round while the queues are nearly full, and back once they are much less so."""

    ABOVE: Final = 0.8
    """Of the places in the queues: with more taken than that the newest is next."""
    BACK: Final = 0.6
    """With no more taken than that the oldest is next again."""

    __slots__ = ("newest_first",)

    def __init__(self) -> None:
        self.newest_first = False
        """Whether the order is turned round."""

    def __repr__(self) -> str:
        return f"<AdaptiveLifo, {'newest' if self.newest_first else 'oldest'} first>"

    def look(self, waiting: int, places: int) -> bool:
        """Take note of how many wait in so many places, and return `newest_first`."""
        if waiting > self.ABOVE * places:
            self.newest_first = True
        elif waiting <= self.BACK * places:
            self.newest_first = False
        return self.newest_first
