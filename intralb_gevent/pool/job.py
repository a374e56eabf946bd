"""One request on its way through the pool.

Decides nothing: it keeps what is known of a request and moves along the table in `policy/lifecycle.py`. It must
not know how a worker is chosen or how a response is written.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ..policy.lifecycle import NEXT, State, illegal

if TYPE_CHECKING:
    from ..policy.lifecycle import Outcome
    from .exchange import Application, Exchange
    from .slot import Slot
    from .worker import Worker

__all__ = ["Deadline", "Job", "JobKeeper"]


class Deadline:
    """When a request must have ended; the application finds it in `environ["intralb.deadline"]`."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at
        """In seconds of `time.monotonic()`."""

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f}s>"

    def remaining(self) -> float:
        """Return the seconds that are left; negative once the deadline has passed."""
        return self.at - monotonic()


class Job:
    """A request with its environ, its deadline, its exchange, and in the end exactly one outcome.

    Times are seconds of `time.monotonic()`.
    """

    __slots__ = ("arrived", "deadline", "ended", "environ", "exchange", "slot", "started", "state", "worker")

    def __init__(self, environ: dict[str, Any], exchange: Exchange, arrived: float, deadline: Deadline) -> None:
        self.environ = environ
        self.exchange = exchange
        self.arrived = arrived
        self.deadline = deadline
        self.state: State = "new"
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


class JobKeeper(Protocol):
    """Who knows what a slot may run, and is told how it ended: the balancer."""

    application: Application

    def claim(self, job: Job) -> bool:
        """Move a job that a slot takes up to running; False if it is late or has ended, and must not be run."""

    def end(self, job: Job, outcome: Outcome) -> None:
        """Give a job its one outcome."""
