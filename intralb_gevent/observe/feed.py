"""The feed of the status page: a JSON object (a frame) per second, which is built once for all viewers.

If there are several processes, a frame consists of a part from each process (`siteview.py`), and the rows of the charts
are added up for each viewer, because a viewer can select a process.

A timer of the event loop reads the counters once a second (`readings.py`). All other work is done only while a viewer
is connected. A greenlet builds each frame, and yields to the event loop between the parts of the frame. Each viewer has
a separate greenlet, which sends the newest frame; a viewer that reads slowly misses frames, and delays no other viewer.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..policy.sentences import Verdict, verdict
from ..policy.verdict import Facts, Finding, Judge
from .frames import Frames, json_bytes, shown_refusal
from .places import place_in
from .readings import BLOCKED_WINDOW, Readings
from .refusals import Refusals
from .requests import usual_place
from .siteview import Charts, SiteView

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer

__all__ = ["Feed"]

_RETRY: Final = b"retry: 1000\n\n"
"""Field of the event stream that makes a browser reconnect 1000 milliseconds after it has lost the connection."""

MOST_UNSENT_BYTES: Final = 64 * 1024
"""Maximum number of unsent bytes; a viewer with more unsent bytes gets no frames until it has read some of them."""

_PAUSE_SECONDS: Final = 0.05

_BREAK_RATIO: Final = 9
"""Pause after a part of the history, as a multiple of the time that building the part took."""

_BOARD_SHARE: Final = 0.005
"""Maximum share of a core for building the slot boards between frames; expensive boards are sent less often."""

_WALKED_KINDS: Final = frozenset({"stuck", "overloaded", "flooded", "late", "busy", "streaming"})
"""Kinds of findings for which the verdict names the place at which most requests of the lane wait."""


class Feed:
    """The history and the frames of one balancer; the admin server calls `start` and `stop`."""

    MOST_VIEWERS: Final = 8
    PERIOD_SECONDS = 1.0
    """Seconds between two frames."""

    BOARD_SECONDS = 0.25
    """Seconds between two slot boards."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self.balancer = balancer
        self.refusals = Refusals()
        self.readings = Readings(balancer, self.refusals)
        self.site: Callable[[], dict[str, Any]] = dict
        """Function that returns the supervisor's state, or an empty dictionary if there is no supervisor."""
        self.of_site: Callable[[Verdict], Verdict] = lambda own: own
        """Function that returns the verdict on the site; its argument is the verdict on this process."""
        self.view: SiteView | None = None
        """The other processes of the site; None if there is no site."""
        self.actions = False
        """True if the page shows buttons that end requests."""
        self.viewers = 0
        self._frames = Frames(self)
        self._judge = Judge()
        self._facts = Facts()
        self._found: list[Finding] = []
        self._timer: Any = None
        self._builder: gevent.Greenlet[..., None] | None = None
        self._frame = self._others = b""
        self._number = 0
        self._board = b""
        self._boards = 0
        self._board_viewers = 0
        self._board_sender: gevent.Greenlet[..., None] | None = None
        self._next = Event()
        self._one_history = BoundedSemaphore(1)
        self._log = HubLog(LOGGER.log)

    def __repr__(self) -> str:
        return f"<Feed for {self.viewers} viewers, {self.readings!r}>"

    # Work that is done once a second.

    def start(self) -> None:
        """Start recording; called when the server starts, in the thread of its event loop."""
        self.balancer.intake.context.refusals = self.refusals
        if self._timer is None:
            self._timer = gevent.get_hub().loop.timer(self._first_delay(), self.PERIOD_SECONDS, ref=False)
            self._timer.start(self._tick)

    def _first_delay(self) -> float:
        """Return the number of seconds until the first recording.

        The history of a site has one record for each second of the clock. Therefore, record in the middle half of a
        second: otherwise, an event loop that is some milliseconds late could miss one second, and record the next one
        twice.
        """
        fraction = (monotonic() + self.PERIOD_SECONDS) % 1
        return self.PERIOD_SECONDS + 0.25 - fraction / 2

    def stop(self) -> None:
        """Stop recording, and end the feeds of all viewers."""
        self.balancer.intake.context.refusals = None
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._wake_viewers()

    def _tick(self) -> None:
        """Record the last second. This method never raises an exception, because the event loop calls it."""
        try:
            self.readings.tick()
            if self.view is not None:
                self.view.tick(self.readings.row, self.viewers)
            site = self.site()
            self._facts = self.readings.facts(site)
            self._found = self._judge.review(self._facts, monotonic())
        except Exception:
            text = f"the status page cannot be updated because of a bug in intralb_gevent:\n{traceback.format_exc()}"
            self._log.record(logging.ERROR, lambda: text)
            self.stop()
            return
        if self._is_due() and (self._builder is None or self._builder.dead):
            self._builder = gevent.spawn(self._build, site)

    def _is_due(self) -> bool:
        """Return whether this process, or another process of the site, has viewers, or there are new rejections."""
        view = self.view
        return self.viewers > 0 or (view is not None and (view.watched or view.has_rejected(self.refusals)))

    # Work that is done while a viewer is connected.

    def _build(self, site: dict[str, Any]) -> None:
        view = self.view
        if view is not None:
            view.publish_rejected(self.refusals)
        if view is None or view.watched:
            part = json_bytes(self._frames.part())
            if view is not None:
                view.publish(part)
            if self.viewers:
                self._complete(part, site)

    def _complete(self, part: bytes, site: dict[str, Any]) -> None:
        """Build the frame from the part of this process, and collect the parts of the others."""
        of_site = json_bytes({"verdict": self.verdict().as_dict(), "site": site})
        others = [] if self.view is None else self.view.parts()
        self._others = b"".join(b"event: part\ndata: " + each + b"\n\n" for each in others)
        self._frame = b"data: " + of_site[:-1] + b"," + part[1:] + b"\n\n"
        self._number += 1
        self._wake_viewers()

    def _send_boards(self) -> None:
        """Send the slot board between the frames while there are viewers; skip a board that has not changed."""
        while self._board_viewers and self._timer is not None:
            began = monotonic()
            board = b"event: board\ndata: " + json_bytes(self._frames.board()) + b"\n\n"
            if self.balancer.intake.load or board != self._board:
                self._board = board
                self._boards += 1
                self._wake_viewers()
            gevent.sleep(max(self.BOARD_SECONDS, (monotonic() - began) / _BOARD_SHARE))

    def _wake_viewers(self) -> None:
        # Each frame has its own event: a viewer that waits for an event that is already set would never yield to the
        # hub.
        waited_for, self._next = self._next, Event()
        waited_for.set()

    def events(self, unsent: Callable[[], int], *, history: bool, process: int | None = None) -> Iterator[bytes]:
        """Yield the feed for one viewer, as server-sent events; if `history` is true, include the history and boards.

        `process` is the id of the process whose history is sent; None selects all processes. `unsent` returns the
        number of bytes that the viewer has not read yet; while this number exceeds `MOST_UNSENT_BYTES`, no events are
        yielded.
        """
        self.viewers += 1
        self._board_viewers += history
        try:
            yield _RETRY
            charts = None if self.view is None else Charts(self.view, process)
            if self.view is not None:
                self.view.expect_parts()
            yield from self._beginning(unsent, history, charts)
            if history and (self._board_sender is None or self._board_sender.dead):
                self._board_sender = gevent.spawn(self._send_boards)
            yield from self._newest(unsent, boards=history, charts=charts if history else None)
        finally:
            self._board_viewers -= history
            self.viewers -= 1

    def _newest(self, unsent: Callable[[], int], *, boards: bool, charts: Charts | None) -> Iterator[bytes]:
        number, board = 0, self._boards
        while self._timer is not None:
            if self._number == number and not (boards and self._boards != board):
                self._next.wait()
            elif unsent() > MOST_UNSENT_BYTES:
                gevent.sleep(self.PERIOD_SECONDS)
            elif self._number != number:
                # A frame contains the newest board, so skip the separate board.
                number, board = self._number, self._boards
                yield (b"" if charts is None else charts.event()) + self._others + self._frame
            else:
                board = self._boards
                yield self._board

    def _beginning(self, unsent: Callable[[], int], history: bool, charts: Charts | None) -> Iterator[bytes]:
        """Yield the first events for a new viewer. Pauses between these events let other greenlets run."""
        began = monotonic()
        for found in self._frames.beginning(history, charts):
            event = b"" if found is None else f"event: {found[0]}\ndata: ".encode() + json_bytes(found[1]) + b"\n\n"
            with self._one_history:
                gevent.sleep(min(_BREAK_RATIO * (monotonic() - began), _PAUSE_SECONDS))
            while unsent() > MOST_UNSENT_BYTES:
                gevent.sleep(_PAUSE_SECONDS)
            if event:
                yield event
            began = monotonic()

    def rejected(self) -> list[dict[str, Any]]:
        """Return the last rejected requests of all processes of the site, for JSON, the oldest first."""
        if self.view is None:
            return [shown_refusal(each) for each in self.refusals.since(0)]
        self.view.publish_rejected(self.refusals)
        return self.view.rejected()

    def verdict(self) -> Verdict:
        """Return the verdict on the site in the last second."""
        return self.of_site(self._own_verdict())

    def problems(self) -> dict[str, Any]:
        """Return the verdict on this process for JSON; an empty dictionary if all is well."""
        return self._own_verdict().as_dict() if self._found else {}

    def _own_verdict(self) -> Verdict:
        """Return the verdict on this process, with the places in the application that the findings concern."""
        places = {finding.key: self._place(finding) for finding in self._found[:3]}
        return verdict(self._facts, self._found, places)

    def _place(self, finding: Finding) -> str:
        """Return a sentence that names the place in the application that a finding concerns; empty if none is known."""
        if finding.kind == "blocked":
            return self._blocked_place()
        lane = next((each for each in self.balancer.intake.lanes if _is_of(finding, each.name)), None)
        if lane is None or finding.kind not in (*_WALKED_KINDS, "leaking"):
            return ""
        found = usual_place(lane, abandoned=finding.kind == "leaking")
        if found is None:
            return ""
        place, number, of = found
        return f"{number} of {of} handlers {'waits' if number == 1 else 'wait'} in {place}."

    def _blocked_place(self) -> str:
        recent = [block for block in self.readings.blocks() if monotonic() - block.at < BLOCKED_WINDOW]
        worst = max(recent, key=lambda block: block.seconds, default=None)
        if worst is None:
            return ""
        place = place_in(worst.stack)
        return f"The longest blockage was {worst.name}{'' if place is None else f', in {place}'}."

    def facts_of_process(self) -> dict[str, Any]:
        """Return the id, the Unix time and the condition of this process, for a frame."""
        return {"pid": os.getpid(), "time": round(time(), 3), "condition": self.balancer.condition}


def _is_of(finding: Finding, lane: str) -> bool:
    return finding.lane is not None and finding.lane.name == lane
