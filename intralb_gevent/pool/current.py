"""What a handler can ask of the request that it runs for, without its environ.

Decides which job the present greenlet runs. It must not know how jobs are run or ended.
"""

from __future__ import annotations

from collections.abc import Callable

from gevent import getcurrent

from ..errors import NoCurrentJob
from .job import Job

__all__ = ["deadline_headers", "extend_deadline", "wait_for_client"]


def extend_deadline(seconds: float) -> float:
    """Make the running request's deadline `seconds` from now, if that is later; return the seconds that are left.

    It is never made later than `max_request_timeout_seconds` after the request's arrival, nor than a proxy that told so
    goes on waiting; and a request that has been cut stays cut. For the greenlet that runs the request; one that a
    handler starts calls `environ["intralb.deadline"].extend(seconds)`. Raises `NoCurrentJob` elsewhere, and
    `OptionError`, a ValueError, unless `seconds` is a number above 0.
    """
    job = _current_job("extend_deadline", "extend")
    if job.state != "running":
        return job.deadline.remaining()
    return job.deadline.extend(seconds)


def deadline_headers() -> dict[str, str]:
    """Return header fields for an outgoing request, which tell its server how much time the running request has left.

    They are `X-Envoy-Expected-Rq-Timeout-Ms` and `grpc-timeout`, in whole milliseconds, 1 at least. For the greenlet
    that runs the request; one that a handler starts calls `environ["intralb.deadline"].headers()`. Raises
    `NoCurrentJob` elsewhere.
    """
    return _current_job("deadline_headers", "headers").deadline.headers()


def wait_for_client(wait: Callable[[float], object], seconds: float) -> object:
    """Return what `wait(seconds)` returns; the time that takes does not count towards the running request's deadline.

    It counts all the same where the deadline would be later than `extend_deadline` may make it.
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
            job.slot.worker.pool.keeper.look_at(deadline.at)


def _job() -> Job | None:
    job: Job | None = getattr(getattr(getcurrent(), "intralb_slot", None), "job", None)
    return job


def _current_job(function: str, method: str) -> Job:
    job = _job()
    if job is None:
        raise NoCurrentJob(
            f"there is no running request in this greenlet; call {function}() in the handler, "
            f'and in greenlets and threads that it starts environ["intralb.deadline"].{method}()'
        )
    return job
