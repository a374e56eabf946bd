"""Records greenlets that may have blocked the event loop, and their stacks."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from functools import partial
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..policy.requestidentity import identity
from ..process.logline import LogText
from .cpuwait import CPUWait
from .places import Place, place_in, shown_place
from .safepoints import application_frames

if TYPE_CHECKING:
    from ..pool.job import Job

__all__ = ["BLOCKED_SECONDS", "Block", "BlockLog", "Culprits", "Suspect", "stack_at"]

BLOCKED_SECONDS: Final = 0.1
"""Code that blocks the hub for this number of seconds without a pause is logged, because it delays all other
clients."""

BLOCKS_KEPT: Final = 50
"""Maximum number of recent blockages that are stored for the status page."""

_STACK_FRAMES: Final = 30

SAME_PLACE_SECONDS: Final = 60.0
"""Seconds after a logged blockage during which further blockages at the same source line are only counted."""

_ONCE: Final = 1


def stack_at(frame: FrameType | None) -> traceback.StackSummary:
    """Return the application's stack; source lines are read only when the log record is written."""
    stack = traceback.StackSummary.extract(application_frames(frame), limit=_STACK_FRAMES, lookup_lines=False)
    stack.reverse()
    return stack


_NO_STACK: Final = (
    "no code of the application was running when the stack was read: the response may have many small parts, or the "
    "machine may be short of CPU time"
)


_NO_PROCESSOR: Final = (
    ", but for {:.3f} s of this time it had no processor: other processes use them, or the CPU limit of the container "
    "is reached"
)


class Block(NamedTuple):
    """A past blockage of the event loop."""

    at: float
    """Time at which the blockage ended, in `time.monotonic()` seconds."""
    seconds: float
    name: str
    """Method and path of the request, or a description of other code."""
    stack: traceback.StackSummary
    """The application's stack, the outermost frame first; it may be empty."""


class Suspect:
    """A greenlet that was running while the hub was busy, and the period for which it is known to have run."""

    __slots__ = ("cpu_wait", "greenlet", "identity", "job", "name", "place", "since", "stack", "until")

    def __init__(self, greenlet: Any, job: Job | None, since: float) -> None:
        # Store only the id: if this object referred to the greenlet, the slot would conclude that the request has left
        # an object behind.
        self.greenlet = id(greenlet)
        self.job = job
        self.name = "code outside of requests" if job is None else job.name
        """Description, for the log, of what the greenlet runs."""
        self.since = self.until = since
        self.stack = traceback.StackSummary()
        """Stack of the application, read when the greenlet had blocked the hub for `BLOCKED_SECONDS`."""
        self.place: Place | None = None
        """The application's innermost source line in the stack; None if no code of the application was running."""
        self.identity: dict[str, Any] = {}
        """Fields of the log record that identify the request."""
        self.cpu_wait = 0.0
        """Seconds for which the process had no processor while the greenlet blocked the hub."""

    def __repr__(self) -> str:
        return f"<Suspect {self.name} since {self.since}>"

    def block(self) -> Block:
        """Return the blockage, without references to the request."""
        return Block(self.until, self.until - self.since, self.name, self.stack)

    def blame(self, place: FrameType | traceback.StackSummary | None) -> None:
        """Record where the greenlet blocks the hub; `place` is its current frame, or a stack that was read earlier."""
        if isinstance(place, traceback.StackSummary):
            self.stack = place
            self.place = (place[-1].filename, place[-1].lineno or 0) if place else None
        else:
            self.stack, self.place = stack_at(place), place_in(application_frames(place))
        if self.job is not None:
            self.identity = identity(self.job.environ)

    def brief(self) -> str:
        """Return the text of the log record without the stack."""
        where = "" if self.place is None else f" at {shown_place(self.place)}"
        return f"{self.name} kept the event loop from all other work for {self.until - self.since:.3f} s{where}"

    def text(self) -> str:
        """Return the text of the log record, with the stack and with fields that identify the request."""
        lines = "".join(self.stack.format()).rstrip()
        kept = self.brief()
        fields = {"message": kept, "seconds": round(self.until - self.since, 3), "stack": lines, **self.identity}
        if self.place is not None:
            fields["at"] = shown_place(self.place)
        by = f" (request {self.identity['request_id']})" if "request_id" in self.identity else ""
        if self.cpu_wait >= (self.until - self.since) / 2:
            by += _NO_PROCESSOR.format(self.cpu_wait)
            fields["cpu_wait_seconds"] = round(self.cpu_wait, 3)
        return LogText(f"{kept}{by}; it was at:\n{lines}" if lines else f"{kept}{by}; {_NO_STACK}", fields)


class Culprits:
    """The greenlets that have blocked the hub since it last polled its sockets, and the latest blockages."""

    def __init__(self) -> None:
        self.count = 0
        """Number of blockages so far."""
        self.latest: deque[Block] = deque(maxlen=BLOCKS_KEPT)
        self.cpu_wait = CPUWait()
        """The time for which the hub's thread has waited for a processor since the hub became busy."""
        self._suspect: Suspect | None = None
        self._found: list[Suspect] = []
        self._last_look = 0.0

    def __repr__(self) -> str:
        return f"<Culprits of {self.count} blockages>"

    def note(
        self, greenlet: Any, job: Job | None, place: FrameType | traceback.StackSummary | None, busy_since: float
    ) -> float:
        """Record the running greenlet, and its stack if it has blocked the hub; return the time when it began to run.

        `place` is a frame, or the stack of a call of C code that has just returned. The watchdog's signal handler calls
        this method.
        """
        now, suspect = monotonic(), self._suspect
        if suspect is None or suspect.greenlet != id(greenlet) or suspect.job is not job:
            # A different greenlet ran at the last check, so the current greenlet may have started right after that
            # check.
            suspect = self._suspect = Suspect(greenlet, job, max(busy_since, self._last_look))
        self._last_look = suspect.until = now
        # Skip the greenlet without a parent: it is the main program, which may start and stop slowly.
        if now - suspect.since >= BLOCKED_SECONDS and greenlet.parent is not None:
            suspect.cpu_wait = min(self.cpu_wait.seconds(), now - suspect.since)
            if suspect not in self._found:
                suspect.blame(place)
                # If all frames are this package's own, the process was starved of CPU, so blame no handler.
                if job is not None or suspect.stack:
                    self._found.append(suspect)
        return suspect.since

    def take(self) -> list[Suspect]:
        """Return the greenlets that have blocked the hub, and count them; called when the hub runs again."""
        self._suspect = None
        found, self._found = self._found, []
        self.count += len(found)
        self.latest.extend(each.block() for each in found)
        return found


class BlockLog:
    """Logs greenlets that have blocked the hub: one record a minute for each source line; further blockages are
    counted."""

    def __init__(self) -> None:
        self._log = HubLog(LOGGER.log)
        self._repeats = Repeats(self._log, SAME_PLACE_SECONDS, SAME_PLACE_SECONDS)

    def __repr__(self) -> str:
        return f"<BlockLog {self._repeats!r}>"

    def record(self, culprit: Suspect) -> None:
        """Log a greenlet that has blocked the hub, or only count it; called in the hub."""
        brief = culprit.brief()
        if self._repeats.admits(culprit.place, _ONCE, logging.WARNING, partial(str, brief)):
            self._log.record(logging.WARNING, culprit.text)

    def flush(self) -> None:
        """For each source line, log the number of blockages that were only counted."""
        self._repeats.flush()
