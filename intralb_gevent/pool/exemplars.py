"""Stores the trace ids of slow requests, which the OpenMetrics page shows as exemplars of the request durations.

Only slow requests call this module, so the module does not delay other requests.
"""

from __future__ import annotations

from time import time
from typing import Any, Final

from ..observe.stats import Stats
from ..policy.requestidentity import REQUEST_ID
from ..policy.traceparent import trace_parent

__all__ = ["keep_exemplar"]

_MOST_CHARACTERS: Final = 64
"""Length to which a request id is truncated, because OpenMetrics limits all labels of an exemplar to 128 characters."""


def keep_exemplar(stats: Stats, environ: dict[str, Any], duration: float) -> None:
    """Store the trace id of a slow request, else its request id; store nothing for a request with neither."""
    trace = trace_parent(environ.get("HTTP_TRACEPARENT"))
    if trace is not None:
        stats.keep_exemplar(duration, time(), "trace_id", trace.trace_id)
        return
    request_id = environ.get(REQUEST_ID)
    if isinstance(request_id, str) and request_id:
        stats.keep_exemplar(duration, time(), "request_id", request_id[:_MOST_CHARACTERS])
