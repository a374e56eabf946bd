"""The interface for opening, checking, resetting and closing database sessions.

A subclass implements this interface for a driver (see `integrations/`); `FunctionSource` wraps three plain functions.
`pool/session.py` calls the methods of this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

__all__ = ["FunctionSource", "SessionSource"]


class SessionSource(ABC):
    """Opens the sessions of a balancer's slots; pass an instance as `db_init_func`.

    Each session belongs to one slot, and is used by one request at a time. All methods except `sized_for` and `isolate`
    are called in the slot's greenlet, and may wait. A call of `reset`, `discard` or `close` may take at most five
    seconds. A subclass must implement only `open`.
    """

    def __call__(self, worker_id: int) -> Any:
        """Open a session; this method makes a source callable, like a `db_init_func` that is a plain function."""
        return self.open(worker_id)

    def sized_for(self, sessions: int) -> None:  # noqa: B027  # most sources have nothing to size
        """Prepare for at most `sessions` open sessions; called before the first `open`."""

    @abstractmethod
    def open(self, worker_id: int) -> Any:
        """Return a new session; if this method raises an exception, the request is answered 503."""

    def check(self, session: Any) -> bool:
        """Return True if a session is still usable; called before its first use in a request.

        A session whose check raises an exception counts as unusable.
        """
        return True

    def begin(self, session: Any, seconds: float) -> None:  # noqa: B027  # most sessions need no preparation
        """Prepare a session for a request whose deadline is `seconds` from now.

        If this method raises an exception, the request is answered 503.
        """

    def isolate(self) -> None:  # noqa: B027  # most sources keep no connections
        """Drop all connections of this source; called in a process that a handler has forked.

        The connections belong to the parent process, so no data must be sent on these connections. This method runs
        inside `os.fork()`, so it must not wait.
        """

    def reset(self, session: Any) -> None:
        """Make a session ready for the next request; if this method raises an exception, the session is discarded."""
        _call(session, "rollback")

    def discard(self, session: Any) -> None:
        """Close a session whose state is unknown, because its request was interrupted or the session is unusable.

        This method should cancel a statement that is still running on the server. The session's connection must not be
        used again.
        """
        self.close(session)

    def close(self, session: Any) -> None:
        """Close a session that is in a known, clean state."""
        _call(session, "close")


class FunctionSource(SessionSource):
    """A source that calls `db_init_func`, `db_reset_func` and `db_close_func`.

    If `reset` or `close` is None, the default method of `SessionSource` applies.
    """

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
        """Open a new session with `db_init_func`."""
        return self._open(worker_id)

    def reset(self, session: Any) -> None:
        """Make a session ready for the next request with `db_reset_func`."""
        if self._reset is not None:
            self._reset(session)
        else:
            super().reset(session)

    def close(self, session: Any) -> None:
        """Close a session with `db_close_func`."""
        if self._close is not None:
            self._close(session)
        else:
            super().close(session)


def _call(session: Any, method: str) -> None:
    function = getattr(session, method, None)
    if function is not None:
        function()
