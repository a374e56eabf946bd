"""The periodic maintenance timer of a balancer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Ticker"]


class Ticker:
    """A timer in the event loop that calls `review` every `TICK_SECONDS`; it does not keep the process alive."""

    TICK_SECONDS = 0.1

    def __init__(self, loop: Any, review: Callable[[], object]) -> None:
        self._timer = loop.timer(self.TICK_SECONDS, self.TICK_SECONDS, ref=False)
        self._review = review

    def __repr__(self) -> str:
        return f"<Ticker {'running' if self._timer.active else 'stopped'}>"

    def start(self) -> None:
        """Start the timer."""
        self._timer.start(self._review)

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.stop()
