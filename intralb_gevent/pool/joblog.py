"""Logs one line for each ended request, if `enable_logging` is set.

The lines go to the logger `intralb_gevent.jobs`, which can be configured like any other logger. Of the request's
headers, a line contains only Referer, User-Agent, and the ids that identify the request. A line never contains a part
of a body.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import Any, Final

from ..hub.log import HubLog
from ..hub.loghandlers import JOBS
from ..logformats import TextFormatter
from ..policy.cannedresponses import CannedResponse
from ..policy.lifecycle import Outcome
from ..policy.requestidentity import REQUEST_ID, identity
from .accesslines import combined_text, json_text, plain_text
from .job import Job

__all__ = ["JobLog"]

_RENDERERS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "text": plain_text,
    "json": json_text,
    "combined": combined_text,
}


class JobLog:
    """Writes a log line for each request, as text, JSON or in the Combined Log Format, without blocking the hub."""

    def __init__(self, log_format: str) -> None:
        self.records = HubLog(JOBS.log)
        self._render = _RENDERERS[log_format]
        self._prepared = False

    def __repr__(self) -> str:
        return f"<JobLog {self.records}>"

    def ended(self, job: Job, outcome: Outcome, reason: str | None) -> None:
        """Log a job that has just ended."""
        self._record(
            job.environ,
            worker=None if job.worker is None else job.worker.id,
            status=job.exchange.status,
            size=job.exchange.body_size,
            outcome=outcome,
            reason=reason,
            queue_wait=job.queue_wait,
            run_time=job.run_time,
        )

    def turned_away(self, environ: dict[str, Any], answer: CannedResponse) -> None:
        """Log a request that was rejected before a job was created for it."""
        self._record(environ, status=answer.status, size=len(answer.body), outcome="shed", reason=answer.reason)

    def malformed(self, environ: dict[str, Any], answer: CannedResponse, client: str, request_id: str) -> None:
        """Log a request that was rejected before it reached the balancer, because it violates HTTP or a limit."""
        # Keep only strings: if the head has not been parsed completely, some values are None.
        known = {key: value for key, value in environ.items() if isinstance(value, str)}
        known |= {"REMOTE_ADDR": client, REQUEST_ID: request_id}
        self._record(known, status=answer.status, size=len(answer.body), outcome="malformed", reason=answer.explanation)

    def _record(
        self,
        environ: dict[str, Any],
        *,
        status: str,
        size: int,
        outcome: str,
        reason: str | None,
        worker: int | None = None,
        queue_wait: float = 0.0,
        run_time: float = 0.0,
    ) -> None:
        if not self._prepared:
            self._prepare()
        get = environ.get
        # Only collect the values here, in the hub; the greenlet that writes the line formats them.
        facts = {
            "time": time(),
            "client": get("REMOTE_ADDR", ""),
            "method": get("REQUEST_METHOD", ""),
            "path": get("SCRIPT_NAME", "") + get("PATH_INFO", ""),
            "query": get("QUERY_STRING", ""),
            "target": get("REQUEST_URI", ""),
            "protocol": get("SERVER_PROTOCOL", ""),
            "status": status[:3],
            "bytes": size,
            "referer": get("HTTP_REFERER", ""),
            "agent": get("HTTP_USER_AGENT", ""),
            "queue_wait": queue_wait,
            "run_time": run_time,
            "worker": worker,
            "outcome": outcome,
            "reason": reason,
            "identity": identity(environ),
        }
        self.records.record(logging.INFO, lambda: self._render(facts))

    def _prepare(self) -> None:
        """Make the lines visible if the application has not configured logging by the first request."""
        if JOBS.level == logging.NOTSET:
            JOBS.setLevel(logging.INFO)
        if not JOBS.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(TextFormatter())
            JOBS.addHandler(handler)
        self._prepared = True
