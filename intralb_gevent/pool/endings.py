"""Reports aborted requests to monitoring: to `on_ended`, and to OpenTelemetry.

A request is aborted in a callback of the hub or in the middle of a handler, and the server must not wait there.
Therefore, only the request's data and stack are recorded at first. Separate greenlets then make the calls, which might
wait.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gevent

from ..aborts.bound import Bound
from ..aborts.safepoints import calls_application
from ..integrations.opentelemetry import end_spans, mark_spans, open_spans
from .slotlog import tell
from .stacks import frame_of, stack_of

if TYPE_CHECKING:
    from ..hub.log import HubLog
    from .job import Job

__all__ = ["ENDED_EARLY", "Ending", "Endings", "abort_has_left"]

logger = logging.getLogger("intralb_gevent")

CALL_SECONDS: Final = 5.0
"""Maximum number of seconds for one call of `on_ended`, or for ending the spans of one request."""

COMPUTE_SECONDS: Final = 1.0
"""Maximum number of seconds for which one call may be CPU-bound, because a CPU-bound call blocks all requests."""

_GRACE_SECONDS: Final = 1.0
"""Seconds within which a call must end after the timeout was raised in it."""

_REASONS: Final = {
    "timed_out": "deadline",
    "expired": "deadline",
    "killed": "shutdown",
    "disconnected": "client_left",
    "given_up": "swallowed_aborts",
}
"""Reasons that `on_ended` receives, by outcome; a request that an operator has ended has the reason "operator"."""

ENDED_EARLY: Final = frozenset({"timed_out", "expired", "killed", "disconnected"})
"""Outcomes of requests that were aborted, or that expired in the queue."""

_DROPPED: Final = "on_ended cannot keep up: {} calls wait, and requests that end now are not reported; make it faster"
_LEFT_BEHIND: Final = (
    "on_ended has not returned after %g s for %s, and swallows its timeout; the server goes on without it"
)

_OnEnded = Callable[[dict[str, Any], str, str, traceback.StackSummary | None], object]


class Ending(NamedTuple):
    """The arguments of `on_ended`, and the name of the request for the log."""

    name: str
    environ: dict[str, Any]
    outcome: str
    reason: str
    stack: traceback.StackSummary | None


class Endings:
    """The queue of ended requests that have not been reported yet; requests beyond `LIMIT` are counted and dropped."""

    LIMIT = 1000

    def __init__(self, on_ended: _OnEnded | None, log: HubLog) -> None:
        self._on_ended: Any = on_ended
        self._log = log
        self._waiting: deque[Ending] = deque()
        self._caller: gevent.Greenlet[..., None] | None = None
        self._dropping = False
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Endings {len(self._waiting)} to report, {self.dropped} dropped>"

    def report(self, job: Job, outcome: str, reason: str | None = None) -> None:
        """Queue the report of a request that was ended early, or whose slot is abandoned (outcome "given_up").

        Called before the abort; never waits.
        """
        if job.slot is not None:
            mark_spans(job.environ, frame_of(job.slot), outcome, job.exchange.status)
        if self._on_ended is not None:
            self._keep(job, outcome, "operator" if reason == "ended" else _REASONS[outcome])

    def _keep(self, job: Job, outcome: str, reason: str) -> None:
        if len(self._waiting) >= self.LIMIT:
            self._drop()
            return
        stack = None if job.slot is None else stack_of(job.slot)
        self._waiting.append(Ending(job.name, job.environ, outcome, reason, stack))
        if self._caller is None:
            self._caller = gevent.spawn(self._call_all)

    def flush(self, timeout: float) -> None:
        """Wait until all calls have been made, for `timeout` seconds at most."""
        if self._caller is not None:
            self._caller.join(timeout)

    def _drop(self) -> None:
        self.dropped += 1
        if not self._dropping:
            self._dropping = True
            self._log.record(logging.WARNING, partial(_DROPPED.format, len(self._waiting)))

    # Methods that run in separate greenlets.

    def _call_all(self) -> None:
        try:
            while self._waiting:
                self._report(self._waiting.popleft())
            self._dropping = False
        finally:
            self._caller = None

    def _report(self, ending: Ending) -> None:
        call = gevent.spawn(self._call, ending)
        call.join(CALL_SECONDS + _GRACE_SECONDS)
        if not call.dead:
            logger.error(_LEFT_BEHIND, CALL_SECONDS, ending.name)
            call.kill(block=False)

    @calls_application
    def _call(self, ending: Ending) -> None:
        try:
            with Bound(COMPUTE_SECONDS, CALL_SECONDS):
                self._on_ended(ending.environ, ending.outcome, ending.reason, ending.stack)
        except BaseException as error:
            tell("on_ended failed for %s", ending.name, exc_info=error)


def abort_has_left(job: Job, outcome: str, error: BaseException, context: Context) -> None:
    """End the spans that an aborted application has left open; never waits.

    `context` is the `contextvars` context in which the application ran.
    """
    spans = open_spans(job.environ, error.__traceback__)
    if spans:
        gevent.spawn(context.run, _end_spans, spans, job.environ, outcome, job.exchange.status)


@calls_application
def _end_spans(spans: list[Any], environ: dict[str, Any], outcome: str, status: str) -> None:
    try:
        with Bound(COMPUTE_SECONDS, CALL_SECONDS):
            end_spans(spans, environ, outcome, status)
    except BaseException as error:
        tell("could not end the OpenTelemetry span of a request that was ended", exc_info=error)
