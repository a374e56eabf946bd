"""The database session of a slot: it is opened at first use, reset between jobs, and discarded after an abort.

A `SessionSource` opens, resets and closes the sessions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent

from ..aborts.safepoints import calls_application
from ..aborts.slotgreenlet import current_slot
from ..errors import Abort, NoCurrentJob, SessionUnavailable
from ..hub.forks import detach
from ..integrations.opentelemetry import mark_spans
from ..observe.stats import SessionStats
from ..policy.cannedresponses import NO_SESSION
from ..policy.sessions import SessionLimits
from ..sessionsource import FunctionSource, SessionSource
from . import guards
from .errortext import error_line
from .guards import CLEANUP_SECONDS
from .slotlog import ONCE, tell

if TYPE_CHECKING:
    from ..config.options import Options
    from .job import Deadline

__all__ = ["CLEANUP_SECONDS", "CurrentSession", "SessionRules", "SlotSession", "current_session"]


class SessionRules:
    """Settings shared by the sessions of all slots of a lane: their source, and how long a session lasts."""

    def __init__(self, options: Options) -> None:
        self.source = _source(options)
        self.limits = SessionLimits(
            age=options.session_max_age_seconds or math.inf, idle=options.session_max_idle_seconds or math.inf
        )
        self.check = options.session_check
        self.stats = SessionStats()
        self.failed_at = -math.inf
        """Time at which the source last failed, in `time.monotonic()` seconds."""
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
    """The session of one slot; all methods are called in the slot's greenlet."""

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
        """True once the current job has used the session."""
        self.unsettled = False
        """True if `settle` must also be called after a job that was not aborted."""
        self.watched = False
        """True if guards are called after each job; see `guards.watch_slot`."""

    def __repr__(self) -> str:
        return f"<SlotSession worker={self._worker_id} {'open' if self.opened else 'closed'}>"

    @property
    def available(self) -> bool:
        """Whether `db_init_func` is set, so that the slot can open a session."""
        return self._rules.source is not None

    def get(self, deadline: Deadline) -> Any:
        """Return the session, opened if necessary; raises `SessionUnavailable` if the session cannot be opened."""
        if not self.touched:
            self._begin(deadline)
        return self._session

    @calls_application
    def _begin(self, deadline: Deadline) -> None:
        source = self._rules.source
        if source is None:
            raise NoCurrentJob("there is no session because db_init_func is not set; set it in Options")
        if self.opened and not self._usable(source):
            self.discard("check_failed")
        try:
            if not self.opened:
                self._open(source)
            self.touched = True
            source.begin(self._session, deadline.remaining())
        except Exception as error:
            tell("no session for worker %d; its request is answered 503", self._worker_id, exc_info=error, most=ONCE)
            self._rules.failed_at = monotonic()
            self._rules.stats.failed += 1
            self.discard("begin_failed")
            raise SessionUnavailable(f"db_init_func failed: {error_line(error)}") from error

    @calls_application
    def _open(self, source: SessionSource) -> None:
        began = monotonic()
        session = source.open(self._worker_id)
        # No abort is raised between these lines: an abort is postponed until the application's own code runs again.
        self._session = session
        self.opened = self.unsettled = True
        self._opened_at = monotonic()
        self._rules.stats.open_time.add(self._opened_at - began)

    @calls_application
    def _usable(self, source: SessionSource) -> bool:
        """Return whether the session can still be used; the database server may have closed its connection."""
        if not self._rules.check:
            return True
        try:
            return source.check(self._session)
        except Exception:
            return False

    def isolate(self) -> None:
        """In a process that a handler has forked, detach the session from its database server."""
        if self.opened:
            detach(self._session)

    def settle(self, *, aborted: bool, anywhere: bool) -> None:
        """Clean up after a job; `anywhere` is true if the job may have been aborted within a database statement.

        If `anywhere` is true, or the reset fails, the session is discarded.
        """
        guards.settle(aborted=aborted)
        if self.opened:
            self._settle(anywhere)
        self.unsettled = self.opened or self.watched

    def _settle(self, anywhere: bool) -> None:
        source = self._rules.source
        if anywhere:
            self.discard("aborted")
        elif self.touched and source is not None and not self._cleaned_up("reset", source.reset):
            self.discard("reset_failed")
        elif self._rules.limits.too_old(self._opened_at, now := monotonic()):
            self.close("too_old")
        elif self.touched:
            self._used_at = now
        self.touched = False

    def stale(self, now: float) -> bool:
        """Return whether the session of an idle slot has been open or unused for too long, and should be closed."""
        return self.opened and self._rules.limits.stale(self._opened_at, self._used_at, now)

    def close(self, cause: str) -> None:
        """Close the session, and have the guards close their resources; `cause` is counted in the metrics."""
        guards.leave()
        if self._rules.source is not None:
            self._end("close", self._rules.source.close, cause)

    def discard(self, cause: str) -> None:
        """Discard the session, if it is open, because its state is unknown; `cause` is counted in the metrics."""
        if self._rules.source is not None:
            self._end("discard", self._rules.source.discard, cause)

    def _end(self, name: str, function: Callable[[Any], object], cause: str) -> None:
        if self.opened:
            self.opened = self.touched = False
            self._rules.stats.add_discard(cause)
            self._cleaned_up(name, function)
            self._session = None

    def _cleaned_up(self, name: str, function: Callable[[Any], object]) -> bool:
        """Call a clean-up function, for at most `CLEANUP_SECONDS`. Log a failure; return whether the call succeeded."""
        try:
            with gevent.Timeout(CLEANUP_SECONDS):
                function(self._session)
        except Abort:
            # Pass on the abort of a request whose deadline passed while its unusable session was being discarded.
            raise
        except BaseException as error:
            text = "could not %s a session of worker %d; it is not used again"
            tell(text, name, self._worker_id, exc_info=error, most=ONCE)
            return False
        return True


def current_session() -> Any:
    """Return the database session of the running request; open a session if the request's slot has none yet.

    Call this function in the greenlet that runs the request, and pass the session on to greenlets that a handler
    spawns. Raises `NoCurrentJob` in a greenlet that runs no request. Raises `SessionUnavailable` if `db_init_func`
    fails; the response is then 503.
    """
    slot = current_slot()
    if slot is None or slot.job is None or not slot.interruptible:
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
    """The value of `environ["intralb.session"]`: a proxy for `current_session()`, which opens the session at first use.

    Attribute access, item access, calls, iteration and `with` are passed on to the session. If the session object
    itself is needed (for `isinstance`, or C functions that check its type), call `current_session()`.
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
