"""A request inside the pool: its job, its deadline, and the statistics of its route.

The table in `policy/lifecycle.py` lists the states of a job. The lane of the job's route manages the job.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final

from ..config.kinds import seconds
from ..policy.deadline import TimeLimits, handed_on
from ..policy.lifecycle import TRANSITIONS, State, illegal
from ..policy.usual import MeanRunTime
from ..priority import Priority
from ..stdlib import monotonic

if TYPE_CHECKING:
    from ..policy.deadline import ProxyTiming
    from ..policy.fairness import Clients
    from .exchange import Application, Exchange
    from .lane import Lane
    from .slot import Slot
    from .worker import Worker

__all__ = [
    "ENDED",
    "STREAM_LASTS_SECONDS",
    "Deadline",
    "Job",
    "RouteStats",
    "UpstreamDeadline",
    "shown",
]

# Load this codec now: Python reads a codec from a file at its first use, when the process may have no free descriptor.
codecs.lookup("unicode_escape")


STREAM_LASTS_SECONDS: Final = 1.0
"""Seconds after which a stream counts as long; predictions of run times ignore the streaming time of long streams."""

_SECONDS = seconds(positive=True)
_TEN_YEARS: Final = 10 * 365 * 86400.0

ENDED: Final[dict[str, Any]] = {"REQUEST_METHOD": "ended", "PATH_INFO": "request"}
"""The environ of jobs that a slot has run: it replaces a job's own environ, so that the application's objects are
freed."""

_NO_MORE = TimeLimits(timeout=0.0, longest=0.0, stream=None, idle=0.0)


def shown(path: str) -> str:
    """Return a path from a client with line breaks and spaces escaped, for a log line."""
    return path.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")


class Deadline:
    """The time by which a request must end; the application finds it in `environ["intralb.deadline"]`.

    Each part of a streamed response extends the deadline. Any greenlet in the process may use this object, including
    greenlets that a handler starts.
    """

    __slots__ = ("_aside", "_asked", "_idle", "_latest", "_suspended", "_suspensions", "at", "began", "bound", "limits")

    upstream_end = math.inf
    """Latest deadline, in `time.monotonic()` seconds: the proxy in front of the server stops waiting at this time."""

    def __init__(self, at: float, began: float = 0.0, limits: TimeLimits = _NO_MORE) -> None:
        self.at = at
        """The deadline, in `time.monotonic()` seconds."""
        self.began = began
        """Time from which the limits are counted, in `time.monotonic()` seconds."""
        self.limits = limits
        """Limits for extensions of the deadline, counted from `began`; by default no extension is possible."""
        self.bound = math.inf
        """Upper bound of the deadline, in `time.monotonic()` seconds: the end of a stream, or `upstream_end`."""
        self._asked = 0.0
        """Latest deadline that the handler has set, in `time.monotonic()` seconds; 0 if the handler has set none."""
        self._suspensions = 0
        self._idle = 0.0
        """Maximum seconds between two parts of a streamed response; 0 if the response is not streamed."""

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f}s>"

    @property
    def whole(self) -> float:
        """Seconds from `began` to the current deadline."""
        return self.at - self.began

    @property
    def latest(self) -> float:
        """Latest possible deadline of a request that does not stream, in `time.monotonic()` seconds."""
        return min(self.began + self.limits.longest, self.bound)

    @property
    def setting(self) -> str:
        """The setting that determined the deadline, with its value in seconds, for a log line."""
        if self.at >= self.bound:
            if self.bound >= self.upstream_end:
                return "the timeout of the proxy in front"
            return f"stream_timeout_seconds={self.limits.stream:g}"
        if self._asked and self.at <= self._asked:
            return "extend_deadline()"
        if self._idle:
            return f"stream_idle_timeout_seconds={self.limits.idle:g}"
        return f"request_timeout_seconds={self.limits.timeout:g}"

    def remaining(self) -> float:
        """Return the seconds until the deadline; negative once it has passed.

        For a streamed response, return the seconds until the next part must be sent.
        """
        return self.at - monotonic()

    def extend(self, seconds: Any) -> float:
        """Move the deadline to `seconds` from now, if that is later; return the seconds until the resulting deadline.

        The latest possible deadline is `max_request_timeout_seconds` after the request's arrival or, for a streamed
        response, after this call. A timeout reported by a proxy, and the end of a stream, limit the deadline, too.
        Raises `OptionError`, a ValueError, unless `seconds` is a number above 0.
        """
        seconds = _SECONDS.check("seconds", seconds)
        now = monotonic()
        latest = (now if self._idle else self.began) + self.limits.longest
        self._asked = max(self._asked, min(now + seconds, latest, self.bound))
        self.at = max(self.at, self._asked)
        return self.remaining()

    def lift(self) -> None:
        """Move the deadline ten years ahead, after an upgrade, or in a process that the request's handler has forked.

        Unlike infinity, ten years is a number of seconds that can be sent to another server.
        """
        self.at = monotonic() + _TEN_YEARS
        self.bound = math.inf
        self._idle = _TEN_YEARS if self._idle else 0.0
        self.limits = TimeLimits(timeout=_TEN_YEARS, longest=_TEN_YEARS, stream=None, idle=_TEN_YEARS)

    def begin_stream(self) -> None:
        """Apply the limits for streams instead of those for requests; called before a stream's first part is sent."""
        self._idle = min(self.limits.idle, _TEN_YEARS)
        if self.limits.stream is not None:
            self.bound = min(self.bound, monotonic() + self.limits.stream)
        self.part_sent()

    def part_sent(self) -> None:
        """Extend the deadline of a streamed response, because the handler has just sent a part."""
        at = max(monotonic() + self._idle, self._asked)
        self.at = min(at, self.bound)

    def suspend(self, latest: float = math.inf) -> None:
        """Stop the handler's clock while the client is slow, but at most until `latest` in `time.monotonic()` seconds.

        The end of a stream and the proxy's timeout still apply. If several greenlets of a handler wait for the client,
        each of them calls `suspend`, and the last `resume` restarts the clock.
        """
        self._suspensions += 1
        if self._suspensions > 1:
            return
        self._suspended = monotonic()
        self._aside, self._latest = self.at, latest
        self.at = max(self.at, min(self._suspended + _TEN_YEARS, self.bound, latest))

    def resume(self) -> None:
        """Restart the handler's clock with the time that was left when `suspend` was called."""
        self._suspensions -= 1
        if self._suspensions:
            return
        waited = monotonic() - self._suspended
        if self._latest == math.inf:
            self.began += waited
        at = min(max(self._aside + waited, self._asked), self._latest)
        self.at = min(max(self._aside, at), self.bound)

    @property
    def suspended(self) -> bool:
        """True while the handler's clock is stopped, because its client is slow."""
        return self._suspensions > 0

    def headers(self) -> dict[str, str]:
        """Return header fields that report the remaining time to the server of an outgoing request."""
        return handed_on(self.remaining())


class UpstreamDeadline(Deadline):
    """The deadline of a request whose timing a trusted proxy has reported. The report never extends the deadline."""

    __slots__ = ("upstream_end",)

    def __init__(self, arrived: float, limits: TimeLimits, timing: ProxyTiming) -> None:
        began = arrived - timing.waited
        self.upstream_end = arrived + timing.left
        super().__init__(min(began + limits.timeout, self.upstream_end), began, limits)
        self.bound = self.upstream_end


def _deadline(environ: dict[str, Any], arrived: float, unseen: float, limits: TimeLimits) -> Deadline:
    timing: ProxyTiming | None = environ.get("intralb.proxy_timing")
    if timing is not None:
        return UpstreamDeadline(arrived, limits, timing.seen_earlier(unseen))
    return Deadline(arrived + limits.timeout, arrived, limits)


class RouteStats:
    """The settings for requests to one route of an application, and their mean run time."""

    __slots__ = ("admissions", "application", "lane", "limits", "name", "priority", "streams_body", "usual")

    def __init__(
        self,
        application: Application,
        limits: TimeLimits,
        priority: Priority,
        lane: Lane,
        max_wait: float,
        streams_body: bool = False,
        name: str = "",
    ) -> None:
        self.application = application
        self.limits = limits
        self.priority = priority
        self.lane = lane
        self.usual = MeanRunTime()
        self.admissions = lane.admission.states(max_wait)
        """Admission states by priority."""
        self.streams_body = streams_body
        """True if the application is called before the body of a request has arrived."""
        self.name = name
        """Path of the declared route; '' for requests that match no declared route."""

    def __repr__(self) -> str:
        return f"<RouteStats {self.limits.timeout:g}s, usually {self.usual.mean:.6f}s>"


class Job:
    """A request with its environ, deadline and exchange; it ends with exactly one outcome.

    Times are `time.monotonic()` seconds.
    """

    __slots__ = (
        "arrived",
        "client",
        "counted_by",
        "deadline",
        "ended",
        "environ",
        "exchange",
        "expected_path",
        "long_wait_seconds",
        "long_wait_since",
        "loop_share",
        "loop_since",
        "loop_time",
        "priority",
        "ready_at",
        "reviews",
        "route",
        "slot",
        "started",
        "state",
        "streams_since",
        "undecided_until",
        "waits_long",
        "worker",
    )

    def __init__(
        self, environ: dict[str, Any], exchange: Exchange, arrived: float, unseen: float, route: RouteStats
    ) -> None:
        """Create the job of a request that was in the socket buffer for `unseen` seconds before it was read."""
        self.route = route
        self.environ = environ
        self.exchange = exchange
        self.arrived = arrived
        self.deadline = _deadline(environ, arrived, unseen, route.limits)
        self.priority = route.priority
        self.client: Hashable = None
        """Key of the client; None while jobs are not counted by client."""
        self.counted_by: Clients | None = None
        self.state: State = "new"
        self.streams_since: float | None = None
        """Time at which the response began to stream; None if the response is not streamed."""
        self.undecided_until = math.inf
        """Time at which a held response is released or rejected; infinity if no response is held."""
        self.ready_at = 0
        """Number of batches (`hub/dispatch.py`) before the job became ready; the next batch should start the job."""
        self.started: float | None = None
        self.ended: float | None = None
        self.worker: Worker | None = None
        """Worker in which the job waits or runs; None if the job was rejected on arrival."""
        self.slot: Slot | None = None
        """Slot that runs or has run the job."""
        self.loop_time = 0.0
        """Seconds for which the job has kept the event loop busy since `loop_since`, as measured by `looptime.py` while
        the number of running jobs is limited."""
        self.loop_since = 0.0
        """Time at which `LongWaits` has last computed `loop_share`."""
        self.loop_share = 1.0
        """Share of the time, from 0 to 1, for which the job has kept the event loop busy; 1 until it is known."""
        self.reviews = 0
        """Number of calls of `LongWaits.review` since `loop_since`."""
        self.expected_path: str | None = None
        """Path of the job while it is only expected to be a long wait; otherwise None."""
        self.waits_long = False
        """True while the job counts as a long wait (`longwaits.py`)."""
        self.long_wait_since = self.long_wait_seconds = 0.0
        """Time since which the job has counted as a long wait, and the total seconds of earlier long waits."""

    def __repr__(self) -> str:
        environ = self.environ
        request = f"{environ.get('REQUEST_METHOD', '?')} {environ.get('PATH_INFO', '?')}"
        return f"<Job {request} {self.state} {self.deadline.remaining():.3f}s left>"

    @property
    def name(self) -> str:
        """Method and path, for a log line."""
        environ = self.environ
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        return f"{environ.get('REQUEST_METHOD')} {shown(path)}"

    @property
    def due(self) -> float:
        """Time at which the running job must be ended, or its held response must be released or rejected."""
        return min(self.deadline.at, self.undecided_until)

    @property
    def waits(self) -> bool:
        """Whether the job was admitted and has not started."""
        return self.state == "queued" or self.state == "ready"

    def move(self, following: State) -> None:
        """Change the state to `following`; raises `IllegalTransition` if the current state does not permit this."""
        if following not in TRANSITIONS[self.state]:
            raise illegal(self.state, following)
        self.state = following

    def abandon(self, gone: bool = False) -> None:
        """Report that the client has left or, without `gone`, may have only shut down its sending side."""
        self.route.lane.abandon(self, gone)

    @property
    def queue_wait(self) -> float:
        """Seconds from arrival until a slot started the job, or until the job ended without a slot; 0 while the job
        waits."""
        until = self.ended if self.started is None else self.started
        return 0.0 if until is None else until - self.arrived

    @property
    def run_time(self) -> float:
        """Seconds that the job spent in the application; 0 if the job has not ended, or never ran."""
        return 0.0 if self.started is None or self.ended is None else self.ended - self.started

    @property
    def service_time(self) -> float:
        """Run time for predictions, in seconds; for a long stream, the run time up to its first part."""
        if self.started is None or self.ended is None:
            return 0.0
        since = self.streams_since
        lasted = since is not None and self.ended - since >= STREAM_LASTS_SECONDS
        return (since if lasted and since is not None else self.ended) - self.started
