"""Where database sessions come from, and what is done with one between two requests and at its end.

Decides which questions there are; a subclass answers them for a driver (`integrations/`), or three plain functions do.
It must not know when they are asked: `pool/session.py` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

__all__ = ["FunctionSource", "SessionSource"]


class SessionSource(ABC):
    """Opens the sessions of a balancer's slots: give an instance as `db_init_func`.

    Each session belongs to one slot, and is used by one request at a time. All methods but `sized_for` and `isolate`
    are called in the slot's greenlet and may wait; `reset`, `discard` and `close` have five seconds each. Only `open`
    must be given.
    """

    def __call__(self, worker_id: int) -> Any:
        """Open a session, as the plain function does in whose place the source is given."""
        return self.open(worker_id)

    def sized_for(self, sessions: int) -> None:  # noqa: B027  # most sources have nothing to size
        """Learn, before the first `open`, how many sessions there will be at the same time at most."""

    @abstractmethod
    def open(self, worker_id: int) -> Any:
        """Return a new session; if this raises, the request is answered 503."""

    def check(self, session: Any) -> bool:
        """Say whether a session can still be used; asked before its first use in a request. An exception means no."""
        return True

    def begin(self, session: Any, seconds: float) -> None:  # noqa: B027  # most sessions need nothing
        """Prepare a session for a request that has so many seconds left; if this raises, it is answered 503."""

    def isolate(self) -> None:  # noqa: B027  # most sources keep nothing
        """Forget all connections of this source, in a process that a handler has forked.

        They belong to the parent, so nothing may be sent on them. Must not wait: it is called inside `os.fork()`.
        """

    def reset(self, session: Any) -> None:
        """Make a session ready for the next request, after one that used it; if this raises, it is discarded."""
        _call(session, "rollback")

    def discard(self, session: Any) -> None:
        """Give up a session in an unknown state: its request was interrupted, or it cannot be used any more.

        What it still does on the server should end, too, and its connection must not be used again.
        """
        self.close(session)

    def close(self, session: Any) -> None:
        """Close a session that is in order."""
        _call(session, "close")


class FunctionSource(SessionSource):
    """The functions `db_init_func`, `db_reset_func` and `db_close_func`; None is what a source does by itself."""

    def __init__(
        self,
        open_session: Callable[[int], Any],
        reset: Callable[[Any], object] | None = None,
        close: Callable[[Any], object] | None = None,
    ) -> None:
        self._open = open_session
        self._reset = reset
        self._close = close

    def __repr__(self) -> str:
        return f"<FunctionSource {self._open!r}>"

    def open(self, worker_id: int) -> Any:
        """Return a new session."""
        return self._open(worker_id)

    def reset(self, session: Any) -> None:
        """Make a session ready for the next request."""
        if self._reset is not None:
            self._reset(session)
        else:
            super().reset(session)

    def close(self, session: Any) -> None:
        """Close a session."""
        if self._close is not None:
            self._close(session)
        else:
            super().close(session)


def _call(session: Any, method: str) -> None:
    function = getattr(session, method, None)
    if function is not None:
        function()
