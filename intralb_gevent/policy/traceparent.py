"""Validates the header field `traceparent`, in which services pass on the id of the trace that a request belongs to.

The rules are those of the W3C recommendation "Trace Context", level 1. If `traceparent` is malformed, both it and
`tracestate` must be ignored. In a field of a later version, only the parts that version 00 defines are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["TraceParent", "trace_headers", "trace_parent"]

_FIELD: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_MOST_CHARACTERS: Final = 512
"""Longest `traceparent` or `tracestate` that is passed on; the recommendation requires at least 512 characters."""


class TraceParent(NamedTuple):
    """A valid `traceparent`: the ids of the trace and of the caller's span, as lowercase hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool
    """True if the caller may have recorded the trace."""


def trace_parent(field: object) -> TraceParent | None:
    """Return the parts of a `traceparent` field; None if it is missing or malformed."""
    if not isinstance(field, str) or len(field) > _MOST_CHARACTERS:
        return None
    match = _FIELD.fullmatch(field.strip(" \t"))
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    return TraceParent(match[2], match[3], bool(int(match[4], 16) & 1))


def trace_headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace fields to send with an outgoing request; empty if `traceparent` is missing or malformed."""
    field, state = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE", "")
    if trace_parent(field) is None:
        return {}
    headers = {"traceparent": str(field).strip(" \t")}
    if state and len(state) <= _MOST_CHARACTERS and state.isprintable():
        headers["tracestate"] = state
    return headers
