"""One request on its way through the pool.

Decides nothing: it keeps what is known of a request and moves along the table in `policy/lifecycle.py`. It must
not know how a worker is chosen or how a response is written.
"""

from __future__ import annotations

import codecs
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final

from ..compiling import mypyc_attr
from ..kinds import seconds
from ..policy.deadline import TimeLimits, handed_on
from ..policy.lifecycle import State, move
from ..policy.usual import UsualTime
from ..priority import Priority
from ..stdlib import monotonic

if TYPE_CHECKING:
    from ..errors import Abort
    from ..policy.answers import Answer
    from ..policy.deadline import TimeTold
    from ..policy.fairness import Clients
    from ..policy.lifecycle import Outcome
    from .exchange import Application, Exchange
    from .hubturns import TurnEnd
    from .lane import Lane
    from .slot import Slot
    from .upgrades import Holder
    from .worker import Worker

__all__ = [
    "ENDED",
    "STREAM_LASTS_SECONDS",
    "Deadline",
    "Job",
    "JobKeeper",
    "RouteState",
    "ToldDeadline",
    "shown",
]

# Python loads it from a file when it is first used, and then there may be no descriptor left for that.
codecs.lookup("unicode_escape")


STREAM_LASTS_SECONDS: Final = 1.0
"""A stream that has gone on for as long after its first part is no page: it says nothing of how long requests take."""

_SECONDS = seconds(positive=True)
_TEN_YEARS: Final = 10 * 365 * 86400.0

ENDED: Final[dict[str, Any]] = {"REQUEST_METHOD": "ended", "PATH_INFO": "request"}
"""The environ of a job whose slot is done with it: what the application has put into its own is freed by the slot."""

_NO_MORE = TimeLimits(timeout=0.0, longest=0.0, stream=None, idle=0.0)


def shown(path: str) -> str:
    """Return a path as a line of text has it: the client's own words, and so without line breaks and spaces."""
    return path.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")


class Deadline:
    """When a request must have ended; the application finds it in `environ["intralb.deadline"]`.

    A streamed response moves it on with each part. It may be used from any greenlet of the process, also by those that
    a handler starts.
    """

    __slots__ = ("_aside", "_asked", "_idle", "_latest", "_suspended", "_suspensions", "at", "began", "bound", "limits")

    told = math.inf
    """When the proxy in front stops waiting, in seconds of `time.monotonic()`: no deadline is later than that."""

    def __init__(self, at: float, began: float = 0.0, limits: TimeLimits = _NO_MORE) -> None:
        self.at = at
        """In seconds of `time.monotonic()`."""
        self.began = began
        """When the time began to count, in seconds of `time.monotonic()`."""
        self.limits = limits
        """How far it can be extended from there; without any given, not at all."""
        self.bound = math.inf
        """No deadline is later than this, in seconds of `time.monotonic()`: the end of a stream, or `told`."""
        self._asked = 0.0
        """How late the handler has asked it to be, in seconds of `time.monotonic()`; 0 if it has not."""
        self._suspensions = 0
        self._idle = 0.0
        """How long a streamed response may be silent, in seconds; 0 if the response is not streamed."""

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f}s>"

    @property
    def whole(self) -> float:
        """The seconds that the request has in all, as far as it is known now."""
        return self.at - self.began

    @property
    def latest(self) -> float:
        """Until when the request may go on without a stream, in seconds of `time.monotonic()`."""
        return min(self.began + self.limits.longest, self.bound)

    @property
    def setting(self) -> str:
        """What has set the deadline, and its value in seconds: for a log line."""
        if self.at >= self.bound:
            if self.bound >= self.told:
                return "the timeout of the proxy in front"
            return f"stream_timeout_seconds={self.limits.stream:g}"
        if self._asked and self.at <= self._asked:
            return "extend_deadline()"
        if self._idle:
            return f"stream_idle_timeout_seconds={self.limits.idle:g}"
        return f"request_timeout_seconds={self.limits.timeout:g}"

    def remaining(self) -> float:
        """Return the seconds that are left; negative once the deadline has passed.

        Of a streamed response they are the seconds until the next part must be sent.
        """
        return self.at - monotonic()

    def extend(self, seconds: Any) -> float:
        """Make it `seconds` from now, if that is later, and return the seconds that are then left.

        It is never made later than `max_request_timeout_seconds` after the request's arrival (of a streamed response,
        from now), nor than a proxy that told so goes on waiting, nor than the end of a stream. Raises `OptionError`, a
        ValueError, unless `seconds` is a number above 0.
        """
        seconds = _SECONDS.check("seconds", seconds)
        now = monotonic()
        latest = (now if self._idle else self.began) + self.limits.longest
        self._asked = max(self._asked, min(now + seconds, latest, self.bound))
        self.at = max(self.at, self._asked)
        return self.remaining()

    def lift(self) -> None:
        """Move the deadline ten years ahead, in a process that the handler has forked.

        Unlike infinity, that is a number of seconds that can be sent to another server.
        """
        self.at = monotonic() + _TEN_YEARS
        self.bound = math.inf
        self._idle = _TEN_YEARS if self._idle else 0.0
        self.limits = TimeLimits(timeout=_TEN_YEARS, longest=_TEN_YEARS, stream=None, idle=_TEN_YEARS)

    def begin_stream(self) -> None:
        """Take the time of a stream instead of the request's: its first part is about to be sent."""
        self._idle = min(self.limits.idle, _TEN_YEARS)
        if self.limits.stream is not None:
            self.bound = min(self.bound, monotonic() + self.limits.stream)
        self.part_sent()

    def part_sent(self) -> None:
        """Move the deadline of a streamed response on: the handler has just sent a part."""
        at = max(monotonic() + self._idle, self._asked)
        self.at = min(at, self.bound)

    def suspend(self, latest: float = math.inf) -> None:
        """Stop the handler's clock, as its client is slow, at most until `latest`, in seconds of `time.monotonic()`.

        The end of a stream and the proxy's timeout stay. Several greenlets of a handler may wait for the client.
        """
        self._suspensions += 1
        if self._suspensions > 1:
            return
        self._suspended = monotonic()
        self._aside, self._latest = self.at, latest
        self.at = max(self.at, min(self._suspended + _TEN_YEARS, self.bound, latest))

    def resume(self) -> None:
        """Let the handler have the time that was left when its client became slow."""
        self._suspensions -= 1
        if self._suspensions:
            return
        waited = monotonic() - self._suspended
        if self._latest == math.inf:
            self.began += waited
        at = min(max(self._aside + waited, self._asked), self._latest)
        self.at = min(max(self._aside, at), self.bound)

    def headers(self) -> dict[str, str]:
        """Return header fields for an outgoing request, which tell its server how much time is left."""
        return handed_on(self.remaining())


class ToldDeadline(Deadline):
    """The deadline of a request of whose time a trusted proxy has told something; it can only be earlier by that."""

    __slots__ = ("told",)

    def __init__(self, arrived: float, limits: TimeLimits, told: TimeTold) -> None:
        began = arrived - told.waited
        self.told = arrived + told.left
        super().__init__(min(began + limits.timeout, self.told), began, limits)
        self.bound = self.told


class RouteState:
    """What holds for the requests of a route to an application, and how long they usually take."""

    __slots__ = ("admissions", "application", "lane", "limits", "priority", "streams_body", "usual")

    def __init__(
        self,
        application: Application,
        limits: TimeLimits,
        priority: Priority,
        lane: Lane,
        max_wait: float,
        streams_body: bool = False,
    ) -> None:
        self.application = application
        self.limits = limits
        self.priority = priority
        self.lane = lane
        self.usual = UsualTime()
        self.admissions = lane.admissions(max_wait)
        """By class: whether one more of its requests may wait."""
        self.streams_body = streams_body
        """Whether the application is called before the body of a request has arrived."""

    def __repr__(self) -> str:
        return f"<RouteState {self.limits.timeout:g}s, usually {self.usual.mean:.6f}s>"


class Job:
    """A request with its environ, its deadline, its exchange, and in the end exactly one outcome.

    Times are seconds of `time.monotonic()`.
    """

    __slots__ = (
        "arrived",
        "client",
        "counted_by",
        "deadline",
        "ended",
        "environ",
        "exchange",
        "priority",
        "ready_at",
        "route",
        "slot",
        "started",
        "state",
        "streams_since",
        "undecided_until",
        "worker",
    )

    def __init__(
        self, environ: dict[str, Any], exchange: Exchange, arrived: float, deadline: Deadline, route: RouteState
    ) -> None:
        self.route = route
        self.environ = environ
        self.exchange = exchange
        self.arrived = arrived
        self.deadline = deadline
        self.priority = route.priority
        self.client: Hashable = None
        """Whom it is from, while it is counted."""
        self.counted_by: Clients | None = None
        self.state: State = "new"
        self.streams_since: float | None = None
        """When the first part of its streamed response was sent; None if none was."""
        self.undecided_until = math.inf
        """When it is decided whether its response, which is kept back until then, is one stream too many."""
        self.ready_at = 0
        """The number of the hub's turn after which it should have its slot."""
        self.started: float | None = None
        self.ended: float | None = None
        self.worker: Worker | None = None
        """Where it waits or runs; a job that was refused has none."""
        self.slot: Slot | None = None
        """The slot that was given the job."""

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
        """When it must be ended, or decided on, as long as it runs."""
        return min(self.deadline.at, self.undecided_until)

    def move(self, following: State) -> None:
        """Change the state; `IllegalTransition` if the present one does not lead there."""
        self.state = move(self.state, following)

    @property
    def queue_wait(self) -> float:
        """Seconds from arrival until a slot claimed it, or until it ended unclaimed; 0 while neither."""
        until = self.ended if self.started is None else self.started
        return 0.0 if until is None else until - self.arrived

    @property
    def run_time(self) -> float:
        """Seconds in the application; 0 if it never ran."""
        return 0.0 if self.started is None or self.ended is None else self.ended - self.started

    @property
    def service_time(self) -> float:
        """The same for predictions: of a stream that has lasted, only the seconds until its first part."""
        if self.started is None or self.ended is None:
            return 0.0
        since = self.streams_since
        lasted = since is not None and self.ended - since >= STREAM_LASTS_SECONDS
        return (since if lasted and since is not None else self.ended) - self.started


@mypyc_attr(allow_interpreted_subclasses=True)
class JobKeeper(ABC):
    """Who knows what a slot may run, and is told how it ended: the balancer."""

    # No attributes: mypyc would not find them in a class that can be called, as the balancer can.

    @property
    @abstractmethod
    def turn_end(self) -> TurnEnd:
        """What all its workers put off until the end of a turn."""

    @property
    @abstractmethod
    def ends_at(self) -> float:
        """When all running jobs are ended because the server stops, in `time.monotonic()` seconds; else infinity."""

    @abstractmethod
    def claim(self, job: Job) -> bool:
        """Move a job whose turn it is to running; False if it was refused instead, and must not be run."""

    @abstractmethod
    def refuse(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer a job that has not run and will not."""

    @abstractmethod
    def end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Give a job its one outcome, and say why it was refused, if it was."""

    @abstractmethod
    def changed(self) -> None:
        """A slot or a place in a queue has become free, or a worker is gone."""

    @abstractmethod
    def cut(self, job: Job) -> Abort:
        """Answer for a running job whose time is over, and return what its application is to be ended with."""

    @abstractmethod
    def look_at(self, at: float) -> None:
        """Look for jobs that are late at `at` at the latest, in `time.monotonic()` seconds."""

    @abstractmethod
    def begin_stream(self, job: Job) -> None:
        """Take note of the first part of a streamed response; the exchange keeps it back if there are too many."""

    @abstractmethod
    def client_is_too_slow(self, job: Job) -> None:
        """Log that the response of a job is cut because its client takes nothing."""

    @abstractmethod
    def begin_upgrade(self, slot: Slot, job: Job) -> None:
        """The application of a job takes its connection over; raises `UpgradesFull` if it must not."""

    @abstractmethod
    def upgrade_ended(self, holder: Holder) -> None:
        """An application that has taken its connection over has ended."""

    @abstractmethod
    def give_up(self, slot: Slot) -> None:
        """Put another slot in the place of one whose application cannot be ended."""
