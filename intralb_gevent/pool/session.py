"""One database session for each slot: opened on first use, made clean between jobs, never used after an abort.

Decides when a session is opened, reset and closed. It must not know what kind of session it is: the three functions
of the options do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import getcurrent

from ..errors import NoCurrentJob, SessionUnavailable
from ..options import Options

__all__ = ["CLEANUP_SECONDS", "CurrentSession", "SlotSession", "current_session"]

CLEANUP_SECONDS = 5.0
"""How long resetting or closing a session may take before it is given up."""

logger = logging.getLogger("intralb_gevent")


class SlotSession:
    """The session of one slot; all its methods are called in that slot's greenlet."""

    __slots__ = ("_close", "_open", "_reset", "_session", "_worker_id", "opened", "touched")

    def __init__(self, options: Options, worker_id: int) -> None:
        self._open = options.db_init_func
        self._reset = options.db_reset_func or _rollback
        self._close = options.db_close_func or _close
        self._worker_id = worker_id
        self._session: Any = None
        self.opened = False
        self.touched = False
        """Whether the present job has asked for the session."""

    def __repr__(self) -> str:
        return f"<SlotSession worker={self._worker_id} {'open' if self.opened else 'closed'}>"

    @property
    def available(self) -> bool:
        """Whether there is a function to open one."""
        return self._open is not None

    def get(self) -> Any:
        """Return the session, opening it on first use; `SessionUnavailable` if that fails."""
        if self._open is None:
            raise NoCurrentJob("there is no session because db_init_func is not set; give it in Options")
        if not self.opened:
            self._session = self._opened_by(self._open)
            self.opened = True
        self.touched = True
        return self._session

    def _opened_by(self, open_session: Callable[[int], Any]) -> Any:
        try:
            return open_session(self._worker_id)
        except Exception as error:
            logger.exception("db_init_func failed for worker %d; its request is answered 503", self._worker_id)
            raise SessionUnavailable(f"db_init_func failed: {error}") from error

    def settle(self, *, aborted: bool) -> None:
        """Make the session ready for the next job; after an abort, or when that fails, close it."""
        if not self.opened:
            return
        if aborted or (self.touched and not self._cleaned_up("db_reset_func", self._reset)):
            self.close()
        self.touched = False

    def close(self) -> None:
        """Close the session, if it is open, for good; the next use opens another."""
        if self.opened:
            self.opened = False
            self._cleaned_up("db_close_func", self._close)
            self._session = None

    def _cleaned_up(self, name: str, function: Callable[[Any], object]) -> bool:
        """Call a clean-up function with the time it may take; say whether it worked, log it if not."""
        try:
            with gevent.Timeout(CLEANUP_SECONDS):
                function(self._session)
        except BaseException:
            logger.exception("%s failed for a session of worker %d; it is not used again", name, self._worker_id)
            return False
        return True


def _rollback(session: Any) -> None:
    rollback = getattr(session, "rollback", None)
    if rollback is not None:
        rollback()


def _close(session: Any) -> None:
    close = getattr(session, "close", None)
    if close is not None:
        close()


def current_session() -> Any:
    """Return the database session of the running request, opening it if its slot has none yet.

    For the greenlet that runs the request and whatever it calls; a greenlet spawned by a handler must be handed
    the session. Raises `NoCurrentJob` elsewhere, and `SessionUnavailable` (the request is then answered 503) when
    `db_init_func` fails.
    """
    session = getattr(getcurrent(), "intralb_session", None)
    if session is None:
        raise NoCurrentJob(
            "there is no running request in this greenlet; call current_session() in the handler "
            "and pass the session on to greenlets and threads that you start"
        )
    return session.get()


class CurrentSession:
    """What `environ["intralb.session"]` holds: it stands for `current_session()` and opens it on first use.

    Attribute access, item access, calling, iterating and `with` go to the session itself. Where the very object
    is needed (`isinstance`, C functions that check its type), call `current_session()`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<the session of the running request>"

    def __getattr__(self, name: str) -> Any:
        return getattr(current_session(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(current_session(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the session itself."""
        return current_session()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return current_session()[key]

    def __contains__(self, item: Any) -> bool:
        return item in current_session()

    def __iter__(self) -> Iterator[Any]:
        return iter(current_session())

    def __enter__(self) -> Any:
        return current_session().__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return current_session().__exit__(*exc_info)
