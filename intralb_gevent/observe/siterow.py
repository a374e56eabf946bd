"""Publishes the state of this process in the site's table, and reads the states of all processes from the table.

If there are other processes, this process writes its load to the table in each iteration of the event loop in which the
load has changed. Therefore, other processes soon know whether this process has a free slot. All other values are
written periodically.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol

import gevent

from ..http.rescue import Rescue
from ..hub.busy import HubWatch
from ..hub.forks import FORKS
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..policy.sentences import Verdict
from ..policy.siteverdict import OfProcess, SiteLoad, received, silent, site_verdict
from ..policy.verdict import HOLD_SECONDS
from ..pool.balancer import LoadBalancer
from ..pool.loadmeter import Load
from ..supervise.table import DRAINING, READY, OwnRow, Row, lane_key
from .metrics.catalogue import METRICS
from .metrics.metric import growing, of_site, read
from .metrics.readings import Readings, labels_of, total
from .metrics.source import Source

__all__ = ["SiteRow"]

TICK_SECONDS: Final = 0.1
"""Seconds between two periodic updates of the row."""

READING_TICKS: Final = 10
"""The readings in the row are updated only once in this many periodic updates."""

SILENT_SECONDS: Final = 2.0
"""Seconds after which a process that has not updated its row counts as blocked or ended."""

_TOO_LARGE: Final = "the site's metrics do not include this process, because its metrics do not fit into the table"

_BUG: Final = "the row of this process was not updated because of a bug in intralb_gevent:\n{}"


class Connected(Protocol):
    """A server with connections."""

    @property
    def connections(self) -> Collection[Any]:
        """The open connections."""

    def rescue_with(self, row: OwnRow) -> Rescue | None:
        """Return the object that moves requests without a free slot to other processes, or None if there is none."""


class SiteRow:
    """Writes this process's row of the site's table, and reads the rows of all processes."""

    def __init__(self, row: OwnRow, balancer: LoadBalancer, servers: Sequence[Connected]) -> None:
        self._row, self._table = row, row.table
        self._source = Source(balancer)
        self._servers = servers
        self._intake = balancer.intake
        self._lanes = [(lane_key(lane.name), lane.pool) for lane in balancer.intake.lanes]
        self._earlier = total([row.earlier.get("earlier", {}), growing(METRICS, row.earlier.get("readings", {}))])
        self._watch: HubWatch | None = None
        self._load = self._submitted = -1
        self._ticks = 0
        self._timer: Any = None
        self._log = HubLog(LOGGER.log)
        self._repeats = Repeats(self._log)
        self._warned = False
        self._rescues: list[Rescue] = []
        self._silences: dict[int, tuple[float, float]] = {}
        """By process id: when another process was last found silent, and for how many seconds it had been silent."""
        self.problems: Callable[[], dict[str, Any]] = dict
        """Function that returns the verdict of this process for JSON; an empty dictionary if all is well."""
        self.busy: Callable[[float], None] = row.busy
        """Function that the hub's watch calls when the event loop becomes busy."""

    def __repr__(self) -> str:
        return f"<SiteRow {self._row!r}>"

    @property
    def row(self) -> OwnRow:
        """This process's row."""
        return self._row

    @property
    def number(self) -> int:
        """Number of this process's row."""
        return self._row.index

    # Writing this process's row.

    def start(self) -> None:
        """Publish that this process serves; call this after its servers have started."""
        runtime = self._intake.context.runtime
        self._watch = None if runtime is None else runtime.watch
        self._rescues = [rescue for each in self._servers if (rescue := each.rescue_with(self._row)) is not None]
        self._row.state = READY
        self._intake.context.load.site = self.load
        self._tick()
        self._timer = gevent.get_hub().loop.timer(TICK_SECONDS, TICK_SECONDS, ref=False)
        self._timer.start(self._tick)
        FORKS.serving.add(self)

    def drain(self) -> None:
        """Publish that this process drains. This method never waits; any thread or signal handler may call it."""
        self._row.state = DRAINING

    def stop(self) -> None:
        """Publish the last readings, and release the row."""
        if self._timer is not None:
            self.isolate()
            self._write_readings()
            self._row.leave()

    def isolate(self) -> None:
        """Stop publishing; a process that a handler has forked calls this method, because its parent owns the row."""
        if self._watch is not None:
            self._watch.witness = None
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            self._intake.context.load.site = None
        FORKS.serving.discard(self)

    def idle(self) -> None:
        """Publish that the event loop is about to wait, and the load if it has changed; called in each iteration."""
        if self._intake.load != self._load:
            self._write_load()
        elif self._intake.submitted != self._submitted:
            self._submitted = self._intake.submitted
            self._row.confirm_load()
        self._row.idle()

    def _write_load(self) -> None:
        self._load, self._submitted = self._intake.load, self._intake.submitted
        queued = self._intake.queued
        self._row.write_load(queued, self._load - queued, [(key, pool.free) for key, pool in self._lanes])

    def _tick(self) -> None:
        try:
            self._update()
        except Exception:
            self._repeats.record("bug", logging.ERROR, partial(_BUG.format, traceback.format_exc()))

    def _update(self) -> None:
        self._row.beat(monotonic())
        self._row.write_connections(sum(len(each.connections) for each in self._servers))
        if self._intake.condition != "serving":
            self.drain()
        self._write_load()
        self._row.write_rates(*self._intake.context.load.own)
        has_siblings = self._has_siblings()
        if self._watch is not None:
            self._watch.witness = self if has_siblings else None
        if has_siblings and self._row.state == READY:
            for each in self._rescues:
                each.prepare()
        if self._ticks % READING_TICKS == 0:
            self._write_readings()
        self._ticks += 1

    def _has_siblings(self) -> bool:
        return any(row.number != self.number for row in self.processes())

    def _write_readings(self) -> None:
        """Publish the readings of this process, and the totals of the ended processes that owned the row earlier."""
        self._source.now = monotonic()
        readings = read(METRICS, self._source, str(self.number))
        problems = self.problems()
        data = {"readings": readings, "earlier": self._earlier, "verdict": problems}
        self._row.write_problems(bool(problems))
        if not self._row.write_data(data) and not self._warned:
            self._warned = True
            self._log.record(logging.WARNING, lambda: _TOO_LARGE)

    # Reading all rows.

    def processes(self) -> list[Row]:
        """Return the rows of all processes whose event loops are running, including this process."""
        now = monotonic()
        return [row for row in self._table.rows() if now - row.beat < SILENT_SECONDS]

    def serves(self) -> bool:
        """Return whether any process of the site accepts requests."""
        return any(row.state == READY for row in self.processes())

    def load(self) -> Load:
        """Return the load of the site: the mean saturation and the total rates of the processes that serve."""
        rows = [row for row in self.processes() if row.state == READY]
        if not rows:
            return self._intake.context.load.own
        saturation = sum(row.saturation for row in rows) / len(rows)
        return Load(saturation, sum(r.requests_per_second for r in rows), sum(r.errors_per_second for r in rows))

    def readings(self, own: Readings) -> Readings:
        """Return the combined readings of all processes of the site; `own` are the readings of this process.

        The totals include those of processes that have ended, so that no total ever falls.
        """
        # Publish the readings of this process first, so that later answers of other processes include these readings.
        if self._timer is not None:
            self._write_readings()
        running, ended = [own], [self._earlier]
        runs = {row.number for row in self.processes()}
        for index in range(self._table.used):
            if index == self.number:
                continue
            data = self._table.data(index)
            readings = data.get("readings", {})
            ended.append(data.get("earlier", {}))
            if index in runs:
                running.append(readings)
            else:
                ended.append(growing(METRICS, readings))
        return of_site(METRICS, running, ended)

    def verdict(self, own: Verdict) -> Verdict:
        """Return the verdict on the site; `own` is the verdict on this process."""
        rows = [row for row in self.processes() if row.state == READY]
        running, free = sum(row.running for row in rows), sum(row.free for row in rows)
        load = SiteLoad(len(rows), sum(row.requests_per_second for row in rows), running, running + free)
        return site_verdict(OfProcess(os.getpid(), own), list(self._other_problems()), load)

    def _other_problems(self) -> Iterator[OfProcess]:
        now = monotonic()
        for row in self._table.rows():
            if row.number == self.number or row.state != READY:
                continue
            if now - row.beat >= SILENT_SECONDS:
                if _exists(row.pid):
                    self._silences[row.pid] = now, now - row.beat
                    yield silent(row.pid, now - row.beat)
            elif found := self._published(row) or self._was_silent(row.pid, now):
                yield found

    def _published(self, row: Row) -> OfProcess | None:
        return received(row.pid, self._table.data(row.number).get("verdict", {})) if row.problems else None

    def _was_silent(self, pid: int, now: float) -> OfProcess | None:
        # A process whose event loop has just begun to run again needs a moment to publish its own verdict.
        seen, seconds = self._silences.get(pid, (0.0, 0.0))
        if seconds and now - seen <= HOLD_SECONDS:
            return silent(pid, seconds, now - seen)
        self._silences.pop(pid, None)
        return None

    def summary(self) -> dict[str, Any]:
        """Return the values that `/snapshot` shows for the whole site."""
        now, rows = monotonic(), self.processes()
        self._source.now = now
        readings = self.readings(read(METRICS, self._source, str(self.number)))
        return {
            "serving": sum(row.state == READY for row in rows),
            "connections": sum(row.connections for row in rows),
            "queued": sum(row.queued for row in rows),
            "running": sum(row.running for row in rows),
            "free_slots": sum(row.free for row in rows if row.state == READY),
            "saturation": round(self.load().saturation, 4),
            "submitted": sum(_by_label(readings, "intralb_requests_received_total", 0).values()),
            "outcomes": _by_label(readings, "intralb_requests_total", 1),
            "processes": [row.as_dict(now) for row in rows],
        }


def _exists(pid: int) -> bool:
    """Return whether a process exists: a process that was killed has not released its row."""
    return os.path.exists(f"/proc/{pid}")


def _by_label(readings: Readings, metric: str, index: int) -> dict[str, int]:
    """Return the values of a metric by one of its labels, summed over all other labels."""
    counts: dict[str, int] = {}
    values: Mapping[str, Any] = readings.get(metric, {})
    for key, value in values.items():
        label = labels_of(key)[index]
        counts[label] = counts.get(label, 0) + int(value)
    return counts
