"""Mark and end the OpenTelemetry spans of aborted requests.

OpenTelemetry's instrumentation of WSGI, Django, Flask and Falcon handles only `Exception`, but an abort is a
`BaseException`. Without this module, the span of an aborted request either never ends and is never exported, or appears
to be successful. This module finds the spans of a request in the request's environ, and in the frames that the abort
has unwound. This module does not import OpenTelemetry, because there are no spans before the application has imported
it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, Final

from ..framevariables import variables

__all__ = ["end_spans", "mark_spans", "open_spans"]

_PACKAGE: Final = "opentelemetry"
_INSTRUMENTATION: Final = "opentelemetry.instrumentation."

_STATUS_CODES: Final = {"http.method": "http.status_code", "http.request.method": "http.response.status_code"}
"""Maps the attribute for the method to the attribute for the status code, in the old and the new semantic
conventions."""


def mark_spans(environ: Mapping[str, Any], frame: FrameType | None, outcome: str, status: str) -> None:
    """Set the outcome on the spans of a request that is being aborted; never waits.

    `frame` is the handler's current frame. Call this function before the abort is raised. The instrumentation of Flask
    and Falcon ends a span as soon as the abort leaves the application, and an ended span can no longer be changed.
    """
    if _PACKAGE in sys.modules:
        # Suppress all exceptions, because a span can be of any class, and this function must not raise an exception.
        with contextlib.suppress(Exception):
            for span in filter(_is_free, _open(environ, _outwards(frame))):
                _mark(span, outcome, status)


def _is_free(span: Any) -> bool:
    """Return True if the span's lock is free; while the interrupted handler holds the lock, `set_status` would wait."""
    lock = getattr(span, "_lock", None)
    if lock is None or not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def open_spans(environ: Mapping[str, Any], trace: TracebackType | None) -> list[Any]:
    """Return the spans that an abort has left open, found in the environ and in the frames of the abort's traceback."""
    if _PACKAGE not in sys.modules:
        return []
    return _open(environ, reversed(list(_passed(trace))))


def end_spans(spans: Iterable[Any], environ: Mapping[str, Any], outcome: str, status: str) -> None:
    """End the spans of an ended request, in the request's context; may wait, because `end` may call an exporter."""
    for span in spans:
        _mark(span, outcome, status)
    for activation in list(_kept(environ, "activation_key")):
        # Close the context manager that Django's instrumentation leaves open; otherwise, the garbage collector would
        # close the context manager in another context.
        activation.__exit__(None, None, None)
    for span in spans:
        if span.is_recording():
            span.end()


def _open(environ: Mapping[str, Any], frames: Iterable[FrameType]) -> list[Any]:
    """Return the server spans that have not ended, found in the frames and in the environ, without duplicates."""
    found = {id(span): span for span in (*_of_frames(frames), *_kept(environ, "span_key"))}
    return [span for span in found.values() if _is_of_server(span) and span.is_recording()]


def _is_of_server(span: Any) -> bool:
    # A nested middleware has a span of kind INTERNAL. Spans of kind CLIENT are left out, because the libraries that
    # create spans for outgoing requests also end these spans.
    return getattr(getattr(span, "kind", None), "name", None) in ("SERVER", "INTERNAL")


def _kept(environ: Mapping[str, Any], kind: str) -> Iterator[Any]:
    """Yield the values that the instrumentation has stored in the environ under keys that end with `kind`."""
    for key, value in list(environ.items()):
        if key.startswith(_PACKAGE) and key.endswith(kind):
            yield value


def _of_frames(frames: Iterable[FrameType]) -> Iterator[Any]:
    for frame in frames:
        if str(frame.f_globals.get("__name__")).startswith(_INSTRUMENTATION):
            yield variables(frame).get("span")


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _passed(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _mark(span: Any, outcome: str, status: str) -> None:
    attributes = getattr(span, "attributes", None) or {}
    if status[:3].isdigit():
        for of_request, of_response in _STATUS_CODES.items():
            if of_request in attributes:
                span.set_attribute(of_response, int(status[:3]))
    if "http.request.method" in attributes:
        span.set_attribute("error.type", outcome)
    span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR, outcome)
