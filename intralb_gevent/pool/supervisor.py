"""What is looked at beside the road, at every tick: the number of workers, and the native thread pool.

Decides how often; the policies decide what follows. It must not know jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Supervisor"]


class Supervisor:
    """A timer in the hub that lets the balancer review its size; it does not keep the process alive."""

    TICK_SECONDS = 0.1

    def __init__(self, loop: Any, review: Callable[[], object]) -> None:
        self._timer = loop.timer(self.TICK_SECONDS, self.TICK_SECONDS, ref=False)
        self._review = review

    def __repr__(self) -> str:
        return f"<Supervisor {'running' if self._timer.active else 'stopped'}>"

    def start(self) -> None:
        """Begin to tick."""
        self._timer.start(self._review)

    def stop(self) -> None:
        """Tick no more."""
        self._timer.stop()
