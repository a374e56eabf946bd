"""The part of a server that exchanges connections with other processes, from the server's start to its end."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent

from ..siblings.source import Siblings
from ..supervise.table import OwnRow
from .handover import HandOver
from .moving import Moving
from .rescue import Rescue

if TYPE_CHECKING:
    from .context import ServerContext

__all__ = ["Sharing"]

_LOOK_SECONDS: Final = 0.05


class Sharing:
    """The exchange of connections between a server and other processes; without `moving`, all methods do nothing."""

    def __init__(self, moving: Moving | None = None) -> None:
        self.moving = moving
        self._hand_over: HandOver | None = None

    def __repr__(self) -> str:
        return f"<Sharing {self._hand_over or self.moving!r}>"

    @classmethod
    def of(cls, shared: ServerContext, listener: int, siblings: Callable[[int], Siblings]) -> Sharing:
        """Begin to receive connections from other processes; if this fails, return an exchange that does nothing."""
        try:
            return cls(Moving(shared, listener, siblings(listener)))
        except OSError as error:
            shared.report("moving", f"connections cannot move between processes: {error.strerror}")
            return cls()

    def rescue_with(self, row: OwnRow) -> Rescue | None:
        """Begin to move requests that find no free slot to processes in the row's table; None if they cannot move."""
        if self.moving is None or self.moving.shared.tls is not None or self.moving.shared.has_middleware:
            return None
        rescue = self.moving.shared.rescuer = Rescue(self.moving, row)
        return rescue

    def stop_receiving(self) -> None:
        """Stop receiving connections from other processes and moving requests to them."""
        if self.moving is not None:
            self.moving.shared.rescuer = None
            self.moving.receiver.stop()

    def wait_until_accepted(self, deadline: float) -> None:
        """Wait while a replacement for this process starts, for at most half the time until `deadline`."""
        until = (monotonic() + deadline) / 2
        while self.moving is not None and self.moving.siblings.starting() and monotonic() < until:
            gevent.sleep(_LOOK_SECONDS)

    def hand_over(self) -> None:
        """Move idle connections to other processes from now on, until `end` is called."""
        if self.moving is not None and self._hand_over is None:
            shared = self.moving.shared
            self._hand_over = shared.mover = HandOver(self.moving)
            self._hand_over.begin()

    def end(self) -> None:
        """End the exchange; connections that no other process has taken return to this server."""
        if self._hand_over is not None:
            self._hand_over.end()
        if self.moving is not None:
            self.moving.shared.mover = None
            self.moving.close()
        self.moving = self._hand_over = None

    def isolate(self) -> None:
        """In a child process that a handler has forked, close the inherited copies of all sockets."""
        if self.moving is not None:
            self.moving.isolate()
