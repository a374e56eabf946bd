"""Builds the frames of the status page's feed: the JSON objects that `page.html` and `intralb-gevent top` show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent

from .. import naming
from .places import place_in
from .readings import HEAT_BOUNDS, REASONS
from .refusals import Refusal, Refusals
from .requests import board, running

if TYPE_CHECKING:
    from ..pool.lane import Lane
    from .feed import Feed
    from .siteview import Charts

__all__ = ["MOST_KEPT", "Frames", "json_bytes", "numbers", "shown_refusal"]

MOST_KEPT: Final = Refusals.KEPT
"""A new viewer is sent at most this many rejections."""

MOST_BLOCKS: Final = 10
"""A frame lists at most this many blockages of the event loop."""


MOST_REFUSALS: Final = 20
"""A frame lists at most this many rejections, the newest ones; `/refused` lists all recorded rejections."""


MOST_CHANGES: Final = 12
"""A frame lists at most this many changes in the numbers of workers."""

_CAUSES: Final = {
    "load": "with fewer workers, more than 70 % of the slots would be busy",
    "waits": "all slots were busy, and requests waited too long",
    "no_capacity": "a request found all slots and queues full",
    "no_effect": "the added workers have not helped, because something else is the bottleneck",
    "quiet": "few slots were busy for a while",
    "resize": "the application called resize()",
}


class Frames:
    """Builds frames from the readings of a feed and the state of its balancer."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._refusals_sent = 0

    def __repr__(self) -> str:
        return f"<{naming.type_name(self)} of {self._feed!r}>"

    def beginning(self, with_history: bool, charts: Charts | None) -> Iterator[tuple[str, Any] | None]:
        """Yield the names and values of a new viewer's first events: a hello, the history, and the last rejections.

        `charts` is the history of the site, or None without a site. None is yielded between two steps of the work.
        """
        feed, history = self._feed, self._feed.readings.history
        if feed.viewers == 1:
            self._refusals_sent = feed.refusals.count
        yield (
            "hello",
            {
                **feed.facts_of_process(),
                "series": [each.name for each in history.series],
                "merges": [each.merge for each in history.series],
                "actions": feed.actions,
                "site": charts is not None,
                "of": None if charts is None else charts.process,
                "reasons": REASONS,
                "heat": HEAT_BOUNDS,
                "lanes": [lane.name for lane in feed.balancer.intake.lanes],
            },
        )
        if not with_history:
            return
        for long in (False, True):
            # Copy all columns at once, so that they have equal lengths: rows are added while the columns are sent.
            columns: Any = [history.column(index, long=long) for index in range(len(history.series))]
            for found in () if charts is None else charts.columns(long=long):
                columns = found
                yield None
            for index, column in enumerate(columns):
                yield "history", {"index": index, "range": "long" if long else "short", "values": packed(column)}
        yield "refused", feed.rejected()[-MOST_KEPT:]

    def board(self) -> list[dict[str, Any]]:
        """Return the slot board: the busy slots of each worker, as `requests.board` describes them."""
        return board(self._feed.balancer)

    def part(self) -> dict[str, Any]:
        """Return what this process contributes to the frame of this second; other greenlets may run meanwhile."""
        feed = self._feed
        refused = feed.refusals.since(self._refusals_sent)
        self._refusals_sent = feed.refusals.count
        frame: dict[str, Any] = feed.facts_of_process()
        frame["row"] = numbers(feed.readings.row)
        frame["lanes"] = [_lane(each) for each in feed.balancer.intake.lanes]
        gevent.sleep(0)
        frame["board"] = board(feed.balancer)
        gevent.sleep(0)
        frame["running"], frame["running_count"] = running(feed.balancer)
        gevent.sleep(0)
        frame["refused"] = [shown_refusal(each) for each in refused[-MOST_REFUSALS:]]
        frame["changes"] = _changes(feed.balancer.intake.lanes)
        frame["loop"] = self._loop()
        return frame

    def _loop(self) -> dict[str, Any]:
        readings, now = self._feed.readings, monotonic()
        runtime = self._feed.balancer.intake.context.runtime
        return {
            "busy": round(readings.busy_share, 3),
            "blocked": 0 if runtime is None else runtime.watchdog.blocked,
            "interrupts": "" if runtime is None else runtime.watchdog.off_because,
            "blocks": [
                {
                    "ago": round(now - block.at, 1),
                    "seconds": round(block.seconds, 3),
                    "name": block.name,
                    "place": str(place_in(block.stack) or ""),
                }
                for block in readings.blocks()[: -MOST_BLOCKS - 1 : -1]
            ],
        }


def _lane(lane: Lane) -> dict[str, Any]:
    snapshot, pool, options = lane.snapshot(), lane.pool, lane.options
    expected = lane.admission.throughput.wait(pool.waiting_count)
    return {
        "name": lane.name,
        "workers": snapshot.workers,
        "workers_max": snapshot.most_workers,
        "slots": pool.total_slots,
        "limit": snapshot.limit,
        "running": pool.running,
        "queued": pool.queued,
        "places": pool.places,
        "overloaded": snapshot.overloaded,
        "clients": snapshot.clients,
        "streams": len(pool.streams),
        "abandoned": lane.stats.given_up,
        "expected_wait": round(expected, 3),
        "oldest": round(pool.longest_wait(monotonic()), 3),
        "sessions": sum(slot.session.opened for slot in pool.slots),
        "sessions_max": options.max_workers * options.max_concurrent_per_router,
        "has_sessions": pool.session_rules.source is not None,
        "timeout": round(options.deadline_seconds, 3),
    }


def _changes(lanes: list[Lane]) -> list[dict[str, Any]]:
    """Return the latest changes in the lanes' numbers of workers, the newest change first."""
    now = monotonic()
    found = [(change, number) for number, lane in enumerate(lanes) for change in lane.scaler.changes]
    found.sort(key=lambda each: -each[0].at)
    return [
        {
            "ago": round(now - change.at, 1),
            "lane": number,
            "by": change.by,
            "workers": change.workers,
            "cause": _CAUSES.get(change.cause, change.cause),
        }
        for change, number in found[:MOST_CHANGES]
    ]


def shown_refusal(refusal: Refusal) -> dict[str, Any]:
    """Return a rejection of this process for JSON, with times in seconds."""
    return {
        "pid": os.getpid(),
        **refusal._asdict(),
        "at": round(refusal.at, 3),
        "expected_wait": round(refusal.expected_wait, 3),
        "left": round(min(refusal.left, 86400.0), 3),
    }


def packed(values: Iterable[float]) -> list[float | int]:
    """Return a series with -n in place of each run of n zeros; the series has no negative values."""
    shown: list[float | int] = []
    for value in numbers(values):
        if value:
            shown.append(value)
        elif shown and shown[-1] < 0:
            shown[-1] -= 1
        else:
            shown.append(-1)
    return shown


def numbers(values: Iterable[float]) -> list[float | int]:
    """Return numbers for JSON: whole numbers as integers, other numbers with four significant digits."""
    return [int(value) if value == int(value) else float(f"{value:.4g}") for value in values]


def json_bytes(value: object) -> bytes:
    """Return a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
