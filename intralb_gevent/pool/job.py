"""One request on its way through the pool.

Decides nothing: it keeps what is known of a request and moves along the table in `policy/lifecycle.py`. It must
not know how a worker is chosen or how a response is written.
"""

from __future__ import annotations

import codecs
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..compiling import mypyc_attr
from ..kinds import seconds
from ..policy.deadline import TimeLimits, handed_on
from ..policy.lifecycle import NEXT, State, illegal
from ..policy.usual import UsualTime
from ..priority import Priority

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
    from .worker import Worker

__all__ = ["Deadline", "Job", "JobKeeper", "RouteState", "ToldDeadline", "shown"]

# Python loads it from a file when it is first used, and then there may be no descriptor left for that.
codecs.lookup("unicode_escape")


_SECONDS = seconds(positive=True)
_NO_MORE = TimeLimits(timeout=0.0, longest=0.0, stream=None)


def shown(path: str) -> str:
    """Return a path as a line of text has it: the client's own words, and so without line breaks and spaces."""
    return path.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")


class Deadline:
    """When a request must have ended; the application finds it in `environ["intralb.deadline"]`.

    It may be used from any greenlet of the process, also by those that a handler starts.
    """

    __slots__ = ("at", "began", "limits")

    bound = math.inf
    """When the proxy in front stops waiting, in seconds of `time.monotonic()`: no deadline is later than that."""

    def __init__(self, at: float, began: float = 0.0, limits: TimeLimits = _NO_MORE) -> None:
        self.at = at
        """In seconds of `time.monotonic()`."""
        self.began = began
        """When the time began to count, in seconds of `time.monotonic()`."""
        self.limits = limits
        """How far it can be extended from there; without any given, not at all."""

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f}s>"

    @property
    def whole(self) -> float:
        """The seconds that the request has in all, as far as it is known now."""
        return self.at - self.began

    def remaining(self) -> float:
        """Return the seconds that are left; negative once the deadline has passed."""
        return self.at - monotonic()

    def extend(self, seconds: Any) -> float:
        """Make it `seconds` from now, if that is later, and return the seconds that are then left.

        It is never made later than `max_request_timeout_seconds` after the request's arrival, nor than a proxy that
        told so goes on waiting. Raises `OptionError`, a ValueError, unless `seconds` is a number above 0.
        """
        seconds = _SECONDS.check("seconds", seconds)
        latest = min(self.began + self.limits.longest, self.bound)
        self.at = max(self.at, min(monotonic() + seconds, latest))
        return self.remaining()

    def begin_stream(self) -> None:
        """The response is streamed from now on: it gets the time of a stream, if streams have one of their own."""
        if self.limits.stream is not None:
            self.at = min(monotonic() + self.limits.stream, self.bound)

    def headers(self) -> dict[str, str]:
        """Return header fields for an outgoing request, which tell its server how much time is left."""
        return handed_on(self.remaining())


class ToldDeadline(Deadline):
    """The deadline of a request of whose time a trusted proxy has told something; it can only be earlier by that."""

    __slots__ = ("bound",)

    def __init__(self, arrived: float, limits: TimeLimits, told: TimeTold) -> None:
        began = arrived - told.waited
        self.bound = arrived + told.left
        super().__init__(min(began + limits.timeout, self.bound), began, limits)


class RouteState:
    """What holds for the requests of a route to an application, and how long they usually take."""

    __slots__ = ("application", "lane", "limits", "priority", "usual")

    def __init__(self, application: Application, limits: TimeLimits, priority: Priority, lane: Lane) -> None:
        self.application = application
        self.limits = limits
        self.priority = priority
        self.lane = lane
        self.usual = UsualTime()

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
        "streams",
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
        self.streams = False
        """Whether its response is one of those that `max_streams` limits."""
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

    def move(self, following: State) -> None:
        """Change the state; `IllegalTransition` if the present one does not lead there."""
        if following not in NEXT[self.state]:
            raise illegal(self.state, following)
        self.state = following

    @property
    def queue_wait(self) -> float:
        """Seconds from arrival until a slot claimed it, or until it ended unclaimed; 0 while neither."""
        until = self.ended if self.started is None else self.started
        return 0.0 if until is None else until - self.arrived

    @property
    def run_time(self) -> float:
        """Seconds in the application; 0 if it never ran."""
        return 0.0 if self.started is None or self.ended is None else self.ended - self.started


@mypyc_attr(allow_interpreted_subclasses=True)
class JobKeeper(ABC):
    """Who knows what a slot may run, and is told how it ended: the balancer."""

    # No attributes: mypyc would not find them in a class that can be called, as the balancer can.

    @property
    @abstractmethod
    def turn_end(self) -> TurnEnd:
        """What all its workers put off until the end of a turn."""

    @abstractmethod
    def claim(self, job: Job) -> bool:
        """Move a job whose turn it is to running; False if it was refused instead, and must not be run."""

    @abstractmethod
    def refuse(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer a job that has not run and will not."""

    @abstractmethod
    def end(self, job: Job, outcome: Outcome) -> None:
        """Give a job its one outcome."""

    @abstractmethod
    def changed(self) -> None:
        """A slot or a place in a queue has become free, or a worker is gone."""

    @abstractmethod
    def time_out(self, job: Job) -> Abort:
        """Answer for a running job whose deadline has passed, and return what its application is to be ended with."""

    @abstractmethod
    def begin_stream(self, job: Job) -> None:
        """The response of a job is streamed from now on; raises `StreamsFull` if it must not be."""

    @abstractmethod
    def give_up(self, slot: Slot) -> None:
        """Put another slot in the place of one whose application cannot be ended."""
