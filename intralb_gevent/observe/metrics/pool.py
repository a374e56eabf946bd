"""Metrics of the slots, workers, database sessions and streams."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from .metric import Metric
from .readings import from_histogram
from .source import Labelled, Source, lane_label, of_lanes

if TYPE_CHECKING:
    from ...pool.lane import Lane

__all__ = ["POOL"]

_SESSION_STATES: Final = ("idle", "in_use", "cleaning")
_DISCARD_CAUSES: Final = (
    *("aborted", "reset_failed", "check_failed", "begin_failed", "too_old", "unused", "slot_ended"),
)
_CHANGE_CAUSES: Final = ("load", "waits", "no_capacity", "no_effect", "quiet", "resize")


def _busy_seconds(source: Source) -> Labelled:
    for lane in source.lanes:
        running = 0.0
        for slot in lane.pool.slots:
            job = slot.job
            if job is not None and job.started is not None and job.ended is None:
                running += source.now - job.started
        yield (lane_label(lane.name),), lane.stats.run_time.total + running


def _aborts(source: Source) -> Labelled:
    for lane in source.lanes:
        yield (lane_label(lane.name), "waiting"), lane.stats.waiting_aborts
        yield (lane_label(lane.name), "computing"), lane.stats.computing_aborts


def _worker_changes(source: Source) -> Labelled:
    for lane in source.lanes:
        for change, workers in lane.stats.worker_changes.items():
            yield (lane_label(lane.name), *change), workers


def _sessions(source: Source) -> Labelled:
    for lane in source.lanes:
        if lane.pool.session_rules.source is not None:
            counts = Counter(_state(slot.job is None, slot.interruptible) for slot in lane.pool.slots if _open(slot))
            for state in _SESSION_STATES:
                yield (lane_label(lane.name), state), counts[state]


def _open(slot: object) -> bool:
    return bool(getattr(getattr(slot, "session", None), "opened", False))


def _state(idle: bool, has_control: bool) -> str:
    if idle:
        return "idle"
    return "in_use" if has_control else "cleaning"


def _sessions_max(source: Source) -> Labelled:
    for lane in source.lanes:
        if lane.pool.session_rules.source is not None:
            yield (lane_label(lane.name),), _slots_max(lane)


def _session_opens(source: Source) -> Labelled:
    for lane in source.lanes:
        stats = lane.pool.session_rules.stats
        yield (lane_label(lane.name), "opened"), stats.open_time.count
        yield (lane_label(lane.name), "failed"), stats.failed


def _session_discards(source: Source) -> Labelled:
    for lane in source.lanes:
        for cause, count in lane.pool.session_rules.stats.discards.items():
            yield (lane_label(lane.name), cause), count


def _session_open_time(source: Source) -> Labelled:
    for lane in source.lanes:
        if lane.pool.session_rules.source is not None:
            yield (lane_label(lane.name),), from_histogram(lane.pool.session_rules.stats.open_time)


def _slots_limit(lane: Lane) -> float:
    return lane.pool.total_slots if lane.pool.limit is None else min(lane.pool.limit, lane.pool.total_slots)


def _slots_max(lane: Lane) -> float:
    return lane.options.max_workers * lane.options.max_concurrent_per_router


def _streams_max(source: Source) -> Labelled:
    most = source.balancer.options.max_streams
    yield (), sum(lane.pool.most_streams for lane in source.lanes) if most is None else most


POOL: Final = (
    Metric(
        name="intralb_slots_running",
        kind="gauge",
        help="Number of slots that run a request",
        labels=("lane",),
        read=of_lanes(lambda lane: lane.pool.running),
    ),
    Metric(
        name="intralb_slots_limit",
        kind="gauge",
        help="Number of requests that may run at the same time: the number of slots, or less while the event loop is "
        "late",
        labels=("lane",),
        read=of_lanes(_slots_limit),
    ),
    Metric(
        name="intralb_slots_max",
        kind="gauge",
        help="Number of slots when the lane has its maximum number of workers",
        labels=("lane",),
        read=of_lanes(_slots_max),
    ),
    Metric(
        name="intralb_slot_busy_seconds_total",
        kind="counter",
        help="Time for which slots have run requests; the rate of this counter is the mean number of busy slots",
        labels=("lane",),
        read=_busy_seconds,
    ),
    Metric(
        name="intralb_slots_abandoned_total",
        kind="counter",
        help="Slots that were replaced because their handler swallowed every abort",
        labels=("lane",),
        read=of_lanes(lambda lane: lane.stats.given_up),
    ),
    Metric(
        name="intralb_aborts_total",
        kind="counter",
        help="Aborts that were raised in waiting handlers and in computing handlers",
        labels=("lane", "kind"),
        values={"kind": ("waiting", "computing")},
        read=_aborts,
    ),
    Metric(
        name="intralb_workers",
        kind="gauge",
        help="Number of workers that accept requests",
        labels=("lane",),
        read=of_lanes(lambda lane: len(lane.pool.active)),
    ),
    Metric(
        name="intralb_workers_max",
        kind="gauge",
        help="Maximum number of workers",
        labels=("lane",),
        read=of_lanes(lambda lane: lane.options.max_workers),
    ),
    Metric(
        name="intralb_worker_changes_total",
        kind="counter",
        help="Workers that were added or retired, by cause",
        labels=("lane", "direction", "cause"),
        values={"direction": ("up", "down"), "cause": _CHANGE_CAUSES},
        read=_worker_changes,
    ),
    Metric(
        name="intralb_sessions",
        kind="gauge",
        help="Number of open database sessions",
        labels=("lane", "state"),
        values={"state": _SESSION_STATES},
        read=_sessions,
    ),
    Metric(
        name="intralb_sessions_max",
        kind="gauge",
        help="Maximum number of database sessions: one for each slot when the lane has its maximum number of workers",
        labels=("lane",),
        read=_sessions_max,
    ),
    Metric(
        name="intralb_session_opens_total",
        kind="counter",
        help="Database sessions that were opened, and attempts that failed",
        labels=("lane", "result"),
        values={"result": ("opened", "failed")},
        read=_session_opens,
    ),
    Metric(
        name="intralb_session_discards_total",
        kind="counter",
        help="Database sessions that were closed or discarded, by cause",
        labels=("lane", "cause"),
        values={"cause": _DISCARD_CAUSES},
        read=_session_discards,
    ),
    Metric(
        name="intralb_session_open_seconds",
        kind="histogram",
        help="Time for opening a database session",
        labels=("lane",),
        read=_session_open_time,
    ),
    Metric(
        name="intralb_streams",
        kind="gauge",
        help="Number of responses that are being streamed",
        read=lambda source: [((), source.balancer.intake.context.streams)],
    ),
    Metric(
        name="intralb_streams_max",
        kind="gauge",
        help="Maximum number of responses that may be streamed at the same time",
        read=_streams_max,
    ),
    Metric(
        name="intralb_upgraded_connections",
        kind="gauge",
        help="Number of connections that applications have taken over, such as WebSockets",
        read=lambda source: [((), len(source.balancer.intake.upgrades.holders))],
    ),
)
