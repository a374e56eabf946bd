"""The log records of requests that were ended early: at their deadline, by a shutdown, or because of a slow client.

A record is created just before the handler is aborted, when the server must not wait. The record is formatted later,
because formatting reads source lines from files.
"""

from __future__ import annotations

import traceback
from typing import Any

from ..aborts.places import Place, shown_place
from ..process.logline import LogText
from ..stdlib import monotonic
from .job import Job
from .logfields import request_fields
from .stacks import place_of, stack_of

__all__ = ["SHUTTING_DOWN", "CutRecord", "cut_line", "cut_record", "killed_record", "late_record"]

SHUTTING_DOWN = "the server is shutting down (graceful_timeout_seconds)"


class CutRecord:
    """The log record of one request that was ended early; calling the record returns its text."""

    def __init__(self, job: Job, text: str, **facts: Any) -> None:
        self.place: Place | None = None if job.slot is None else place_of(job.slot)
        """The application's line at which the request was ended; None if its handler was not running."""
        self.setting = str(facts.get("setting", ""))
        """The setting that ended the request, for example "request_timeout_seconds=30"."""
        self._text = text
        """Template of the text: `{at}` stands for `place`, and `{request}` for the request's id and route."""
        self._stack: traceback.StackSummary | None = None
        route = job.route.name or None
        seconds = round(monotonic() - job.arrived, 3)
        self._fields = {**request_fields(job.environ), "route": route, "elapsed_seconds": seconds, **facts}

    def __repr__(self) -> str:
        return f"<CutRecord {self._text}>"

    def take_stack(self, job: Job) -> None:
        """Record the handler's stack, which the log shows below the text."""
        self._stack = None if job.slot is None else stack_of(job.slot)

    def __call__(self) -> LogText:
        """Return the text of the record."""
        at = "" if self.place is None else f" at {shown_place(self.place)}"
        named = {"route": self._fields["route"], "request": self._fields.get("request_id")}
        request = "".join(f", {name} {value}" for name, value in named.items() if value)
        text = self._text.replace("{at}", at).replace("{request}", request)
        fields = {**{name: value for name, value in self._fields.items() if value is not None}, "message": text}
        if self.place is not None:
            fields["at"] = shown_place(self.place)
        if self._stack is None:
            return LogText(text, fields)
        fields["stack"] = lines = "".join(self._stack.format()).rstrip()
        return LogText(f"{text}; it was at:\n{lines}", fields)


def cut_line(name: str, seconds: float, sent: int, why: str) -> str:
    """Return the log line for a response that was cut off after `seconds` seconds and `sent` bytes."""
    return f"{name} was cut after {seconds:.3f} s and {sent} bytes: {why}"


def _cut(job: Job, why: str) -> str:
    return cut_line(_name(job), monotonic() - job.arrived, job.exchange.sent or 0, why)


def _name(job: Job) -> str:
    # Escape the opening braces, because the path of a client's request could contain a placeholder.
    return job.name.replace("{", "\\x7b")


def cut_record(job: Job, why: str) -> CutRecord:
    """Return the record of a running job whose response is cut off because its client has stopped reading."""
    return CutRecord(job, f"{_cut(job, why)}{{request}}", setting="write_timeout_seconds")


def late_record(job: Job) -> CutRecord:
    """Return the record of a job whose deadline has passed; called before the error response is sent."""
    setting = job.deadline.setting
    why = f"its deadline has passed ({setting}{{request}})"
    if job.started is None:
        waited = monotonic() - job.arrived
        text = f"{_name(job)} was answered 503 after {waited:.3f} s in the queue, and not run: {why}"
    elif job.exchange.sent is not None:
        text = _cut(job, why)
    else:
        waited, ran = job.queue_wait, monotonic() - job.started
        text = f"{_name(job)} was answered 504 after {waited:.3f} s in the queue and {ran:.3f} s in its handler: {why}"
    return CutRecord(job, text, setting=setting)


def killed_record(job: Job) -> CutRecord:
    """Return the record of a job that a shutdown ends; called before the error response is sent."""
    seconds = monotonic() - job.arrived
    setting = "graceful_timeout_seconds"
    if job.started is None:
        how = "in the queue, and not run: answered 503"
    elif job.exchange.sent is None:
        how = "{at}: answered 503"
    else:
        how = f"{{at}}: its response was cut after {job.exchange.sent} bytes"
    text = f"cut: {_name(job)} after {seconds:.3f} s{' ' if job.started is None else ''}{how} ({setting}{{request}})"
    return CutRecord(job, text, setting=setting)
