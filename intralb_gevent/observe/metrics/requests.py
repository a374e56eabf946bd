"""Metrics of requests: their numbers by outcome, their durations, and the number of queued requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ...policy.lifecycle import OUTCOMES
from ...priority import PRIORITIES
from ..stats import Exemplar
from .metric import Metric
from .readings import from_histogram
from .source import Labelled, Source, lane_label, of_lanes

if TYPE_CHECKING:
    from ...pool.lane import Lane

__all__ = ["REQUESTS"]

_NAMES: Final = tuple(PRIORITIES)
"""Names of the priorities, in the order of their numbers."""

_REASONS: Final = (
    *("overloaded", "queue_full", "no_time", "evicted", "client", "draining", "expired", "no_session", "streams"),
    *("upgraded", "killed"),
)


def _received(source: Source) -> Labelled:
    for lane in source.lanes:
        for name, count in zip(_NAMES, lane.stats.received, strict=True):
            yield (lane_label(lane.name), name), count


def _ended(source: Source) -> Labelled:
    for lane in source.lanes:
        for outcome, count in lane.stats.outcomes.items():
            yield (lane_label(lane.name), outcome), count


def _refused(source: Source) -> Labelled:
    for lane in source.lanes:
        for reason, counts in lane.stats.refused.items():
            for name, count in zip(_NAMES, counts, strict=True):
                if count:
                    yield (lane_label(lane.name), name, reason), count


def _responses(source: Source) -> Labelled:
    for lane in source.lanes:
        for code, count in lane.stats.statuses.items():
            yield (lane_label(lane.name), code), count


def _exemplars(source: Source) -> Mapping[str, Mapping[int, Exemplar]]:
    return {lane_label(lane.name): lane.stats.exemplars for lane in source.lanes}


def _queued(source: Source) -> Labelled:
    for lane in source.lanes:
        for name, count in zip(_NAMES, lane.pool.order.by_class, strict=True):
            yield (lane_label(lane.name), name), count


def _overloaded(source: Source) -> Labelled:
    for lane in source.lanes:
        found = lane.admission.overloaded_priorities
        for name, priority in PRIORITIES.items():
            yield (lane_label(lane.name), name), float(priority in found)


def _oldest(source: Source) -> Labelled:
    for lane in source.lanes:
        yield (lane_label(lane.name),), lane.pool.longest_wait(source.now)


def _queue_capacity(lane: Lane) -> float:
    return len(lane.pool.active) * lane.options.queue_size


REQUESTS: Final = (
    Metric(
        name="intralb_requests_received_total",
        kind="counter",
        help="Requests that have arrived with a complete head, including rejected ones",
        labels=("lane", "priority"),
        values={"priority": _NAMES},
        read=_received,
    ),
    Metric(
        name="intralb_requests_total",
        kind="counter",
        help="Requests that have ended, by outcome; received requests that have not ended are queued or running",
        labels=("lane", "outcome"),
        values={"outcome": OUTCOMES},
        read=_ended,
    ),
    Metric(
        name="intralb_rejected_total",
        kind="counter",
        help="Requests that the server itself answered instead of the application, by reason",
        labels=("lane", "priority", "reason"),
        values={"priority": _NAMES, "reason": _REASONS},
        read=_refused,
    ),
    Metric(
        name="intralb_responses_total",
        kind="counter",
        help="Responses by status code, including responses that the server itself sent",
        labels=("lane", "code"),
        read=_responses,
    ),
    Metric(
        name="intralb_request_duration_seconds",
        kind="histogram",
        help="Time from a request's arrival to the end of its response; rejected requests are not included",
        labels=("lane",),
        read=lambda source: (((lane_label(lane.name),), from_histogram(lane.stats.duration)) for lane in source.lanes),
        exemplars=_exemplars,
    ),
    Metric(
        name="intralb_queue_wait_seconds",
        kind="histogram",
        help="Time from a request's arrival to its start in a slot",
        labels=("lane",),
        read=lambda source: (
            ((lane_label(lane.name),), from_histogram(lane.stats.queue_wait)) for lane in source.lanes
        ),
    ),
    Metric(
        name="intralb_run_seconds",
        kind="histogram",
        help="Time from a request's start in a slot to the end of its response",
        labels=("lane",),
        read=lambda source: (((lane_label(lane.name),), from_histogram(lane.stats.run_time)) for lane in source.lanes),
    ),
    Metric(
        name="intralb_queue_length",
        kind="gauge",
        help="Number of requests that wait for a slot",
        labels=("lane", "priority"),
        values={"priority": _NAMES},
        read=_queued,
    ),
    Metric(
        name="intralb_queue_capacity",
        kind="gauge",
        help="Number of requests that can wait in the queues of the current workers",
        labels=("lane",),
        read=of_lanes(_queue_capacity),
    ),
    Metric(
        name="intralb_queue_oldest_seconds",
        kind="gauge",
        help="Time for which the oldest request without a slot has waited",
        labels=("lane",),
        read=_oldest,
        merge="max",
    ),
    Metric(
        name="intralb_overloaded",
        kind="gauge",
        help="1 while the lane is overloaded, that is, keeps the queue short because it cannot serve all requests in "
        "time; otherwise 0",
        labels=("lane", "priority"),
        values={"priority": _NAMES},
        read=_overloaded,
        merge="max",
    ),
    Metric(
        name="intralb_clients",
        kind="gauge",
        help="Number of clients with queued or running requests while the lane rejects requests; otherwise 0",
        labels=("lane",),
        read=of_lanes(lambda lane: lane.admission.clients),
        merge="max",
    ),
    Metric(
        name="intralb_stolen_total",
        kind="counter",
        help="Requests that were queued at one worker, but started in a slot of another worker of the lane",
        labels=("lane",),
        read=of_lanes(lambda lane: lane.stats.stolen),
    ),
)
