"""While a server drains, moves its connections to other processes, so that no client sees its connection close.

This process serves each connection until the connection is idle and another process can receive it. If no other process
can receive connections, this process closes them, as in a shutdown without other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..siblings.source import Sibling
from .connection import Connection

if TYPE_CHECKING:
    from .moving import Moving

__all__ = ["HandOver"]

LOOK_SECONDS: Final = 0.05
"""Seconds between two searches for processes that can receive connections."""

PATIENCE_SECONDS: Final = 3.0
"""Seconds after which connections are closed if other processes exist, but none of them can receive connections."""

ALONE_SECONDS: Final = 0.2
"""Seconds after which connections are closed if no other process is found; a single search may miss a process."""

NEW_SECONDS: Final = 1.0
"""Seconds, after the start of the hand-over, during which a connection without any request so far is not closed."""


class HandOver:
    """The hand-over of all connections of one server, from the start of its shutdown to its end."""

    def __init__(self, moving: Moving) -> None:
        self._moving = moving
        self._loop = moving.shared.loop
        self._idle: dict[Connection, None] = {}
        """The idle connections that no process can receive yet, in the order in which they became idle."""
        self._siblings: Sequence[Sibling] = ()
        self._planned = False
        self._ended = False
        self._began = self._hoped = monotonic()
        self.hopeful = True
        """True while another process can receive connections, or may soon be able to."""
        self._timer = self._loop.timer(0.0, LOOK_SECONDS, ref=False)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "hopeful" if self.hopeful else "hopeless"
        return f"<HandOver {state}: {len(self._idle)} idle, {self._moving!r}>"

    def begin(self) -> None:
        """Begin to search for other processes; if none is found, idle connections are closed."""
        self._moving.when_changed = self._plan
        self._look()
        self._timer.start(self._look)

    def offer(self, connection: Connection) -> bool:
        """Move an idle connection as soon as possible; return False if it must be closed instead. Never raises."""
        reason = connection.obstacle
        if self._ended or not self.hopeful:
            reason = reason or "no_process"
        if reason:
            self._moving.moves.not_moved[reason] += 1
            return False
        self._idle[connection] = None
        self._plan()
        return True

    def _plan(self) -> None:
        """Schedule the moves in a separate callback, because the caller may still be using its connection."""
        if not self._planned and not self._ended:
            self._planned = True
            self._loop.run_callback(self._move)

    def _move(self) -> None:
        self._planned = False
        try:
            while not self._ended and self._idle and self._move_next():
                pass
        except Exception:
            self._moving.failed()

    def _move_next(self) -> bool:
        """Move one connection; return False if no process can receive a connection now."""
        connection = next(iter(self._idle))
        # A request may have arrived meanwhile; the connection is offered again after the response to this request.
        if connection.can_move and not self._moving.send(connection, self._siblings):
            return False
        self._idle.pop(connection, None)
        return True

    def _look(self) -> None:
        try:
            self._hope(monotonic())
            if self._idle and self.hopeful:
                self._move()
        except Exception:
            self._moving.failed()

    def _hope(self, now: float) -> None:
        """Determine whether connections can move now or soon; if not, close the waiting connections."""
        self._siblings = self._moving.siblings.known()
        self._moving.processes(self._siblings)
        # Check the links instead of the list of siblings, which may be incomplete.
        able = any(link.accepts(now) for link in self._moving.links)
        pending = any(link.owes_answer() for link in self._moving.links)
        if able or pending or self._moving.siblings.starting():
            self._hoped, self.hopeful = now, True
        elif now - self._hoped > (PATIENCE_SECONDS if self._siblings else ALONE_SECONDS):
            self.hopeful = False
            self._close_waiting(now - self._began < NEW_SECONDS)

    def _close_waiting(self, spares_new: bool) -> None:
        waiting, self._idle = self._idle, {}
        for connection in waiting:
            if not (spares_new and connection.new):
                connection.close_if_idle()

    def _count_rest(self) -> None:
        """Count, by reason, the connections that are about to be closed because they have not moved in time."""
        shared, counts = self._moving.shared, self._moving.moves.not_moved
        for connection in shared.connections:
            counts["unsent" if connection.unsent else "no_process" if connection.idle else "busy"] += 1
        if upgraded := len(shared.intake.upgrades.holders):
            counts["upgraded"] += upgraded

    def end(self) -> None:
        """Stop moving connections."""
        self._count_rest()
        self._ended, self.hopeful = True, False
        self._timer.stop()
        self._timer.close()
        self._idle.clear()
        self._moving.when_changed = None
