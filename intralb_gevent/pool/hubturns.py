"""When ready jobs are begun: at the hub's next round, and after some work only when sockets have been looked at again.

Decides how much is begun in one go. It must not know jobs.

Everything that is ready could be begun at once; but where jobs compute, whoever sends a request meanwhile would wait
for all of them before being so much as refused.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Final, Protocol

from gevent import get_hub

__all__ = ["HubTurns"]


class Dispatcher(Protocol):
    """Who begins one of its jobs when told: a worker."""

    def dispatch(self) -> None:
        """Begin the next job; returns when it waits or has ended."""


class HubTurns:
    """One callback for all who want a turn of the hub."""

    MOST_SECONDS: Final = 0.001
    """After so long of jobs the sockets have their turn: many jobs that are short, or one that is not."""

    LEAST_PRIORITY: Final = -2
    """Of a watcher (libev's EV_MINPRI)."""

    def __init__(self) -> None:
        self._waiting: deque[Dispatcher] = deque()
        self._scheduled = False
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<HubTurns {len(self._waiting)} waiting>"

    def want(self, dispatcher: Dispatcher) -> None:
        """Have a job begun at the hub's next round, or as soon as it is its turn after that."""
        self._waiting.append(dispatcher)
        if not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        waiting, began = self._waiting, monotonic()
        try:
            # Those that come meanwhile have theirs after the sockets.
            for _ in range(len(waiting)):
                waiting.popleft().dispatch()
                if monotonic() - began > self.MOST_SECONDS:
                    break
        finally:
            # A bug in one dispatch must not keep all others from theirs.
            self._schedule_rest()

    def _schedule_rest(self) -> None:
        if self._waiting:
            # A callback would be run before the sockets are looked at. A timer that is due is run after that, with the
            # least priority after all that is due besides; and then a callback after those that these have left: a job
            # that waits for its database has its slot back before another computes.
            self._timer = get_hub().loop.timer(0.0, priority=self.LEAST_PRIORITY)
            self._timer.start(get_hub().loop.run_callback, self._go_on)
        else:
            self._scheduled = False
