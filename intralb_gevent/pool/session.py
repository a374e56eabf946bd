"""One database session for each slot: opened on first use, made clean between jobs, never used after an abort.

Decides when a session is opened, checked, reset and closed. It must not know what kind of session it is: its
`SessionSource` does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent

from ..errors import Abort, NoCurrentJob, SessionUnavailable
from ..integrations.opentelemetry import mark_spans
from ..policy.answers import NO_SESSION
from ..policy.sessions import SessionLimits
from ..sessionsource import FunctionSource, SessionSource
from . import guards
from .errortext import error_line
from .forks import detach
from .guards import CLEANUP_SECONDS
from .safepoints import calls_application
from .slotlog import ONCE, tell

if TYPE_CHECKING:
    from ..options import Options
    from .job import Deadline

__all__ = ["CLEANUP_SECONDS", "CurrentSession", "SessionRules", "SlotSession", "current_session"]


class SessionRules:
    """What holds for the sessions of all slots of a balancer: where they come from, and how long they last."""

    def __init__(self, options: Options) -> None:
        self.source = _source(options)
        self.limits = SessionLimits(
            age=options.session_max_age_seconds or math.inf, idle=options.session_max_idle_seconds or math.inf
        )
        self.check = options.session_check
        self.failed_at = -math.inf
        """When the source last failed, in seconds of `time.monotonic()`."""
        if self.source is not None:
            self.source.sized_for(options.max_workers * options.max_concurrent_per_router)

    def __repr__(self) -> str:
        return f"<SessionRules {self.source!r} {self.limits}>"


def _source(options: Options) -> SessionSource | None:
    opening = options.db_init_func
    if opening is None or isinstance(opening, SessionSource):
        return opening
    return FunctionSource(opening, options.db_reset_func, options.db_close_func)


class SlotSession:
    """The session of one slot; all its methods are called in that slot's greenlet."""

    __slots__ = (
        "_opened_at",
        "_rules",
        "_session",
        "_used_at",
        "_worker_id",
        "opened",
        "touched",
        "unsettled",
        "watched",
    )

    def __init__(self, rules: SessionRules, worker_id: int) -> None:
        self._rules = rules
        self._worker_id = worker_id
        self._session: Any = None
        self._opened_at = self._used_at = 0.0
        self.opened = False
        self.touched = False
        """Whether the present job has asked for the session."""
        self.unsettled = False
        """Whether there may be anything to clean up after a job that ends by itself."""
        self.watched = False
        """Whether guards are asked for that after each job; see `guards.watch_slot`."""

    def __repr__(self) -> str:
        return f"<SlotSession worker={self._worker_id} {'open' if self.opened else 'closed'}>"

    @property
    def available(self) -> bool:
        """Whether there is a source to open one."""
        return self._rules.source is not None

    def get(self, deadline: Deadline) -> Any:
        """Return the session, opening it on first use; `SessionUnavailable` if that fails."""
        if not self.touched:
            self._begin(deadline)
        return self._session

    @calls_application
    def _begin(self, deadline: Deadline) -> None:
        source = self._rules.source
        if source is None:
            raise NoCurrentJob("there is no session because db_init_func is not set; give it in Options")
        if self.opened and not self._usable(source):
            self.discard()
        try:
            if not self.opened:
                self._open(source)
            self.touched = True
            source.begin(self._session, deadline.remaining())
        except Exception as error:
            tell("no session for worker %d; its request is answered 503", self._worker_id, exc_info=error, most=ONCE)
            self._rules.failed_at = monotonic()
            self.discard()
            raise SessionUnavailable(f"db_init_func failed: {error_line(error)}") from error

    @calls_application
    def _open(self, source: SessionSource) -> None:
        session = source.open(self._worker_id)
        # No abort comes between these lines: it is held until the application has control again.
        self._session = session
        self.opened = self.unsettled = True
        self._opened_at = monotonic()

    @calls_application
    def _usable(self, source: SessionSource) -> bool:
        """Ask whether the session can still be used; its server may have been away meanwhile."""
        if not self._rules.check:
            return True
        try:
            return source.check(self._session)
        except Exception:
            return False

    def isolate(self) -> None:
        """Detach the session from its database server in a process that a handler has forked."""
        if self.opened:
            detach(self._session)

    def settle(self, *, aborted: bool, anywhere: bool) -> None:
        """Clean up after a job, which may have been aborted, and that anywhere, such as within a statement.

        The session is discarded then, or when it cannot be reset.
        """
        guards.settle(aborted=aborted)
        if self.opened:
            self._settle(anywhere)
        self.unsettled = self.opened or self.watched

    def _settle(self, anywhere: bool) -> None:
        source = self._rules.source
        if anywhere or (self.touched and source is not None and not self._cleaned_up("reset", source.reset)):
            self.discard()
        elif self._rules.limits.too_old(self._opened_at, now := monotonic()):
            self.close()
        elif self.touched:
            self._used_at = now
        self.touched = False

    def stale(self, now: float) -> bool:
        """Say whether the session should be closed, while its slot is idle."""
        return self.opened and self._rules.limits.stale(self._opened_at, self._used_at, now)

    def close(self) -> None:
        """Close the session and what guards watch here, if anything is open; the next use opens others."""
        guards.leave()
        if self._rules.source is not None:
            self._end("close", self._rules.source.close)

    def discard(self) -> None:
        """Give the session up, if it is open: nobody knows its state."""
        if self._rules.source is not None:
            self._end("discard", self._rules.source.discard)

    def _end(self, name: str, function: Callable[[Any], object]) -> None:
        if self.opened:
            self.opened = self.touched = False
            self._cleaned_up(name, function)
            self._session = None

    def _cleaned_up(self, name: str, function: Callable[[Any], object]) -> bool:
        """Call a clean-up function with the time it may take; say whether it worked, log it if not."""
        try:
            with gevent.Timeout(CLEANUP_SECONDS):
                function(self._session)
        except Abort:
            # A session that was found unusable is given up for a request whose time is over meanwhile.
            raise
        except BaseException as error:
            text = "could not %s a session of worker %d; it is not used again"
            tell(text, name, self._worker_id, exc_info=error, most=ONCE)
            return False
        return True


def current_session() -> Any:
    """Return the database session of the running request, opening it if its slot has none yet.

    For the greenlet that runs the request and whatever it calls; a greenlet spawned by a handler must be handed
    the session. Raises `NoCurrentJob` elsewhere, and `SessionUnavailable` (the request is then answered 503) when
    `db_init_func` fails.
    """
    slot = getattr(getcurrent(), "intralb_slot", None)
    if slot is None or not slot.interruptible:
        raise NoCurrentJob(
            "there is no running request in this greenlet; call current_session() in the handler "
            "and pass the session on to greenlets and threads that you start"
        )
    try:
        return slot.session.get(slot.job.deadline)
    except SessionUnavailable:
        mark_spans(slot.job.environ, sys._getframe(), "failed", NO_SESSION.status)
        raise


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
