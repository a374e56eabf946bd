"""When ready jobs are begun: at the hub's next round, and after some work only when sockets have been looked at again.

Decides how much is begun in one go. It must not know jobs.

Everything that is ready could be begun at once; but where jobs compute, whoever sends a request meanwhile would wait
for all of them before being so much as refused.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from gevent import get_hub

from ..stdlib import monotonic

__all__ = ["HubTurns"]


class Dispatcher(Protocol):
    """Who begins one of its jobs when told: a worker."""

    def dispatch(self) -> None:
        """Begin the next job; returns when it waits or has ended."""


class Finisher(Protocol):
    """Who has something to finish at the end of a turn: a connection, with an answer that is whole."""

    def end_of_turn(self) -> None:
        """Finish it. Never waits or raises."""


class TurnEnd:
    """What is put off until the end of the present turn, as it costs less together: sending answers.

    Each answer that is sent by itself wakes its reader, such as a proxy on the same machine, and that takes longer than
    sending it (docs/performance.md). Only where the watchdog makes the end come, should one job compute for long.
    """

    __slots__ = ("_put_off", "in_turn", "watched")

    def __init__(self) -> None:
        self.watched = False
        """Whether somebody calls `come` if a turn takes long."""
        self.in_turn = False
        """Whether there is a turn whose end will come soon."""
        self._put_off: list[Finisher] = []

    def __repr__(self) -> str:
        return f"<TurnEnd with {len(self._put_off)} put off>"

    def put_off(self, finisher: Finisher) -> None:
        """Have `end_of_turn` called when the present turn ends."""
        self._put_off.append(finisher)

    def come(self) -> None:
        """Finish now what was put off."""
        if self._put_off:
            finishers, self._put_off = self._put_off, []
            for finisher in finishers:
                finisher.end_of_turn()


class HubTurns:
    """One callback for all who want a turn of the hub."""

    MOST_SECONDS: Final = 0.001
    """After so long of jobs the sockets have their turn: many jobs that are short, or one that is not."""

    LEAST_PRIORITY: Final = -2
    """Of a watcher (libev's EV_MINPRI)."""

    def __init__(self, turn_end: TurnEnd) -> None:
        self.turn_end = turn_end
        self.number = 0
        """How many turns there have been."""
        self._waiting: deque[Dispatcher] = deque()
        self._scheduled = False
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<HubTurns {len(self._waiting)} waiting>"

    @property
    def count(self) -> int:
        """How many jobs are to be begun."""
        return len(self._waiting)

    def want(self, dispatcher: Dispatcher) -> None:
        """Have a job begun at the hub's next round, or as soon as it is its turn after that."""
        self._waiting.append(dispatcher)
        if not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        waiting, began, turn_end = self._waiting, monotonic(), self.turn_end
        turn_end.in_turn = turn_end.watched
        self.number += 1
        try:
            # Those that come meanwhile have theirs after the sockets.
            for _ in range(len(waiting)):
                waiting.popleft().dispatch()
                if monotonic() - began > self.MOST_SECONDS:
                    break
        finally:
            turn_end.in_turn = False
            turn_end.come()
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
