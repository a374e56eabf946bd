"""Keeps the traces of slow requests, which OpenMetrics shows as exemplars of the request durations.

A request that is not slow costs nothing here.
"""

from __future__ import annotations

from time import time
from typing import Any, Final

from ..observe.stats import Stats
from ..policy.requestidentity import REQUEST_ID
from ..policy.traceparent import trace_parent

__all__ = ["keep_exemplar"]

_MOST_CHARACTERS: Final = 64
"""Longest request id that is kept; an exemplar may have 128 characters in all its labels."""


def keep_exemplar(stats: Stats, environ: dict[str, Any], duration: float) -> None:
    """Keep the trace id of a slow request, or else its request id; a request without both leaves no exemplar."""
    trace = trace_parent(environ.get("HTTP_TRACEPARENT"))
    if trace is not None:
        stats.keep_exemplar(duration, time(), "trace_id", trace.trace_id)
        return
    request_id = environ.get(REQUEST_ID)
    if isinstance(request_id, str) and request_id:
        stats.keep_exemplar(duration, time(), "request_id", request_id[:_MOST_CHARACTERS])
