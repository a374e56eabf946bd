"""One log line for each ended job: what `enable_logging` turns on.

Decides what the line says. It must not know where the logging of the process goes: that is the logger
`intralb_gevent.jobs`, to be configured as any other. Of the headers it has Referer and User-Agent, and never a body.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from time import time
from typing import Any

from ..policy.answers import Answer
from ..policy.lifecycle import Outcome
from .hublog import HubLog
from .job import Job, shown
from .loghandlers import JOBS

__all__ = ["JobLog"]


class JobLog:
    """Writes job lines, as text or JSON, without keeping the hub waiting."""

    def __init__(self, log_format: str) -> None:
        self.records = HubLog(JOBS.log)
        self._render: Callable[[dict[str, Any]], str] = _json if log_format == "json" else _text
        self._prepared = False

    def __repr__(self) -> str:
        return f"<JobLog {self.records}>"

    def ended(self, job: Job, outcome: Outcome, reason: str | None) -> None:
        """Log a job that has just ended."""
        self._record(
            job.environ,
            worker=None if job.worker is None else job.worker.id,
            status=job.exchange.status,
            outcome=outcome,
            reason=reason,
            queue_wait=job.queue_wait,
            run_time=job.run_time,
        )

    def turned_away(self, environ: dict[str, Any], answer: Answer) -> None:
        """Log a request that was refused before it was a job."""
        self._record(environ, worker=None, status=answer.status, outcome="shed", reason=answer.reason)

    def _record(
        self,
        environ: dict[str, Any],
        *,
        worker: int | None,
        status: str,
        outcome: Outcome,
        reason: str | None,
        queue_wait: float = 0.0,
        run_time: float = 0.0,
    ) -> None:
        if not self._prepared:
            self._prepare()
        facts = {
            "time": time(),
            "client": environ.get("REMOTE_ADDR", ""),
            "worker": worker,
            "method": environ.get("REQUEST_METHOD", ""),
            "path": environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
            "query": environ.get("QUERY_STRING", ""),
            "referer": environ.get("HTTP_REFERER", ""),
            "agent": environ.get("HTTP_USER_AGENT", ""),
            "status": status[:3],
            "outcome": outcome,
            "reason": reason,
            "queue_wait_ms": round(queue_wait * 1000, 3),
            "run_time_ms": round(run_time * 1000, 3),
        }
        self.records.record(logging.INFO, lambda: self._render(facts))

    def _prepare(self) -> None:
        """Make the lines visible where the application has not configured logging by its first request."""
        if JOBS.level == logging.NOTSET:
            JOBS.setLevel(logging.INFO)
        if not JOBS.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            JOBS.addHandler(handler)
        self._prepared = True


def _json(facts: dict[str, Any]) -> str:
    ended = datetime.fromtimestamp(facts["time"], timezone.utc)
    return json.dumps({**facts, "time": ended.isoformat(timespec="milliseconds")})


def _text(facts: dict[str, Any]) -> str:
    worker = "-" if facts["worker"] is None else facts["worker"]
    reason = f" reason={facts['reason']}" if facts["reason"] else ""
    query = f"?{shown(facts['query'])}" if facts["query"] else ""
    client = f" client={shown(facts['client'])}" if facts["client"] else ""
    asked = f"{facts['method']} {shown(facts['path'])}{query}"
    return (
        f"{asked} {facts['status'] or '-'} {facts['outcome']}{reason} worker={worker} "
        f"wait={facts['queue_wait_ms']}ms run={facts['run_time_ms']}ms{client}"
    )
