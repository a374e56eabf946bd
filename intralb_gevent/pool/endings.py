"""Shows requests that were ended before their time to monitoring: to `on_ended`, and to OpenTelemetry.

Whatever ends a request does so in the event loop or in the middle of a handler, where nothing may wait. So its facts
and its stack are kept there, and greenlets do what may wait.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gevent
from gevent import getcurrent

from ..integrations.opentelemetry import end_spans, mark_spans, open_spans
from .bound import Bound
from .safepoints import application_frames, calls_application
from .slotlog import tell

if TYPE_CHECKING:
    from .hublog import HubLog
    from .job import Job
    from .slot import Slot

__all__ = ["ENDED_EARLY", "Ending", "Endings", "abort_has_left"]

logger = logging.getLogger("intralb_gevent")

CALL_SECONDS: Final = 5.0
"""How long one call may take."""

COMPUTE_SECONDS: Final = 1.0
"""How long one call may compute without a pause, as no request runs meanwhile."""

_GRACE_SECONDS: Final = 1.0
"""How long a call may go on after it has been ended."""

_STACK_FRAMES: Final = 50

_REASONS: Final = {
    "timed_out": "deadline",
    "expired": "deadline",
    "killed": "shutdown",
    "disconnected": "client_left",
    "given_up": "swallowed_aborts",
}
"""What is reported, and by what the request was ended."""

ENDED_EARLY: Final = frozenset({"timed_out", "expired", "killed", "disconnected"})
"""The outcomes of requests that were ended before their time."""

_DROPPED: Final = "on_ended cannot keep up: {} calls wait, and requests that end now are not reported; make it faster"
_LEFT_BEHIND: Final = "on_ended has not returned after %g s for %s, and ignores that it was ended; it is left behind"

_OnEnded = Callable[[dict[str, Any], str, str, traceback.StackSummary | None], object]


class Ending(NamedTuple):
    """What `on_ended` is called with, and the name of the request for the log."""

    name: str
    environ: dict[str, Any]
    outcome: str
    reason: str
    stack: traceback.StackSummary | None


class Endings:
    """The requests that were ended and are not reported yet, in order; those beyond `LIMIT` are dropped and counted."""

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

    def report(self, job: Job, outcome: str) -> None:
        """Report a request with one of `ENDED_EARLY`, or "given_up". Called before the abort is raised; never waits."""
        if job.slot is not None:
            mark_spans(job.environ, _frame(job.slot), outcome, job.exchange.status)
        if self._on_ended is not None:
            self._keep(job, outcome)

    def _keep(self, job: Job, outcome: str) -> None:
        if len(self._waiting) >= self.LIMIT:
            self._drop()
            return
        stack = None if job.slot is None else _stack(job.slot)
        self._waiting.append(Ending(job.name, job.environ, outcome, _REASONS[outcome], stack))
        if self._caller is None:
            self._caller = gevent.spawn(self._call_all)

    def flush(self, timeout: float) -> None:
        """Wait until all calls have been made, `timeout` seconds at most."""
        if self._caller is not None:
            self._caller.join(timeout)

    def _drop(self) -> None:
        self.dropped += 1
        if not self._dropping:
            self._dropping = True
            self._log.record(logging.WARNING, partial(_DROPPED.format, len(self._waiting)))

    # In greenlets of its own.

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
    """End the spans that an abort has left open on its way out of the application; never waits.

    `context` is the one in which the application has run.
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


def _stack(slot: Slot) -> traceback.StackSummary | None:
    """Return where the handler of a slot is; None if it has left already. Source lines are read when they are shown."""
    frames = islice(application_frames(_frame(slot)), _STACK_FRAMES)
    stack = traceback.StackSummary.from_list([_summary(frame, line) for frame, line in frames])
    stack.reverse()
    return stack or None


def _frame(slot: Slot) -> FrameType | None:
    return sys._getframe() if slot.greenlet is getcurrent() else slot.greenlet.gr_frame


def _summary(frame: FrameType, line: int) -> Any:
    code = frame.f_code
    return traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
