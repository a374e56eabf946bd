"""One process of the supervisor: its state, its reports, and its use of resources."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ..policy.recycling import Limits, Use, reason_to_replace
from ..policy.rollout import Member, State
from .launch import CANNOT_EXECUTE

__all__ = ["Process", "cause_of_end"]

RSS_SECONDS: Final = 5.0
"""Seconds between two samples of a process's memory."""

_PAGE: Final = os.sysconf("SC_PAGESIZE")


@dataclass
class Process:
    """A process that the supervisor has started.

    Times are in `time.monotonic()` seconds; None means that the event has not happened yet.
    """

    pid: int
    number: int
    """Number of the process in the order of starts."""
    generation: int
    started: float
    limits: Limits
    state: State = "starting"
    outdated: str = ""
    """Reason why the process is to be replaced; '' if it is not to be replaced."""
    ready: float | None = None
    seen: float = 0.0
    """Time of the last report that shows that the process's event loop runs."""
    status: str = ""
    traceback: str = ""
    requests: int = 0
    rss: int = 0
    rss_above: int = 0
    sampled: float = 0.0
    asked: float | None = None
    """Time at which the process was asked to drain."""
    forced: bool = False
    """True if the process was asked to abort its running requests immediately."""
    stopping: bool = False
    """True once the process has reported that it drains."""
    aborted: float | None = None
    """Time at which SIGABRT was sent to the process."""
    failed: bool = False
    """True if the process's failure has been recorded already."""

    @property
    def member(self) -> Member:
        """The data about this process on which `policy/rollout.py` bases its decisions."""
        return Member(self.number, self.state, bool(self.outdated))

    def send(self, number: int) -> None:
        """Send a signal. The process is a child that has not been reaped, so no other process can have its id."""
        os.kill(self.pid, number)

    def reason_to_replace(self, now: float) -> str | None:
        """Return the name of the limit that the process has reached, such as "requests"; None without such a limit."""
        if self.ready is None:
            return None
        return reason_to_replace(Use(self.requests, now - self.ready, self.rss_above), self.limits)

    def sample(self, now: float) -> None:
        """Read the process's resident memory, if a sample is due."""
        if now - self.sampled >= RSS_SECONDS:
            self.sampled = now
            self.rss = _resident(self.pid)
            above = self.limits.rss is not None and self.rss > self.limits.rss
            self.rss_above = self.rss_above + 1 if above else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the process as a dictionary that can be written as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, known: dict[str, Any]) -> Process:
        """Return the process that a predecessor of the supervisor has described with `as_dict`."""
        names = {field.name for field in fields(cls)}
        own = {name: value for name, value in known.items() if name in names}
        return cls(**{**own, "limits": Limits(*own["limits"])})


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def cause_of_end(code: int) -> str:
    """Return in words how a process has ended; `code` is the result of `os.waitstatus_to_exitcode`."""
    if code >= 0:
        suspect = ", perhaps because the program cannot be executed" if code == CANNOT_EXECUTE else ""
        return f"exited with code {code}{suspect}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    suspect = ", perhaps by the kernel because memory ran out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{suspect}"
