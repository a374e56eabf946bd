"""Functions that a handler can call without the environ: they find the running request by the current greenlet."""

from __future__ import annotations

from collections.abc import Callable

from ..aborts.slotgreenlet import current_slot
from ..errors import NoCurrentJob
from ..policy.traceparent import trace_headers
from .job import Job

__all__ = ["deadline_headers", "extend_deadline", "wait_for_client"]


def extend_deadline(seconds: float) -> float:
    """Move the running request's deadline to `seconds` from now, if that is later; return the seconds that are left.

    The latest possible deadline is `max_request_timeout_seconds` after the request's arrival, or the timeout of a proxy
    that reports one. After an abort, the deadline does not move. Call this function in the greenlet that runs the
    request; in a greenlet that a handler starts, call `environ["intralb.deadline"].extend(seconds)` instead. Raises
    `NoCurrentJob` in a greenlet that runs no request, and `OptionError`, a ValueError, unless `seconds` is a number
    above 0.
    """
    job = _current_job("extend_deadline", "extend")
    if job.state != "running":
        return job.deadline.remaining()
    return job.deadline.extend(seconds)


def deadline_headers() -> dict[str, str]:
    """Return header fields that report the running request's remaining time to the server of an outgoing request.

    The fields are `X-Envoy-Expected-Rq-Timeout-Ms` and `grpc-timeout`, in whole milliseconds, at least 1. If the
    request has a valid `traceparent`, that field and `tracestate` are added, so that the trace continues. Call this
    function in the greenlet that runs the request; it raises `NoCurrentJob` in a greenlet that runs no request. In a
    greenlet that a handler starts, `environ["intralb.deadline"].headers()` returns the first two fields.
    """
    job = _current_job("deadline_headers", "headers")
    return {**job.deadline.headers(), **trace_headers(job.environ)}


def wait_for_client(wait: Callable[[float], object], seconds: float) -> object:
    """Return the result of `wait(seconds)`; the time of the call does not count towards the running request's deadline.

    The deadline moves at most to the latest deadline that `extend_deadline` allows.
    """
    job = _job()
    if job is None:
        return wait(seconds)
    deadline = job.deadline
    deadline.suspend(deadline.latest)
    try:
        return wait(seconds)
    finally:
        deadline.resume()
        if job.slot is not None:
            job.slot.lane.context.look_at(deadline.at)


def _job() -> Job | None:
    slot = current_slot()
    return None if slot is None else slot.job


def _current_job(function: str, method: str) -> Job:
    job = _job()
    if job is None:
        raise NoCurrentJob(
            f"there is no running request in this greenlet; call {function}() in the handler; "
            f'in greenlets and threads that the handler starts, call environ["intralb.deadline"].{method}()'
        )
    return job
