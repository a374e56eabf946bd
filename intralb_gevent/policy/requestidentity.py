"""The identity of a request in logs: its id, and its header field `traceparent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .traceparent import trace_parent

__all__ = ["REQUEST_ID", "identity"]

REQUEST_ID: Final = "intralb.request_id"
"""The environ key of a request's id."""

_TRACEPARENT_LENGTH: Final = 55
"""Number of characters in the part of `traceparent` that all versions have; a later version may append fields."""


def identity(environ: Mapping[str, object]) -> dict[str, str]:
    """Return the log fields that identify a request: its `request_id`, if any, and its `traceparent`, if valid."""
    found: dict[str, str] = {}
    if request_id := environ.get(REQUEST_ID):
        found["request_id"] = str(request_id)
    field = environ.get("HTTP_TRACEPARENT")
    if field is not None and trace_parent(field) is not None:
        found["traceparent"] = str(field).strip(" \t")[:_TRACEPARENT_LENGTH]
    return found
