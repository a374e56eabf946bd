"""Describes the running requests of a balancer for the status page: their slots, their ages, and where they wait.

The description contains no query strings, header fields or bodies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import nsmallest
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ..pool.job import shown
from .places import Place, place_of, shown_stack

if TYPE_CHECKING:
    from types import FrameType

    from ..pool.balancer import LoadBalancer
    from ..pool.job import Job
    from ..pool.lane import Lane
    from ..pool.slot import Slot

__all__ = ["board", "key_of", "keys_running", "path_of", "running", "slot_with", "stack_with", "usual_place"]

MOST_ROWS: Final = 50
"""Maximum number of requests that the page lists."""

MOST_CELLS: Final = 1200
"""Maximum number of busy slots that the slot board shows."""

MOST_WALKED: Final = 100
"""Maximum number of slots whose stacks are read to find where most requests of a lane wait."""

_LONGEST_PATH: Final = 120


def key_of(job: Job) -> str:
    """Return a text that identifies a job within its process."""
    return f"{id(job):x}-{int(job.arrived * 1e6):x}"


def _slots(lane: Lane) -> Iterator[tuple[Slot, Job]]:
    """Yield each slot of a lane that runs a job, together with the job; skip jobs that have ended."""
    for slot in lane.pool.slots:
        if slot.job is not None and slot.job.ended is None:
            yield slot, slot.job


def _frame(slot: Slot) -> FrameType | None:
    frame: FrameType | None = slot.greenlet.gr_frame
    return frame


# The slot board.


def board(balancer: LoadBalancer) -> list[dict[str, Any]]:
    """Return, for each worker, its number of slots, and for each busy slot the age and time limit of its job in ms."""
    now, left, workers = monotonic(), MOST_CELLS, []
    for number, lane in enumerate(balancer.intake.lanes):
        for worker in lane.pool.all:
            busy = [slot.job for slot in worker.slots if slot.job is not None and slot.job.ended is None][:left]
            left -= len(busy)
            workers.append(
                {
                    "lane": number,
                    "worker": worker.id,
                    "slots": lane.options.max_concurrent_per_router,
                    "retiring": worker.retiring,
                    "queued": len(worker.queued),
                    "busy": [_cell(job, now) for job in busy],
                }
            )
    return workers


def _cell(job: Job, now: float) -> list[int]:
    whole = min(job.deadline.at, now + 86400.0) - job.arrived
    return [_milliseconds(now - job.arrived), _milliseconds(whole), int(job.streams_since is not None)]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


# The list of requests.


def running(balancer: LoadBalancer) -> tuple[list[dict[str, Any]], int]:
    """Return the `MOST_ROWS` oldest requests in slots, the oldest first, and the number of all requests in slots."""
    found = [(number, slot, job) for number, lane in _lanes(balancer) for slot, job in _slots(lane)]
    oldest = nsmallest(MOST_ROWS, found, key=lambda each: each[2].arrived)
    now = monotonic()
    return [_row(number, slot, job, now) for number, slot, job in oldest], len(found)


def _lanes(balancer: LoadBalancer) -> Iterator[tuple[int, Lane]]:
    return enumerate(balancer.intake.lanes)


def _row(number: int, slot: Slot, job: Job, now: float) -> dict[str, Any]:
    environ = job.environ
    place = place_of(_frame(slot))
    left = job.deadline.at - now
    return {
        "key": key_of(job),
        "id": environ.get("intralb.request_id", ""),
        "method": str(environ.get("REQUEST_METHOD", ""))[:16],
        "path": path_of(environ),
        "lane": number,
        "worker": slot.worker.id,
        "age": round(now - job.arrived, 3),
        "left": None if left > 86400 else round(left, 3),
        "state": _state(slot, job),
        "place": "" if place is None else str(place),
        "priority": job.priority.name.lower(),
        "client": str(environ.get("REMOTE_ADDR", ""))[:64],
        "session": slot.session.touched,
    }


def path_of(environ: dict[str, Any]) -> str:
    """Return the path of a request, without the query, as the page shows this path."""
    return shown(f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}")[:_LONGEST_PATH]


def _state(slot: Slot, job: Job) -> str:
    if slot.cleaning_up or slot.late:
        return "ending"
    if job.deadline.suspended:
        return "client is slow"
    return "streams" if job.streams_since is not None else "waits"


# A single request.


def keys_running(balancer: LoadBalancer) -> set[str]:
    """Return the keys of all jobs that have a slot."""
    return {key_of(job) for _, lane in _lanes(balancer) for _, job in _slots(lane)}


def slot_with(balancer: LoadBalancer, key: str) -> Slot | None:
    """Return the slot that runs the job with this key; None if the job has ended."""
    pairs = (pair for _, lane in _lanes(balancer) for pair in _slots(lane))
    return next((slot for slot, job in pairs if key_of(job) == key), None)


def stack_with(balancer: LoadBalancer, key: str) -> list[dict[str, Any]] | None:
    """Return the stack of the job with this key, the outermost frame first; None if the job has ended."""
    slot = slot_with(balancer, key)
    return None if slot is None else shown_stack(_frame(slot))


# The requests of a whole lane.


def usual_place(lane: Lane, *, abandoned: bool = False) -> tuple[Place, int, int] | None:
    """Return the place at which most requests of a lane wait, their number, and the number of examined requests.

    If `abandoned` is true, examine the lane's abandoned slots instead.
    """
    slots = lane.pool.given_up if abandoned else [slot for slot, _ in _slots(lane)]
    looked_at = slots[:MOST_WALKED]
    counts = Counter(place for slot in looked_at if (place := place_of(_frame(slot))) is not None)
    if not counts:
        return None
    place, number = counts.most_common(1)[0]
    return place, number, len(looked_at)
