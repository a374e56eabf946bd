"""What the log says of a response that was cut, and of a request whose deadline has passed.

Decides the words. It must not know who notices that a request is late, or how a log is written.
"""

from __future__ import annotations

from ..stdlib import monotonic
from .job import Job

__all__ = ["SHUTTING_DOWN", "cut_line", "cut_text", "killed_text", "late_text"]

SHUTTING_DOWN = "the server is shutting down (graceful_timeout_seconds)"


def cut_line(name: str, seconds: float, sent: int, why: str) -> str:
    """Return the line of a response that was cut after so many seconds and bytes."""
    return f"{name} was cut after {seconds:.3f} s and {sent} bytes: {why}"


def cut_text(job: Job, why: str) -> str:
    """Return the line of a running job whose response is cut."""
    return cut_line(job.name, monotonic() - job.arrived, job.exchange.sent or 0, why)


def late_text(job: Job) -> str:
    """Return the line of a job whose deadline has passed; called before it is answered."""
    waited = monotonic() - job.arrived if job.started is None else job.queue_wait
    setting = f"its deadline has passed ({job.deadline.setting})"
    if job.started is None:
        return f"{job.name} was answered 503 after {waited:.3f} s in the queue, and not run: {setting}"
    if job.exchange.sent is not None:
        return cut_text(job, setting)
    ran = monotonic() - job.started
    return f"{job.name} was answered 504 after {waited:.3f} s in the queue and {ran:.3f} s in its handler: {setting}"


def killed_text(job: Job) -> str:
    """Return the line of a running job that a shutdown ends; called before it is answered."""
    if job.exchange.sent is not None:
        return cut_text(job, SHUTTING_DOWN)
    return f"{job.name} was answered 503 after {monotonic() - job.arrived:.3f} s: {SHUTTING_DOWN}"
